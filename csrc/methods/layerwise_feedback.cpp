// SPDX-License-Identifier: BSD-3-Clause
#include "methods/layerwise_feedback.h"

#include <algorithm>
#include <cmath>

namespace bpfree {

using product::kPanel;

LayerwiseFeedback::LayerwiseFeedback(Network& network, const TrainerOptions& options,
                                     const FeedbackOptions& feedback)
    : BackwardTrainer(network, options), feedback_(feedback) {
  // sign_symmetric needs nothing but W; the batchwise magnitudes are drawn where they are used.
  const bool stored = feedback.rule == FeedbackRule::layerwise || learns() ||
                      feedback.rule == FeedbackRule::sign_symmetric_fixed;
  if (!stored || n_layers() < 2) return;
  const Layer& last = network.layers().back();
  matrices_ = Buffer<float>(offset(n_layers() - 1) + last.n_panels * last.panel_size());
  if (network.compute() == Compute::bfloat16 && !uses_signs())
    bf16_ = Buffer<std::uint16_t>(matrices_.size());
  for (std::size_t l = 1; l < n_layers(); ++l) {
    const Layer& y = network.layers()[l];
    for (std::size_t p = 0; p < y.n_panels; ++p)
      fill_rows(matrices_.data() + offset(l) + p * y.panel_size(), l, p, 0, y.n_in, 0);
    refresh_bf16(l);
  }
  if (learns()) feedback_state_ = OptimizerState(options.optimizer.solver, matrices_.size());
}

bool LayerwiseFeedback::uses_signs() const {
  return feedback_.rule == FeedbackRule::sign_symmetric ||
         feedback_.rule == FeedbackRule::sign_symmetric_batchwise ||
         feedback_.rule == FeedbackRule::sign_symmetric_fixed;
}

std::size_t LayerwiseFeedback::offset(std::size_t layer) const {
  std::size_t at = 0;
  for (std::size_t l = 1; l < layer; ++l)
    at += network_.layers()[l].n_panels * network_.layers()[l].panel_size();
  return at;
}

float LayerwiseFeedback::scale_of(std::size_t layer) const {
  const Layer& y = network_.layers()[layer];
  const auto n_in = static_cast<float>(y.n_in);
  if (feedback_.rule == FeedbackRule::sign_symmetric)
    return feedback_.scale * std::sqrt(2.0f / (n_in + static_cast<float>(y.n_out)));
  return feedback_.scale / std::sqrt(n_in);
}

void LayerwiseFeedback::fill_rows(float* out, std::size_t layer, std::size_t panel,
                                  std::size_t first_row, std::size_t n_rows,
                                  std::uint64_t step) const {
  const Layer& y = network_.layers()[layer];
  random::matrix_block(out, kPanel, feedback_.distribution, scale_of(layer), options_.seed,
                       {random::Purpose::feedback, static_cast<std::uint32_t>(layer),
                        static_cast<std::uint32_t>(step), 0},
                       y.n_out, first_row, n_rows, panel * kPanel,
                       std::min(kPanel, y.n_out - panel * kPanel));
}

void LayerwiseFeedback::refresh_bf16(std::size_t layer) {
  if (bf16_.size() == 0) return;
  const Layer& y = network_.layers()[layer];
  product::kernels().to_bf16(bf16_.data() + offset(layer), matrices_.data() + offset(layer),
                             y.n_panels * y.panel_size());
}

void LayerwiseFeedback::get_feedback(std::size_t layer, float* out) const {
  const std::size_t weights = layer + 1;
  const Layer& y = network_.layers()[weights];
  if (!uses_signs()) return unpack_panels(out, matrices_.data() + offset(weights), y.n_in, y.n_out);
  Buffer<float> panels(y.n_panels * y.panel_size());
  Buffer<float> magnitude(y.panel_size());
  for (std::size_t p = 0; p < y.n_panels; ++p)
    sign_rows(panels.data() + p * y.panel_size(), magnitude.data(), weights, p, 0, y.n_in);
  unpack_panels(out, panels.data(), y.n_in, y.n_out);
}

void LayerwiseFeedback::set_feedback(std::size_t layer, const float* value) {
  if (matrices_.size() == 0)
    return Trainer::set_feedback(layer, value);  // made from W: nothing to set
  const Layer& y = network_.layers()[layer + 1];
  pack_panels(matrices_.data() + offset(layer + 1), value, y.n_in, y.n_out);
  refresh_bf16(layer + 1);
}

void LayerwiseFeedback::sign_rows(float* out, float* magnitude, std::size_t layer,
                                  std::size_t panel, std::size_t first_row,
                                  std::size_t n_rows) const {
  const Layer& y = network_.layers()[layer];
  const std::size_t at = panel * y.panel_size() + first_row * kPanel;
  const float* size = nullptr;
  if (feedback_.rule == FeedbackRule::sign_symmetric_fixed)
    size = matrices_.data() + offset(layer) + at;
  if (feedback_.rule == FeedbackRule::sign_symmetric_batchwise) {
    fill_rows(magnitude, layer, panel, first_row, n_rows, step());
    size = magnitude;
  }
  product::kernels().sign_of(out, network_.parameters() + y.weights + at, size, scale_of(layer),
                             n_rows * kPanel);
}

product::RowsOperand LayerwiseFeedback::backward_operand(std::size_t layer, std::size_t first_row,
                                                         std::size_t n_rows, void* scratch) const {
  if (!uses_signs())
    return panels_as_rows(matrices_.data() + offset(layer), bf16_.data() + offset(layer), layer);
  // Rows of sign(W) for this tile only, [n_panels][n_rows][32].
  const Layer& y = network_.layers()[layer];
  const std::size_t panel_size = n_rows * kPanel;
  auto* rows = static_cast<float*>(scratch);
  float* magnitude = rows + y.n_panels * panel_size;
  for (std::size_t p = 0; p < y.n_panels; ++p)
    sign_rows(rows + p * panel_size, magnitude, layer, p, first_row, n_rows);
  if (kernels_.depth_per_word == 1) return {rows, kPanel, kPanel, panel_size, first_row};
  auto* bf16 = reinterpret_cast<std::uint16_t*>(magnitude);
  product::kernels().to_bf16(bf16, rows, y.n_panels * panel_size);
  return {bf16, kPanel / 2, kPanel / 2, panel_size / 2, first_row};
}

void LayerwiseFeedback::add_update_targets(std::size_t layer, std::size_t panel,
                                           product::UpdateArgs& args) const {
  if (!learns() || layer == 0) return;
  const std::size_t at = offset(layer) + panel * network_.layers()[layer].panel_size();
  product::Parameters& p = args.parameters[1];
  p.value = matrices_.data() + at;
  if (bf16_.size() > 0) p.shadow_rows = bf16_.data() + at;
  feedback_state_.attach(p, at);
  args.n_parameters = 2;
}

void LayerwiseFeedback::plain_signal(std::vector<float>& signal, const TrainingData& data) const {
  if (feedback_.error_signal == ErrorSignal::sign) to_signs(signal, data);
}

}  // namespace bpfree
