// SPDX-License-Identifier: BSD-3-Clause
// What an iteration of an ensemble does to its members, or to the mean that they are redrawn around.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "methods/ensemble_kalman.h"
#include "network/ensemble_strips.h"
#include "network/ensemble_transform.h"

namespace bpfree {

using product::kPanel;

random::NoiseWindow EnsembleKalman::window(std::size_t layer, bool biases, std::size_t panel,
                                           std::size_t j, std::uint64_t iteration) const {
  const std::size_t tensor = 2 * layer + (biases ? 1 : 0), columns = network_.layers()[layer].n_out;
  return {.distribution = random::Distribution::normal,
          .seed = options_.seed,
          .counter = {random::Purpose::ensemble, static_cast<std::uint32_t>(tensor),
                      static_cast<std::uint32_t>(iteration), static_cast<std::uint32_t>(j)},
          .matrix_columns = columns,
          .first_row = 0,
          .n_rows = 1,
          .first_column = panel * kPanel,
          .n_columns = std::min(kPanel, columns - panel * kPanel)};
}

// out, in the layout of the network's parameters, += spread_l eps_j; padding is left alone.
void EnsembleKalman::draw_member(float* out, std::size_t j, std::uint64_t iteration) const {
  for (std::size_t l = 0; l < n_layers(); ++l) {
    const Layer& y = network_.layers()[l];
    for (std::size_t p = 0; p < y.n_panels; ++p) {
      random::NoiseWindow w = window(l, false, p, j, iteration);
      w.n_rows = y.n_in;
      float* weights = out + y.weights + p * y.panel_size();
      float* biases = out + y.biases + p * kPanel;
      random::perturb_block(weights, nullptr, kPanel, weights, kPanel, spread_of(l), w);
      random::perturb_block(biases, nullptr, kPanel, biases, kPanel, spread_of(l),
                            window(l, true, p, j, iteration));
    }
  }
}

void EnsembleKalman::transform(const EnsembleMoments& moments) {
  ensemble_weights(transform_.data(), moments, kalman_.method, rate(), team_);
  const Members theta{members_.data(), kalman_.n_ens, size(), false};
  // In bf16 the next members run beside their mean.
  ensemble_transform(theta, theta, transform_.data(), bf16(), team_,
                     bf16() ? mean_.data() : nullptr);
  is_settled_ = bf16();
  if (bf16()) write_mean();
}

// The mean of the members, in mean_; true where it is what the network has.
bool EnsembleKalman::take_mean() {
  std::vector<Buffer<float>> memory;
  std::vector<void*> scratch;
  for (int t = 0; t < team_; ++t) {
    memory.push_back(Buffer<float>::uninitialized(kalman_.n_ens * kPanel));
    scratch.push_back(memory.back().data());
  }
  const auto strip = [&](std::size_t p, const Worker& worker) {
    column_means(mean_.data() + p * kPanel, members_.data() + p * kPanel, size(), kalman_.n_ens,
                 kPanel, static_cast<float*>(worker.scratch));
  };
  parallel_for(size() / kPanel, team_, strip, scratch);
  return std::memcmp(mean_.data(), network_.parameters(), mean_.bytes()) == 0;
}

void EnsembleKalman::write_mean() {
  std::copy_n(mean_.data(), size(), network_.parameters());
  for (std::size_t l = 0; bf16() && l < n_layers(); ++l) {
    const Layer& y = network_.layers()[l];
    parallel_for(y.n_panels, team_, [&](std::size_t p, const Worker&) {
      product::kernels().make_shadows(network_.panel_parameters(l, p), y.n_in);
    });
  }
  network_.count_change();
}

void EnsembleKalman::settle() {
  if (is_settled_) return;
  take_mean();
  write_mean();
  is_settled_ = true;
}

void EnsembleKalman::move_mean(const EnsembleMoments& moments) {
  std::vector<double> w(member_index_.size());
  ensemble_mean_weights(w.data(), moments, rate(), team_);
  double mean = 0;
  for (const double value : w) mean += value;
  mean /= static_cast<double>(w.size());
  weights_.resize(w.size());
  for (std::size_t k = 0; k < w.size(); ++k) weights_[k] = static_cast<float>(w[k] - mean);
  parallel_for(
      tiles_.size(), team_,
      [&](std::size_t t, const Worker& worker) { update_tile(tiles_[t], worker); }, scratch());
  network_.count_change();
}

// The noise of all members again, summed where it is added.
void EnsembleKalman::update_tile(const Tile& tile, const Worker& worker) const {
  const Layer& y = network_.layers()[tile.layer];
  float* sum = at<float>(worker, 0);
  const float spread = spread_of(tile.layer);
  const auto add = [&](std::size_t offset, std::size_t n) {
    float* parameters = network_.parameters() + offset;
    for (std::size_t i = 0; i < n; ++i) parameters[i] += spread * sum[i];
  };
  if (tile.n_rows == 0) {
    random::NoiseWindow all = window(tile.layer, true, 0, 0, iteration_);
    all.n_columns = y.n_out;
    const std::size_t padded = y.n_panels * kPanel;
    std::fill_n(sum, padded, 0.0f);
    random::accumulate_noise(sum, padded, all, member_index_, weights_);
    return add(y.biases, padded);
  }
  random::NoiseWindow rows = window(tile.layer, false, tile.panel, 0, iteration_);
  rows.first_row = tile.first_row;
  rows.n_rows = tile.n_rows;
  if (rows.n_columns < kPanel) std::fill_n(sum, tile.n_rows * kPanel, 0.0f);
  random::accumulate_noise(sum, kPanel, rows, member_index_, weights_);
  const std::size_t first = tile.first_row * kPanel;
  add(y.weights + tile.panel * y.panel_size() + first, tile.n_rows * kPanel);
  product::Parameters parameters = network_.panel_parameters(tile.layer, tile.panel);
  if (parameters.shadow == nullptr) return;
  parameters.value += first;
  parameters.shadow += first / 2;  // rows come in pairs
  if (parameters.shadow_rows != nullptr) parameters.shadow_rows += first;
  product::kernels().make_shadows(parameters, tile.n_rows);
}

void EnsembleKalman::get_members(float* out) const {
  Buffer<float> drawn(kalman_.redraw ? size() : 0);
  for (std::size_t j = 0; j < kalman_.n_ens; ++j) {
    const float* theta = kalman_.redraw ? drawn.data() : member(j);
    if (kalman_.redraw) {
      std::copy_n(network_.parameters(), size(), drawn.data());
      draw_member(drawn.data(), j, step());
    }
    for (const Layer& y : network_.layers()) {
      unpack_panels(out, theta + y.weights, y.n_in, y.n_out);
      out = std::copy_n(theta + y.biases, y.n_out, out + y.n_in * y.n_out);
    }
  }
}

}  // namespace bpfree
