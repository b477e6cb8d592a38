// SPDX-License-Identifier: BSD-3-Clause
// Batch normalization inside NoProp's blocks: forwards, and what of an error goes back through it.
#include <algorithm>
#include <cstring>

#include "methods/noprop.h"

namespace bpfree {

using product::kPanel;

void NoProp::normalize(std::size_t slot, std::size_t part, std::size_t panel) const {
  const Slot& s = slots_[slot];
  const std::size_t hidden = hidden_of(part), unit = first_unit(part) + panel * kPanel;
  norms_.normalize(kernels_, norm_index(slot, part), panel, norm_batch(), true,
                   {.a = s.normalized[hidden].data() + unit,
                    .a_stride = norm_stride(hidden),
                    .factor = s.factor[hidden].data() + unit,
                    .h = s.h[hidden].data() + unit * element_,
                    .h_stride = hidden_stride(hidden),
                    .preactivation = nullptr});
}

product::NormalizeDeltaArgs NoProp::normalize_delta_args(std::size_t slot, std::size_t hidden,
                                                         std::size_t unit) const {
  const Slot& s = slots_[slot];
  return {.gradient = nullptr,
          .n_rows = n_,
          .activation = formulas::Activation::identity,
          .h = s.h[hidden].data() + unit * element_,
          .h_stride = hidden_stride(hidden),
          .preactivation = nullptr,
          .preactivation_stride = 0,
          .normalized = s.normalized[hidden].data() + unit,
          .normalized_stride = norm_stride(hidden),
          .factor = s.factor[hidden].data() + unit,
          .weight = sample_weight_.data(),
          .inverse_weight = norm_batch().inverse_weight(),
          .delta = nullptr,
          .gain_gradient = nullptr,
          .shift_gradient = nullptr};
}

// h_0 is normalised where its delta is used: nothing below reads it transposed.
void NoProp::add_normalize_back(std::size_t hidden) {
  add(
      norm_stride(hidden) / kPanel * group_size_,
      [](const void* self, std::size_t tile, const Worker& worker) {
        self_of(self).normalize_back(stage(self).layer, tile, worker);
      },
      hidden);
}

// delta_t, with f' in it already, of all rows of 32 units: through the normalization, and back to where it was.
void NoProp::normalize_back(std::size_t hidden, std::size_t tile, const Worker& worker) const {
  const std::size_t slot = tile % group_size_, unit = tile / group_size_ * kPanel;
  const Slot& s = slots_[slot];
  float* const delta_t = s.delta_t[hidden].data() + unit * kPanel;
  float* const gradient = static_cast<float*>(worker.scratch);
  float* const delta = gradient + padded_batch_ * kPanel;
  float* const unused = delta + padded_batch_ * kPanel;
  const product::DtypeKernels& f32 = product::kernels().f32;
  f32.transpose({.delta_t = delta_t,
                 .batch_stride = batch_stride(hidden),
                 .batch = n_,
                 .delta = gradient,
                 .column_sums = unused});
  product::NormalizeDeltaArgs args = normalize_delta_args(slot, hidden, unit);
  args.gradient = gradient;
  args.h = gradient;  // of the identity, which has no use for it
  args.h_stride = kPanel;
  args.delta = delta;
  args.gain_gradient = s.gain_gradient[hidden].data() + unit;
  args.shift_gradient = s.shift_gradient[hidden].data() + unit;
  f32.normalize_delta(args);
  for (std::size_t b = 0; b * kPanel < n_; ++b) {
    const std::size_t rows = std::min(kPanel, n_ - b * kPanel);
    const float* from = delta + b * kPanel * kPanel;
    float* to = delta_t + b * batch_stride(hidden);
    for (std::size_t c = 0; c < kPanel; ++c)
      for (std::size_t r = 0; r < rows; ++r) to[c * kPanel + r] = from[r * kPanel + c];
    if (s.pairs_t[hidden].size() == 0) continue;
    std::uint32_t* pairs =
        s.pairs_t[hidden].data() + (b * batch_stride(hidden) + unit * kPanel) / 2;
    for (std::size_t r = 0; r < rows; ++r) {
      std::uint16_t rounded[kPanel];
      product::kernels().to_bf16(rounded, from + r * kPanel, kPanel);
      for (std::size_t c = 0; c < kPanel / 2; ++c)
        pairs[c * kPanel + r] =
            static_cast<std::uint32_t>(rounded[2 * c + 1]) << 16 | rounded[2 * c];
    }
  }
}

// delta of a panel as the weight product's operand, and what its gain and its shift get. scratch holds batch rows and one more.
void NoProp::make_normalized_delta(std::size_t slot, std::size_t part, std::size_t panel,
                                   void* delta, float* gain_gradient, float* shift_gradient,
                                   float* scratch) const {
  const Slot& s = slots_[slot];
  const std::size_t hidden = hidden_of(part), unit = first_unit(part) + panel * kPanel;
  product::NormalizeDeltaArgs args = normalize_delta_args(slot, hidden, unit);
  args.gradient = scratch;
  args.delta = delta;
  args.gain_gradient = gain_gradient;
  args.shift_gradient = shift_gradient;
  const product::DtypeKernels& f32 = product::kernels().f32;
  if (noprop_.feedback) {
    args.activation = network_.activation();
    f32.store({.a = {s.error.data(), kPanel, kPanel, error_panel_stride()},
               .packed = nullptr,
               .panel = feedback_.data() + feedback_at(block_of(slot), hidden, unit / kPanel),
               .depth = shape().n_classes,
               .blocks = batch_blocks().data(),
               .n_blocks = batch_blocks().size(),
               .out = scratch,
               .out_stride = kPanel,
               .n_columns = kPanel,
               .accumulate = false});
  } else {  // f' is in it already
    f32.transpose({.delta_t = s.delta_t[hidden].data() + unit * kPanel,
                   .batch_stride = batch_stride(hidden),
                   .batch = n_,
                   .delta = scratch,
                   .column_sums = scratch + padded_batch_ * kPanel});
  }
  kernels_.normalize_delta(args);
}

// In the place of its biases, which change nothing.
void NoProp::update_norm(std::size_t slot, std::size_t part, std::size_t panel,
                         const float* gain_gradient, const float* shift_gradient) const {
  norms_.update(norm_index(slot, part), panel, gain_gradient, shift_gradient,
                step_constants(true, false));
}

}  // namespace bpfree
