// SPDX-License-Identifier: BSD-3-Clause
// The tiles of a NoProp step: a block's products forwards, its error, what goes back inside it, and its updates.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "methods/noprop.h"
#include "random/random.h"

namespace bpfree {

using product::kPanel;
using product::RowBlock;

namespace {

constexpr std::size_t kPackBlocks = 8;
constexpr std::size_t kOperandBytes = std::size_t{1} << 20;  // of the rows a forward tile walks
constexpr std::size_t kBackwardBlocks = 4;                   // row blocks of a tile that goes back

// The pair of a unit's error and the next one's as one bf16 word, rounded to the nearest, ties to even.
std::uint32_t bf16_pair(float low, float high) {
  const float values[2] = {low, high};
  std::uint16_t rounded[2];
  product::kernels().to_bf16(rounded, values, 2);
  return static_cast<std::uint32_t>(rounded[1]) << 16 | rounded[0];
}

}  // namespace

// Panels of all blocks of the group are tiles of one phase.
Trainer::Tiling NoProp::forward_tiling(std::size_t part) const {
  const Layer& y = layer(part);
  if (is_normalized(part)) return {1, batch_blocks().size()};
  const std::size_t row_bytes = row_stride(y.n_in, element_) * element_ * kernels_.tile_rows;
  const std::size_t n_panels = is_output(part) ? 1 : y.n_panels;
  return tiling(batch_blocks().size(), n_panels * group_size_,
                std::max<std::size_t>(kOperandBytes / row_bytes, 1));
}

void NoProp::add_forward(std::size_t part) {
  const Tiling t = forward_tiling(part);
  if (is_output(part))
    return add(
        t.n_groups * group_size_,
        [](const void* self, std::size_t tile, const Worker& worker) {
          self_of(self).forward_output(tile, worker);
        },
        part);
  add(
      t.n_groups * group_size_ * layer(part).n_panels,
      [](const void* self, std::size_t tile, const Worker&) {
        self_of(self).forward(stage(self).layer, tile);
      },
      part);
}

product::ForwardArgs NoProp::forward_args(std::size_t slot, std::size_t part, std::size_t panel,
                                          std::size_t first_block, std::size_t n_blocks) const {
  const Slot& s = slots_[slot];
  const std::size_t index = layer_index(block_of(slot), part);
  const Layer& y = network_.layers()[index];
  const std::size_t depth = divide_up(y.n_in, kernels_.depth_per_word);
  const std::size_t hidden = hidden_of(part);
  const std::size_t column = first_unit(part) + panel * kPanel;
  const bool output = is_output(part);
  const char* rows = part == kInput   ? x_[0].data()
                     : part == kLabel ? s.z.data()
                                      : s.h[chain_input(part)].data();
  return {.x = {rows, row_stride(y.n_in, element_) / kernels_.depth_per_word, depth, 0},
          .panel = network_.forward_panel(index, panel),
          .next_panel = panel + 1 < y.n_panels ? network_.forward_panel(index, panel + 1) : nullptr,
          .depth = depth,
          .blocks = batch_blocks().data() + first_block,
          .n_blocks = n_blocks,
          .n_columns = std::min(kPanel, y.n_out - panel * kPanel),
          .bias = network_.parameters() + y.biases + panel * kPanel,
          .scale = part == kInput ? data().x.scale : 1.0f,
          .activation = output ? formulas::Activation::identity : network_.activation(),
          .h = output ? static_cast<void*>(s.error.data() + panel * error_panel_stride())
                      : s.h[hidden].data() + column * element_,
          .h_stride = output ? kPanel : hidden_stride(hidden),
          .preactivation = nullptr,
          .preactivation_stride = 0};
}

void NoProp::forward(std::size_t part, std::size_t tile) const {
  const std::size_t n_panels = layer(part).n_panels;
  const Tiling t = forward_tiling(part);
  const std::size_t slot = tile / n_panels % group_size_;
  const std::size_t first = tile / (n_panels * group_size_) * t.blocks_per_group;
  product::ForwardArgs args =
      forward_args(slot, part, tile % n_panels, first,
                   std::min(t.blocks_per_group, batch_blocks().size() - first));
  const std::size_t next = tile % (n_panels * group_size_) + static_cast<std::size_t>(team_);
  args.next_panel =
      next < n_panels * group_size_
          ? network_.forward_panel(layer_index(block_of(next / n_panels), part), next % n_panels)
          : nullptr;
  if (!is_normalized(part)) return kernels_.forward(args);
  args.activation = formulas::Activation::identity;
  const std::size_t hidden = hidden_of(part), panel = tile % n_panels;
  args.h = slots_[slot].normalized[hidden].data() + first_unit(part) + panel * kPanel;
  args.h_stride = norm_stride(hidden);
  kernels_.forward_f32(args);
  normalize(slot, part, panel);
}

// Sines and cosines of 32 frequencies.
void NoProp::write_time(float* features, double t) const {
  for (std::size_t k = 0; k < frequency_.size(); ++k) {
    features[k] = static_cast<float>(std::sin(frequency_[k] * t));
    features[frequency_.size() + k] = static_cast<float>(std::cos(frequency_[k] * t));
  }
}

// Of rows begin .. end - 1.
void NoProp::make_noisy_labels(std::size_t slot, std::size_t begin, std::size_t end,
                               float* scratch) const {
  const Slot& s = slots_[slot];
  const std::size_t stride = z_stride();
  float* u = scratch + kPanel * stride;
  for (std::size_t first = begin; first < end; first += kPanel) {
    const std::size_t n_rows = std::min(kPanel, end - first);
    float* rows = element_ == 4 ? reinterpret_cast<float*>(s.z.data()) + first * stride : scratch;
    random::matrix_block(rows, stride, random::Distribution::normal, 1.0f, options_.seed,
                         {random::Purpose::noisy_label, static_cast<std::uint32_t>(block_of(slot)),
                          static_cast<std::uint32_t>(step()), 0},
                         dim_, first, n_rows, 0, dim_);
    for (std::size_t i = first; i < first + n_rows; ++i) {
      float* z = rows + (i - first) * stride;
      const auto label = static_cast<std::size_t>(data().labels[batch_order()[i]]);
      const float* embedding = embedding_of(label, u);
      if (s.label_noise.size() > 0) std::copy_n(z, dim_, s.label_noise.data() + i * dim_);
      for (std::size_t j = 0; s.target.size() > 0 && j < dim_; ++j)
        s.target[i * dim_ + j] = embedding[j] - z[j];
      for (std::size_t j = 0; j < dim_; ++j) z[j] = s.signal[i] * embedding[j] + s.noise[i] * z[j];
      if (has_time()) write_time(z + dim_, static_cast<double>(time_[i]));
      for (std::size_t j = shape().n_label; j < stride; ++j) z[j] = 0;
    }
    if (element_ == 2)
      product::kernels().to_bf16(reinterpret_cast<std::uint16_t*>(s.z.data()) + first * stride,
                                 rows, n_rows * stride);
  }
}

Trainer::Tiling NoProp::label_tiling() const {
  return tiling(batch_blocks().size(), group_size_, std::numeric_limits<std::size_t>::max());
}

void NoProp::add_labels() {
  add(
      label_tiling().n_groups * group_size_,
      [](const void* self, std::size_t tile, const Worker& worker) {
        self_of(self).forward_label(tile, worker);
      },
      kLabel);
}

// z of some rows, and what is made of it where that asks for no other rows.
void NoProp::forward_label(std::size_t tile, const Worker& worker) const {
  const Tiling t = label_tiling();
  const std::size_t slot = tile % group_size_;
  const std::size_t first = tile / group_size_ * t.blocks_per_group;
  const std::size_t n_blocks = std::min(t.blocks_per_group, batch_blocks().size() - first);
  const RowBlock last = batch_blocks()[first + n_blocks - 1];
  make_noisy_labels(slot, batch_blocks()[first].row, std::size_t{last.row} + last.height,
                    static_cast<float*>(worker.scratch));
  for (std::size_t p = 0; p < layer(kLabel).n_panels && !is_normalized(kLabel); ++p)
    kernels_.forward(forward_args(slot, kLabel, p, first, n_blocks));
}

// All logits of some rows, and their error.
void NoProp::forward_output(std::size_t tile, const Worker& worker) const {
  const std::size_t part = shape().n_layers() - 1;
  const Tiling t = forward_tiling(part);
  const std::size_t slot = tile % group_size_;
  const std::size_t first = tile / group_size_ * t.blocks_per_group;
  const std::size_t n_blocks = std::min(t.blocks_per_group, batch_blocks().size() - first);
  for (std::size_t p = 0; p < layer(part).n_panels; ++p)
    kernels_.forward_f32(forward_args(slot, part, p, first, n_blocks));
  const RowBlock last = batch_blocks()[first + n_blocks - 1];
  finish_rows(slots_[slot], batch_blocks()[first].row, std::size_t{last.row} + last.height,
              static_cast<float*>(worker.scratch));
}

void NoProp::finish_rows(const Slot& slot, std::size_t begin, std::size_t end,
                         float* scratch) const {
  const std::size_t n_classes = shape().n_classes;
  const DenoisingHead head = this->head();
  float* probability = slot.probability.data() + begin * n_classes;
  product::kernels().output({.loss = formulas::Loss::softmax_cross_entropy,
                             .logits = slot.error.data() + begin * kPanel,
                             .panel_stride = error_panel_stride(),
                             .n_outputs = n_classes,
                             .n_rows = end - begin,
                             .out = probability,
                             .logits_only = !head.softmax});
  float* difference = scratch;
  float* error = scratch + dim_;
  float* u = error + n_classes;
  for (std::size_t i = begin; i < end; ++i, probability += n_classes) {
    const std::size_t sample = batch_order()[i];
    const auto label = static_cast<std::size_t>(data().labels[sample]);
    const float* target =
        slot.target.size() > 0 ? slot.target.data() + i * dim_ : embedding_of(label, u);
    const float weight =
        (data().weights != nullptr ? data().weights[sample] : 1.0f) * slot.weight[i];
    slot.row_loss[i] = denoising_error(error, head, probability, target, weight, difference);
    if (has_head()) {
      float* gradient = slot.estimate_gradient.data() + i * dim_;
      for (std::size_t j = 0; j < dim_; ++j) gradient[j] = 2 * weight * difference[j];
      if (slot.ahead.size() > 0) head_loss_[i] = flow_error(error, slot, i, difference);
    }
    float* column = slot.error_t.data() + i / kPanel * error_t_stride() + i % kPanel;
    for (std::size_t c = 0; c < n_classes; ++c) {
      slot.error[c / kPanel * error_panel_stride() + i * kPanel + c % kPanel] = error[c];
      column[c * kPanel] = error[c];
    }
    if (slot.error_pairs_t.size() == 0) continue;
    std::uint32_t* pairs =
        slot.error_pairs_t.data() + i / kPanel * (error_t_stride() / 2) + i % kPanel;
    for (std::size_t c = 0; c < n_classes; c += 2)
      pairs[c / 2 * kPanel] = bf16_pair(error[c], c + 1 < n_classes ? error[c + 1] : 0.0f);
  }
}

void NoProp::add_pack(std::size_t part) {
  const std::size_t of_block = divide_up(input_blocks_[part].size(), kPackBlocks);
  add(
      part == kInput ? of_block : of_block * group_size_,
      [](const void* self, std::size_t tile, const Worker&) {
        self_of(self).pack(stage(self).layer, tile);
      },
      part);
}

void NoProp::pack(std::size_t part, std::size_t tile) const {
  const std::vector<RowBlock>& blocks = input_blocks_[part];
  const std::size_t of_block = divide_up(blocks.size(), kPackBlocks);
  const Slot& s = slots_[tile / of_block];
  const std::size_t first = tile % of_block * kPackBlocks;
  const bool chain = part > kLabel;
  kernels_.pack_columns({.dst = part == kInput ? packed_x_.data()
                                : chain        ? s.packed[chain_input(part)].data()
                                               : s.packed_z.data(),
                         .src = part == kInput ? x_[0].data()
                                : chain        ? s.h[chain_input(part)].data()
                                               : s.z.data(),
                         .src_stride = row_stride(layer(part).n_in, element_),
                         .depth = n_,
                         .blocks = blocks.data() + first,
                         .n_blocks = std::min(kPackBlocks, blocks.size() - first)});
}

std::size_t NoProp::n_backward_tiles(std::size_t hidden) const {
  return divide_up(input_blocks_[hidden + 2].size(), kBackwardBlocks);
}

void NoProp::add_backward(std::size_t hidden) {
  add(
      n_backward_tiles(hidden) * group_size_,
      [](const void* self, std::size_t tile, const Worker&) {
        self_of(self).backward(stage(self).layer, tile);
      },
      hidden);
}

// delta_k^T = (W delta_{k+1}^T) * f'(a_k)^T for some units; W is the layer that reads h_k.
void NoProp::backward(std::size_t hidden, std::size_t tile) const {
  const std::size_t part = hidden + 2, of_block = n_backward_tiles(hidden);
  const std::size_t slot = tile / of_block;
  const Slot& s = slots_[slot];
  const std::vector<RowBlock>& blocks = input_blocks_[part];
  const std::size_t first = tile % of_block * kBackwardBlocks;
  const std::size_t index = layer_index(block_of(slot), part);
  const Layer& y = network_.layers()[index];
  const bool top = is_output(part), bf16 = kernels_.depth_per_word == 2;
  const std::size_t stride = top ? error_t_stride() : batch_stride(hidden + 1);
  const std::size_t panel = y.panel_size();
  product::BackwardArgs args{
      .weights =
          bf16
              ? product::RowsOperand{network_.shadow_rows(index), kPanel / 2, kPanel / 2, panel / 2}
              : product::RowsOperand{network_.parameters() + y.weights, kPanel, kPanel, panel},
      .panel = nullptr,
      .depth = divide_up(y.n_out, kernels_.depth_per_word),
      .blocks = blocks.data() + first,
      .n_blocks = std::min(kBackwardBlocks, blocks.size() - first),
      .activation = network_.activation(),
      .h = nullptr,
      .h_stride = hidden_stride(hidden),
      .preactivation = nullptr,
      .preactivation_stride = 0,
      .delta_t = nullptr,
      .pairs_t = nullptr};
  for (std::size_t b = 0; b * kPanel < n_; ++b) {
    if (bf16)
      args.panel = (top ? s.error_pairs_t.data() : s.pairs_t[hidden + 1].data()) + b * stride / 2;
    else
      args.panel = (top ? s.error_t.data() : s.delta_t[hidden + 1].data()) + b * stride;
    args.h = s.h[hidden].data() + b * kPanel * hidden_stride(hidden) * element_;
    args.delta_t = s.delta_t[hidden].data() + b * batch_stride(hidden);
    if (s.pairs_t[hidden].size() > 0 && norms_.empty())
      args.pairs_t = s.pairs_t[hidden].data() + b * batch_stride(hidden) / 2;
    kernels_.backward(args);
  }
}

void NoProp::make_delta(std::size_t slot, std::size_t part, std::size_t panel, void* delta,
                        float* column_sums) const {
  const Slot& s = slots_[slot];
  const bool output = is_output(part);
  const std::size_t hidden = hidden_of(part);
  const std::size_t unit = first_unit(part) + panel * kPanel;
  if (!output && !noprop_.feedback)
    return kernels_.transpose({.delta_t = s.delta_t[hidden].data() + unit * kPanel,
                               .batch_stride = batch_stride(hidden),
                               .batch = n_,
                               .delta = delta,
                               .column_sums = column_sums});
  product::ProjectArgs args{.signal = {s.error.data(), kPanel, kPanel, error_panel_stride()},
                            .feedback = nullptr,
                            .depth = shape().n_classes,
                            .blocks = batch_blocks().data(),
                            .n_blocks = batch_blocks().size(),
                            .n_columns = std::min(kPanel, layer(part).n_out - panel * kPanel),
                            .activation = formulas::Activation::identity,
                            .h = nullptr,
                            .h_stride = 0,
                            .preactivation = nullptr,
                            .preactivation_stride = 0,
                            .delta = delta,
                            .column_sums = column_sums};
  if (output) {
    args.signal.data = s.error.data() + panel * error_panel_stride();
  } else {
    args.feedback = feedback_.data() + feedback_at(block_of(slot), hidden, unit / kPanel);
    args.activation = network_.activation();
    args.h = s.h[hidden].data() + unit * element_;
    args.h_stride = hidden_stride(hidden);
  }
  kernels_.project(args);
}

Trainer::Tiling NoProp::update_tiling(std::size_t part) const {
  return tiling(input_blocks_[part].size(), layer(part).n_panels * group_size_,
                std::numeric_limits<std::size_t>::max());
}

void NoProp::add_update(std::size_t part) {
  add(
      update_tiling(part).n_groups * layer(part).n_panels * group_size_,
      [](const void* self, std::size_t tile, const Worker& worker) {
        self_of(self).update(stage(self).layer, tile, worker);
      },
      part);
}

void NoProp::update(std::size_t part, std::size_t tile, const Worker& worker) const {
  const Tiling t = update_tiling(part);
  const std::size_t n_panels = layer(part).n_panels;
  const std::size_t panel = tile % n_panels, slot = tile / n_panels % group_size_;
  const std::size_t first = tile / (n_panels * group_size_) * t.blocks_per_group;
  const std::size_t index = layer_index(block_of(slot), part);
  const Layer& y = network_.layers()[index];
  const Slot& s = slots_[slot];
  float* column_sums = static_cast<float*>(worker.scratch);
  float* delta = column_sums + kPanel;
  const std::size_t hidden = hidden_of(part);
  const bool makes_norm = is_normalized(part) && (noprop_.feedback || (hidden == 0 && !has_head()));
  float* const gain_gradient = delta + padded_batch_ * kPanel;
  if (makes_norm)
    make_normalized_delta(slot, part, panel, delta, gain_gradient, column_sums,
                          gain_gradient + kPanel);
  else
    make_delta(slot, part, panel, delta, column_sums);
  const std::vector<RowBlock>& blocks = input_blocks_[part];
  product::UpdateArgs args{.x_packed = part == kInput   ? packed_x_.data()
                                       : part == kLabel ? s.packed_z.data()
                                                        : s.packed[chain_input(part)].data(),
                           .delta = delta,
                           .depth = divide_up(n_, kernels_.depth_per_word),
                           .blocks = blocks.data() + first,
                           .n_blocks = std::min(t.blocks_per_group, blocks.size() - first),
                           .n_columns = std::min(kPanel, y.n_out - panel * kPanel),
                           .parameters = {network_.panel_parameters(index, panel), {}},
                           .n_parameters = 1,
                           .step = step_constants(false, part == kInput)};
  if (part == kInput || (part == kLabel && !has_head()))
    args.parameters[0].shadow_rows = nullptr;  // nothing goes back to x, nor to z
  state_.attach(args.parameters[0], y.weights + panel * y.panel_size());
  kernels_.update(args);
  if (first != 0) return;
  if (makes_norm)
    update_norm(slot, part, panel, gain_gradient, column_sums);
  else if (is_normalized(part))
    update_norm(slot, part, panel,
                s.gain_gradient[hidden].data() + first_unit(part) + panel * kPanel,
                s.shift_gradient[hidden].data() + first_unit(part) + panel * kPanel);
  else
    update_vector(y.biases + panel * kPanel, column_sums, kPanel, step_constants(true, false));
}

}  // namespace bpfree
