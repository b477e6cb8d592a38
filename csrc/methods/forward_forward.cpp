// SPDX-License-Identifier: BSD-3-Clause
#include "methods/forward_forward.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"

namespace bpfree {

using product::kPanel;

ForwardForward::ForwardForward(Network& network, const TrainerOptions& options,
                               const ForwardForwardOptions& forward_forward)
    : Trainer(network, options, forward_forward.negatives == Negatives::given ? 2 : 1),
      ff_(forward_forward) {
  if (network.layers().size() < 2) fail("Forward-Forward needs at least 1 hidden layer, got 0");
  if (network.activation() != formulas::Activation::relu)
    fail("Forward-Forward is defined for the activation relu alone");
  if (network.loss() != formulas::Loss::softmax_cross_entropy || network.n_outputs() < 2)
    fail("Forward-Forward needs at least 2 classes, got " + std::to_string(network.n_outputs()));
  if (has_labels() && network.sizes()[0] <= network.n_outputs())
    fail("x has " + std::to_string(n_features()) + " columns and y " +
         std::to_string(network.n_outputs()) +
         " classes: expected more columns than classes where the label is written over the first");
  const auto finite = [](const char* name, double value, bool positive) {
    if (std::isfinite(value) && (positive ? value > 0 : value >= 0)) return;
    fail(std::string(name) + " is " + std::to_string(value) + ", expected a finite number " +
         (positive ? "above 0" : "of at least 0"));
  };
  finite("threshold", static_cast<double>(ff_.threshold.value_or(0)), false);
  finite("temperature", static_cast<double>(ff_.temperature), true);
  finite("symba_scale", static_cast<double>(ff_.symba_scale), true);
  finite("peer_normalization", static_cast<double>(ff_.peer_normalization), false);
  if (!is_grouped() &&
      (ff_.negatives == Negatives::given) != (ff_.label_position == LabelPosition::none))
    fail("label_position none goes with given negatives, and nothing else does");
  const std::size_t n_outputs = network.n_outputs();
  std::size_t widest = 0, deepest = 0;
  const std::size_t rows = 3 * padded_batch_;
  for (std::size_t l = 0; l < n_hidden(); ++l) {
    const Layer& y = network.layers()[l];
    if (is_grouped() && y.n_out < n_outputs)
      fail("hidden layer " + std::to_string(l) + " has " + std::to_string(y.n_out) +
           " units, expected at least one for each of the " + std::to_string(n_outputs) +
           " classes");
    widest = std::max(widest, y.n_panels * kPanel);
    deepest = std::max(deepest, y.n_in);
    input_blocks_.push_back(product::row_blocks(l == 0 ? n_pixels() : y.n_in, kernels_.tile_rows));
    LayerState state;
    state.row_factor = Buffer<float>(rows);
    state.loss_factor = Buffer<float>(rows);
    if (ff_.peer_normalization > 0) {
      state.peer_mean = Buffer<float>(y.n_panels * kPanel);
      state.peer = Buffer<float>(y.n_panels * kPanel);
    }
    if (is_grouped()) {
      state.group_factor = Buffer<float>(checked_product(padded_batch_, n_outputs));
      state.group_sums = Buffer<float>(state.group_factor.size());
      state.group_squares = Buffer<float>(state.group_factor.size());
    }
    layer_.push_back(std::move(state));
    head_packed_.emplace_back(has_head(l) ? checked_product(padded_batch_, y.n_out, element_) : 0);
    logits_.emplace_back(
        has_head(l) ? checked_product(network.layers().back().n_panels, padded_batch_ * kPanel)
                    : 0);
  }
  input_blocks_.push_back(product::row_blocks(network.layers().back().n_in, kernels_.tile_rows));
  for (Buffer<char>& h : hidden_)
    h = Buffer<char>(checked_product(rows, row_stride(widest, element_), element_));
  for (Buffer<char>& p : packed_)
    p = Buffer<char>(checked_product(2 * padded_batch_, deepest, element_));
  input_squares_ = Buffer<float>(2 * padded_batch_);
  input_factor_ = Buffer<float>(2 * padded_batch_);
  neutral_factor_ = Buffer<float>(padded_batch_);
  positive_.resize(padded_batch_);
  negative_.resize(padded_batch_);
  labels_.resize(2 * padded_batch_);
  draws_.resize(padded_batch_);
  head_loss_.resize(padded_batch_);
  goodness_.resize(rows);
  partial_stride_ = rows;
  partial_squares_ = Buffer<float>(checked_product(widest / kPanel, rows));
  unit_stride_ = widest;
  first_feature_ = ff_.label_position == LabelPosition::overwrite && has_labels() ? n_outputs : 0;
}

std::size_t ForwardForward::n_features() const {
  const bool append = has_labels() && ff_.label_position == LabelPosition::append;
  const std::size_t n = network_.sizes()[0];
  return append ? n - std::min(n, network_.n_outputs()) : n;
}

std::size_t ForwardForward::n_pixels() const {
  return network_.sizes()[0] - (has_labels() ? network_.n_outputs() : 0);
}

std::size_t ForwardForward::head_of(std::size_t layer) const {
  return layer + 1 == n_hidden() ? n_layers() - 1 : n_layers() + layer - network_.first_head();
}

std::size_t ForwardForward::hidden_of(std::size_t head) const {
  return head < n_layers() ? n_hidden() - 1 : head - n_layers() + network_.first_head();
}

void ForwardForward::set_stage(std::optional<std::size_t> stage) {
  if (stage && *stage > n_hidden())
    fail("stage is " + std::to_string(*stage) + ", expected at most " + std::to_string(n_hidden()) +
         ", the number of hidden layers");
  only_ = stage;
}

std::vector<Trainer::StateArray> ForwardForward::state_arrays() const {
  std::vector<StateArray> arrays = Trainer::state_arrays();
  for (std::size_t l = 0; l < n_hidden(); ++l)
    if (layer_[l].peer_mean.size() > 0)
      arrays.push_back({layer_[l].peer_mean.data(), network_.layers()[l].n_out, 0});
  return arrays;
}

void ForwardForward::check_target(const TrainingData& data) const {
  Trainer::check_target(data);
  if (is_grouped()) {
    if (phase_kind_ == FfPhase::both) return;
    fail("goodness of groups has no negative rows: expected the phase both");
  }
  if (phase_kind_ == FfPhase::negative && heads_alone())
    fail("the softmax head learns in the positive phase: stage " + std::to_string(n_hidden()) +
         ", where it learns alone, expects the phase both or positive, got negative");
  const InputView& x = data.x_negative;
  const bool needed = ff_.negatives == Negatives::given && phase_kind_ == FfPhase::both;
  if (needed && x.data == nullptr) fail("negatives are to be given, but there is no x_negative");
  if (!needed && x.data != nullptr)
    fail(
        "x_negative was given, but this training makes its negatives itself or sees one kind "
        "alone");
  if (needed && (x.rows != data.x.rows || x.columns != data.x.columns))
    fail("x_negative is [" + std::to_string(x.rows) + ", " + std::to_string(x.columns) +
         "], expected the shape of x, [" + std::to_string(data.x.rows) + ", " +
         std::to_string(data.x.columns) + "]");
  if (phase_kind_ != FfPhase::both && ff_.loss == formulas::GoodnessLoss::symba)
    fail("symba compares positive with negative rows: expected the phase both");
}

void ForwardForward::prepare_epoch() {
  n_sets_ = data().x_negative.data != nullptr ? 2 : 1;
  blocks_.clear();
  for (const std::size_t n : {options_.batch_size, tail_rows()})
    for (std::size_t k = 1; k <= 3; ++k)
      blocks_.emplace(k * n, product::row_blocks(k * n, kernels_.tile_rows));
  build_schedule();
  std::size_t n_blocks = 0;
  for (const auto& [rows, all] : blocks_) n_blocks = std::max(n_blocks, all.size());
  if (ff_.peer_normalization > 0 && partial_sums_.size() < n_blocks * unit_stride_)
    partial_sums_ = Buffer<float>(checked_product(n_blocks, unit_stride_));
}

// Update of layer l beside the forward product of layer l + 1, which it does not disturb.
void ForwardForward::build_schedule() {
  schedule_.clear();
  const std::size_t n = n_hidden();
  const bool given = ff_.negatives == Negatives::given;
  const bool heads = phase_kind_ != FfPhase::negative && (!only_ || *only_ == n);
  const bool trains = !only_ || *only_ < n;
  const std::size_t last = only_ && *only_ < n ? *only_ : n - 1;  // the highest layer needed
  const bool hard = ff_.negatives == Negatives::hard && trains && has_labels() &&
                    phase_kind_ != FfPhase::positive;
  const auto forward_pass = [&](std::size_t rows, bool with_heads, bool with_updates,
                                std::size_t top) {
    schedule_.push_back({{Do::rows, rows}});
    for (std::size_t l = 0; l <= top + 1; ++l) {
      if (l > 0) schedule_.push_back({{Do::finish, l - 1}});
      if (l > 0 && is_grouped()) {
        schedule_.back().push_back({Do::normalize, l - 1});
        schedule_.push_back({});
      }
      std::vector<Action>& phase = schedule_.back();
      if (l <= top) phase.push_back({Do::forward, l});
      const auto updates = [&](std::size_t layer) {
        return with_updates && (!only_ || *only_ == layer);
      };
      if (l <= top && updates(l)) phase.push_back({Do::pack, l});
      if (l > 0 && updates(l - 1)) phase.push_back({Do::update, l - 1});
      if (l > 0 && with_heads && has_head(l - 1)) {
        phase.push_back({Do::head, head_of(l - 1)});
        phase.push_back({Do::pack_head, l - 1});
      }
    }
  };
  const auto head_updates = [&] {
    for (std::size_t l = 0; l < n; ++l)
      if (has_head(l)) schedule_.back().push_back({Do::head_update, head_of(l)});
  };
  const bool extra_neutral = has_labels() && !given;
  if (hard) {
    forward_pass(kNeutral, true, false, n - 1);
    schedule_.push_back({{Do::heads_finish}, {Do::draw_negatives}});
    if (heads) head_updates();
    forward_pass(kTrained, false, true, last);
  } else {
    forward_pass(
        (trains || !extra_neutral ? kTrained : 0) + (heads && extra_neutral ? kNeutral : 0), heads,
        trains, heads ? n - 1 : last);
    if (heads) {
      schedule_.push_back({{Do::heads_finish}});
      head_updates();
    }
  }
  schedule_.back().push_back({Do::gather_next});
}

bool ForwardForward::build_phase(std::size_t index) {
  if (index >= schedule_.size()) return false;
  for (const Action& action : schedule_[index]) add_action(action);
  return true;
}

void ForwardForward::add_action(const Action& action) {
  const std::size_t l = action.layer;
  switch (action.what) {
    case Do::rows: {
      const bool trained = (l & kTrained) != 0;
      // Heads that learn alone read the positive rows of those that are trained.
      const bool contrasts = phase_kind_ != FfPhase::positive && !is_grouped() && !heads_alone();
      sets_ = {trained && phase_kind_ != FfPhase::negative ? n_ : 0, trained && contrasts ? n_ : 0,
               (l & kNeutral) != 0 ? n_ : 0};
      return start_rows();
    }
    case Do::draw_negatives:
      return draw_negatives();
    case Do::finish:
      return is_grouped() ? void() : finish(l);
    case Do::heads_finish:
      return finish_heads();
    case Do::gather_next:
      return add_gather_next();
    case Do::forward: {
      return add(
          forward_tiling(l).n_groups * network_.layers()[l].n_panels,
          [](const void* self, std::size_t tile, const Worker&) {
            self_of(self).forward(stage(self).layer, tile);
          },
          l);
    }
    case Do::normalize:
      return add(
          divide_up(sets_.total(), kNormRows),
          [](const void* self, std::size_t tile, const Worker&) {
            self_of(self).normalize(stage(self).layer, tile);
          },
          l);
    case Do::pack:
      return add(
          divide_up(input_blocks_[l].size(), kPackBlocks),
          [](const void* self, std::size_t tile, const Worker&) {
            self_of(self).pack(stage(self).layer, tile);
          },
          l);
    case Do::pack_head:
      return add(
          divide_up(input_blocks_[l + 1].size(), kPackBlocks),
          [](const void* self, std::size_t tile, const Worker&) {
            self_of(self).pack_head(stage(self).layer, tile);
          },
          l);
    case Do::head:
      return add(
          blocks(n_).size() * network_.layer(l).n_panels,
          [](const void* self, std::size_t tile, const Worker&) {
            self_of(self).head(stage(self).layer, tile);
          },
          l);
    case Do::update:
    case Do::head_update: {
      const Layer& y = network_.layer(l);
      const bool is_head = action.what == Do::head_update;
      const std::size_t n_blocks = input_blocks_[is_head ? hidden_of(l) + 1 : l].size();
      const Tiling t = tiling(n_blocks, y.n_panels, std::numeric_limits<std::size_t>::max());
      if (is_head)
        return add(
            t.n_groups * y.n_panels,
            [](const void* self, std::size_t tile, const Worker& worker) {
              self_of(self).head_update(stage(self).layer, tile, worker);
            },
            l);
      return add(
          t.n_groups * y.n_panels,
          [](const void* self, std::size_t tile, const Worker& worker) {
            self_of(self).update(stage(self).layer, tile, worker);
          },
          l);
    }
  }
}

std::size_t ForwardForward::scratch_bytes() const {
  const std::size_t delta = (2 * padded_batch_ + 2) * kPanel;
  const std::size_t rest = std::max(network_.n_outputs(), padded_batch_) * kPanel;
  return (kPanel + delta + rest) * sizeof(float);
}

}  // namespace bpfree
