// SPDX-License-Identifier: BSD-3-Clause
// The tiles of an evolution strategy's generation that run its members: all layers and the loss of a pair in a thread's memory.
#include <algorithm>
#include <cmath>

#include "methods/evolution.h"

namespace bpfree {

using product::kPanel;
using random::Purpose;

// x W of the first layer, for all members.
void Evolution::base(std::size_t panel) const {
  const std::size_t n_in = network_.layers()[0].n_in;
  const std::size_t depth = divide_up(n_in, kernels_.depth_per_word);
  const std::vector<product::RowBlock>& rows = blocks(n_);
  kernels_.store(
      {.a = {x_[0].data(), row_stride(n_in, element_) / kernels_.depth_per_word, depth, 0},
       .packed = nullptr,
       .panel = network_.forward_panel(0, panel),
       .depth = depth,
       .blocks = rows.data(),
       .n_blocks = rows.size(),
       .out = base_.data() + panel * kPanel,
       .out_stride = base_stride(),
       .n_columns = columns_of(0, panel),
       .accumulate = false});
}

void Evolution::members(std::size_t tile, const Worker& worker) const {
  if (!low_rank()) return full_noise(first_noise_ + tile, worker);
  const std::size_t first = first_noise_ + tile * group_;
  low_rank_group(first, std::min(group_, end_noise_ - first), worker);
}

void Evolution::full_noise(std::size_t noise, const Worker& worker) const {
  for (std::size_t l = 0; l < n_layers(); ++l)
    for (std::size_t p = 0; p < network_.layers()[l].n_panels; ++p)
      full_noise_panel(l, p, noise, worker);
  finish_rows(noise, 0, n_, worker);
  finish_member(noise, worker);
}

random::NoiseWindow Evolution::window(std::size_t tensor, std::size_t noise, std::size_t columns,
                                      std::size_t panel) const {
  return {.distribution = es_.perturbation == NoiseKind::rademacher ? random::Distribution::sign
                                                                    : random::Distribution::normal,
          .seed = options_.seed,
          .counter = counter(Purpose::noise, tensor, noise),
          .matrix_columns = columns,
          .first_row = 0,
          .n_rows = 1,
          .first_column = panel * kPanel,
          .n_columns = std::min(kPanel, columns - panel * kPanel)};
}

// eps of a panel as the vector operand of a product: float32, or pairs of rows in bf16.
const void* Evolution::draw_panel(std::size_t layer, std::size_t panel, std::size_t noise,
                                  const Worker& worker) const {
  const Layer& y = network_.layers()[layer];
  const random::NoiseWindow w = window(2 * layer, noise, y.n_out, panel);
  float* eps = at<float>(worker, layout_.noise);
  auto* pairs = at<std::uint32_t>(worker, layout_.panel[0]);
  const std::size_t at_once = bf16() ? kNoiseRows : y.n_in;
  if (w.n_columns < kPanel) std::fill_n(eps, at_once * kPanel, 0.0f);
  for (std::size_t row = 0; row < y.n_in; row += at_once) {
    const std::size_t n = std::min(at_once, y.n_in - row);
    random::matrix_block(eps, kPanel, w.distribution, 1, w.seed, w.counter, y.n_out, row, n,
                         w.first_column, w.n_columns);
    if (bf16())
      product::kernels().make_shadows({.value = eps, .shadow = pairs + row / 2 * kPanel}, n);
  }
  return bf16() ? static_cast<const void*>(pairs) : eps;
}

// One panel of a layer for both members of a pair.
void Evolution::full_noise_panel(std::size_t layer, std::size_t panel, std::size_t noise,
                                 const Worker& worker) const {
  const Layer& y = network_.layers()[layer];
  const bool output = is_output(layer);
  const std::vector<product::RowBlock>& rows = blocks(n_);
  const std::size_t depth = divide_up(y.n_in, kernels_.depth_per_word);
  const std::size_t in_stride = row_stride(y.n_in, element_) / kernels_.depth_per_word;
  const float x_scale = layer == 0 ? data().x.scale : 1.0f;
  float* bias[2] = {at<float>(worker, layout_.bias), at<float>(worker, layout_.bias) + kPanel};
  std::fill_n(bias[0], 2 * kPanel, 0.0f);
  random::perturb_block(bias[0], bias[1], kPanel, network_.parameters() + y.biases + panel * kPanel,
                        kPanel, std_, window(2 * layer + 1, noise, y.n_out, panel));
  const auto h = [&](std::size_t side) {
    return output ? static_cast<void*>(logits(side, worker) + panel * tile_rows_ * kPanel)
                  : at<char>(worker, layout_.h[layer % 2][side]) + panel * kPanel * element_;
  };
  const auto input = [&](std::size_t side) -> const char* {
    return layer == 0 ? x_[0].data() : at<char>(worker, layout_.h[(layer - 1) % 2][side]);
  };
  const auto activation = output ? formulas::Activation::identity : network_.activation();
  const std::size_t stride = output ? kPanel : h_stride(layer);
  if (layer > 0 && !bf16()) {
    float* w[2] = {at<float>(worker, layout_.panel[0]), at<float>(worker, layout_.panel[1])};
    random::NoiseWindow of_weights = window(2 * layer, noise, y.n_out, panel);
    of_weights.n_rows = y.n_in;
    if (of_weights.n_columns < kPanel)
      for (float* side : w) std::fill_n(side, y.n_in * kPanel, 0.0f);
    random::perturb_block(w[0], n_sides() == 2 ? w[1] : nullptr, kPanel,
                          network_.parameters() + y.weights + panel * y.panel_size(), kPanel, std_,
                          of_weights);
    for (std::size_t side = 0; side < n_sides(); ++side)
      (output ? kernels_.forward_f32 : kernels_.forward)({.x = {input(side), in_stride, depth, 0},
                                                          .panel = side == 0 ? w[0] : w[1],
                                                          .next_panel = nullptr,
                                                          .depth = depth,
                                                          .blocks = rows.data(),
                                                          .n_blocks = rows.size(),
                                                          .n_columns = columns_of(layer, panel),
                                                          .bias = side == 0 ? bias[0] : bias[1],
                                                          .scale = 1,
                                                          .activation = activation,
                                                          .h = h(side),
                                                          .h_stride = stride,
                                                          .preactivation = nullptr,
                                                          .preactivation_stride = 0});
    return;
  }
  product::PerturbedArgs args{
      .x = {input(0), in_stride, depth, 0},
      .panel = draw_panel(layer, panel, noise, worker),
      .depth = depth,
      .blocks = rows.data(),
      .n_blocks = rows.size(),
      .n_columns = columns_of(layer, panel),
      .base = base_.data() + panel * kPanel,
      .base_stride = base_stride(),
      .scale = x_scale,
      .sides = {{std_ * x_scale, bias[0], h(0)},
                {-std_ * x_scale, bias[1], n_sides() == 2 ? h(1) : nullptr}},
      .n_sides = n_sides(),
      .activation = activation,
      .h_stride = stride};
  const auto perturbed = output ? kernels_.perturbed_f32 : kernels_.perturbed;
  if (layer == 0) return perturbed(args);
  // bf16: h W of either side, and std (h eps) beside it.
  float* product = at<float>(worker, layout_.panel[1]);
  args.base = product;
  args.base_stride = kPanel;
  args.n_sides = 1;
  for (std::size_t side = 0; side < n_sides(); ++side) {
    args.x.data = input(side);
    if (side == 1) args.sides[0] = args.sides[1];
    kernels_.store({.a = args.x,
                    .packed = nullptr,
                    .panel = network_.forward_panel(layer, panel),
                    .depth = depth,
                    .blocks = rows.data(),
                    .n_blocks = rows.size(),
                    .out = product,
                    .out_stride = kPanel,
                    .n_columns = kPanel,
                    .accumulate = false});
    perturbed(args);
  }
}

void Evolution::low_rank_group(std::size_t first, std::size_t n, const Worker& worker) const {
  shared_products(first, n, worker);
  for (std::size_t i = 0; i < n; ++i) {
    draw_factors(first + i, worker);
    for (std::size_t row = 0; row < n_; row += tile_rows_)
      low_rank_rows(first + i, i, row, std::min(tile_rows_, n_ - row), worker);
    finish_member(first + i, worker);
  }
}

// z = x A of the first layer, the left factors of the group side by side: [batch][noise * rank].
void Evolution::shared_products(std::size_t first, std::size_t n, const Worker& worker) const {
  const std::size_t n_in = network_.layers()[0].n_in;
  const std::size_t columns = n * es_.rank, stride = round_up(group_ * es_.rank, kPanel);
  const std::size_t depth = divide_up(n_in, kernels_.depth_per_word);
  float* left = at<float>(worker, layout_.noise);
  auto* narrow = at<std::uint16_t>(worker, layout_.panel[1]);
  void* panel = at<char>(worker, layout_.panel[0]);
  for (std::size_t i = 0; i < n; ++i)
    random::matrix_block(left + i * es_.rank * n_in, n_in, random::Distribution::normal, 1,
                         options_.seed, counter(Purpose::noise, 0, first + i), n_in, 0, es_.rank, 0,
                         n_in);
  const std::vector<product::RowBlock>& rows = blocks(n_);
  for (std::size_t j = 0; j < columns; j += kPanel) {
    const std::size_t n_columns = std::min(kPanel, columns - j);
    if (bf16()) product::kernels().to_bf16(narrow, left + j * n_in, n_columns * n_in);
    kernels_.pack_panel({.dst = panel,
                         .src = bf16() ? static_cast<const void*>(narrow) : left + j * n_in,
                         .depth_stride = 1,
                         .column_stride = n_in,
                         .depth = n_in,
                         .n_columns = n_columns});
    kernels_.store(
        {.a = {x_[0].data(), row_stride(n_in, element_) / kernels_.depth_per_word, depth, 0},
         .packed = nullptr,
         .panel = panel,
         .depth = depth,
         .blocks = rows.data(),
         .n_blocks = rows.size(),
         .out = at<float>(worker, layout_.z) + j,
         .out_stride = stride,
         .n_columns = n_columns,
         .accumulate = false});
  }
}

// What the layers need of one noise: right factors and biases of all, left factors of all but the first; zero beyond the last.
void Evolution::draw_factors(std::size_t noise, const Worker& worker) const {
  const auto draw = [&](float* out, Purpose purpose, std::size_t tensor, std::size_t n) {
    const std::size_t stride = round_up(n, kPanel);
    random::matrix_block(out, stride, random::Distribution::normal, 1, options_.seed,
                         counter(purpose, tensor, noise), n, 0, es_.rank, 0, n);
    for (std::size_t q = 0; q < es_.rank; ++q)
      std::fill(out + q * stride + n, out + (q + 1) * stride, 0.0f);
  };
  for (std::size_t l = 0; l < n_layers(); ++l) {
    const Layer& y = network_.layers()[l];
    draw(at<float>(worker, layout_.right) + factors_[l].right, Purpose::noise_right, 2 * l,
         y.n_out);
    if (!is_output(l))  // the next layer's inputs
      draw(at<float>(worker, layout_.left) + factors_[l].left, Purpose::noise, 2 * (l + 1),
           y.n_out);
    float* bias = at<float>(worker, layout_.bias) + factors_[l].bias;
    std::fill_n(bias, n_sides() * padded(l), 0.0f);
    random::NoiseWindow all = window(2 * l + 1, noise, y.n_out, 0);
    all.n_columns = y.n_out;
    random::perturb_block(bias, n_sides() == 2 ? bias + padded(l) : nullptr, padded(l),
                          network_.parameters() + y.biases, padded(l), std_, all);
  }
}

// Some rows of the batch through all layers, for both members of a pair; their activations stay in the cache.
void Evolution::low_rank_rows(std::size_t noise, std::size_t in_group, std::size_t row,
                              std::size_t n_rows, const Worker& worker) const {
  const std::size_t z_stride = round_up(group_ * es_.rank, kPanel);
  const float scale = std_ / std::sqrt(static_cast<float>(es_.rank));
  const float* z = at<float>(worker, layout_.z) + row * z_stride + in_group * es_.rank;
  for (std::size_t l = 0; l < n_layers(); ++l) {
    for (std::size_t side = 0; side < n_sides(); ++side) {
      const float signed_scale = side == 0 ? scale : -scale;
      float* factors = at<float>(worker, layout_.factors[side]);
      if (l > 0) {
        product::kernels().factors({.factors = factors,
                                    .sums = at<float>(worker, layout_.sums[side]),
                                    .n = n_rows * es_.rank,
                                    .scale = signed_scale});
        continue;
      }
      for (std::size_t i = 0; i < n_rows; ++i)
        for (std::size_t q = 0; q < es_.rank; ++q)
          factors[i * es_.rank + q] = signed_scale * data().x.scale * z[i * z_stride + q];
    }
    for (std::size_t p = 0; p < network_.layers()[l].n_panels; ++p)
      for (std::size_t side = 0; side < n_sides(); ++side)
        low_rank_panel(l, p, side, row, n_rows, worker);
  }
  finish_rows(noise, row, n_rows, worker);
}

void Evolution::low_rank_panel(std::size_t layer, std::size_t panel, std::size_t side,
                               std::size_t row, std::size_t n_rows, const Worker& worker) const {
  const Layer& y = network_.layers()[layer];
  const bool output = is_output(layer), first = layer == 0;
  const std::vector<product::RowBlock>& rows = blocks(n_rows);
  const std::size_t depth = divide_up(y.n_in, kernels_.depth_per_word);
  const std::size_t in_stride = row_stride(y.n_in, element_) / kernels_.depth_per_word;
  const char* x = first ? nullptr : at<char>(worker, layout_.h[(layer - 1) % 2][side]);
  char* h = at<char>(worker, layout_.h[layer % 2][side]) + panel * kPanel * element_;
  const product::LowRankArgs args{
      .x = {x, in_stride, depth, 0},
      .panel = network_.forward_panel(layer, panel),
      .next_panel = nullptr,
      .depth = depth,
      .blocks = rows.data(),
      .n_blocks = rows.size(),
      .n_columns = columns_of(layer, panel),
      .base = base_.data() + row * base_stride() + panel * kPanel,
      .base_stride = base_stride(),
      .scale = first ? data().x.scale : 1.0f,
      .factors = at<float>(worker, layout_.factors[side]),
      .right = at<float>(worker, layout_.right) + factors_[layer].right + panel * kPanel,
      .right_stride = padded(layer),
      .rank = es_.rank,
      .bias = at<float>(worker, layout_.bias) + factors_[layer].bias + side * padded(layer) +
              panel * kPanel,
      .activation = output ? formulas::Activation::identity : network_.activation(),
      .h = output ? static_cast<void*>(logits(side, worker) + panel * tile_rows_ * kPanel) : h,
      .h_stride = output ? kPanel : h_stride(layer),
      .next_left = output ? nullptr
                          : at<float>(worker, layout_.left) + factors_[layer].left + panel * kPanel,
      .next_left_stride = padded(layer),
      .next_sums = at<float>(worker, layout_.sums[side]),
      .first_panel = panel == 0};
  (output ? kernels_.low_rank_f32 : kernels_.low_rank)(args);
}

// The logits of some rows: their losses, or what evaluate() was asked for.
void Evolution::finish_rows(std::size_t noise, std::size_t row, std::size_t n_rows,
                            const Worker& worker) const {
  for (std::size_t side = 0; side < n_sides(); ++side) {
    const float* from = logits(side, worker);
    const std::size_t stride = tile_rows_ * kPanel;
    const std::size_t member = noise * n_sides() + side;
    float* row_loss = at<float>(worker, layout_.row_loss[side]) + row;
    if (outputs_.out != nullptr) {
      const std::size_t index = member - outputs_.first_member;  // wraps around before the first
      if (index < outputs_.n_members)
        product::kernels().output({.loss = network_.loss(),
                                   .logits = from,
                                   .panel_stride = stride,
                                   .n_outputs = network_.n_outputs(),
                                   .n_rows = n_rows,
                                   .out = outputs_.out + (index * n_ + row) * network_.n_outputs(),
                                   .logits_only = outputs_.logits});
    } else if (es_.fitness == Fitness::accuracy) {
      for (std::size_t i = 0; i < n_rows; ++i)
        row_loss[i] = is_right(from + i * kPanel, stride, batch_order()[row + i]);
    } else {
      product::kernels().row_loss({.loss = network_.loss(),
                                   .logits = from,
                                   .panel_stride = stride,
                                   .n_outputs = network_.n_outputs(),
                                   .labels = data().labels,
                                   .targets = data().targets,
                                   .weights = data().weights,
                                   .order = batch_order() + row,
                                   .n_rows = n_rows,
                                   .row_loss = row_loss});
    }
  }
}

// The sample's weight where its class has the largest output (the first of equals), or all its outputs are on the right side;
// else 0. NaN where an output is.
float Evolution::is_right(const float* row, std::size_t panel_stride, std::size_t sample) const {
  const std::size_t n = network_.n_outputs();
  const auto output = [&](std::size_t j) { return row[j / kPanel * panel_stride + j % kPanel]; };
  const float weight = data().weights != nullptr ? data().weights[sample] : 1.0f;
  bool right = true;
  float sum = 0;
  if (data().labels != nullptr) {
    const auto label = static_cast<std::size_t>(data().labels[sample]);
    for (std::size_t j = 0; j < n; ++j) {
      right = right && !(j < label ? output(j) >= output(label) : output(j) > output(label));
      sum += output(j);
    }
  } else {
    for (std::size_t j = 0; j < n; ++j) {
      right = right && (output(j) > 0) == (data().targets[sample * n + j] > 0.5f);
      sum += output(j);
    }
  }
  return std::isnan(sum) ? sum : right ? weight : 0.0f;
}

void Evolution::finish_member(std::size_t noise, const Worker& worker) const {
  if (outputs_.out != nullptr) return;
  const double sign = es_.fitness == Fitness::loss ? -1 : 1;
  for (std::size_t side = 0; side < n_sides(); ++side) {
    const float* row_loss = at<float>(worker, layout_.row_loss[side]);
    double sum = 0;
    for (std::size_t i = 0; i < n_; ++i) sum += static_cast<double>(row_loss[i]);
    fitness_[noise * n_sides() + side] = batch_weight_ > 0 ? sign * sum / batch_weight_ : 0;
  }
}

}  // namespace bpfree
