// SPDX-License-Identifier: BSD-3-Clause
// What a Forward-Forward network says of rows: by its heads after one neutral pass, or by the goodness of every label. Rows are
// taken in chunks that a thread carries through all layers; the labels of a chunk are rows of one product, and the first layer's
// pixels are multiplied once for all of them.
#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "formulas/goodness.h"
#include "methods/forward_forward.h"

namespace bpfree {

using product::kPanel;

namespace {

constexpr std::size_t kRows = 112;  // of a chunk, all its labels counted

std::size_t chunk_of(std::size_t n_labels) { return std::max<std::size_t>(kRows / n_labels, 1); }

}  // namespace

// One chunk of rows on its way through the layers, with all that it needs in the thread's own memory.
class ForwardForward::Prediction {
 public:
  // n_labels > 0: every label is tried; 0: the neutral label, or none, by heads or by groups.
  Prediction(const ForwardForward& ff, const InputView& x, std::size_t n_labels, bool by_groups)
      : ff_(ff),
        network_(ff.network_),
        kernels_(ff.kernels_),
        x_(x),
        n_labels_(n_labels),
        n_variants_(std::max<std::size_t>(n_labels, 1)),
        element_(ff.element_),
        by_groups_(by_groups),
        by_heads_(n_labels == 0 && !by_groups) {
    std::size_t widest = row_stride(ff.n_pixels(), element_);
    for (std::size_t l = 0; l < ff.n_hidden(); ++l) widest = std::max(widest, ff.stride(l));
    const std::size_t rows = chunk_of(n_variants_) * n_variants_;
    for (Buffer<char>& h : h_) h = Buffer<char>(checked_product(rows, widest, element_));
    pixels_ = Buffer<char>(
        checked_product(chunk_of(n_variants_), row_stride(ff.n_pixels(), element_), element_));
    squares_ = Buffer<float>(rows);
    total_ = Buffer<float>(rows);
    factor_ = Buffer<float>(rows);
    input_factor_ = Buffer<float>(rows);
    goodness_ = Buffer<float>(rows);
    const std::size_t n_outputs = network_.n_outputs();
    if (by_heads_) logits_ = Buffer<float>(network_.layers().back().n_panels * rows * kPanel);
    sum_ = Buffer<float>(logits_.size());
    groups_ = Buffer<float>(ff.is_grouped() ? 2 * rows * n_outputs : 0);
    group_goodness_ = Buffer<float>(ff.is_grouped() ? rows * n_outputs : 0);
  }

  void run(std::size_t first, std::size_t n, float* out, bool logits_only) {
    n_ = n;
    rows_ = n * n_variants_;
    base_blocks_ = product::row_blocks(n_, kernels_.tile_rows);
    blocks_ = product::row_blocks(rows_, kernels_.tile_rows);
    gather(first);
    std::fill(goodness_.begin(), goodness_.end(), 0.0f);
    std::fill(sum_.begin(), sum_.end(), 0.0f);
    std::fill(group_goodness_.begin(), group_goodness_.end(), 0.0f);
    for (std::size_t l = 0; l < ff_.n_hidden(); ++l) {
      forward(l);
      finish(l);
      if (by_heads_ && ff_.has_head(l)) head(l);
    }
    const std::size_t n_outputs = network_.n_outputs();
    if (n_labels_ > 0) {
      for (std::size_t i = 0; i < n_; ++i)
        for (std::size_t c = 0; c < n_outputs; ++c) out[i * n_outputs + c] = goodness_[c * n_ + i];
      return;
    }
    if (by_groups_) {
      std::copy_n(group_goodness_.data(), n_ * n_outputs, out);
      return;
    }
    product::kernels().output({.loss = network_.loss(),
                               .logits = sum_.data(),
                               .panel_stride = rows_ * kPanel,
                               .n_outputs = n_outputs,
                               .n_rows = n_,
                               .out = out,
                               .logits_only = logits_only});
  }

 private:
  void gather(std::size_t first) {
    const std::size_t n = ff_.n_pixels();
    const std::size_t stride = row_stride(n, element_);
    const std::size_t size = x_.type == InputType::u8 ? 1 : x_.type == InputType::f32 ? 4 : 8;
    const product::GatherArgs args{
        .dst = pixels_.data(),
        .dst_stride = stride,
        .src = static_cast<const char*>(x_.data) + ff_.first_feature_ * size,
        .src_stride = x_.row_stride,
        .order = nullptr,
        .first_row = first,
        .n_features = n};
    (x_.type == InputType::u8    ? kernels_.gather_u8
     : x_.type == InputType::f32 ? kernels_.gather_f32
                                 : kernels_.gather_f64)(args, 0, n_);
    kernels_.row_squares(squares_.data(), pixels_.data(), stride, n, n_);
    const double scale = static_cast<double>(x_.scale);
    const double label = n_labels_ > 0      ? 1
                         : ff_.has_labels() ? 1 / static_cast<double>(network_.n_outputs())
                                            : 0;
    for (std::size_t i = 0; i < n_; ++i) {
      const double squares = scale * scale * static_cast<double>(squares_[i]) + label;
      input_factor_[i] = formulas::row_factor(squares, static_cast<double>(network_.sizes()[0]));
    }
  }

  void forward(std::size_t l) {
    const Layer& y = network_.layers()[l];
    const bool shared = ff_.shares_pixels(l);
    const std::size_t n_in = l == 0 ? ff_.n_pixels() : y.n_in;
    const std::size_t depth = divide_up(n_in, kernels_.depth_per_word);
    const std::vector<product::RowBlock>& blocks = shared ? base_blocks_ : blocks_;
    std::vector<product::LabelVariant> variants(shared ? n_variants_ : 0);
    std::fill(total_.begin(), total_.end(), 0.0f);
    for (std::size_t p = 0; p < y.n_panels; ++p) {
      char* h = h_[l % 2].data() + p * kPanel * element_;
      const float* label_rows =
          network_.parameters() + y.weights + p * y.panel_size() + ff_.n_pixels() * kPanel;
      alignas(64) float neutral[kPanel] = {};
      if (shared && n_labels_ == 0) ff_.neutral_row(neutral, label_rows);
      for (std::size_t c = 0; c < variants.size(); ++c)
        variants[c] = {n_labels_ == 0 ? neutral : label_rows + c * kPanel, nullptr,
                       input_factor_.data(), h + c * n_ * ff_.stride(l) * element_,
                       squares_.data() + c * n_};
      kernels_.forward(
          {.x = {l == 0 ? pixels_.data() : h_[(l - 1) % 2].data(),
                 row_stride(n_in, element_) / kernels_.depth_per_word, depth, 0},
           .panel = network_.forward_panel(l, p),
           .next_panel = p + 1 < y.n_panels ? network_.forward_panel(l, p + 1) : nullptr,
           .depth = depth,
           .blocks = blocks.data(),
           .n_blocks = blocks.size(),
           .n_columns = std::min(kPanel, y.n_out - p * kPanel),
           .bias = network_.parameters() + y.biases + p * kPanel,
           .scale = l == 0 ? x_.scale : 1.0f,
           .activation = formulas::Activation::relu,
           .h = h,
           .h_stride = ff_.stride(l),
           .preactivation = nullptr,
           .preactivation_stride = 0,
           .row_scale = l == 0 ? input_factor_.data() : factor_.data(),
           .row_squares = squares_.data(),
           .variants = variants.data(),
           .n_variants = variants.size()});
      for (std::size_t i = 0; i < rows_; ++i) total_[i] += squares_[i];
    }
  }

  void finish(std::size_t l) {
    const Layer& y = network_.layers()[l];
    const auto n = static_cast<float>(y.n_out);
    const std::size_t n_outputs = network_.n_outputs();
    if (ff_.is_grouped()) {
      float* sums = groups_.data();
      float* squares = sums + rows_ * n_outputs;
      const std::size_t size = y.n_out / n_outputs;
      kernels_.group_norm({.h = h_[l % 2].data(),
                           .h_stride = ff_.stride(l),
                           .row_begin = 0,
                           .row_end = rows_,
                           .n_columns = y.n_out,
                           .group_size = size,
                           .n_groups = n_outputs,
                           .tiny = formulas::kTiny,
                           .sums = sums,
                           .squares = squares});
      const float* g = ff_.ff_.goodness == formulas::Goodness::grouped_squares ? squares : sums;
      for (std::size_t i = 0; i < rows_; ++i)
        for (std::size_t c = 0; c < n_outputs; ++c)
          group_goodness_[i * n_outputs + c] +=
              g[i * n_outputs + c] /
              static_cast<float>(c + 1 == n_outputs ? y.n_out - c * size : size);
      std::fill(factor_.begin(), factor_.end(), 1.0f);
      return;
    }
    // The first layer sees the label itself: its goodness counts only where there is no other.
    const bool counts = l > 0 || ff_.n_hidden() == 1;
    const float divisor = ff_.ff_.goodness == formulas::Goodness::mean ? n : 1.0f;
    for (std::size_t i = 0; i < rows_; ++i) {
      factor_[i] =
          formulas::row_factor(static_cast<double>(total_[i]), static_cast<double>(y.n_out));
      if (counts) goodness_[i] += total_[i] / divisor;
    }
  }

  void head(std::size_t l) {
    const std::size_t index = ff_.head_of(l);
    const Layer& y = network_.layer(index);
    const std::size_t depth = divide_up(y.n_in, kernels_.depth_per_word);
    for (std::size_t p = 0; p < y.n_panels; ++p)
      kernels_.forward_f32(
          {.x = {h_[l % 2].data(), ff_.stride(l) / kernels_.depth_per_word, depth, 0},
           .panel = network_.forward_panel(index, p),
           .next_panel = nullptr,
           .depth = depth,
           .blocks = blocks_.data(),
           .n_blocks = blocks_.size(),
           .n_columns = std::min(kPanel, y.n_out - p * kPanel),
           .bias = network_.parameters() + y.biases + p * kPanel,
           .scale = 1,
           .activation = formulas::Activation::identity,
           .h = logits_.data() + p * rows_ * kPanel,
           .h_stride = kPanel,
           .preactivation = nullptr,
           .preactivation_stride = 0,
           .row_scale = factor_.data()});
    for (std::size_t i = 0; i < y.n_panels * rows_ * kPanel; ++i) sum_[i] += logits_[i];
  }

  const ForwardForward& ff_;
  const Network& network_;
  const product::DtypeKernels& kernels_;
  const InputView& x_;
  std::size_t n_labels_, n_variants_, element_;
  bool by_groups_, by_heads_;
  std::size_t n_ = 0, rows_ = 0;
  std::vector<product::RowBlock> base_blocks_, blocks_;
  Buffer<char> h_[2], pixels_;
  Buffer<float> squares_, total_, factor_, input_factor_, goodness_, logits_, sum_;
  Buffer<float> groups_, group_goodness_;
};

void ForwardForward::predict(const InputView& x, std::size_t n_labels, bool by_groups, float* out,
                             bool logits, int n_threads) const {
  if (x.columns != n_features())
    fail("x has " + std::to_string(x.columns) + " columns, the network was made for " +
         std::to_string(n_features()));
  if (x.rows == 0) return;
  const std::size_t chunk = chunk_of(std::max<std::size_t>(n_labels, 1));
  const std::size_t n_chunks = divide_up(x.rows, chunk);
  const double flops =
      2.0 * static_cast<double>(x.rows) *
      static_cast<double>(network_.n_params() * std::max<std::size_t>(n_labels, 1));
  const int threads = threads_for(n_threads, flops);
  std::vector<Prediction> predictions;
  std::vector<void*> scratch;
  predictions.reserve(static_cast<std::size_t>(threads));
  scratch.reserve(static_cast<std::size_t>(threads));
  for (int t = 0; t < threads; ++t) {
    predictions.emplace_back(*this, x, n_labels, by_groups);
    scratch.push_back(&predictions.back());
  }
  parallel_for(
      n_chunks, threads,
      [&](std::size_t t, const Worker& worker) {
        const std::size_t first = t * chunk;
        static_cast<Prediction*>(worker.scratch)
            ->run(first, std::min(chunk, x.rows - first), out + first * network_.n_outputs(),
                  logits);
      },
      scratch);
}

void ForwardForward::predict_heads(const InputView& x, float* out, bool logits,
                                   int n_threads) const {
  predict(x, 0, false, out, logits, n_threads);
}

void ForwardForward::predict_goodness(const InputView& x, float* out, int n_threads) const {
  if (!has_labels() && !is_grouped())
    fail(
        "a network that was trained without labels has no goodness of a label: predict by its "
        "heads");
  predict(x, is_grouped() ? 0 : network_.n_outputs(), is_grouped(), out, true, n_threads);
}

}  // namespace bpfree
