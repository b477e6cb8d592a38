// SPDX-License-Identifier: BSD-3-Clause
#include "methods/forward_forward.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"
#include "formulas/goodness.h"
#include "random/random.h"

namespace bpfree {

using formulas::Goodness;
using product::kPanel;

namespace {

constexpr float kTiny = 1e-8f;         // beside the mean square that a row is divided by
constexpr double kPeerMomentum = 0.9;  // of the running mean activity
constexpr std::size_t kPackBlocks = 8;
constexpr std::size_t kNormRows = 8;  // of a tile that normalises rows by groups
constexpr std::size_t kOperandBytes =
    std::size_t{1} << 20;  // of the broadcast operand that a tile walks: stays in L2

}  // namespace

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
  if (is_grouped()) return;
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
  std::size_t groups = 1;
  for (const std::size_t n : {options_.batch_size, tail_rows()})
    for (std::size_t k = 1; k <= 3 && n > 0; ++k) {
      n_ = n;
      sets_ = {k * n, 0, 0};
      for (std::size_t l = 0; l < n_hidden(); ++l)
        groups = std::max(groups, forward_tiling(l).n_groups);
    }
  n_ = 0;
  if (ff_.peer_normalization > 0 && partial_sums_.size() < groups * unit_stride_)
    partial_sums_ = Buffer<float>(groups * unit_stride_);
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
      sets_ = {trained && phase_kind_ != FfPhase::negative ? n_ : 0,
               trained && phase_kind_ != FfPhase::positive && !is_grouped() ? n_ : 0,
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

float ForwardForward::sample_weight(std::size_t row) const {
  return data().weights != nullptr ? data().weights[batch_order()[row]] : 1.0f;
}

std::size_t ForwardForward::head_row() const {
  return sets_.n_neutral > 0 ? sets_.trained()
                             : 0;  // without a label the rows themselves are neutral
}

// Labels and the factors of the inputs' rows.
void ForwardForward::start_rows() {
  const std::size_t n_outputs = network_.n_outputs();
  for (std::size_t i = 0; i < n_; ++i) {
    positive_[i] = data().labels[batch_order()[i]];
    row_loss_[i] = 0;
  }
  if (sets_.n_negative > 0 && has_labels() && ff_.negatives == Negatives::random) {
    draw();
    for (std::size_t i = 0; i < n_; ++i) {
      const auto pick =
          std::min(static_cast<std::int32_t>(draws_[i] * static_cast<double>(n_outputs - 1)),
                   static_cast<std::int32_t>(n_outputs) - 2);
      negative_[i] = pick + (pick >= positive_[i] ? 1 : 0);
    }
  }
  labels_.clear();
  if (sets_.n_positive > 0)
    labels_.insert(labels_.end(), positive_.begin(),
                   positive_.begin() + static_cast<std::ptrdiff_t>(n_));
  if (sets_.n_negative > 0)
    labels_.insert(labels_.end(), negative_.begin(),
                   negative_.begin() + static_cast<std::ptrdiff_t>(n_));
  const std::size_t rows = n_sets_ * n_;
  const std::size_t n = n_pixels();
  kernels_.row_squares(input_squares_.data(), x_[0].data(), row_stride(n, element_), n, rows);
  const double scale = static_cast<double>(data().x.scale);
  const double inputs = static_cast<double>(network_.sizes()[0]);
  const double label = has_labels() ? 1 : 0;
  const double neutral = label / static_cast<double>(n_outputs);  // n_outputs of 1 / n_outputs
  for (std::size_t i = 0; i < rows; ++i) {
    const double squares = scale * scale * static_cast<double>(input_squares_[i]);
    const double tiny = static_cast<double>(kTiny);
    input_factor_[i] = static_cast<float>(1 / std::sqrt((squares + label) / inputs + tiny));
    if (i < n_)
      neutral_factor_[i] = static_cast<float>(1 / std::sqrt((squares + neutral) / inputs + tiny));
  }
}

// One uniform number in [0, 1) for each row, of this step alone.
void ForwardForward::draw() {
  std::vector<float> values(n_);
  random::matrix_block(values.data(), n_, random::Distribution::uniform, 1.0f, options_.seed,
                       {random::Purpose::negatives, 0, static_cast<std::uint32_t>(step()), 0}, n_,
                       0, 1, 0, n_);
  draws_.resize(n_);
  for (std::size_t i = 0; i < n_; ++i) draws_[i] = (static_cast<double>(values[i]) + 1) / 2;
}

// A wrong label with the probability that the heads give it among the wrong ones.
void ForwardForward::draw_negatives() {
  const std::size_t n_outputs = network_.n_outputs();
  draw();
  const float* e = logits_[n_hidden() - 1].data();
  for (std::size_t i = 0; i < n_; ++i) {
    // e is weight * (probability - target): the true class is left out, and the weight cancels.
    const auto wrong = [&](std::size_t c) {
      const float p = e[(c / kPanel * padded_batch_ + i) * kPanel + c % kPanel];
      return static_cast<std::int32_t>(c) == positive_[i] ? 0.0
                                                          : std::max(static_cast<double>(p), 0.0);
    };
    double total = 0;
    for (std::size_t c = 0; c < n_outputs; ++c) total += wrong(c);
    double left = draws_[i] * total;
    std::int32_t pick = positive_[i] == 0 ? 1 : 0;  // where no other class has any probability
    for (std::size_t c = 0; c < n_outputs && total > 0; ++c) {
      if (wrong(c) <= 0) continue;
      pick = static_cast<std::int32_t>(c);
      left -= wrong(c);
      if (left < 0) break;
    }
    negative_[i] = pick;
  }
}

double ForwardForward::slope_scale(std::size_t layer) const {
  const auto n = static_cast<double>(network_.layers()[layer].n_out);
  return ff_.goodness == Goodness::mean ? 2 / n : 2;
}

double ForwardForward::threshold(std::size_t layer) const {
  if (ff_.threshold) return static_cast<double>(*ff_.threshold);
  return ff_.goodness == Goodness::mean ? 1 : static_cast<double>(network_.layers()[layer].n_out);
}

// The row finish of a layer: goodness, loss and its slope, and the factor that normalises the row.
void ForwardForward::finish(std::size_t layer) {
  const Layer& y = network_.layers()[layer];
  LayerState& state = layer_[layer];
  const std::size_t rows = sets_.total();
  const auto n = static_cast<double>(y.n_out);
  const double scale = slope_scale(layer);
  const double temperature = static_cast<double>(ff_.temperature);
  std::vector<double>& g = goodness_;
  g.assign(rows, 0);
  for (std::size_t p = 0; p < y.n_panels; ++p)
    for (std::size_t i = 0; i < rows; ++i)
      g[i] += static_cast<double>(partial_squares_[p * partial_stride_ + i]);
  for (std::size_t i = 0; i < rows; ++i) {
    state.row_factor[i] = static_cast<float>(1 / std::sqrt(g[i] / n + static_cast<double>(kTiny)));
    if (ff_.goodness == Goodness::mean) g[i] /= n;
  }
  if (!only_ || *only_ == layer)
    for (std::size_t i = 0; i < sets_.trained(); ++i) {
      const std::size_t sample = i % n_;
      const bool positive = i < sets_.n_positive;
      const double weight = static_cast<double>(sample_weight(sample));
      formulas::LossOfGoodness loss;
      if (ff_.loss == formulas::GoodnessLoss::symba) {
        loss =
            formulas::symba_loss(g[sample], g[n_ + sample], static_cast<double>(ff_.symba_scale));
        if (!positive) loss = {0, -loss.slope};
      } else {
        loss = formulas::logistic_loss(g[i], threshold(layer), temperature, positive);
      }
      state.loss_factor[i] = static_cast<float>(weight * loss.slope * scale);
      row_loss_[sample] += static_cast<float>(weight * loss.loss);
    }
  if (state.peer.size() > 0 && sets_.n_positive > 0 && (!only_ || *only_ == layer))
    update_peers(layer, forward_tiling(layer).n_groups);
}

void ForwardForward::update_peers(std::size_t layer, std::size_t n_groups) {
  const std::size_t n = network_.layers()[layer].n_out;
  LayerState& state = layer_[layer];
  double total = 0;
  for (std::size_t j = 0; j < n; ++j) {
    double sum = 0;
    for (std::size_t g = 0; g < n_groups; ++g)
      sum += static_cast<double>(partial_sums_[g * unit_stride_ + j]);
    const double mean = sum / static_cast<double>(sets_.n_positive);
    state.peer_mean[j] = static_cast<float>(
        kPeerMomentum * static_cast<double>(state.peer_mean[j]) + (1 - kPeerMomentum) * mean);
    total += static_cast<double>(state.peer_mean[j]);
  }
  const double slope = ff_.loss == formulas::GoodnessLoss::symba
                           ? static_cast<double>(ff_.symba_scale)
                           : 1 / static_cast<double>(ff_.temperature);
  // Every row counts the same, and the whole as much as the batch's weights, which it is divided by later.
  const double weight = batch_weight_ / static_cast<double>(sets_.n_positive);
  const double factor =
      slope_scale(layer) * slope * static_cast<double>(ff_.peer_normalization) * weight;
  for (std::size_t j = 0; j < n; ++j)
    state.peer[j] = static_cast<float>(
        factor * (static_cast<double>(state.peer_mean[j]) - total / static_cast<double>(n)));
}

Trainer::Tiling ForwardForward::forward_tiling(std::size_t layer) const {
  const Layer& y = network_.layers()[layer];
  const std::size_t rows = shares_pixels(layer) ? n_ : sets_.total();
  const std::size_t n_in = layer == 0 ? n_pixels() : y.n_in;
  const std::size_t block_bytes = row_stride(n_in, element_) * element_ * kernels_.tile_rows;
  return tiling(blocks(rows).size(), y.n_panels,
                std::max<std::size_t>(kOperandBytes / block_bytes, 1));
}

void ForwardForward::forward(std::size_t layer, std::size_t tile) const {
  const Layer& y = network_.layers()[layer];
  const bool shared = shares_pixels(layer);
  const std::size_t rows = shared ? n_ : sets_.total();
  const std::vector<product::RowBlock>& all = blocks(rows);
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
      for (std::size_t c = 0; c < network_.n_outputs(); ++c)
        for (std::size_t j = 0; j < kPanel; ++j)
          neutral[j] += label_rows[c * kPanel + j] / static_cast<float>(network_.n_outputs());
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
  const product::RowBlock end = all[first + n_blocks - 1];
  const std::size_t row_begin = std::min<std::size_t>(all[first].row, sets_.n_positive);
  const std::size_t row_end = std::min<std::size_t>(end.row + end.height, sets_.n_positive);
  kernels_.column_sums(partial_sums_.data() + group * unit_stride_ + panel * kPanel,
                       h + row_begin * stride(layer) * element_, stride(layer),
                       row_end - row_begin);
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
                       .tiny = kTiny,
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
      const double norm = std::sqrt(mean + static_cast<double>(kTiny));
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

// Logits of all heads added up become e, where the last head's were.
void ForwardForward::finish_heads() {
  float* sum = logits_[n_hidden() - 1].data();
  for (std::size_t p = 0; p < network_.layers().back().n_panels; ++p)
    for (std::size_t l = 0; l + 1 < n_hidden(); ++l)
      for (std::size_t i = 0; has_head(l) && i < n_ * kPanel; ++i)
        sum[p * padded_batch_ * kPanel + i] += logits_[l][p * padded_batch_ * kPanel + i];
  head_loss_.resize(padded_batch_);
  product::kernels().loss({.loss = network_.loss(),
                           .logits = sum,
                           .panel_stride = padded_batch_ * kPanel,
                           .n_outputs = network_.n_outputs(),
                           .labels = data().labels,
                           .targets = nullptr,
                           .weights = data().weights,
                           .order = batch_order(),
                           .row_begin = 0,
                           .row_end = n_,
                           .row_loss = head_loss_.data(),
                           .error_t = nullptr,
                           .error_t_stride = 0,
                           .error_pairs_t = nullptr,
                           .sign_of_error_t = false,
                           .signal = nullptr});
  if (only_ && *only_ == n_hidden()) std::copy_n(head_loss_.data(), n_, row_loss_.data());
}

std::size_t ForwardForward::scratch_bytes() const {
  const std::size_t delta = (2 * padded_batch_ + 2) * kPanel;
  const std::size_t rest = std::max(network_.n_outputs(), padded_batch_) * kPanel;
  return (kPanel + delta + rest) * sizeof(float);
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
  const std::size_t at = y.biases + panel * kPanel;
  product::Parameters biases{.value = network_.parameters() + at};
  state_.attach(biases, at);
  product::kernels().vector_update({.parameters = biases,
                                    .gradient = column_sums,
                                    .n = kPanel,
                                    .step = step_constants(true, false)});
  if (shared) update_labels(y, panel, label_gradient);
}

// Rows of W that belong to the label: [n_outputs][32], one after the other in the panel.
void ForwardForward::update_labels(const Layer& y, std::size_t panel, const float* gradient) const {
  const std::size_t at = y.weights + panel * y.panel_size() + n_pixels() * kPanel;
  product::Parameters rows{.value = network_.parameters() + at};
  state_.attach(rows, at);
  product::kernels().vector_update({.parameters = rows,
                                    .gradient = gradient,
                                    .n = network_.n_outputs() * kPanel,
                                    .step = step_constants(false, false)});
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
