// SPDX-License-Identifier: BSD-3-Clause
#include "network/goodness.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "base/parallel.h"
#include "formulas/goodness.h"
#include "network/dense_tiles.h"

namespace bpfree {

using formulas::Goodness;
using formulas::GoodnessLoss;
using product::kPanel;

namespace {

constexpr std::size_t kRowTileElements = 1 << 14;
constexpr std::size_t kFactorRows = 16;

void check_goodness(Goodness goodness) {
  if (goodness != Goodness::sum && goodness != Goodness::mean)
    fail("goodness is that of groups of units, expected sum or mean");
}

void check_options(const GoodnessOptions& options, std::size_t batch, std::size_t n_positive) {
  const double infinity = std::numeric_limits<double>::infinity();
  check_goodness(options.goodness);
  check_range("threshold", options.threshold.value_or(0), 0, infinity);
  check_range("temperature", options.temperature, std::numeric_limits<double>::min(), infinity);
  check_range("symba_scale", options.symba_scale, 0, infinity);
  if (n_positive > batch)
    fail("n_positive is " + std::to_string(n_positive) + ", expected at most the " +
         std::to_string(batch) + " rows of x");
  if (options.loss == GoodnessLoss::symba && batch != 2 * n_positive)
    fail("x has " + std::to_string(n_positive) + " positive and " +
         std::to_string(batch - n_positive) +
         " negative rows, but symba compares them in pairs: expected as many of either");
}

// Goodness, loss and slope of every row once its sums of squares are there, panel by panel.
class RowLosses {
 public:
  RowLosses(const GoodnessOptions& options, std::size_t batch, std::size_t n_positive,
            std::size_t n_out)
      : options_(options),
        n_positive_(n_positive),
        n_out_(static_cast<double>(n_out)),
        squares_(checked_product(divide_up(n_out, kPanel), batch)),
        factor_(batch),
        goodness_(batch),
        loss_(batch) {}

  float* squares(std::size_t panel) const { return squares_.data() + panel * loss_.size(); }
  const float* factor() const { return factor_.data(); }  // of h in delta

  void finish() {
    const std::size_t batch = loss_.size();
    for (std::size_t p = 0; p * batch < squares_.size(); ++p)
      for (std::size_t i = 0; i < batch; ++i)
        goodness_[i] += static_cast<double>(squares_[p * batch + i]);
    if (options_.goodness == Goodness::mean)
      for (double& g : goodness_) g /= n_out_;
    const double scale = formulas::goodness_slope(options_.goodness, n_out_);
    for (std::size_t i = 0; i < batch; ++i) {
      const formulas::LossOfGoodness row = loss_of(i);
      factor_[i] = static_cast<float>(row.slope * scale);
      loss_[i] = row.loss;
    }
  }

  double total() const {
    double sum = 0;
    for (const double loss : loss_) sum += loss;
    return sum;
  }

 private:
  formulas::LossOfGoodness loss_of(std::size_t i) const {
    const bool positive = i < n_positive_;
    if (options_.loss == GoodnessLoss::logistic)
      return formulas::logistic_loss(
          goodness_[i],
          options_.threshold.value_or(formulas::default_threshold(options_.goodness, n_out_)),
          options_.temperature, positive);
    // A pair's loss is counted with its positive row.
    const std::size_t first = positive ? i : i - n_positive_;
    const formulas::LossOfGoodness pair = formulas::symba_loss(
        goodness_[first], goodness_[first + n_positive_], options_.symba_scale);
    return positive ? pair : formulas::LossOfGoodness{0, -pair.slope};
  }

  GoodnessOptions options_;
  std::size_t n_positive_;
  double n_out_;
  Buffer<float> squares_, factor_;
  std::vector<double> goodness_, loss_;
};

}  // namespace

void goodness(float* out, float* row_factor, MatrixView<const float> h, Goodness goodness,
              int n_threads) {
  check_goodness(goodness);
  check_shape("h", h, h.rows, h.columns);
  if (out == nullptr && h.rows > 0) fail("out is a null pointer");
  if (h.columns == 0 && (goodness == Goodness::mean || row_factor != nullptr))
    fail("h has 0 columns, expected at least 1 for a mean");
  check_apart(
      {extent("out", out, h.rows), extent("row_factor", row_factor, h.rows), extent("h", h)}, 2);
  const int threads = threads_for(n_threads, flops_of(h.rows, h.columns, 1));
  if (h.rows == 0) return;
  const auto n = static_cast<double>(h.columns);
  const std::size_t rows =
      std::max<std::size_t>(kRowTileElements / std::max<std::size_t>(h.columns, 1), 1);
  parallel_for(divide_up(h.rows, rows), threads, [&](std::size_t tile, const Worker&) {
    const std::size_t first = tile * rows;
    const std::size_t end = std::min(first + rows, h.rows);
    product::kernels().f32.row_squares(out + first, h.row(first), h.stride, h.columns, end - first);
    for (std::size_t i = first; i < end; ++i) {
      const auto squares = static_cast<double>(out[i]);
      if (row_factor != nullptr) row_factor[i] = formulas::row_factor(squares, n);
      if (goodness == Goodness::mean) out[i] = static_cast<float>(squares / n);
    }
  });
}

double forward_forward_update(MatrixView<float> weights, float* bias, const DenseState& state,
                              MatrixView<float> h, MatrixView<const float> x,
                              std::size_t n_positive, const GoodnessOptions& options,
                              const DenseStep& step, int n_threads) {
  const std::size_t batch = x.rows, n_in = weights.rows, n_out = weights.columns;
  std::vector<Extent> arrays = check_update(weights, bias, state, x, step);
  if (n_in == 0) fail("x has 0 columns, expected at least 1");
  if (n_out == 0) fail("W has 0 columns, expected at least 1");
  check_options(options, batch, n_positive);
  const bool keeps_h = h.data != nullptr;
  if (keeps_h) check_shape("h", h, batch, n_out);
  arrays.push_back(extent("h", h));
  const std::size_t n_written = arrays.size();
  arrays.push_back(extent("x", x));
  check_apart(arrays, n_written);
  const int threads = threads_for(n_threads, 2 * flops_of(batch, n_in, n_out));

  DenseStep counted = step;
  if (counted.n_samples == 0)
    counted.n_samples = static_cast<double>(n_positive > 0 ? n_positive : batch);
  const product::DtypeKernels& k = product::kernels().f32;
  const LayerForward forward(x, {weights.data, weights.rows, weights.columns, weights.stride}, bias,
                             threads);
  const LayerUpdate update(weights, bias, state, x, counted);
  RowLosses rows(options, batch, n_positive, n_out);
  const Buffer<float> row_factor(batch);
  // h in panels of 32 columns: each is written by one tile, and read down its rows by the update.
  const Buffer<float> activations(checked_product(divide_up(n_out, kPanel), batch, kPanel));
  const auto panel_of = [&](std::size_t panel) {
    return activations.data() + panel * batch * kPanel;
  };

  const auto copy_rows = [&](std::size_t t, float*) { forward.copy(t); };
  const auto factors = [&](std::size_t t, float*) {
    const std::size_t first = t * kFactorRows;
    const std::size_t n_rows = std::min(kFactorRows, batch - first);
    float* out = row_factor.data() + first;
    k.row_squares(out, x.row(first), x.stride, n_in, n_rows);
    for (std::size_t i = 0; i < n_rows; ++i)
      out[i] = formulas::row_factor(static_cast<double>(out[i]), static_cast<double>(n_in));
  };
  const auto multiply = [&](std::size_t index, float* scratch) {
    const LayerTile t = forward.tile(index);
    float* out = panel_of(t.panel) + t.row * kPanel;
    product::ForwardArgs args = forward.pack(t, scratch);
    args.activation = formulas::Activation::relu;
    args.h = out;
    args.h_stride = kPanel;
    args.row_scale = row_factor.data() + t.row;
    args.row_squares = rows.squares(t.panel) + t.row;
    k.forward(args);
    if (keeps_h) store_panel(h.row(t.row) + t.column, h.stride, out, t.rows, t.n_columns);
  };
  const auto pack_x = [&](std::size_t t, float*) { update.pack(t); };
  const auto finish = [&](std::size_t, float*) { rows.finish(); };
  const auto step_tile = [&](std::size_t index, float* scratch) {
    update.run(index, scratch, [&](const LayerTile& t, float* delta, float* column_sums) {
      k.goodness_delta({.h = panel_of(t.panel),
                        .h_stride = kPanel,
                        .n_rows = batch,
                        .pair = 0,
                        .loss_factor = rows.factor(),
                        .row_factor = row_factor.data(),
                        .n_positive = 0,
                        .peer = nullptr,
                        .labels = nullptr,
                        .label_gradient = nullptr,
                        .delta = delta,
                        .column_sums = column_sums});
    });
  };
  const std::array<Plan, 2> phases[] = {
      {plan_of(divide_up(batch, kFactorRows), factors), plan_of(forward.n_copies(), copy_rows)},
      {plan_of(forward.n_tiles(), multiply), plan_of(update.n_packs(), pack_x)},
      {plan_of(1, finish)},
      {plan_of(update.n_tiles(), step_tile)}};
  run_in_turn(threads, std::max(forward.scratch_floats(), update.scratch_floats()), phases);
  return rows.total() / counted.n_samples;
}

}  // namespace bpfree
