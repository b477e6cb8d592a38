// SPDX-License-Identifier: BSD-3-Clause
#include "methods/backward_trainer.h"

#include <algorithm>

namespace bpfree {

using product::kPanel;

BackwardTrainer::BackwardTrainer(Network& network, const TrainerOptions& options)
    : DenseTrainer(network, options) {
  const bool bf16 = network.compute() == Compute::bfloat16;
  const std::size_t panels = padded_batch_ / kPanel;
  const std::size_t error_size = checked_product(panels, round_up(network.n_outputs(), 2) * kPanel);
  error_t_ = Buffer<float>(error_size);
  if (bf16) error_pairs_t_ = Buffer<std::uint32_t>(error_size / 2);
  for (std::size_t l = 0; l + 1 < n_layers(); ++l) {
    delta_t_.emplace_back(checked_product(panels, batch_stride(l)));
    pairs_t_.emplace_back(bf16 ? delta_t_.back().size() / 2 : 0);
  }
}

std::size_t BackwardTrainer::batch_stride(std::size_t hidden) const {
  return network_.layers()[hidden].n_panels * kPanel * kPanel;
}

bool BackwardTrainer::build_phase(std::size_t index) {
  const std::size_t n = n_layers();
  if (index < n) {
    add_forward(index);
    if (index + 1 == n)
      for (std::size_t l = 0; l < n; ++l) add_pack(l);
    return true;
  }
  if (index < 2 * n - 1) {
    const std::size_t hidden = 2 * n - 2 - index;
    const std::size_t n_rows = network_.layers()[hidden].n_out;
    add(
        divide_up(n_rows, rows_per_tile()),
        [](const void* self, std::size_t tile, const Worker& worker) {
          static_cast<const BackwardTrainer*>(stage(self).trainer)
              ->backward(stage(self).layer, tile, worker);
        },
        hidden);
    return true;
  }
  if (index > 2 * n - 1) return false;
  for (std::size_t l = n; l-- > 0;) add_update(l);
  add_gather_next();
  return true;
}

product::RowsOperand BackwardTrainer::panels_as_rows(const float* f32, const std::uint16_t* bf16,
                                                     std::size_t layer) const {
  const std::size_t panel = network_.layers()[layer].panel_size();
  if (kernels_.depth_per_word == 1) return {f32, kPanel, kPanel, panel};
  return {bf16, kPanel / 2, kPanel / 2, panel / 2};
}

product::RowsOperand BackwardTrainer::backward_operand(std::size_t layer, std::size_t, std::size_t,
                                                       void*) const {
  const Layer& y = network_.layers()[layer];
  return panels_as_rows(network_.parameters() + y.weights, network_.shadow_rows(layer), layer);
}

std::size_t BackwardTrainer::extra_scratch_bytes() const {
  std::size_t widest = 0;
  for (const Layer& layer : network_.layers()) widest = std::max(widest, layer.n_panels * kPanel);
  return 2 * checked_product(rows_per_tile() + kernels_.tile_rows, widest, sizeof(float));
}

void BackwardTrainer::backward(std::size_t hidden, std::size_t tile, const Worker& worker) const {
  const std::size_t layer = hidden + 1;
  const Layer& y = network_.layers()[layer];
  const std::vector<product::RowBlock>& blocks = input_blocks(layer);
  // Blocks are at most tile_rows high: a tile takes those that begin in its stretch of rows.
  const auto begins_before = [](const product::RowBlock& b, std::size_t row) {
    return b.row < row;
  };
  const auto first =
      std::lower_bound(blocks.begin(), blocks.end(), tile * rows_per_tile(), begins_before);
  const auto last =
      std::lower_bound(first, blocks.end(), (tile + 1) * rows_per_tile(), begins_before);
  if (first == last) return;
  const std::size_t first_row = first->row;
  const std::size_t n_rows = std::prev(last)->row + std::prev(last)->height - first_row;
  const bool top = layer + 1 == n_layers();
  const bool bf16 = kernels_.depth_per_word == 2;
  const std::size_t stride = top ? round_up(y.n_out, 2) * kPanel : batch_stride(layer);
  const bool keep_a = preactivation_[hidden].size() > 0;
  const std::size_t a_stride = network_.layers()[hidden].n_panels * kPanel;
  product::BackwardArgs args{.weights = backward_operand(layer, first_row, n_rows, worker.scratch),
                             .panel = nullptr,
                             .depth = divide_up(y.n_out, kernels_.depth_per_word),
                             .blocks = &*first,
                             .n_blocks = static_cast<std::size_t>(last - first),
                             .activation = network_.activation(),
                             .h = nullptr,
                             .h_stride = hidden_stride(hidden),
                             .preactivation = nullptr,
                             .preactivation_stride = a_stride,
                             .delta_t = nullptr,
                             .pairs_t = nullptr};
  for (std::size_t b = 0; b * kPanel < n_; ++b) {
    const float* f32 = (top ? error_t_.data() : delta_t_[layer].data()) + b * stride;
    const std::uint32_t* pairs =
        bf16 ? (top ? error_pairs_t_.data() : pairs_t_[layer].data()) + b * stride / 2 : nullptr;
    args.panel = bf16 ? static_cast<const void*>(pairs) : f32;
    args.h = hidden_[hidden].data() + b * kPanel * hidden_stride(hidden) * element_;
    if (keep_a) args.preactivation = preactivation_[hidden].data() + b * kPanel * a_stride;
    args.delta_t = delta_t_[hidden].data() + b * batch_stride(hidden);
    if (bf16) args.pairs_t = pairs_t_[hidden].data() + b * batch_stride(hidden) / 2;
    kernels_.backward(args);
  }
}

void BackwardTrainer::make_delta(std::size_t layer, std::size_t panel, void* delta,
                                 float* column_sums) const {
  if (layer + 1 == n_layers())
    return kernels_.project(project_args(layer, panel, delta, column_sums));
  kernels_.transpose({.delta_t = delta_t_[layer].data() + panel * kPanel * kPanel,
                      .batch_stride = batch_stride(layer),
                      .batch = n_,
                      .delta = delta,
                      .column_sums = column_sums});
}

}  // namespace bpfree
