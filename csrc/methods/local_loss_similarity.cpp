// SPDX-License-Identifier: BSD-3-Clause
// The tiles of a local-loss step that look at rows of the batch: heads' errors, cosines of targets and of activations, and what
// their difference sends back.
#include <algorithm>
#include <cmath>

#include "methods/local_loss.h"
#include "network/similarity.h"

namespace bpfree {

using product::kPanel;

namespace {

constexpr float kTinyNorm = 1e-8f;  // a centred row of at most this norm has no direction

}  // namespace

void LocalLoss::before_step() {
  if (weight_.size() == 0) return;
  std::fill(weight_.begin(), weight_.end(), 0.0f);
  for (std::size_t i = 0; i < n_; ++i) weight_[i] = sample_weight(i);
  for (std::size_t i = 0; labels_.size() > 0 && i < n_; ++i)
    labels_[i] = data().labels[batch_order()[i]];
}

// Unit rows, and the same as a panel.
void LocalLoss::center_targets(std::size_t panel) const {
  const std::size_t n = network_.n_outputs();
  const std::size_t stride = row_stride(n, sizeof(float));
  const std::size_t first = panel * kPanel, n_rows = std::min(kPanel, n_ - first);
  const product::DtypeKernels& k = product::kernels().f32;
  float* const out = target_rows_.data() + first * stride;
  float squares[kPanel];
  for (std::size_t i = 0; i < n_rows; ++i) {
    const float* y = data().targets + batch_order()[first + i] * n;
    const double mean = mean_of(y, n);
    for (std::size_t c = 0; c < n; ++c)
      out[i * stride + c] = static_cast<float>(static_cast<double>(y[c]) - mean);
  }
  k.row_squares(squares, out, stride, n, n_rows);
  for (std::size_t i = 0; i < n_rows; ++i) {
    const float norm = std::sqrt(squares[i]);
    const float inverse = norm <= kTinyNorm ? 0 : norm / norm / norm;
    for (std::size_t c = 0; c < n; ++c) out[i * stride + c] *= inverse;
  }
  k.pack_panel({.dst = target_panels_.data() + first * n,
                .src = out,
                .depth_stride = 1,
                .column_stride = stride,
                .depth = n,
                .n_columns = n_rows});
}

void LocalLoss::target_cosines(std::size_t panel) const {
  const std::size_t n = network_.n_outputs();
  float* const out = target_cosines_.data() + panel * error_panel_stride();
  if (labels_.size() > 0) {
    const float other = -1 / static_cast<float>(n - 1);  // of two one-hot rows, centred
    const std::int32_t* const of_columns = labels_.data() + panel * kPanel;
    for (std::size_t i = 0; i < n_; ++i)
      for (std::size_t j = 0; j < kPanel; ++j)
        out[i * kPanel + j] = labels_[i] == of_columns[j] ? 1.0f : other;
    return;
  }
  const std::vector<product::RowBlock>& blocks = batch_blocks();
  product::kernels().f32.store({.a = {target_rows_.data(), row_stride(n, sizeof(float)), n, 0},
                                .packed = nullptr,
                                .panel = target_panels_.data() + panel * kPanel * n,
                                .depth = n,
                                .blocks = blocks.data(),
                                .n_blocks = blocks.size(),
                                .out = out,
                                .out_stride = kPanel,
                                .n_columns = kPanel,
                                .accumulate = false});
}

void LocalLoss::finish_rows(std::size_t index, std::size_t row_begin, std::size_t row_end) const {
  DenseTrainer::finish_rows(index, row_begin, row_end);
  if (local_.kind != LocalLossKind::predsim) return;
  const float weight = 1 - weight_of_sim();
  for (std::size_t p = 0; p < network_.layers().back().n_panels; ++p) {
    float* e = error_of(index) + p * error_panel_stride();
    for (std::size_t k = row_begin * kPanel; k < row_end * kPanel; ++k) e[k] *= weight;
  }
  for (std::size_t i = row_begin; i < row_end; ++i) row_loss_of(index)[i] *= weight;
}

// z = h V
void LocalLoss::project(std::size_t layer, std::size_t tile) const {
  const Layer& v = projections_[layer];
  const std::vector<product::RowBlock>& blocks = batch_blocks();
  const Tiling t = row_tiling(v.n_in, v.n_panels);
  const std::size_t panel = tile % v.n_panels;
  const std::size_t first = tile / v.n_panels * t.blocks_per_group;
  const std::size_t depth = divide_up(v.n_in, kernels_.depth_per_word);
  const product::Parameters parameters = projection_parameters(layer, panel);
  kernels_.forward_f32(
      {.x = {hidden_[layer].data(), hidden_stride(layer) / kernels_.depth_per_word, depth, 0},
       .panel = parameters.shadow != nullptr ? static_cast<const void*>(parameters.shadow)
                                             : parameters.value,
       .next_panel = nullptr,
       .depth = depth,
       .blocks = blocks.data() + first,
       .n_blocks = std::min(t.blocks_per_group, blocks.size() - first),
       .n_columns = std::min(kPanel, v.n_out - panel * kPanel),
       .bias = nullptr,
       .scale = 1,
       .activation = formulas::Activation::identity,
       .h = layer_[layer].z.data() + panel * kPanel,
       .h_stride = row_stride(v.n_out, sizeof(float)),
       .preactivation = nullptr,
       .preactivation_stride = 0});
}

LocalLoss::SimilarityRows LocalLoss::similarity_rows(std::size_t layer) const {
  if (projections_.empty())
    return {hidden_[layer].data(), hidden_stride(layer), element_, &kernels_};
  return {reinterpret_cast<const char*>(layer_[layer].z.data()),
          row_stride(projections_[layer].n_out, sizeof(float)), sizeof(float),
          &product::kernels().f32};
}

float* LocalLoss::factors(std::size_t layer) const {
  if (!projections_.empty()) return factors_[layer % 2].data();
  return layer_[layer].signal.data() + error_panels(layer) * error_panel_stride();
}

// Products of all rows with 32 centred ones, down to the diagonal; the highest panels, which take longest, come first.
void LocalLoss::gram(std::size_t layer, std::size_t tile, const Worker& worker) const {
  const SimilarityRows rows = similarity_rows(layer);
  const LayerState& s = layer_[layer];
  const std::size_t panel = batch_panels() - 1 - tile;
  const std::size_t first = panel * kPanel;
  const std::size_t n = network_.layers()[layer].n_out;
  rows.kernels->center({.rows = rows.data + first * rows.stride * rows.element,
                        .stride = rows.stride,
                        .n_columns = n,
                        .n_rows = std::min(kPanel, n_ - first),
                        .tiny = kTinyNorm,
                        .panel = worker.scratch,
                        .mean = s.mean.data() + first,
                        .inverse_norm = s.inverse_norm.data() + first});
  const std::vector<product::RowBlock>& blocks =
      first + kPanel <= n_ ? gram_blocks_[panel] : batch_blocks();
  const std::size_t depth = divide_up(n, rows.kernels->depth_per_word);
  rows.kernels->store({.a = {rows.data, rows.stride / rows.kernels->depth_per_word, depth, 0},
                       .packed = nullptr,
                       .panel = worker.scratch,
                       .depth = depth,
                       .blocks = blocks.data(),
                       .n_blocks = blocks.size(),
                       .out = products_[layer % 2].data() + panel * error_panel_stride(),
                       .out_stride = kPanel,
                       .n_columns = kPanel,
                       .accumulate = false});
}

void LocalLoss::similarity(std::size_t layer, std::size_t first_row) const {
  const LayerState& s = layer_[layer];
  // Gradients are divided by the batch's weight later: one of the two divisions is left to that.
  const double scale =
      batch_weight_ > 0 ? 4 * static_cast<double>(weight_of_sim()) / batch_weight_ : 0;
  product::kernels().similarity({.factor = factors(layer),
                                 .products = products_[layer % 2].data(),
                                 .targets = target_cosines_.data(),
                                 .panel_stride = error_panel_stride(),
                                 .n_rows = n_,
                                 .row_begin = first_row,
                                 .row_end = std::min(first_row + kSimilarityRows, n_),
                                 .inverse_norm = s.inverse_norm.data(),
                                 .weight = weight_.data(),
                                 .scale = static_cast<float>(scale),
                                 .row_loss = s.similarity_loss.data()});
}

void LocalLoss::centered_columns(float* out, std::size_t layer, std::size_t panel) const {
  const SimilarityRows rows = similarity_rows(layer);
  rows.kernels->centered_columns(
      {.out = out,
       .rows = rows.data + panel * kPanel * rows.element,
       .stride = rows.stride,
       .n_rows = n_,
       .n_columns = std::min(kPanel, network_.layers()[layer].n_out - panel * kPanel),
       .mean = layer_[layer].mean.data()});
}

// d loss / d z = A Z, 32 columns.
void LocalLoss::project_back(std::size_t layer, std::size_t panel, const Worker& worker) const {
  auto* feedback = static_cast<float*>(worker.scratch);
  centered_columns(feedback, layer, panel);
  const std::vector<product::RowBlock>& blocks = batch_blocks();
  product::kernels().f32.store(
      {.a = {factors(layer), kPanel, kPanel, error_panel_stride()},
       .packed = nullptr,
       .panel = feedback,
       .depth = n_,
       .blocks = blocks.data(),
       .n_blocks = blocks.size(),
       .out = layer_[layer].signal.data() + (error_panels(layer) + panel) * error_panel_stride(),
       .out_stride = kPanel,
       .n_columns = kPanel,
       .accumulate = false});
}

void LocalLoss::sum_losses() {
  std::fill(row_loss_.begin(), row_loss_.end(), 0.0f);
  for (std::size_t l = 0; l < n_hidden(); ++l)
    for (std::size_t i = 0; trains(l) && i < n_; ++i) {
      if (has_head(l)) row_loss_[i] += layer_[l].head_loss[i];
      if (has_sim()) row_loss_[i] += layer_[l].similarity_loss[i];
    }
}

}  // namespace bpfree
