// SPDX-License-Identifier: BSD-3-Clause
#include "methods/dense_trainer.h"

#include <algorithm>
#include <cassert>
#include <limits>

#include "network/array_checks.h"

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
  check_has_derivative(network.activation());
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
  assert(kernels_.tile_rows == product::kernels().f32.tile_rows);
  panels_left_ = std::make_unique<std::atomic<std::uint32_t>[]>(full_blocks_.size() + 1);
}

void DenseTrainer::prepare_epoch() {
  tail_blocks_ = product::row_blocks(tail_rows(), kernels_.tile_rows);
}

void DenseTrainer::plain_signal(std::vector<float>&, const TrainingData&) const {}

void DenseTrainer::to_signs(std::vector<float>& signal, const TrainingData& data) {
  for (std::size_t i = 0; i < signal.size(); ++i) {
    const float weight =
        data.weights != nullptr ? data.weights[i * data.x.rows / signal.size()] : 1.0f;
    signal[i] = signal[i] > 0 ? weight : signal[i] < 0 ? -weight : 0.0f;
  }
}

Trainer::Tiling DenseTrainer::row_tiling(std::size_t n_in, std::size_t n_panels) const {
  const std::size_t row_bytes = row_stride(n_in, element_) * element_ * kernels_.tile_rows;
  return tiling(batch_blocks().size(), n_panels,
                std::max<std::size_t>(kOperandBytes / row_bytes, 1));
}

void DenseTrainer::add_forward(std::size_t index) {
  const Layer& y = network_.layer(index);
  const Tiling t = forward_tiling(index);
  if (is_output(index))
    for (std::size_t g = 0; g < t.n_groups; ++g)
      panels_left_[g].store(static_cast<std::uint32_t>(y.n_panels), std::memory_order_relaxed);
  add(
      t.n_groups * y.n_panels,
      [](const void* self, std::size_t tile, const Worker& worker) {
        self_of(self).forward(stage(self).layer, tile, worker);
      },
      index);
}

product::ForwardArgs DenseTrainer::forward_args(std::size_t index, std::size_t tile) const {
  const Layer& y = network_.layer(index);
  const bool output = is_output(index);
  const std::size_t in_stride = row_stride(y.n_in, element_);
  const std::vector<product::RowBlock>& blocks = batch_blocks();
  const Tiling t = forward_tiling(index);
  const std::size_t panel = tile % y.n_panels;  // panels pass, a group of rows stays
  const std::size_t first = tile / y.n_panels * t.blocks_per_group;
  const std::size_t depth = divide_up(y.n_in, kernels_.depth_per_word);
  const bool keep_a = !output && preactivation_[index].size() > 0;
  const std::size_t next =
      panel + static_cast<std::size_t>(team_);  // the one this thread is likely to take next
  return {.x = {input_rows(index), in_stride / kernels_.depth_per_word, depth, 0},
          .panel = network_.forward_panel(index, panel),
          .next_panel = next < y.n_panels ? network_.forward_panel(index, next) : nullptr,
          .depth = depth,
          .blocks = blocks.data() + first,
          .n_blocks = std::min(t.blocks_per_group, blocks.size() - first),
          .n_columns = std::min(kPanel, y.n_out - panel * kPanel),
          .bias = network_.parameters() + y.biases + panel * kPanel,
          .scale = index == 0 ? data().x.scale : 1.0f,
          .activation = output ? formulas::Activation::identity : network_.activation(),
          .h = output ? static_cast<void*>(error_of(index) + panel * error_panel_stride())
                      : hidden_[index].data() + panel * kPanel * element_,
          .h_stride = output ? kPanel : hidden_stride(index),
          .preactivation = keep_a ? preactivation_[index].data() + panel * kPanel : nullptr,
          .preactivation_stride = y.n_panels * kPanel};
}

void DenseTrainer::forward(std::size_t index, std::size_t tile, const Worker&) const {
  const product::ForwardArgs args = forward_args(index, tile);
  if (!is_output(index)) return kernels_.forward(args);
  kernels_.forward_f32(args);
  // The thread that finishes a row group's last panel turns its logits into e.
  const product::RowBlock end = args.blocks[args.n_blocks - 1];
  const std::size_t group = tile / network_.layer(index).n_panels;
  if (panels_left_[group].fetch_sub(1, std::memory_order_acq_rel) == 1)
    finish_rows(index, args.blocks[0].row, std::size_t{end.row} + end.height);
}

void DenseTrainer::finish_rows(std::size_t index, std::size_t row_begin,
                               std::size_t row_end) const {
  product::kernels().loss({.loss = network_.loss(),
                           .logits = error_of(index),
                           .panel_stride = error_panel_stride(),
                           .n_outputs = network_.n_outputs(),
                           .labels = data().labels,
                           .targets = data().targets,
                           .weights = data().weights,
                           .order = batch_order(),
                           .row_begin = row_begin,
                           .row_end = row_end,
                           .row_loss = row_loss_of(index),
                           .error_t = error_t_.data(),
                           .error_t_stride = round_up(network_.n_outputs(), 2) * kPanel,
                           .error_pairs_t = error_pairs_t_.data(),
                           .sign_of_error_t = projects_sign(),
                           .signal = signal()});
}

void DenseTrainer::add_pack(std::size_t index) {
  add(
      divide_up(input_blocks(index).size(), kPackBlocks),
      [](const void* self, std::size_t tile, const Worker&) {
        self_of(self).pack(stage(self).layer, tile);
      },
      index);
}

void DenseTrainer::pack(std::size_t index, std::size_t tile) const {
  const std::vector<product::RowBlock>& blocks = input_blocks(index);
  const std::size_t first = tile * kPackBlocks;
  kernels_.pack_columns(
      {.dst = packed_inputs(index),
       .src = input_rows(index),
       .src_stride = row_stride(network_.layers()[input_layer(index)].n_in, element_),
       .depth = n_,
       .blocks = blocks.data() + first,
       .n_blocks = std::min(kPackBlocks, blocks.size() - first)});
}

Trainer::Tiling DenseTrainer::update_tiling(std::size_t index, std::size_t n_out) const {
  return tiling(input_blocks(index).size(), divide_up(n_out, kPanel),
                std::numeric_limits<std::size_t>::max());
}

void DenseTrainer::add_update(std::size_t index) {
  const Layer& y = network_.layer(index);
  add(
      update_tiling(index, y.n_out).n_groups * y.n_panels,
      [](const void* self, std::size_t tile, const Worker& worker) {
        self_of(self).update(stage(self).layer, tile, worker);
      },
      index);
}

void DenseTrainer::update(std::size_t index, std::size_t tile, const Worker& worker) const {
  const Layer& y = network_.layer(index);
  const std::size_t panel = tile % y.n_panels;
  float* column_sums = static_cast<float*>(worker.scratch);
  void* delta = column_sums + kPanel;
  make_delta(index, panel, delta, column_sums);
  product::UpdateArgs args =
      update_args(index, y.n_out, tile, delta, network_.panel_parameters(index, panel));
  state_.attach(args.parameters[0], y.weights + panel * y.panel_size());
  add_update_targets(index, panel, args);
  kernels_.update(args);
  if (tile < y.n_panels) update_biases(index, panel, column_sums);
}

product::UpdateArgs DenseTrainer::update_args(std::size_t index, std::size_t n_out,
                                              std::size_t tile, const void* delta,
                                              const product::Parameters& parameters) const {
  const std::vector<product::RowBlock>& blocks = input_blocks(index);
  const Tiling t = update_tiling(index, n_out);
  const std::size_t n_panels = divide_up(n_out, kPanel);
  const std::size_t first = tile / n_panels * t.blocks_per_group;
  return {.x_packed = packed_inputs(index),
          .delta = delta,
          .depth = divide_up(n_, kernels_.depth_per_word),
          .blocks = blocks.data() + first,
          .n_blocks = std::min(t.blocks_per_group, blocks.size() - first),
          .n_columns = std::min(kPanel, n_out - tile % n_panels * kPanel),
          .parameters = {parameters, {}},
          .n_parameters = 1,
          .step = step_constants(false, index == 0)};
}

void DenseTrainer::update_biases(std::size_t index, std::size_t panel,
                                 const float* column_sums) const {
  update_vector(network_.layer(index).biases + panel * kPanel, column_sums, kPanel,
                step_constants(true, index == 0));
}

product::ProjectArgs DenseTrainer::project_args(std::size_t layer, std::size_t panel, void* delta,
                                                float* column_sums) const {
  const Layer& y = network_.layer(layer);
  const std::vector<product::RowBlock>& blocks = batch_blocks();
  product::ProjectArgs args{.signal = {error_of(layer), kPanel, kPanel, error_panel_stride()},
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
  if (is_output(layer)) {
    args.signal.data = error_of(layer) + panel * error_panel_stride();
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
