// SPDX-License-Identifier: BSD-3-Clause
// What local losses learn besides a network's weights: the similarities' projections and batch normalization; and predictions,
// which fold the latter into the weights.
#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "methods/local_loss.h"
#include "random/random.h"

namespace bpfree {

using product::kPanel;

namespace {

constexpr float kNormEpsilon = 1e-5f;  // beside the variance

void check_index(const char* what, std::size_t layer, std::size_t n) {
  if (layer < n) return;
  fail(std::string(what) + " " + std::to_string(layer) + " was asked for, this trainer has " +
       std::to_string(n));
}

}  // namespace

void LocalLoss::make_projections() {
  std::size_t offset = 0, shadow = 0;
  for (std::size_t l = 0; l < n_hidden(); ++l) {
    const std::size_t n = network_.layers()[l].n_out;
    const Layer v{n, n, divide_up(n, kPanel), offset, 0, shadow};
    offset += checked_product(v.n_panels * kPanel, n);
    shadow += v.n_panels * v.shadow_panel_size();
    projections_.push_back(v);
  }
  projection_values_ = Buffer<float>(offset);
  if (element_ == 2) projection_shadow_ = Buffer<std::uint32_t>(shadow);
  projection_state_ = OptimizerState(options_.optimizer.solver, offset);
  for (std::size_t l = 0; l < n_hidden(); ++l) {
    const std::size_t n = projections_[l].n_in;
    std::vector<float> values(checked_product(n, n));
    const auto tensor = static_cast<std::uint32_t>(n_layers() + network_.heads().size() + l);
    random::uniform_matrix(values.data(), n, n, n, options_.seed,
                           {random::Purpose::weights, tensor, 0, 0},
                           1 / std::sqrt(static_cast<float>(n)));
    set_projection(l, values.data());
  }
}

product::Parameters LocalLoss::projection_parameters(std::size_t layer, std::size_t panel) const {
  const Layer& v = projections_[layer];
  const std::size_t at = v.weights + panel * v.panel_size();
  product::Parameters parameters{.value = projection_values_.data() + at};
  projection_state_.attach(parameters, at);
  if (projection_shadow_.size() > 0)
    parameters.shadow = projection_shadow_.data() + v.shadow + panel * v.shadow_panel_size();
  return parameters;
}

std::size_t LocalLoss::projection_size(std::size_t layer) const {
  check_index("projection", layer, projections_.size());
  return projections_[layer].n_in;
}

void LocalLoss::get_projection(std::size_t layer, float* out) const {
  const std::size_t n = projection_size(layer);
  unpack_panels(out, projection_values_.data() + projections_[layer].weights, n, n);
}

void LocalLoss::set_projection(std::size_t layer, const float* value) {
  const std::size_t n = projection_size(layer);
  pack_panels(projection_values_.data() + projections_[layer].weights, value, n, n);
  for (std::size_t p = 0; projection_shadow_.size() > 0 && p < projections_[layer].n_panels; ++p)
    product::kernels().make_shadows(projection_parameters(layer, p), n);
}

void LocalLoss::make_norms() {
  std::size_t offset = 0;
  for (std::size_t l = 0; l < n_hidden(); ++l) {
    const std::size_t padded = network_.layers()[l].n_panels * kPanel;
    norms_.push_back({offset, offset + padded, offset, offset + padded});
    offset += 2 * padded;
  }
  norm_values_ = Buffer<float>(offset);
  norm_running_ = Buffer<float>(offset);
  norm_state_ = OptimizerState(options_.optimizer.solver, offset);
  for (std::size_t l = 0; l < n_hidden(); ++l) {
    std::fill_n(norm_values_.data() + norms_[l].gain, network_.layers()[l].n_out, 1.0f);
    std::fill_n(norm_running_.data() + norms_[l].variance, network_.layers()[l].n_out, 1.0f);
  }
}

LocalLoss::Norm LocalLoss::norm(std::size_t layer) const {
  check_index("batch normalization", layer, norms_.size());
  const NormAt& at = norms_[layer];
  return {norm_values_.data() + at.gain, norm_values_.data() + at.shift,
          norm_running_.data() + at.mean, norm_running_.data() + at.variance,
          network_.layers()[layer].n_out};
}

void LocalLoss::set_norm(std::size_t layer, const Norm& value) {
  check_index("batch normalization", layer, norms_.size());
  const NormAt& at = norms_[layer];
  const std::size_t n = network_.layers()[layer].n_out;
  std::copy_n(value.gain, n, norm_values_.data() + at.gain);
  std::copy_n(value.shift, n, norm_values_.data() + at.shift);
  std::copy_n(value.mean, n, norm_running_.data() + at.mean);
  std::copy_n(value.variance, n, norm_running_.data() + at.variance);
  drop_folded_network();
}

float LocalLoss::inverse_deviation(float variance) {
  return 1 / std::sqrt(variance + kNormEpsilon);
}

// W and b of the hidden layers with batch normalization by its running statistics in them.
Network LocalLoss::normalized_network() const {
  const Network& from = network_;
  Network result(from.sizes(), from.activation(), from.loss(), from.compute(), from.first_head());
  std::vector<float> weights, biases;
  for (std::size_t k = 0; k < n_layers() + from.heads().size(); ++k) {
    const Layer& y = from.layer(k);
    weights.resize(y.n_in * y.n_out);
    biases.resize(y.n_out);
    from.get_weights(k, weights.data());
    from.get_biases(k, biases.data());
    if (k < n_hidden()) {
      const Norm n = norm(k);
      for (std::size_t j = 0; j < y.n_out; ++j) {
        const float factor = n.gain[j] * inverse_deviation(n.variance[j]);
        for (std::size_t i = 0; i < y.n_in; ++i) weights[i * y.n_out + j] *= factor;
        biases[j] = (biases[j] - n.mean[j]) * factor + n.shift[j];
      }
    }
    result.set_weights(k, weights.data());
    result.set_biases(k, biases.data());
  }
  return result;
}

std::shared_ptr<const Network> LocalLoss::folded_network() const {
  const std::lock_guard lock(folding_);
  if (folded_ == nullptr || folded_version_ != network_.version()) {
    folded_ = nullptr;
    folded_ = std::make_shared<const Network>(normalized_network());
    folded_version_ = network_.version();
  }
  return folded_;
}

void LocalLoss::drop_folded_network() {
  const std::lock_guard lock(folding_);
  folded_ = nullptr;
}

void LocalLoss::predict(const InputView& x, float* out, bool sum_of_heads, bool logits,
                        int n_threads) const {
  if (norms_.empty()) return network_.predict(x, out, logits, n_threads, sum_of_heads);
  folded_network()->predict(x, out, logits, n_threads, sum_of_heads);
}

}  // namespace bpfree
