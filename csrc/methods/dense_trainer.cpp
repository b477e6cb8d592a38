// SPDX-License-Identifier: BSD-3-Clause
#include "methods/dense_trainer.h"

#include <algorithm>
#include <limits>

namespace bpfree {

using product::kPanel;

namespace {

constexpr std::size_t kPackBlocks =
    8;  // row blocks of a pack tile: neighbours share cache lines of the rows they read
constexpr std::size_t kOperandBytes =
    std::size_t{1} << 20;  // of the broadcast operand that a tile walks: stays in L2

}  // namespace

DenseTrainer::DenseTrainer(Network& network, const TrainerOptions& options)
    : Trainer(network, options) {
  const std::size_t n = network.layers().size();
  for (std::size_t l = 0; l < n; ++l) {
    const Layer& layer = network.layers()[l];
    packed_.emplace_back(checked_product(padded_batch_, layer.n_in, element_));
    input_blocks_.push_back(product::row_blocks(layer.n_in, kernels_.tile_rows));
    if (l + 1 == n) break;
    hidden_.emplace_back(checked_product(padded_batch_, hidden_stride(l), element_));
    preactivation_.emplace_back(formulas::derivative_from_preactivation(network.activation())
                                    ? checked_product(padded_batch_, layer.n_panels * kPanel)
                                    : 0);
  }
  error_ = Buffer<float>(checked_product(padded_batch_, network.layers().back().n_panels * kPanel));
  full_blocks_ = product::row_blocks(options.batch_size, kernels_.tile_rows);
  full_blocks_f32_ = product::row_blocks(options.batch_size, product::kernels().f32.tile_rows);
  panels_left_ = std::make_unique<std::atomic<std::uint32_t>[]>(full_blocks_.size() + 1);
}

void DenseTrainer::prepare_epoch() {
  tail_blocks_ = product::row_blocks(tail_rows(), kernels_.tile_rows);
  tail_blocks_f32_ = product::row_blocks(tail_rows(), product::kernels().f32.tile_rows);
}

void DenseTrainer::plain_signal(std::vector<float>&, const TrainingData&) const {}

void DenseTrainer::to_signs(std::vector<float>& signal, const TrainingData& data) {
  for (std::size_t i = 0; i < signal.size(); ++i) {
    const float weight =
        data.weights != nullptr ? data.weights[i * data.x.rows / signal.size()] : 1.0f;
    signal[i] = signal[i] > 0 ? weight : signal[i] < 0 ? -weight : 0.0f;
  }
}

void DenseTrainer::add_forward(std::size_t layer) {
  const Layer& y = network_.layers()[layer];
  const std::size_t row_bytes = row_stride(y.n_in, element_) * element_ * kernels_.tile_rows;
  const Tiling t = tiling(batch_blocks().size(), y.n_panels,
                          std::max<std::size_t>(kOperandBytes / row_bytes, 1));
  if (layer + 1 == n_layers())
    for (std::size_t g = 0; g < t.n_groups; ++g)
      panels_left_[g].store(static_cast<std::uint32_t>(y.n_panels), std::memory_order_relaxed);
  add(
      t.n_groups * y.n_panels,
      [](const void* self, std::size_t tile, const Worker&) {
        self_of(self).forward(stage(self).layer, tile);
      },
      layer);
}

void DenseTrainer::forward(std::size_t layer, std::size_t tile) const {
  const Layer& y = network_.layers()[layer];
  const bool last = layer + 1 == n_layers();
  const std::size_t in_stride = row_stride(y.n_in, element_);
  const std::size_t row_bytes = in_stride * element_ * kernels_.tile_rows;
  const std::vector<product::RowBlock>& blocks = batch_blocks();
  const Tiling t =
      tiling(blocks.size(), y.n_panels, std::max<std::size_t>(kOperandBytes / row_bytes, 1));
  const std::size_t panel = tile % y.n_panels;  // panels pass, a group of rows stays
  const std::size_t group = tile / y.n_panels;
  const std::size_t first = group * t.blocks_per_group;
  const std::size_t n_blocks = std::min(t.blocks_per_group, blocks.size() - first);
  const std::size_t depth = divide_up(y.n_in, kernels_.depth_per_word);
  const bool keep_a = !last && preactivation_[layer].size() > 0;
  const std::size_t next =
      panel + static_cast<std::size_t>(team_);  // the one this thread is likely to take next
  product::ForwardArgs args{
      .x = {layer == 0 ? x_[0].data() : hidden_[layer - 1].data(),
            in_stride / kernels_.depth_per_word, depth, 0},
      .panel = network_.forward_panel(layer, panel),
      .next_panel = next < y.n_panels ? network_.forward_panel(layer, next) : nullptr,
      .depth = depth,
      .blocks = blocks.data() + first,
      .n_blocks = n_blocks,
      .n_columns = std::min(kPanel, y.n_out - panel * kPanel),
      .bias = network_.parameters() + y.biases + panel * kPanel,
      .scale = layer == 0 ? data().x.scale : 1.0f,
      .activation = last ? formulas::Activation::identity : network_.activation(),
      .h = last ? static_cast<void*>(error_.data() + panel * error_panel_stride())
                : hidden_[layer].data() + panel * kPanel * element_,
      .h_stride = last ? kPanel : hidden_stride(layer),
      .preactivation = keep_a ? preactivation_[layer].data() + panel * kPanel : nullptr,
      .preactivation_stride = y.n_panels * kPanel};
  (last ? kernels_.forward_f32 : kernels_.forward)(args);
  // The thread that finishes a row group's last panel turns its logits into e.
  if (last && panels_left_[group].fetch_sub(1, std::memory_order_acq_rel) == 1)
    finish_rows(first, n_blocks);
}

void DenseTrainer::finish_rows(std::size_t first_block, std::size_t n_blocks) const {
  const std::vector<product::RowBlock>& blocks = batch_blocks();
  const product::RowBlock end = blocks[first_block + n_blocks - 1];
  product::kernels().loss({.loss = network_.loss(),
                           .logits = error_.data(),
                           .panel_stride = error_panel_stride(),
                           .n_outputs = network_.n_outputs(),
                           .labels = data().labels,
                           .targets = data().targets,
                           .weights = data().weights,
                           .order = batch_order(),
                           .row_begin = blocks[first_block].row,
                           .row_end = std::size_t{end.row} + end.height,
                           .row_loss = row_loss_.data(),
                           .error_t = error_t_.data(),
                           .error_t_stride = round_up(network_.n_outputs(), 2) * kPanel,
                           .error_pairs_t = error_pairs_t_.data(),
                           .sign_of_error_t = projects_sign(),
                           .signal = signal()});
}

void DenseTrainer::add_pack(std::size_t layer) {
  add(
      divide_up(input_blocks_[layer].size(), kPackBlocks),
      [](const void* self, std::size_t tile, const Worker&) {
        self_of(self).pack(stage(self).layer, tile);
      },
      layer);
}

void DenseTrainer::pack(std::size_t layer, std::size_t tile) const {
  const std::vector<product::RowBlock>& blocks = input_blocks_[layer];
  const std::size_t first = tile * kPackBlocks;
  kernels_.pack_columns({.dst = packed_[layer].data(),
                         .src = layer == 0 ? x_[0].data() : hidden_[layer - 1].data(),
                         .src_stride = row_stride(network_.layers()[layer].n_in, element_),
                         .depth = n_,
                         .blocks = blocks.data() + first,
                         .n_blocks = std::min(kPackBlocks, blocks.size() - first)});
}

void DenseTrainer::add_update(std::size_t layer) {
  const Tiling t = tiling(input_blocks_[layer].size(), network_.layers()[layer].n_panels,
                          std::numeric_limits<std::size_t>::max());
  add(
      t.n_groups * network_.layers()[layer].n_panels,
      [](const void* self, std::size_t tile, const Worker& worker) {
        self_of(self).update(stage(self).layer, tile, worker);
      },
      layer);
}

void DenseTrainer::update(std::size_t layer, std::size_t tile, const Worker& worker) const {
  const Layer& y = network_.layers()[layer];
  const std::vector<product::RowBlock>& blocks = input_blocks_[layer];
  const Tiling t = tiling(blocks.size(), y.n_panels, std::numeric_limits<std::size_t>::max());
  const std::size_t panel = tile % y.n_panels;
  const std::size_t group = tile / y.n_panels;
  const std::size_t first = group * t.blocks_per_group;
  float* column_sums = static_cast<float*>(worker.scratch);
  void* delta = column_sums + kPanel;
  make_delta(layer, panel, delta, column_sums);
  product::UpdateArgs args{.x_packed = packed_[layer].data(),
                           .delta = delta,
                           .depth = divide_up(n_, kernels_.depth_per_word),
                           .blocks = blocks.data() + first,
                           .n_blocks = std::min(t.blocks_per_group, blocks.size() - first),
                           .n_columns = std::min(kPanel, y.n_out - panel * kPanel),
                           .parameters = {network_.panel_parameters(layer, panel), {}},
                           .n_parameters = 1,
                           .step = step_constants(false, layer == 0)};
  state_.attach(args.parameters[0], y.weights + panel * y.panel_size());
  add_update_targets(layer, panel, args);
  kernels_.update(args);
  if (group != 0) return;
  update_vector(y.biases + panel * kPanel, column_sums, kPanel, step_constants(true, layer == 0));
}

product::ProjectArgs DenseTrainer::project_args(std::size_t layer, std::size_t panel, void* delta,
                                                float* column_sums) const {
  const Layer& y = network_.layers()[layer];
  const std::vector<product::RowBlock>& blocks = batch_blocks_f32();
  product::ProjectArgs args{.signal = {error_.data(), kPanel, kPanel, error_panel_stride()},
                            .feedback = nullptr,
                            .depth = network_.n_outputs(),
                            .blocks = blocks.data(),
                            .n_blocks = blocks.size(),
                            .n_columns = std::min(kPanel, y.n_out - panel * kPanel),
                            .activation = formulas::Activation::identity,
                            .h = nullptr,
                            .h_stride = 0,
                            .preactivation = nullptr,
                            .preactivation_stride = 0,
                            .delta = delta,
                            .column_sums = column_sums};
  if (layer + 1 == n_layers()) {
    args.signal.data = error_.data() + panel * error_panel_stride();
    return args;
  }
  args.activation = network_.activation();
  args.h = hidden_[layer].data() + panel * kPanel * element_;
  args.h_stride = hidden_stride(layer);
  if (preactivation_[layer].size() > 0)
    args.preactivation = preactivation_[layer].data() + panel * kPanel;
  args.preactivation_stride = y.n_panels * kPanel;
  return args;
}

}  // namespace bpfree
