// SPDX-License-Identifier: BSD-3-Clause
#include "network/dense_tiles.h"

#include <algorithm>
#include <limits>
#include <string>

#include "base/error.h"
#include "network/network.h"
#include "product/row_blocks.h"

namespace bpfree {

using product::kPanel;
using product::RowBlock;

namespace {

constexpr std::size_t kMaxRows =
    448;  // of a tile: a panel is packed once for them, and they stay in L2
constexpr std::size_t kUpdateBlocks =
    8;  // row blocks of W that an update tile holds, with two states some 40 KB
constexpr std::size_t kTilesPerThread = 4;
constexpr std::size_t kAliasBytes = 2048;  // rows this far apart share a few sets of L1
constexpr std::size_t kGatherRows = 16;

class InTurn final : public PhaseSource {
 public:
  InTurn(std::span<const std::array<Plan, 2>> phases, Denormals denormals)
      : phases_(phases), denormals_(denormals) {}
  bool next(std::span<const Plan>& plans) noexcept override {
    if (index_ == phases_.size()) return false;
    plans = phases_[index_++];
    return true;
  }
  bool flushes_denormals() const noexcept override { return denormals_ == Denormals::flushed; }

 private:
  std::span<const std::array<Plan, 2>> phases_;
  Denormals denormals_;
  std::size_t index_ = 0;
};

}  // namespace

void run_in_turn(int n_threads, std::size_t scratch_floats,
                 std::span<const std::array<Plan, 2>> phases, Denormals denormals) {
  std::vector<Buffer<float>> memory;
  std::vector<void*> scratch;
  for (int t = 0; t < n_threads; ++t) {
    memory.emplace_back(scratch_floats);
    scratch.push_back(memory.back().data());
  }
  InTurn source(phases, denormals);
  run_phases(n_threads, source, scratch);
}

double flops_of(std::size_t a, std::size_t b, std::size_t c) {
  return 2.0 * static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
}

void load_panel(float* panel, const float* src, std::size_t stride, std::size_t rows,
                std::size_t n_columns) {
  product::kernels().f32.pack_panel({.dst = panel,
                                     .src = src,
                                     .depth_stride = stride,
                                     .column_stride = 1,
                                     .depth = rows,
                                     .n_columns = n_columns});
}

void store_panel(float* dst, std::size_t stride, const float* panel, std::size_t rows,
                 std::size_t n_columns) {
  for (std::size_t i = 0; i < rows; ++i)
    std::copy_n(panel + i * kPanel, n_columns, dst + i * stride);
}

Groups::Groups(std::size_t n_rows, std::size_t tile_rows, std::size_t group_blocks)
    : n_rows_(n_rows), rows_(std::min(group_blocks * tile_rows, n_rows)) {
  full_ = product::row_blocks(rows_, tile_rows);
  if (rows_ > 0) tail_ = product::row_blocks(n_rows % rows_, tile_rows);
}

Groups batch_groups(std::size_t batch, std::size_t n_panels, int n_threads) {
  const std::size_t tile = product::kernels().f32.tile_rows;
  const std::size_t wanted =
      n_threads == 1 ? 1
                     : divide_up(kTilesPerThread * static_cast<std::size_t>(n_threads), n_panels);
  const std::size_t rows = std::min(divide_up(batch, wanted), kMaxRows);
  return {batch, tile, std::max<std::size_t>(divide_up(rows, tile), 1)};
}

LayerForward::LayerForward(MatrixView<const float> x, MatrixView<const float> weights,
                           const float* bias, int n_threads)
    : x_(x),
      weights_(weights),
      bias_(bias),
      n_panels_(divide_up(weights.columns, kPanel)),
      groups_(batch_groups(x.rows, n_panels_, n_threads)),
      copy_stride_(row_stride(x.columns, sizeof(float))) {
  if (x.stride * sizeof(float) % kAliasBytes == 0 && x.rows > 1)
    copy_ = Buffer<float>(checked_product(x.rows, copy_stride_));
}

std::size_t LayerForward::n_copies() const {
  return copy_.size() > 0 ? divide_up(x_.rows, kGatherRows) : 0;
}

void LayerForward::copy(std::size_t tile) const {
  const product::GatherArgs args{copy_.data(), copy_stride_, x_.data, x_.stride, nullptr, 0,
                                 x_.columns};
  product::kernels().f32.gather_f32(args, tile * kGatherRows,
                                    std::min((tile + 1) * kGatherRows, x_.rows));
}

std::size_t LayerForward::scratch_floats() const {
  return checked_product(x_.columns, kPanel) + kPanel;
}

LayerTile LayerForward::tile(std::size_t index) const {
  const std::size_t group = index / n_panels_;
  const std::size_t panel = index % n_panels_;
  const std::size_t column = panel * kPanel;
  return {groups_.first(group), groups_.rows(group), panel, column,
          std::min(kPanel, weights_.columns - column)};
}

product::ForwardArgs LayerForward::pack(const LayerTile& tile, float* scratch) const {
  const std::size_t n_in = x_.columns;
  float* panel = scratch;
  float* padded_bias = panel + n_in * kPanel;
  load_panel(panel, weights_.data + tile.column, weights_.stride, n_in, tile.n_columns);
  if (bias_ != nullptr) load_panel(padded_bias, bias_ + tile.column, 0, 1, tile.n_columns);
  const std::vector<RowBlock>& blocks = groups_.blocks(tile.row / groups_.max_rows());
  const bool copied = copy_.size() > 0;
  return {.x = {copied ? copy_.data() + tile.row * copy_stride_ : x_.row(tile.row),
                copied ? copy_stride_ : x_.stride, std::max<std::size_t>(n_in, 1), 0},
          .panel = panel,
          .next_panel = nullptr,
          .depth = n_in,
          .blocks = blocks.data(),
          .n_blocks = blocks.size(),
          .n_columns = tile.n_columns,
          .bias = bias_ != nullptr ? padded_bias : nullptr,
          .scale = 1,
          .activation = formulas::Activation::identity,
          .h = nullptr,
          .h_stride = 0,
          .preactivation = nullptr,
          .preactivation_stride = 0};
}

std::vector<Extent> check_update(MatrixView<float> weights, const float* bias,
                                 const DenseState& state, MatrixView<const float> x,
                                 const DenseStep& step, const LayerNames& names) {
  const OptimizerOptions& o = step.optimizer;
  const double infinity = std::numeric_limits<double>::infinity();
  check_shape(names.x, x, x.rows, weights.rows);
  if (x.rows == 0) fail(std::string(names.x) + " has 0 rows, expected at least 1");
  check_shape(names.weights, weights, weights.rows, weights.columns);
  check_range("learning_rate", step.learning_rate, 0, infinity);
  check_range("momentum", static_cast<double>(o.momentum), 0, 1);
  check_range("beta_1", static_cast<double>(o.beta_1), 0, 1);
  check_range("beta_2", static_cast<double>(o.beta_2), 0, 1);
  check_range("epsilon", static_cast<double>(o.epsilon), 0, infinity);
  check_range("alpha", static_cast<double>(o.alpha), 0, infinity);
  check_range("weight_decay", static_cast<double>(o.weight_decay), 0, infinity);
  check_range("n_samples", step.n_samples, 0, infinity);
  if (step.t == 0) fail("the step is 0, expected at least 1: steps are counted from 1");
  const int n_states = formulas::n_states(o.solver);
  std::vector<Extent> written = {extent(names.weights, weights),
                                 extent(names.bias, bias, weights.columns)};
  for (int i = 0; i < n_states; ++i) {
    if (state.weights[i] == nullptr && weights.rows > 0 && weights.columns > 0)
      fail(std::string(names.states[i][0]) + " is missing: this solver keeps " +
           std::to_string(n_states));
    if (bias != nullptr && state.biases[i] == nullptr)
      fail(std::string(names.states[i][1]) + " is missing: this solver keeps " +
           std::to_string(n_states));
    MatrixView<float> of_weights = weights;
    of_weights.data = state.weights[i];
    written.push_back(extent(names.states[i][0], of_weights));
    written.push_back(
        extent(names.states[i][1], bias != nullptr ? state.biases[i] : nullptr, weights.columns));
  }
  return written;
}

void pass_delta(float* delta, float* column_sums, const float* from, std::size_t stride,
                const std::vector<RowBlock>& blocks, std::size_t n_columns) {
  product::kernels().f32.project({.signal = {from, stride, kPanel, 0},
                                  .feedback = nullptr,
                                  .depth = 0,
                                  .blocks = blocks.data(),
                                  .n_blocks = blocks.size(),
                                  .n_columns = n_columns,
                                  .activation = formulas::Activation::identity,
                                  .h = nullptr,
                                  .h_stride = 0,
                                  .preactivation = nullptr,
                                  .preactivation_stride = 0,
                                  .delta = delta,
                                  .column_sums = column_sums});
}

LayerUpdate::LayerUpdate(MatrixView<float> weights, float* bias, const DenseState& state,
                         MatrixView<const float> x, const DenseStep& step)
    : weights_(weights),
      bias_(bias),
      state_(state),
      x_(x),
      n_panels_(divide_up(weights.columns, kPanel)),
      groups_(weights.rows, product::kernels().f32.tile_rows, kUpdateBlocks),
      packed_(checked_product(weights.rows, x.rows)) {
  const double n_samples = step.n_samples > 0 ? step.n_samples : static_cast<double>(x.rows);
  weight_step_ = step_constants(step.optimizer, step.learning_rate, step.t, n_samples, false);
  bias_step_ = step_constants(step.optimizer, step.learning_rate, step.t, n_samples, true);
}

void LayerUpdate::pack(std::size_t group) const {
  const std::vector<RowBlock>& blocks = groups_.blocks(group);
  product::kernels().f32.pack_columns({.dst = packed_.data() + groups_.first(group) * x_.rows,
                                       .src = x_.data + groups_.first(group),
                                       .src_stride = x_.stride,
                                       .depth = x_.rows,
                                       .blocks = blocks.data(),
                                       .n_blocks = blocks.size()});
}

std::size_t LayerUpdate::n_tiles() const {
  // Without inputs there are still biases.
  return n_panels_ * std::max<std::size_t>(groups_.count(), 1);
}

// Column sums, delta as a panel, and the rows of W and its states.
std::size_t LayerUpdate::scratch_floats() const {
  return kPanel + checked_product(x_.rows, kPanel) + 3 * groups_.max_rows() * kPanel;
}

LayerTile LayerUpdate::tile(std::size_t index) const {
  const std::size_t group = index / n_panels_;
  const std::size_t panel = index % n_panels_;
  const std::size_t column = panel * kPanel;
  const bool any = group < groups_.count();
  return {any ? groups_.first(group) : 0, any ? groups_.rows(group) : 0, panel, column,
          std::min(kPanel, weights_.columns - column)};
}

void LayerUpdate::step(const LayerTile& tile, std::size_t index, const float* delta,
                       const float* column_sums, float* scratch) const {
  const int n_states = formulas::n_states(weight_step_.solver);
  float* values[3];
  for (std::size_t i = 0; i < 3; ++i)
    values[i] = scratch + (1 + x_.rows + i * groups_.max_rows()) * kPanel;
  if (tile.rows > 0) {
    const std::size_t at = tile.row * weights_.stride + tile.column;
    float* const arrays[3] = {weights_.data, state_.weights[0], state_.weights[1]};
    for (int i = 0; i <= n_states; ++i)
      load_panel(values[i], arrays[i] + at, weights_.stride, tile.rows, tile.n_columns);
    const std::vector<RowBlock>& blocks = groups_.blocks(index / n_panels_);
    product::kernels().f32.update(
        {.x_packed = packed_.data() + tile.row * x_.rows,
         .delta = delta,
         .depth = x_.rows,
         .blocks = blocks.data(),
         .n_blocks = blocks.size(),
         .n_columns = tile.n_columns,
         .parameters = {{.value = values[0], .state1 = values[1], .state2 = values[2]}, {}},
         .n_parameters = 1,
         .step = weight_step_});
    for (int i = 0; i <= n_states; ++i)
      store_panel(arrays[i] + at, weights_.stride, values[i], tile.rows, tile.n_columns);
  }
  if (index >= n_panels_ || bias_ == nullptr) return;  // one tile of each panel has its biases
  product::Parameters biases{.value = bias_ + tile.column};
  if (n_states > 0) biases.state1 = state_.biases[0] + tile.column;
  if (n_states > 1) biases.state2 = state_.biases[1] + tile.column;
  product::kernels().vector_update(
      {.parameters = biases, .gradient = column_sums, .n = tile.n_columns, .step = bias_step_});
}

}  // namespace bpfree
