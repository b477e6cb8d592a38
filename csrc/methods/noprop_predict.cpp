// SPDX-License-Identifier: BSD-3-Clause
// What NoProp predicts: noise is turned into a label, block after block or step after step.
//
// z_0 is one draw for all rows, so that a row's prediction depends on nothing beside it. Every step is z <- A u^ + B z: the
// posterior mean (dt), the probability-flow ODE with u^ held (ct, in the exponential form that keeps the noise's variance), or
// z + dt v (fm). Beside z the same recursion runs on p alone: its result, normalised, is the weight of each class in z.
// With time the input branch and its half of the layer above are computed once for all steps, and time is a bias. Batch
// normalization is in the weights.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "base/error.h"
#include "methods/noprop.h"
#include "network/dense.h"
#include "random/random.h"

namespace bpfree {

using product::kPanel;
using product::RowBlock;

namespace {

constexpr std::size_t kPredictBlocks =
    8;  // row blocks of a chunk: a panel of W is read once for them
constexpr std::uint32_t kInferenceTensor = 0xffffff;  // of the stream that z_0 is drawn from

std::size_t aligned(std::size_t bytes) { return round_up(bytes, 64); }

}  // namespace

class NoProp::Prediction {
 public:
  // The network: the method's, or where there is batch normalization the one that has it in its weights.
  Prediction(const NoProp& method, const Network& network, const InputView& x, float* out,
             const NoPropInference& options, std::size_t n_rows, int n_threads)
      : m_(method), network_(network), x_(x), out_(out), options_(options) {
    const std::size_t tile = m_.kernels_.tile_rows;
    chunk_ = std::min(round_up(n_rows, tile), kPredictBlocks * tile);
    blocks_ = product::row_blocks(chunk_, tile);
    tail_blocks_ = product::row_blocks(x.rows % chunk_, tile);
    start_ = draw(0);
    row_of_.resize(chunk_);
    std::iota(row_of_.begin(), row_of_.end(), 0);
    if (m_.has_time())
      plan_times(n_threads);
    else
      plan_blocks();
    choose_steps();
    const std::size_t e = m_.element_, dim = m_.dim_, n_classes = m_.shape().n_classes;
    const Layer& above = m_.layer(2);
    std::size_t at = 0;
    const auto place = [&](std::size_t bytes) { return std::exchange(at, at + aligned(bytes)); };
    x_at_ = place(checked_product(chunk_, row_stride(x.columns, e), e));
    z_rows_at_ = place(checked_product(chunk_, z_stride(), e));
    for (std::size_t k = 0; k < m_.n_hidden(); ++k)
      h_at_.push_back(place(checked_product(chunk_, m_.hidden_stride(k), e)));
    half_at_ = place(m_.has_time() ? above.n_panels * chunk_ * kPanel * sizeof(float) : 0);
    z_at_ = place(2 * chunk_ * dim * sizeof(float));
    logits_at_ = place(divide_up(n_classes, kPanel) * chunk_ * kPanel * sizeof(float));
    p_at_ = place(3 * chunk_ * n_classes * sizeof(float));
    u_at_ = place((dim + z_stride()) * sizeof(float));
    scratch_bytes_ = at;
  }

  std::size_t n_chunks() const { return divide_up(x_.rows, chunk_); }
  std::size_t scratch_bytes() const { return scratch_bytes_; }

  void run(std::size_t chunk, char* memory) const {
    const product::DtypeKernels& k = m_.kernels_;
    const std::size_t first = chunk * chunk_;
    const std::size_t rows = std::min(chunk_, x_.rows - first);
    const std::size_t n_classes = m_.shape().n_classes, dim = m_.dim_;
    const product::GatherArgs gather{
        memory + x_at_, row_stride(x_.columns, m_.element_), x_.data, x_.row_stride, nullptr, first,
        x_.columns};
    (x_.type == InputType::u8    ? k.gather_u8
     : x_.type == InputType::f32 ? k.gather_f32
                                 : k.gather_f64)(gather, 0, rows);
    float* z = floats(memory, z_at_);
    float* ahead = z + chunk_ * dim;
    float* p = floats(memory, p_at_);
    float* p_ahead = p + chunk_ * n_classes;
    float* weights = p_ahead + chunk_ * n_classes;
    for (std::size_t i = 0; i < rows; ++i) {
      const float* before = options_.first > 0 ? state(first + i) : nullptr;
      std::copy_n(before != nullptr ? before : start_.data(), dim, z + i * dim);
      if (before != nullptr)
        std::copy_n(before + dim, n_classes, weights + i * n_classes);
      else
        std::fill_n(weights + i * n_classes, n_classes, 0.0f);
    }
    float mass = mass_;
    if (m_.has_time()) start_times(rows, memory);
    for (std::size_t s = 0; s < steps_.size(); ++s) {
      const Step& step = steps_[s];
      evaluate(step, 0, rows, z, p, memory);
      if (options_.heun) {
        std::copy_n(z, rows * dim, ahead);
        advance(step, rows, p, ahead, memory);
        evaluate(step, 1, rows, ahead, p_ahead, memory);
        for (std::size_t i = 0; i < rows * n_classes; ++i) p[i] = 0.5f * (p[i] + p_ahead[i]);
      }
      advance(step, rows, p, z, memory);
      mass = step.a + step.b * mass;
      for (std::size_t i = 0; i < rows * n_classes; ++i)
        weights[i] = step.a * p[i] + step.b * weights[i];
      if (options_.staged || s + 1 == steps_.size()) {
        const std::size_t stage = options_.staged ? s : 0;
        write(out_ + (stage * x_.rows + first) * n_classes, rows, weights, mass, z);
      }
    }
    for (std::size_t i = 0; i < rows && options_.state != nullptr; ++i)
      std::copy_n(weights + i * n_classes, n_classes,
                  std::copy_n(z + i * dim, dim, state(first + i)));
  }

 private:
  struct Step {
    std::size_t block;
    float a, b;
    std::vector<float> shift;                   // sqrt(c) eps, or empty
    const float* bias[2] = {nullptr, nullptr};  // of the label branch at this time and the next
  };

  static float* floats(char* memory, std::size_t at) {
    return reinterpret_cast<float*>(memory + at);
  }
  std::size_t z_stride() const { return m_.z_stride(); }
  float* state(std::size_t row) const {
    return options_.state + row * (m_.dim_ + m_.shape().n_classes);
  }
  const std::vector<RowBlock>& blocks(std::size_t rows) const {
    return rows == chunk_ ? blocks_ : tail_blocks_;
  }

  // A row of normal numbers that all samples share: z_0, then the noise of each block.
  std::vector<float> draw(std::uint32_t index) const {
    std::vector<float> row(m_.dim_);
    random::matrix_block(row.data(), m_.dim_, random::Distribution::normal, 1.0f, m_.options_.seed,
                         {random::Purpose::noisy_label, kInferenceTensor, index, 0}, m_.dim_, 0, 1,
                         0, m_.dim_);
    return row;
  }

  void plan_blocks() {
    const std::size_t all = m_.shape().n_blocks;
    const std::size_t n = options_.n_blocks == 0 ? all : options_.n_blocks;
    if (n > all)
      fail("n_blocks is " + std::to_string(n) + ", the network has " + std::to_string(all));
    if (options_.heun) fail("blocks of discrete time have no times between them for Heun's rule");
    const auto table = posterior_coefficients(m_.noprop_.alpha_bar);
    for (std::size_t t = 0; t < n; ++t) {
      Step step{t, static_cast<float>(table[t].a), static_cast<float>(table[t].b), {}};
      if (options_.noise) {
        step.shift = draw(static_cast<std::uint32_t>(t + 1));
        for (float& value : step.shift) value *= static_cast<float>(std::sqrt(table[t].c));
      }
      steps_.push_back(std::move(step));
    }
  }

  void plan_times(int n_threads) {
    if (options_.n_steps == 0) fail("n_steps is 0, expected at least 1");
    if (options_.noise) fail("noise is for blocks of discrete time: this flow has none");
    const auto n = static_cast<double>(options_.n_steps);
    make_biases(n_threads);
    for (std::size_t s = 0; s < options_.n_steps; ++s) {
      const double t[2] = {static_cast<double>(s) / n, static_cast<double>(s + 1) / n};
      Step step{0, static_cast<float>(1 / n), 1.0f, {}};
      if (m_.noprop_.variant == NoPropVariant::ct) {
        const double now = m_.alpha_bar(t[0]), next = m_.alpha_bar(t[1]);
        const double b = std::sqrt((1 - next) / (1 - now));
        step.a = static_cast<float>(std::sqrt(next) - b * std::sqrt(now));
        step.b = static_cast<float>(b);
      }
      for (std::size_t i = 0; i <= (options_.heun ? 1 : 0); ++i)
        step.bias[i] = biases_.data() + (s + i) * m_.shape().n_label_units;
      steps_.push_back(std::move(step));
    }
  }

  // Of the label branch at each time, and with Heun's rule at the end: its own and what the time's features bring.
  void make_biases(int n_threads) {
    const Layer& y = m_.layer(kLabel);
    const std::size_t n = options_.n_steps + (options_.heun ? 1 : 0);
    Buffer<float> weights(checked_product(y.n_in, y.n_out)), bias(y.n_out);
    Buffer<float> time(checked_product(n, kTimeFeatures));
    network_.get_weights(kLabel, weights.data());
    network_.get_biases(kLabel, bias.data());
    for (std::size_t s = 0; s < n; ++s)
      m_.write_time(time.data() + s * kTimeFeatures,
                    static_cast<double>(s) / static_cast<double>(options_.n_steps));
    biases_ = Buffer<float>(checked_product(n, y.n_out));
    dense_forward({biases_.data(), n, y.n_out, y.n_out}, {},
                  {time.data(), n, kTimeFeatures, kTimeFeatures},
                  {weights.data() + m_.dim_ * y.n_out, kTimeFeatures, y.n_out, y.n_out},
                  bias.data(), formulas::Activation::identity, n_threads);
  }

  // Keeps those that are run, and what the others have left.
  void choose_steps() {
    const std::size_t all = steps_.size(), first = options_.first;
    if (first >= all || options_.n_run > all - first)
      fail("the steps " + std::to_string(first) + " to " + std::to_string(first + options_.n_run) +
           " were asked for, expected at least 1 of the " + std::to_string(all));
    for (std::size_t s = 0; s < first; ++s) mass_ = steps_[s].a + steps_[s].b * mass_;
    const std::size_t n = options_.n_run > 0 ? options_.n_run : all - first;
    steps_.erase(steps_.begin() + static_cast<std::ptrdiff_t>(first + n), steps_.end());
    steps_.erase(steps_.begin(), steps_.begin() + static_cast<std::ptrdiff_t>(first));
    if (first > 0 && options_.state == nullptr)
      fail("first is " + std::to_string(first) + ", but there is no state to go on from");
  }

  // One panel of a layer's product, from row `first_row` of its weights on.
  product::ForwardArgs args(std::size_t index, std::size_t panel, const char* rows,
                            std::size_t stride, std::size_t first_row, std::size_t depth,
                            const std::vector<RowBlock>& blocks) const {
    const Layer& y = network_.layers()[index];
    const std::size_t per_word = m_.kernels_.depth_per_word;
    const auto* weights = static_cast<const float*>(network_.forward_panel(index, panel));
    const std::size_t words = divide_up(depth, per_word);
    return {
        .x = {rows, stride / per_word, words, 0},
        .panel = weights + first_row / per_word * kPanel,
        .next_panel = panel + 1 < y.n_panels ? network_.forward_panel(index, panel + 1) : nullptr,
        .depth = words,
        .blocks = blocks.data(),
        .n_blocks = blocks.size(),
        .n_columns = std::min(kPanel, y.n_out - panel * kPanel),
        .bias = network_.parameters() + y.biases + panel * kPanel,
        .scale = 1,
        .activation = network_.activation(),
        .h = nullptr,
        .h_stride = 0,
        .preactivation = nullptr,
        .preactivation_stride = 0};
  }

  void input_branch(std::size_t block, std::size_t rows, char* memory) const {
    const std::size_t index = m_.layer_index(block, kInput);
    const std::size_t stride = row_stride(x_.columns, m_.element_);
    for (std::size_t p = 0; p < m_.layer(kInput).n_panels; ++p) {
      product::ForwardArgs a = args(index, p, memory + x_at_, stride, 0, x_.columns, blocks(rows));
      a.scale = x_.scale;
      a.h = memory + h_at_[0] + p * kPanel * m_.element_;
      a.h_stride = m_.hidden_stride(0);
      m_.kernels_.forward(a);
    }
  }

  // The half of the layer above that reads the input branch: the same at all times.
  void start_times(std::size_t rows, char* memory) const {
    input_branch(0, rows, memory);
    for (std::size_t p = 0; p < m_.layer(2).n_panels; ++p) {
      product::ForwardArgs a = args(2, p, memory + h_at_[0], m_.hidden_stride(0), 0,
                                    m_.shape().n_input_units, blocks(rows));
      a.bias = nullptr;
      a.activation = formulas::Activation::identity;
      a.h = floats(memory, half_at_) + p * chunk_ * kPanel;
      a.h_stride = kPanel;
      m_.kernels_.forward_f32(a);
    }
  }

  // p [rows][n_classes] of a block at z (without softmax: its logits).
  void evaluate(const Step& step, int which, std::size_t rows, const float* z, float* p,
                char* memory) const {
    const product::DtypeKernels& k = m_.kernels_;
    const std::size_t dim = m_.dim_, stride = z_stride(), e = m_.element_;
    const BlockShape& shape = m_.shape();
    float* padded = floats(memory, u_at_) + dim;
    for (std::size_t i = 0; i < rows; ++i) {
      float* row = e == 4 ? floats(memory, z_rows_at_) + i * stride : padded;
      std::copy_n(z + i * dim, dim, row);
      std::fill(row + dim, row + stride, 0.0f);
      if (e == 2)
        product::kernels().to_bf16(
            reinterpret_cast<std::uint16_t*>(memory + z_rows_at_) + i * stride, row, stride);
    }
    if (!m_.has_time()) input_branch(step.block, rows, memory);
    const std::size_t label = m_.layer_index(step.block, kLabel);
    for (std::size_t panel = 0; panel < m_.layer(kLabel).n_panels; ++panel) {
      product::ForwardArgs a =
          args(label, panel, memory + z_rows_at_, stride, 0, dim, blocks(rows));
      if (step.bias[which] != nullptr) a.bias = step.bias[which] + panel * kPanel;
      a.h = memory + h_at_[0] + (shape.n_input_units + panel * kPanel) * e;
      a.h_stride = m_.hidden_stride(0);
      k.forward(a);
    }
    for (std::size_t part = 2; part < shape.n_layers(); ++part)
      for (std::size_t panel = 0; panel < m_.layer(part).n_panels; ++panel)
        chain(step.block, part, panel, rows, memory);
    product::kernels().output({.loss = formulas::Loss::softmax_cross_entropy,
                               .logits = floats(memory, logits_at_),
                               .panel_stride = chunk_ * kPanel,
                               .n_outputs = shape.n_classes,
                               .n_rows = rows,
                               .out = p,
                               .logits_only = m_.noprop_.variant == NoPropVariant::fm});
  }

  void chain(std::size_t block, std::size_t part, std::size_t panel, std::size_t rows,
             char* memory) const {
    const std::size_t k = chain_input(part), stride = m_.hidden_stride(k), e = m_.element_;
    const bool output = m_.is_output(part), halves = m_.has_time() && part == 2;
    const std::size_t skipped = halves ? m_.shape().n_input_units : 0;
    product::ForwardArgs a =
        args(m_.layer_index(block, part), panel, memory + h_at_[k] + skipped * e, stride, skipped,
             m_.layer(part).n_in - skipped, blocks(rows));
    if (output) a.activation = formulas::Activation::identity;
    a.h = output ? static_cast<void*>(floats(memory, logits_at_) + panel * chunk_ * kPanel)
                 : memory + h_at_[k + 1] + panel * kPanel * e;
    a.h_stride = output ? kPanel : m_.hidden_stride(k + 1);
    product::LabelVariant half{.table = floats(memory, half_at_) + panel * chunk_ * kPanel,
                               .labels = row_of_.data(),
                               .row_scale = nullptr,
                               .h = a.h,
                               .row_squares = nullptr};
    if (halves) {
      a.variants = &half;
      a.n_variants = 1;
    }
    (output ? m_.kernels_.forward_f32 : m_.kernels_.forward)(a);
  }

  // z <- A p W + B z
  void advance(const Step& step, std::size_t rows, const float* p, float* z, char* memory) const {
    const std::size_t dim = m_.dim_, n_classes = m_.shape().n_classes;
    const DenoisingHead head = m_.head();
    float* u = floats(memory, u_at_);
    for (std::size_t i = 0; i < rows; ++i, z += dim) {
      embed(u, head, p + i * n_classes);
      for (std::size_t j = 0; j < dim; ++j) z[j] = step.a * u[j] + step.b * z[j];
      for (std::size_t j = 0; j < step.shift.size(); ++j) z[j] += step.shift[j];
    }
  }

  // -|z - u_c|^2 of each class.
  void nearness(float* out, const float* z) const {
    const std::size_t dim = m_.dim_;
    for (std::size_t c = 0; c < m_.shape().n_classes; ++c) {
      float squares = 0;
      for (std::size_t j = 0; j < dim; ++j) {
        const float u =
            m_.is_one_hot() ? (c == j ? 1.0f : 0.0f) : m_.embedding_.values[c * dim + j];
        squares += (z[j] - u) * (z[j] - u);
      }
      out[c] = -squares;
    }
  }

  void write(float* out, std::size_t rows, const float* weights, float mass, const float* z) const {
    const std::size_t n_classes = m_.shape().n_classes, dim = m_.dim_;
    const bool flow = m_.noprop_.variant == NoPropVariant::fm;
    if (!flow && !m_.has_head()) {
      for (std::size_t i = 0; i < rows * n_classes; ++i) out[i] = weights[i] / mass;
      return;
    }
    for (std::size_t i = 0; i < rows; ++i, out += n_classes, z += dim) {
      if (flow) {
        nearness(out, z);
      } else {
        std::copy_n(m_.head_biases_.values.data(), n_classes, out);
        for (std::size_t j = 0; j < dim; ++j)
          for (std::size_t c = 0; c < n_classes; ++c)
            out[c] += z[j] * m_.head_weights_.values[j * n_classes + c];
      }
      const float high = *std::max_element(out, out + n_classes);
      float sum = 0;
      for (std::size_t c = 0; c < n_classes; ++c) sum += out[c] = std::exp(out[c] - high);
      for (std::size_t c = 0; c < n_classes; ++c) out[c] /= sum;
    }
  }

  const NoProp& m_;
  const Network& network_;
  const InputView& x_;
  float* out_;
  NoPropInference options_;
  std::size_t chunk_;
  std::vector<RowBlock> blocks_, tail_blocks_;
  std::vector<float> start_;
  std::vector<std::int32_t> row_of_;  // 0, 1, 2, ...
  std::vector<Step> steps_;
  Buffer<float> biases_;  // [times][n_label_units]
  float mass_ = 0;        // of the steps before
  std::size_t scratch_bytes_ = 0;
  std::size_t x_at_, z_rows_at_, half_at_, z_at_, logits_at_, p_at_, u_at_;
  std::vector<std::size_t> h_at_;
};

void NoProp::predict(const InputView& x, float* out, const NoPropInference& inference,
                     int n_threads) const {
  if (x.columns != shape().n_features)
    fail("x has " + std::to_string(x.columns) + " columns, the network was made for " +
         std::to_string(shape().n_features));
  // With time some half of the network is run in each step.
  const double evaluations =
      has_time() ? static_cast<double>(std::max(inference.n_steps, std::size_t{2})) / 2 : 1;
  const double flops =
      2.0 * static_cast<double>(x.rows) * evaluations * static_cast<double>(network_.n_params());
  int threads = threads_for(n_threads, flops);
  if (x.rows == 0) return;
  const std::shared_ptr<const Network> folded = norms_.empty() ? nullptr : norms_.folded();
  const Prediction prediction(*this, folded != nullptr ? *folded : network_, x, out, inference,
                              divide_up(x.rows, static_cast<std::size_t>(threads)), threads);
  threads = static_cast<int>(std::min(static_cast<std::size_t>(threads),
                                      prediction.n_chunks()));  // no more than have work
  std::vector<Buffer<char>> memory;
  std::vector<void*> scratch;
  for (int t = 0; t < threads; ++t) {
    memory.emplace_back(prediction.scratch_bytes());
    scratch.push_back(memory.back().data());
  }
  parallel_for(
      prediction.n_chunks(), threads,
      [&](std::size_t chunk, const Worker& worker) {
        prediction.run(chunk, static_cast<char*>(worker.scratch));
      },
      scratch);
}

}  // namespace bpfree
