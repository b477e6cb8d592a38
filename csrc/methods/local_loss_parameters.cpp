// SPDX-License-Identifier: BSD-3-Clause
// What local losses learn besides a network's weights and batch normalization: the similarities' projections; and predictions.
#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "methods/local_loss.h"
#include "random/random.h"

namespace bpfree {

using product::kPanel;

namespace {

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

void LocalLoss::predict(const InputView& x, float* out, bool sum_of_heads, bool logits,
                        int n_threads) const {
  if (norms_.empty()) return network_.predict(x, out, logits, n_threads, sum_of_heads);
  norms_.folded()->predict(x, out, logits, n_threads, sum_of_heads);
}

}  // namespace bpfree
