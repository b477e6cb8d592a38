// SPDX-License-Identifier: BSD-3-Clause
// The serial work of a Forward-Forward step, between its phases: labels and factors of the rows, the row finish of every layer
// (goodness, loss, what normalises the row), and that of the heads.
#include <algorithm>
#include <cmath>
#include <limits>

#include "formulas/goodness.h"
#include "methods/forward_forward.h"
#include "random/random.h"

namespace bpfree {

using formulas::Goodness;
using product::kPanel;

namespace {

constexpr double kPeerMomentum = 0.9;  // of the running mean activity

}  // namespace

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
      const double u = static_cast<double>(draws_[i]);
      const auto pick = std::min(static_cast<std::int32_t>(u * static_cast<double>(n_outputs - 1)),
                                 static_cast<std::int32_t>(n_outputs) - 2);
      negative_[i] = pick + (pick >= positive_[i] ? 1 : 0);
    }
  }
  std::copy_n(positive_.data(), sets_.n_positive, labels_.data());
  std::copy_n(negative_.data(), sets_.n_negative, labels_.data() + sets_.n_positive);
  const std::size_t rows = n_sets_ * n_;
  const std::size_t n = n_pixels();
  kernels_.row_squares(input_squares_.data(), x_[0].data(), row_stride(n, element_), n, rows);
  const double scale = static_cast<double>(data().x.scale);
  const double inputs = static_cast<double>(network_.sizes()[0]);
  const double label = has_labels() ? 1 : 0;
  const double neutral = label / static_cast<double>(n_outputs);  // n_outputs of 1 / n_outputs
  for (std::size_t i = 0; i < rows; ++i) {
    const double squares = scale * scale * static_cast<double>(input_squares_[i]);
    input_factor_[i] = formulas::row_factor(squares + label, inputs);
    if (i < n_) neutral_factor_[i] = formulas::row_factor(squares + neutral, inputs);
  }
}

// One uniform number in [0, 1) for each row, of this step alone.
void ForwardForward::draw() {
  random::matrix_block(draws_.data(), n_, random::Distribution::uniform, 1.0f, options_.seed,
                       {random::Purpose::negatives, 0, static_cast<std::uint32_t>(step()), 0}, n_,
                       0, 1, 0, n_);
  for (std::size_t i = 0; i < n_; ++i) draws_[i] = (draws_[i] + 1) / 2;  // exact
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
    double left = static_cast<double>(draws_[i]) * total;
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
  std::fill_n(g.begin(), rows, 0);
  for (std::size_t p = 0; p < y.n_panels; ++p)
    for (std::size_t i = 0; i < rows; ++i)
      g[i] += static_cast<double>(partial_squares_[p * partial_stride_ + i]);
  for (std::size_t i = 0; i < rows; ++i) {
    state.row_factor[i] = formulas::row_factor(g[i], n);
    // Squares that overflowed: an infinite goodness would be no loss to a positive row.
    if (std::isinf(g[i])) g[i] = std::numeric_limits<double>::quiet_NaN();
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
    update_peers(layer);
}

// Sums of row blocks are added in their order: their bounds do not depend on the threads.
void ForwardForward::update_peers(std::size_t layer) {
  const std::size_t n = network_.layers()[layer].n_out;
  LayerState& state = layer_[layer];
  const std::vector<product::RowBlock>& all = forward_blocks(layer);
  double total = 0;
  for (std::size_t j = 0; j < n; ++j) {
    double sum = 0;
    for (std::size_t k = 0; k < all.size() && all[k].row < sets_.n_positive; ++k)
      sum += static_cast<double>(partial_sums_[k * unit_stride_ + j]);
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

// Logits of all heads added up become e, where the last head's were.
void ForwardForward::finish_heads() {
  float* sum = logits_[n_hidden() - 1].data();
  for (std::size_t p = 0; p < network_.layers().back().n_panels; ++p)
    for (std::size_t l = 0; l + 1 < n_hidden(); ++l)
      for (std::size_t i = 0; has_head(l) && i < n_ * kPanel; ++i)
        sum[p * padded_batch_ * kPanel + i] += logits_[l][p * padded_batch_ * kPanel + i];
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
  if (heads_alone()) std::copy_n(head_loss_.data(), n_, row_loss_.data());
}

}  // namespace bpfree
