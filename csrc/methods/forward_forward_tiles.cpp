// SPDX-License-Identifier: BSD-3-Clause
// The tiles of a Forward-Forward step: products, packs and updates.
#include <algorithm>
#include <cmath>
#include <limits>

#include "formulas/goodness.h"
#include "methods/forward_forward.h"

namespace bpfree {

using formulas::Goodness;
using product::kPanel;

namespace {

constexpr std::size_t kOperandBytes =
    std::size_t{1} << 20;  // of the broadcast operand that a tile walks: stays in L2

}  // namespace

Trainer::Tiling ForwardForward::forward_tiling(std::size_t layer) const {
  const Layer& y = network_.layers()[layer];
  const std::size_t n_in = layer == 0 ? n_pixels() : y.n_in;
  const std::size_t block_bytes = row_stride(n_in, element_) * element_ * kernels_.tile_rows;
  return tiling(forward_blocks(layer).size(), y.n_panels,
                std::max<std::size_t>(kOperandBytes / block_bytes, 1));
}

void ForwardForward::forward(std::size_t layer, std::size_t tile) const {
  const Layer& y = network_.layers()[layer];
  const bool shared = shares_pixels(layer);
  const std::vector<product::RowBlock>& all = forward_blocks(layer);
  const Tiling t = forward_tiling(layer);
  const std::size_t panel = tile % y.n_panels;
  const std::size_t group = tile / y.n_panels;
  const std::size_t first = group * t.blocks_per_group;
  const std::size_t n_blocks = std::min(t.blocks_per_group, all.size() - first);
  const std::size_t n_in = layer == 0 ? n_pixels() : y.n_in;
  const std::size_t depth = divide_up(n_in, kernels_.depth_per_word);
  const std::size_t next = panel + static_cast<std::size_t>(team_);
  char* h = hidden_[layer % 2].data() + panel * kPanel * element_;
  float* squares = partial_squares_.data() + panel * partial_stride_;
  const float* label_rows =
      network_.parameters() + y.weights + panel * y.panel_size() + n_pixels() * kPanel;
  alignas(64) float neutral[kPanel] = {};
  product::LabelVariant variants[3];
  std::size_t n_variants = 0;
  if (shared) {
    const auto at = [&](std::size_t row) { return h + row * stride(layer) * element_; };
    if (sets_.n_positive > 0)
      variants[n_variants++] = {label_rows, positive_.data(), input_factor_.data(), at(0), squares};
    if (sets_.n_negative > 0)
      variants[n_variants++] = {label_rows, negative_.data(), input_factor_.data(),
                                at(sets_.n_positive), squares + sets_.n_positive};
    if (sets_.n_neutral > 0) {
      neutral_row(neutral, label_rows);
      variants[n_variants++] = {neutral, nullptr, neutral_factor_.data(), at(sets_.trained()),
                                squares + sets_.trained()};
    }
  }
  kernels_.forward(
      {.x = {layer == 0 ? x_[0].data() : hidden_[(layer - 1) % 2].data(),
             row_stride(n_in, element_) / kernels_.depth_per_word, depth, 0},
       .panel = network_.forward_panel(layer, panel),
       .next_panel = next < y.n_panels ? network_.forward_panel(layer, next) : nullptr,
       .depth = depth,
       .blocks = all.data() + first,
       .n_blocks = n_blocks,
       .n_columns = std::min(kPanel, y.n_out - panel * kPanel),
       .bias = network_.parameters() + y.biases + panel * kPanel,
       .scale = layer == 0 ? data().x.scale : 1.0f,
       .activation = formulas::Activation::relu,
       .h = h,
       .h_stride = stride(layer),
       .preactivation = nullptr,
       .preactivation_stride = 0,
       .row_scale = layer == 0 ? input_factor_.data() : layer_[layer - 1].row_factor.data(),
       .row_squares = squares,
       .variants = variants,
       .n_variants = n_variants});
  if (layer_[layer].peer.size() == 0) return;
  for (std::size_t k = first; k < first + n_blocks && all[k].row < sets_.n_positive; ++k)
    kernels_.column_sums(partial_sums_.data() + k * unit_stride_ + panel * kPanel,
                         h + all[k].row * stride(layer) * element_, stride(layer),
                         std::min<std::size_t>(all[k].height, sets_.n_positive - all[k].row));
}

// Grouped goodness: each group of units of a row is brought to unit mean square, so that the next layer cannot read it off.
void ForwardForward::normalize(std::size_t layer, std::size_t tile) const {
  const Layer& y = network_.layers()[layer];
  const std::size_t n_outputs = network_.n_outputs();
  const LayerState& state = layer_[layer];
  const std::size_t begin = tile * kNormRows;
  const std::size_t end = std::min(begin + kNormRows, sets_.total());
  const std::size_t size = y.n_out / n_outputs;
  kernels_.group_norm({.h = hidden_[layer % 2].data(),
                       .h_stride = stride(layer),
                       .row_begin = begin,
                       .row_end = end,
                       .n_columns = y.n_out,
                       .group_size = size,
                       .n_groups = n_outputs,
                       .tiny = formulas::kTiny,
                       .sums = state.group_sums.data(),
                       .squares = state.group_squares.data()});
  const bool squares = ff_.goodness == Goodness::grouped_squares;
  const bool trains = !only_ || *only_ == layer;
  for (std::size_t i = begin; i < end; ++i) {
    state.row_factor[i] = 1;
    if (!trains) continue;
    const auto label = static_cast<std::size_t>(positive_[i]);
    const auto units = [&](std::size_t g) {
      return static_cast<double>(g + 1 == n_outputs ? y.n_out - g * size : size);
    };
    const auto g_of = [&](std::size_t g) {
      const Buffer<float>& from = squares ? state.group_squares : state.group_sums;
      return static_cast<double>(from[i * n_outputs + g]) / units(g);
    };
    double high = g_of(0), sum = 0;
    for (std::size_t g = 1; g < n_outputs; ++g) high = std::max(high, g_of(g));
    for (std::size_t g = 0; g < n_outputs; ++g) sum += std::exp(g_of(g) - high);
    const double weight = static_cast<double>(sample_weight(i));
    for (std::size_t g = 0; g < n_outputs; ++g) {
      const double e = weight * (std::exp(g_of(g) - high) / sum - (g == label ? 1 : 0));
      // h is normalised by now: its value before is h * norm.
      const double mean = static_cast<double>(state.group_squares[i * n_outputs + g]) / units(g);
      const double norm = std::sqrt(mean + static_cast<double>(formulas::kTiny));
      state.group_factor[i * n_outputs + g] =
          static_cast<float>(e / units(g) * (squares ? 2 * norm : 1));
    }
    row_loss_[i] += static_cast<float>(weight * (std::log(sum) + high - g_of(label)));
  }
}

void ForwardForward::pack(std::size_t layer, std::size_t tile) const {
  const std::vector<product::RowBlock>& all = input_blocks_[layer];
  const std::size_t first = tile * kPackBlocks;
  const std::size_t n_in = layer == 0 ? n_pixels() : network_.layers()[layer].n_in;
  kernels_.pack_columns({.dst = packed_[layer % 2].data(),
                         .src = layer == 0 ? x_[0].data() : hidden_[(layer - 1) % 2].data(),
                         .src_stride = row_stride(n_in, element_),
                         .depth = depth_rows(layer),
                         .blocks = all.data() + first,
                         .n_blocks = std::min(kPackBlocks, all.size() - first)});
}

void ForwardForward::pack_head(std::size_t layer, std::size_t tile) const {
  const std::vector<product::RowBlock>& all = input_blocks_[layer + 1];
  const std::size_t first = tile * kPackBlocks;
  kernels_.pack_columns({.dst = head_packed_[layer].data(),
                         .src = hidden_[layer % 2].data() + head_row() * stride(layer) * element_,
                         .src_stride = stride(layer),
                         .depth = n_,
                         .blocks = all.data() + first,
                         .n_blocks = std::min(kPackBlocks, all.size() - first)});
}

void ForwardForward::head(std::size_t index, std::size_t tile) const {
  const std::size_t layer = hidden_of(index);
  const Layer& y = network_.layer(index);
  const std::vector<product::RowBlock>& all = blocks(n_);
  const std::size_t panel = tile / all.size();
  const std::size_t depth = divide_up(y.n_in, kernels_.depth_per_word);
  kernels_.forward_f32({.x = {hidden_[layer % 2].data() + head_row() * stride(layer) * element_,
                              stride(layer) / kernels_.depth_per_word, depth, 0},
                        .panel = network_.forward_panel(index, panel),
                        .next_panel = nullptr,
                        .depth = depth,
                        .blocks = all.data() + tile % all.size(),
                        .n_blocks = 1,
                        .n_columns = std::min(kPanel, y.n_out - panel * kPanel),
                        .bias = network_.parameters() + y.biases + panel * kPanel,
                        .scale = 1,
                        .activation = formulas::Activation::identity,
                        .h = logits_[layer].data() + panel * padded_batch_ * kPanel,
                        .h_stride = kPanel,
                        .preactivation = nullptr,
                        .preactivation_stride = 0,
                        .row_scale = layer_[layer].row_factor.data() + head_row()});
}

void ForwardForward::update(std::size_t layer, std::size_t tile, const Worker& worker) const {
  const Layer& y = network_.layers()[layer];
  const std::vector<product::RowBlock>& all = input_blocks_[layer];
  const Tiling t = tiling(all.size(), y.n_panels, std::numeric_limits<std::size_t>::max());
  const std::size_t panel = tile % y.n_panels;
  const std::size_t group = tile / y.n_panels;
  const std::size_t first = group * t.blocks_per_group;
  const LayerState& state = layer_[layer];
  const bool shared = shares_pixels(layer);
  float* column_sums = static_cast<float*>(worker.scratch);
  float* delta = column_sums + kPanel;
  float* label_gradient = delta + (2 * padded_batch_ + 2) * kPanel;
  if (shared) std::fill_n(label_gradient, network_.n_outputs() * kPanel, 0.0f);
  const float* row_factor = layer == 0 ? input_factor_.data() : layer_[layer - 1].row_factor.data();
  const char* h = hidden_[layer % 2].data() + panel * kPanel * element_;
  if (is_grouped()) {
    kernels_.group_delta({.h = h,
                          .h_stride = stride(layer),
                          .n_rows = depth_rows(layer),
                          .first_column = panel * kPanel,
                          .n_columns = std::min(kPanel, y.n_out - panel * kPanel),
                          .group_size = y.n_out / network_.n_outputs(),
                          .n_groups = network_.n_outputs(),
                          .factors = state.group_factor.data(),
                          .indicator = ff_.goodness == Goodness::grouped_mean,
                          .row_factor = row_factor,
                          .delta = delta,
                          .column_sums = column_sums});
  } else {
    const bool both = sets_.n_positive > 0 && sets_.n_negative > 0;
    kernels_.goodness_delta(
        {.h = h,
         .h_stride = stride(layer),
         .n_rows = depth_rows(layer),
         .pair = shared && both ? n_ : 0,
         .loss_factor = state.loss_factor.data(),
         .row_factor = row_factor,
         .n_positive = state.peer.size() > 0 ? sets_.n_positive : 0,
         .peer = state.peer.size() > 0 ? state.peer.data() + panel * kPanel : nullptr,
         .labels = labels_.data(),
         .label_gradient = shared ? label_gradient : nullptr,
         .delta = delta,
         .column_sums = column_sums});
  }
  product::UpdateArgs args{.x_packed = packed_[layer % 2].data(),
                           .delta = delta,
                           .depth = divide_up(depth_rows(layer), kernels_.depth_per_word),
                           .blocks = all.data() + first,
                           .n_blocks = std::min(t.blocks_per_group, all.size() - first),
                           .n_columns = std::min(kPanel, y.n_out - panel * kPanel),
                           .parameters = {network_.panel_parameters(layer, panel), {}},
                           .n_parameters = 1,
                           .step = step_constants(false, layer == 0)};
  state_.attach(args.parameters[0], y.weights + panel * y.panel_size());
  kernels_.update(args);
  if (group != 0) return;
  update_vector(y.biases + panel * kPanel, column_sums, kPanel, step_constants(true, false));
  if (shared)  // rows of W that belong to the label, one after the other in the panel
    update_vector(y.weights + panel * y.panel_size() + n_pixels() * kPanel, label_gradient,
                  network_.n_outputs() * kPanel, step_constants(false, false));
}

// What the label inputs of the first layer see where no label is meant: the mean of their weights.
void ForwardForward::neutral_row(float* out, const float* label_rows) const {
  const std::size_t n = network_.n_outputs();
  for (std::size_t c = 0; c < n; ++c)
    for (std::size_t j = 0; j < kPanel; ++j)
      out[j] += label_rows[c * kPanel + j] / static_cast<float>(n);
}

void ForwardForward::head_update(std::size_t index, std::size_t tile, const Worker& worker) const {
  const std::size_t layer = hidden_of(index);
  const Layer& y = network_.layer(index);
  const std::vector<product::RowBlock>& all = input_blocks_[layer + 1];
  const Tiling t = tiling(all.size(), y.n_panels, std::numeric_limits<std::size_t>::max());
  const std::size_t panel = tile % y.n_panels;
  const std::size_t group = tile / y.n_panels;
  const std::size_t first = group * t.blocks_per_group;
  float* column_sums = static_cast<float*>(worker.scratch);
  float* delta = column_sums + kPanel;
  float* scaled = delta + (2 * padded_batch_ + 2) * kPanel;
  const float* e = logits_[n_hidden() - 1].data() + panel * padded_batch_ * kPanel;
  const float* factor = layer_[layer].row_factor.data() + head_row();
  alignas(64) float sums[kPanel] = {};
  for (std::size_t i = 0; i < n_; ++i)
    for (std::size_t j = 0; j < kPanel; ++j) {
      scaled[i * kPanel + j] = factor[i] * e[i * kPanel + j];
      sums[j] += e[i * kPanel + j];
    }
  const std::vector<product::RowBlock>& rows = blocks(n_);
  kernels_.project({.signal = {scaled, kPanel, kPanel, 0},
                    .feedback = nullptr,
                    .depth = 0,
                    .blocks = rows.data(),
                    .n_blocks = rows.size(),
                    .n_columns = std::min(kPanel, y.n_out - panel * kPanel),
                    .activation = formulas::Activation::identity,
                    .h = nullptr,
                    .h_stride = 0,
                    .preactivation = nullptr,
                    .preactivation_stride = 0,
                    .delta = delta,
                    .column_sums = column_sums});
  product::UpdateArgs args{.x_packed = head_packed_[layer].data(),
                           .delta = delta,
                           .depth = divide_up(n_, kernels_.depth_per_word),
                           .blocks = all.data() + first,
                           .n_blocks = std::min(t.blocks_per_group, all.size() - first),
                           .n_columns = std::min(kPanel, y.n_out - panel * kPanel),
                           .parameters = {network_.panel_parameters(index, panel), {}},
                           .n_parameters = 1,
                           .step = step_constants(false, false)};
  state_.attach(args.parameters[0], y.weights + panel * y.panel_size());
  kernels_.update(args);
  if (group != 0) return;
  const std::size_t at = y.biases + panel * kPanel;
  product::Parameters biases{.value = network_.parameters() + at};
  state_.attach(biases, at);
  product::kernels().vector_update(
      {.parameters = biases, .gradient = sums, .n = kPanel, .step = step_constants(true, false)});
}

}  // namespace bpfree
