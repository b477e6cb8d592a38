// SPDX-License-Identifier: BSD-3-Clause
// The tiles that run members of an ensemble over the minibatch: all layers of one in a thread's memory.
#include <algorithm>
#include <cmath>
#include <limits>

#include "methods/ensemble_kalman.h"

namespace bpfree {

using product::kPanel;

namespace {

constexpr std::size_t kPairRows = 64;  // of a panel that becomes bf16 at a time

}  // namespace

// x W of the mean's first layer, for all members.
void EnsembleKalman::base(std::size_t panel) const {
  const std::size_t n_in = network_.layers()[0].n_in;
  const std::size_t depth = divide_up(n_in, kernels_.depth_per_word);
  kernels_.store(
      {.a = {x_[0].data(), row_stride(n_in, element_) / kernels_.depth_per_word, depth, 0},
       .packed = nullptr,
       .panel = network_.forward_panel(0, panel),
       .depth = depth,
       .blocks = blocks().data(),
       .n_blocks = blocks().size(),
       .out = base_.data() + panel * kPanel,
       .out_stride = base_stride(),
       .n_columns = columns_of(0, panel),
       .accumulate = false});
}

void EnsembleKalman::run_member(std::size_t j, const Worker& worker) const {
  for (std::size_t l = 0; l < n_layers(); ++l)
    for (std::size_t p = 0; p < network_.layers()[l].n_panels; ++p)
      by_anomalies() ? moved_panel(l, p, j, worker) : kept_panel(l, p, j, worker);
  finish_member(j, worker);
}

const void* EnsembleKalman::input(std::size_t layer, const Worker& worker) const {
  return layer == 0 ? x_[0].data() : at<char>(worker, layout_.h[(layer - 1) % 2]);
}

void* EnsembleKalman::target(std::size_t layer, std::size_t panel, const Worker& worker) const {
  if (is_output(layer)) return at<float>(worker, layout_.logits) + panel * padded_batch_ * kPanel;
  return at<char>(worker, layout_.h[layer % 2]) + panel * kPanel * element_;
}

// One panel of a layer of a member whose weights lie there in float32.
void EnsembleKalman::kept_panel(std::size_t layer, std::size_t panel, std::size_t j,
                                const Worker& worker) const {
  const Layer& y = network_.layers()[layer];
  const bool output = is_output(layer);
  const float* theta = member(j) + y.weights + panel * y.panel_size();
  // What comes next of this layer: of this member, or of the next one.
  const float* next = panel + 1 < y.n_panels          ? theta + y.panel_size()
                      : layer == 0 && j + 1 < n_ens() ? member(j + 1) + y.weights
                                                      : nullptr;
  const product::ForwardArgs args{
      .x = {input(layer, worker), row_stride(y.n_in, element_), y.n_in, 0},
      .panel = theta,
      .next_panel = next,
      .depth = y.n_in,
      .blocks = blocks().data(),
      .n_blocks = blocks().size(),
      .n_columns = columns_of(layer, panel),
      .bias = member(j) + y.biases + panel * kPanel,
      .scale = layer == 0 ? data().x.scale : 1.0f,
      .activation = output ? formulas::Activation::identity : network_.activation(),
      .h = target(layer, panel, worker),
      .h_stride = output ? kPanel : h_stride(layer),
      .preactivation = nullptr,
      .preactivation_stride = 0};
  (output ? kernels_.forward_f32 : kernels_.forward)(args);
}

// What a member differs by from the mean in one panel, as the vector operand of a product: float32, or pairs of rows in bf16.
// Redrawn members: without their spread.
const void* EnsembleKalman::anomaly_panel(std::size_t layer, std::size_t panel, std::size_t j,
                                          const Worker& worker) const {
  const Layer& y = network_.layers()[layer];
  const std::size_t offset = y.weights + panel * y.panel_size();
  float* anomaly = at<float>(worker, layout_.panel);
  auto* pairs = at<std::uint32_t>(worker, layout_.pairs);
  const random::NoiseWindow w = window(layer, false, panel, j, iteration_);
  const std::size_t at_once = bf16() ? std::min(kPairRows, y.n_in) : y.n_in;
  if (kalman_.redraw && w.n_columns < kPanel) std::fill_n(anomaly, at_once * kPanel, 0.0f);
  for (std::size_t row = 0; row < y.n_in; row += at_once) {
    const std::size_t n = std::min(at_once, y.n_in - row);
    if (kalman_.redraw) {
      random::matrix_block(anomaly, kPanel, w.distribution, 1, w.seed, w.counter, y.n_out, row, n,
                           w.first_column, w.n_columns);
    } else {
      const float* theta = member(j) + offset + row * kPanel;
      const float* mean = network_.parameters() + offset + row * kPanel;
      for (std::size_t i = 0; i < n * kPanel; ++i) anomaly[i] = theta[i] - mean[i];
    }
    if (bf16())
      product::kernels().make_shadows({.value = anomaly, .shadow = pairs + row / 2 * kPanel}, n);
  }
  return bf16() ? static_cast<const void*>(pairs) : anomaly;
}

// One panel of a layer of a member as the mean's and what it differs by.
void EnsembleKalman::moved_panel(std::size_t layer, std::size_t panel, std::size_t j,
                                 const Worker& worker) const {
  const Layer& y = network_.layers()[layer];
  const bool output = is_output(layer);
  const std::size_t depth = divide_up(y.n_in, kernels_.depth_per_word);
  const std::size_t in_stride = row_stride(y.n_in, element_) / kernels_.depth_per_word;
  const float* mean_bias = network_.parameters() + y.biases + panel * kPanel;
  const float* bias = at<float>(worker, layout_.bias);
  const float spread = kalman_.redraw ? spread_of(layer) : 1.0f;
  if (kalman_.redraw) {
    std::fill_n(at<float>(worker, layout_.bias), kPanel, 0.0f);
    random::perturb_block(at<float>(worker, layout_.bias), nullptr, kPanel, mean_bias, kPanel,
                          spread, window(layer, true, panel, j, iteration_));
  } else {
    bias = member(j) + y.biases + panel * kPanel;
  }
  const auto activation = output ? formulas::Activation::identity : network_.activation();
  const std::size_t stride = output ? kPanel : h_stride(layer);
  if (layer > 0 && !bf16()) {
    float* theta = at<float>(worker, layout_.panel);
    random::NoiseWindow of_weights = window(layer, false, panel, j, iteration_);
    of_weights.n_rows = y.n_in;
    if (of_weights.n_columns < kPanel) std::fill_n(theta, y.n_in * kPanel, 0.0f);
    random::perturb_block(theta, nullptr, kPanel,
                          network_.parameters() + y.weights + panel * y.panel_size(), kPanel,
                          spread, of_weights);
    (output ? kernels_.forward_f32
            : kernels_.forward)({.x = {input(layer, worker), in_stride, depth, 0},
                                 .panel = theta,
                                 .next_panel = nullptr,
                                 .depth = depth,
                                 .blocks = blocks().data(),
                                 .n_blocks = blocks().size(),
                                 .n_columns = columns_of(layer, panel),
                                 .bias = bias,
                                 .scale = 1,
                                 .activation = activation,
                                 .h = target(layer, panel, worker),
                                 .h_stride = stride,
                                 .preactivation = nullptr,
                                 .preactivation_stride = 0});
    return;
  }
  const float x_scale = layer == 0 ? data().x.scale : 1.0f;
  product::PerturbedArgs args{
      .x = {input(layer, worker), in_stride, depth, 0},
      .panel = anomaly_panel(layer, panel, j, worker),
      .depth = depth,
      .blocks = blocks().data(),
      .n_blocks = blocks().size(),
      .n_columns = columns_of(layer, panel),
      .base = base_.data() + panel * kPanel,
      .base_stride = base_stride(),
      .scale = x_scale,
      .sides = {{spread * x_scale, bias, target(layer, panel, worker)}, {0, nullptr, nullptr}},
      .n_sides = 1,
      .activation = activation,
      .h_stride = stride};
  if (layer > 0) {  // bf16: h W of the mean, and h times the anomaly beside it
    float* product = at<float>(worker, layout_.product);
    args.base = product;
    args.base_stride = kPanel;
    kernels_.store({.a = args.x,
                    .packed = nullptr,
                    .panel = network_.forward_panel(layer, panel),
                    .depth = depth,
                    .blocks = blocks().data(),
                    .n_blocks = blocks().size(),
                    .out = product,
                    .out_stride = kPanel,
                    .n_columns = kPanel,
                    .accumulate = false});
  }
  (output ? kernels_.perturbed_f32 : kernels_.perturbed)(args);
}

// The logits of a member: its row of g, of the score, and its loss.
void EnsembleKalman::finish_member(std::size_t j, const Worker& worker) const {
  const float* logits = at<float>(worker, layout_.logits);
  const std::size_t stride = padded_batch_ * kPanel;
  product::OutputArgs args{.loss = network_.loss(),
                           .logits = logits,
                           .panel_stride = stride,
                           .n_outputs = network_.n_outputs(),
                           .n_rows = rows_,
                           .out = g_.data() + j * n_obs(),
                           .logits_only = !kalman_.squared_error};
  product::kernels().output(args);
  double sum = 0;
  if (kalman_.squared_error) {
    sum = squared_error(j);
  } else {
    args.out = score_.data() + j * n_obs();
    args.logits_only = false;
    product::kernels().output(args);
    to_score(j);
    if (!kalman_.gauss_newton && network_.loss() == formulas::Loss::softmax_cross_entropy)
      center_logits(j);
    float* row_loss = at<float>(worker, layout_.row_loss);
    product::kernels().row_loss({.loss = network_.loss(),
                                 .logits = logits,
                                 .panel_stride = stride,
                                 .n_outputs = network_.n_outputs(),
                                 .labels = data().labels,
                                 .targets = data().targets,
                                 .weights = data().weights,
                                 .order = batch_order(),
                                 .n_rows = rows_,
                                 .row_loss = row_loss});
    for (std::size_t i = 0; i < rows_; ++i) sum += static_cast<double>(row_loss[i]);
  }
  misfit_[j] = batch_weight_ > 0 ? sum / batch_weight_ : 0;
  const float* g = g_.data() + j * n_obs();
  if (!std::all_of(g, g + n_obs(), [](float value) { return std::isfinite(value); }))
    misfit_[j] = std::numeric_limits<double>::quiet_NaN();
}

// Half the weighted sum over all outputs: noise is obs_noise_var over the weight.
double EnsembleKalman::squared_error(std::size_t j) const {
  const float* g = g_.data() + j * n_obs();
  double sum = 0;
  for (std::size_t m = 0; m < n_obs(); ++m) {
    const double off = static_cast<double>(g[m]) - y_[m];
    sum += off * off / noise_[m];
  }
  return sum * kalman_.obs_noise_var / 2;
}

// Probabilities become minus the derivative of the loss over the noise.
void EnsembleKalman::to_score(std::size_t j) const {
  float* score = score_.data() + j * n_obs();
  for (std::size_t m = 0; m < n_obs(); ++m)
    score[m] = static_cast<float>((y_[m] - static_cast<double>(score[m])) / noise_[m]);
}

// Softmax does not see what is common to all classes, and the bound of its Hessian must not.
void EnsembleKalman::center_logits(std::size_t j) const {
  const std::size_t n = network_.n_outputs();
  float* g = g_.data() + j * n_obs();
  for (std::size_t i = 0; i < rows_; ++i, g += n) {
    float sum = 0;
    for (std::size_t c = 0; c < n; ++c) sum += g[c];
    const float mean = sum / static_cast<float>(n);
    for (std::size_t c = 0; c < n; ++c) g[c] -= mean;
  }
}

}  // namespace bpfree
