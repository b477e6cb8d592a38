// SPDX-License-Identifier: BSD-3-Clause
#include "methods/direct_feedback.h"

#include <algorithm>
#include <cmath>

namespace bpfree {

using product::kPanel;

namespace {

// Above this many outputs a panel of feedback is a matter of megabytes, and is generated from the seed where it is used.
constexpr std::size_t kStoredOutputs = 1024;

}  // namespace

DirectFeedback::DirectFeedback(Network& network, const TrainerOptions& options,
                               const FeedbackOptions& feedback)
    : DenseTrainer(network, options),
      feedback_(feedback),
      scale_(feedback.scale / std::sqrt(static_cast<float>(network.n_outputs()))) {
  if (learns() || network.n_outputs() <= kStoredOutputs) keep_matrices();
  if (feedback.rule == FeedbackRule::target || feedback.error_signal == ErrorSignal::sign)
    signal_ = Buffer<float>(error_.size());
  output_blocks_ = product::row_blocks(kPanel, product::kernels().f32.tile_rows);
  output_tail_blocks_ =
      product::row_blocks(network.n_outputs() % kPanel, product::kernels().f32.tile_rows);
  if (learns()) feedback_state_ = OptimizerState(options.optimizer.solver, matrices_.size());
}

std::size_t DirectFeedback::panel_at(std::size_t layer, std::size_t panel) const {
  std::size_t panels = panel;
  for (std::size_t l = 0; l < layer; ++l) panels += network_.layers()[l].n_panels;
  return panels * network_.n_outputs() * kPanel;
}

void DirectFeedback::fill_panel(float* panel, std::size_t layer, std::size_t index) const {
  const std::size_t n = network_.layers()[layer].n_out;
  const std::size_t column = index * kPanel;
  if (n - column < kPanel)
    std::fill_n(panel, network_.n_outputs() * kPanel, 0.0f);  // the padding must stay zero
  random::matrix_block(panel, kPanel, feedback_.distribution, scale_, options_.seed,
                       {random::Purpose::feedback, static_cast<std::uint32_t>(layer), 0, 0}, n, 0,
                       network_.n_outputs(), column, std::min(kPanel, n - column));
}

void DirectFeedback::keep_matrices() {
  if (matrices_.size() > 0) return;
  matrices_ = Buffer<float>(panel_at(n_layers() - 1, 0));
  for (std::size_t l = 0; l + 1 < n_layers(); ++l)
    for (std::size_t p = 0; p < network_.layers()[l].n_panels; ++p)
      fill_panel(matrices_.data() + panel_at(l, p), l, p);
}

void DirectFeedback::get_feedback(std::size_t layer, float* out) const {
  const std::size_t n = network_.layers()[layer].n_out;
  if (matrices_.size() > 0)
    return unpack_panels(out, matrices_.data() + panel_at(layer, 0), network_.n_outputs(), n);
  Buffer<float> panel(network_.n_outputs() * kPanel);
  for (std::size_t p = 0; p < network_.layers()[layer].n_panels; ++p) {
    fill_panel(panel.data(), layer, p);
    for (std::size_t c = 0; c < network_.n_outputs(); ++c)
      std::copy_n(panel.data() + c * kPanel, std::min(kPanel, n - p * kPanel),
                  out + c * n + p * kPanel);
  }
}

void DirectFeedback::set_feedback(std::size_t layer, const float* value) {
  keep_matrices();
  pack_panels(matrices_.data() + panel_at(layer, 0), value, network_.n_outputs(),
              network_.layers()[layer].n_out);
}

// DRTP needs no error: layer l is updated while the batch is on its way through layer l + 1.
bool DirectFeedback::build_phase(std::size_t index) {
  const std::size_t n = n_layers();
  const bool in_flight = feedback_.rule == FeedbackRule::target;
  if (index == n + 1 && learns()) {  // after every tile that reads B
    for (std::size_t l = 0; l + 1 < n; ++l)
      add(
          network_.layers()[l].n_panels,
          [](const void* self, std::size_t panel, const Worker& worker) {
            static_cast<const DirectFeedback*>(stage(self).trainer)
                ->learn(stage(self).layer, panel, worker);
          },
          l);
    return true;
  }
  if (index > n) return false;
  if (index < n) {
    add_forward(index);
    if (in_flight) {
      if (index > 0) add_update(index - 1);
      add_pack(index);
    } else if (index + 1 == n) {
      for (std::size_t l = 0; l < n; ++l) add_pack(l);
    }
    return true;
  }
  for (std::size_t l = n; l-- > (in_flight ? n - 1 : 0);) add_update(l);
  add_gather_next();
  return true;
}

float* DirectFeedback::signal() const {
  return feedback_.rule == FeedbackRule::target ? nullptr : signal_.data();
}

void DirectFeedback::before_step() {
  if (feedback_.rule != FeedbackRule::target) return;
  const std::size_t n_outputs = network_.n_outputs();
  const TrainingData& d = data();
  std::fill(signal_.begin(), signal_.end(), 0.0f);
  for (std::size_t i = 0; i < n_; ++i) {
    const std::size_t sample = batch_order()[i];
    const float weight = d.weights != nullptr ? d.weights[sample] : 1.0f;
    const auto at = [&](std::size_t j) -> float& {
      return signal_[j / kPanel * error_panel_stride() + i * kPanel + j % kPanel];
    };
    if (d.labels != nullptr)
      at(static_cast<std::size_t>(d.labels[sample])) = weight;
    else
      for (std::size_t j = 0; j < n_outputs; ++j)
        at(j) = weight * d.targets[sample * n_outputs + j];
  }
}

void DirectFeedback::plain_signal(std::vector<float>& signal, const TrainingData& data) const {
  const std::size_t n_outputs = network_.n_outputs();
  if (feedback_.rule == FeedbackRule::target) {
    for (std::size_t i = 0; i < data.x.rows; ++i) {
      const float weight = data.weights != nullptr ? data.weights[i] : 1.0f;
      for (std::size_t j = 0; j < n_outputs; ++j) {
        const bool is_label =
            data.labels != nullptr && static_cast<std::size_t>(data.labels[i]) == j;
        signal[i * n_outputs + j] =
            weight * (data.targets != nullptr ? data.targets[i * n_outputs + j]
                      : is_label              ? 1.0f
                                              : 0.0f);
      }
    }
  } else if (feedback_.error_signal == ErrorSignal::sign) {
    to_signs(signal, data);
  }
}

std::size_t DirectFeedback::extra_scratch_bytes() const {
  // A generated panel; or, where feedback learns: h of a panel, packed e, and the gradient [n_outputs][32].
  const std::size_t panel = round_up(network_.n_outputs(), 2) * kPanel * sizeof(float);
  return panel + (learns() ? 2 * padded_batch_ * kPanel * sizeof(float) : 0);
}

void DirectFeedback::make_delta(std::size_t layer, std::size_t panel, void* delta,
                                float* column_sums) const {
  product::ProjectArgs args = project_args(layer, panel, delta, column_sums);
  if (layer + 1 < n_layers()) {
    if (signal_.size() > 0) args.signal.data = signal_.data();
    if (matrices_.size() > 0) {
      args.feedback = matrices_.data() + panel_at(layer, panel);
    } else {
      float* generated = extra_scratch(column_sums);
      fill_panel(generated, layer, panel);
      args.feedback = generated;
    }
  }
  kernels_.project(args);
}

// B_l <- step(B_l, e^T h_l / n), one panel: its gradient [n_outputs][32] is one small product.
void DirectFeedback::learn(std::size_t layer, std::size_t panel, const Worker& worker) const {
  const product::Kernels& k = product::kernels();
  const std::size_t n_outputs = network_.n_outputs();
  float* gradient = extra_scratch(static_cast<float*>(worker.scratch));
  float* h = gradient + round_up(n_outputs, 2) * kPanel;
  float* packed = h + padded_batch_ * kPanel;
  const char* from = static_cast<const char*>(hidden(layer)) + panel * kPanel * element_;
  for (std::size_t i = 0; i < n_; ++i, from += hidden_stride(layer) * element_) {
    if (element_ == 4)
      std::copy_n(reinterpret_cast<const float*>(from), kPanel, h + i * kPanel);
    else
      k.from_bf16(h + i * kPanel, reinterpret_cast<const std::uint16_t*>(from), kPanel);
  }
  for (std::size_t c = 0; c < n_outputs; c += kPanel) {
    const std::vector<product::RowBlock>& blocks =
        n_outputs - c >= kPanel ? output_blocks_ : output_tail_blocks_;
    k.f32.pack_columns({packed, error_.data() + c / kPanel * error_panel_stride(), kPanel, n_,
                        blocks.data(), blocks.size()});
    k.f32.store({.a = {},
                 .packed = packed,
                 .panel = h,
                 .depth = n_,
                 .blocks = blocks.data(),
                 .n_blocks = blocks.size(),
                 .out = gradient + c * kPanel,
                 .out_stride = kPanel,
                 .n_columns = kPanel,
                 .accumulate = false});
  }
  product::Parameters parameters{.value = matrices_.data() + panel_at(layer, panel)};
  feedback_state_.attach(parameters, panel_at(layer, panel));
  k.vector_update({.parameters = parameters,
                   .gradient = gradient,
                   .n = n_outputs * kPanel,
                   .step = step_constants(false, false)});
}

}  // namespace bpfree
