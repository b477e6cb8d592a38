// SPDX-License-Identifier: BSD-3-Clause
// The tiles of a local-loss step along a layer: its product with batch normalization and dropout, its delta and updates.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "methods/local_loss.h"
#include "random/random.h"

namespace bpfree {

using product::kPanel;

namespace {

// Rows first.. of an array in panels [n_columns / 32][n_rows][32] as columns: out [n_columns][32], zero beyond n.
void transpose_rows(float* out, const float* panels, std::size_t n_rows, std::size_t n_columns,
                    std::size_t first, std::size_t n) {
  for (std::size_t c = 0; c < n_columns; ++c) {
    const float* from = panels + c / kPanel * n_rows * kPanel + first * kPanel + c % kPanel;
    float* row = out + c * kPanel;
    for (std::size_t j = 0; j < kPanel; ++j) row[j] = j < n ? from[j * kPanel] : 0.0f;
  }
}

}  // namespace

const char* LocalLoss::input_rows(std::size_t index) const {
  if (!is_output(index) && index > 0 && is_dropped(index - 1))
    return layer_[index - 1].dropped.data();
  return DenseTrainer::input_rows(index);
}

char* LocalLoss::packed_inputs(std::size_t index) const {
  if (!is_output(index) && index > 0 && is_dropped(index - 1))
    return layer_[index - 1].packed.data();
  return DenseTrainer::packed_inputs(index);
}

// Statistics need all rows of a unit in one tile.
Trainer::Tiling LocalLoss::forward_tiling(std::size_t index) const {
  if (!is_output(index) && !norms_.empty()) return {1, batch_blocks().size()};
  return DenseTrainer::forward_tiling(index);
}

void LocalLoss::forward(std::size_t index, std::size_t tile, const Worker& worker) const {
  if (is_output(index)) return DenseTrainer::forward(index, tile, worker);
  product::ForwardArgs args = forward_args(index, tile);
  const std::size_t panel = tile % network_.layers()[index].n_panels;
  if (norms_.empty()) {
    kernels_.forward(args);
  } else {
    args.activation = formulas::Activation::identity;
    args.h_stride = network_.layers()[index].n_panels * kPanel;
    args.h = layer_[index].normalized.data() + panel * kPanel;
    args.preactivation = nullptr;
    kernels_.forward_f32(args);
    normalize(index, panel);
  }
  const product::RowBlock end = args.blocks[args.n_blocks - 1];
  const std::size_t first_row = args.blocks[0].row;
  if (is_dropped(index)) drop(index, panel, first_row, end.row + end.height - first_row, worker);
}

void LocalLoss::normalize(std::size_t layer, std::size_t panel) const {
  const LayerState& s = layer_[layer];
  const std::size_t column = panel * kPanel;
  norms_.normalize(
      kernels_, layer, panel, norm_batch(), trains(layer),
      {.a = s.normalized.data() + column,
       .a_stride = network_.layers()[layer].n_panels * kPanel,
       .factor = s.factor.data() + column,
       .h = hidden_[layer].data() + column * element_,
       .h_stride = hidden_stride(layer),
       .preactivation =
           preactivation_[layer].size() > 0 ? preactivation_[layer].data() + column : nullptr});
}

void LocalLoss::drop(std::size_t layer, std::size_t panel, std::size_t first_row,
                     std::size_t n_rows, const Worker& worker) const {
  auto* uniform = static_cast<float*>(worker.scratch);
  random::matrix_block(uniform, kPanel, random::Distribution::uniform, 1.0f, options_.seed,
                       {random::Purpose::dropout, static_cast<std::uint32_t>(layer),
                        static_cast<std::uint32_t>(step()), 0},
                       network_.layers()[layer].n_panels * kPanel, first_row, n_rows,
                       panel * kPanel, kPanel);
  const std::size_t at = (first_row * hidden_stride(layer) + panel * kPanel) * element_;
  kernels_.dropout({.dst = layer_[layer].dropped.data() + at,
                    .src = hidden_[layer].data() + at,
                    .stride = hidden_stride(layer),
                    .n_rows = n_rows,
                    .uniform = uniform,
                    .bound = 2 * local_.dropout - 1,  // the numbers are in [-1, 1)
                    .scale = 1 / (1 - local_.dropout)});
}

void LocalLoss::read_cache(std::size_t layer, std::size_t first_row, const Worker& worker) const {
  const std::size_t bytes = hidden_stride(layer) * element_;
  const std::size_t n_rows = std::min(kCacheRows, n_ - first_row);
  for (std::size_t i = first_row; i < first_row + n_rows; ++i)
    std::memcpy(hidden_[layer].data() + i * bytes, cache_.values.data() + batch_order()[i] * bytes,
                bytes);
  for (std::size_t p = 0; is_dropped(layer) && p < network_.layers()[layer].n_panels; ++p)
    drop(layer, p, first_row, n_rows, worker);
}

void LocalLoss::fill_cache(std::size_t layer, std::size_t first_row) const {
  const std::size_t bytes = hidden_stride(layer) * element_;
  for (std::size_t i = first_row; i < std::min(first_row + kCacheRows, n_); ++i)
    std::memcpy(cache_.values.data() + batch_order()[i] * bytes, hidden_[layer].data() + i * bytes,
                bytes);
}

// M^T of this step: M is updated beside what reads it.
void LocalLoss::keep_head(std::size_t layer, std::size_t panel) const {
  const Layer& m = network_.layer(head_of(layer));
  transpose_rows(layer_[layer].head_feedback.data() + panel * kPanel * head_depth(),
                 network_.parameters() + m.weights, m.n_in, m.n_out, panel * kPanel,
                 std::min(kPanel, m.n_in - panel * kPanel));
}

// The vector operand of delta's product: rows of M^T, then of the centred rows h or of V^T.
const float* LocalLoss::feedback_panel(std::size_t layer, std::size_t panel, float* scratch) const {
  const float* head = layer_[layer].head_feedback.data() + panel * kPanel * head_depth();
  if (!has_sim()) return head;
  float* rest = std::copy_n(head, head_depth() * kPanel, scratch);
  if (projections_.empty()) {
    centered_columns(rest, layer, panel);
  } else {
    const Layer& v = projections_[layer];
    transpose_rows(rest, projection_values_.data() + v.weights, v.n_in, v.n_out, panel * kPanel,
                   std::min(kPanel, v.n_in - panel * kPanel));
  }
  return scratch;
}

// Delta, its column sums and what batch normalization's gain gets: where the update wants them.
void LocalLoss::make_delta(std::size_t index, std::size_t panel, void* delta,
                           float* column_sums) const {
  if (is_output(index)) return kernels_.project(project_args(index, panel, delta, column_sums));
  float* gain_gradient = extra_scratch(column_sums);
  const Buffer<float>& kept = layer_[index].delta;
  if (kept.size() == 0)
    return compute_delta(index, panel, delta, column_sums, gain_gradient, gain_gradient + kPanel);
  const float* from = kept.data() + panel * delta_size();
  std::copy_n(from, kPanel, column_sums);
  std::copy_n(from + kPanel, kPanel, gain_gradient);
  std::copy_n(from + 2 * kPanel, delta_size() - 2 * kPanel, static_cast<float*>(delta));
}

void LocalLoss::keep_delta(std::size_t layer, std::size_t panel, const Worker& worker) const {
  float* to = layer_[layer].delta.data() + panel * delta_size();
  compute_delta(layer, panel, to + 2 * kPanel, to, to + kPanel,
                static_cast<float*>(worker.scratch));
}

void LocalLoss::compute_delta(std::size_t layer, std::size_t panel, void* delta, float* column_sums,
                              float* gain_gradient, float* scratch) const {
  const LayerState& s = layer_[layer];
  product::ProjectArgs args = project_args(layer, panel, delta, column_sums);
  float* gradient = scratch;
  float* feedback = norms_.empty() ? scratch : gradient + padded_batch_ * kPanel;
  args.signal.data =
      s.signal.data() + (has_pred() ? 0 : error_panels(layer) * error_panel_stride());
  args.feedback = feedback_panel(layer, panel, feedback);
  args.depth = head_depth();
  if (has_sim()) args.depth += projections_.empty() ? n_ : projections_[layer].n_out;
  if (norms_.empty()) return kernels_.project(args);
  product::kernels().f32.store({.a = args.signal,
                                .packed = nullptr,
                                .panel = args.feedback,
                                .depth = args.depth,
                                .blocks = args.blocks,
                                .n_blocks = args.n_blocks,
                                .out = gradient,
                                .out_stride = kPanel,
                                .n_columns = kPanel,
                                .accumulate = false});
  kernels_.normalize_delta({.gradient = gradient,
                            .n_rows = n_,
                            .activation = args.activation,
                            .h = args.h,
                            .h_stride = args.h_stride,
                            .preactivation = args.preactivation,
                            .preactivation_stride = args.preactivation_stride,
                            .normalized = s.normalized.data() + panel * kPanel,
                            .normalized_stride = network_.layers()[layer].n_panels * kPanel,
                            .factor = s.factor.data() + panel * kPanel,
                            .weight = weight_.data(),
                            .inverse_weight = norm_batch().inverse_weight(),
                            .delta = delta,
                            .gain_gradient = gain_gradient,
                            .shift_gradient = column_sums});
}

// With batch normalization a bias changes nothing, and the rounding of its gradient is left out.
void LocalLoss::update_biases(std::size_t index, std::size_t panel,
                              const float* column_sums) const {
  if (is_output(index) || norms_.empty())
    return DenseTrainer::update_biases(index, panel, column_sums);
  norms_.update(index, panel, extra_scratch(const_cast<float*>(column_sums)), column_sums,
                step_constants(true, false));
}

void LocalLoss::update_projection(std::size_t layer, std::size_t tile, const Worker& worker) const {
  const Layer& v = projections_[layer];
  const std::size_t panel = tile % v.n_panels;
  float* column_sums = static_cast<float*>(worker.scratch);
  void* delta = column_sums + kPanel;
  // A Z of these columns as the weight product's operand.
  product::ProjectArgs project = project_args(n_layers() - 1, 0, delta, column_sums);
  project.signal.data =
      layer_[layer].signal.data() + (error_panels(layer) + panel) * error_panel_stride();
  project.n_columns = std::min(kPanel, v.n_out - panel * kPanel);
  kernels_.project(project);
  kernels_.update(
      update_args(head_of(layer), v.n_out, tile, delta, projection_parameters(layer, panel)));
}

}  // namespace bpfree
