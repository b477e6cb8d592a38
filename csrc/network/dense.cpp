// SPDX-License-Identifier: BSD-3-Clause
#include "network/dense.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "base/parallel.h"
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

std::string shape(std::size_t rows, std::size_t columns) {
  return "[" + std::to_string(rows) + ", " + std::to_string(columns) + "]";
}

template <class T>
void check_shape(const char* name, MatrixView<T> m, std::size_t rows, std::size_t columns) {
  if (m.rows != rows || m.columns != columns)
    fail(std::string(name) + " is " + shape(m.rows, m.columns) + ", expected " +
         shape(rows, columns));
  if (m.rows > 1 && m.stride < m.columns)
    fail(std::string(name) + " has a row stride of " + std::to_string(m.stride) +
         ", expected at least its " + std::to_string(m.columns) + " columns");
  if (m.data == nullptr && rows != 0 && columns != 0)
    fail(std::string(name) + " is a null pointer");
}

struct Extent {
  const char* name;
  const void* data;
  std::size_t bytes;
};

template <class T>
Extent extent(const char* name, MatrixView<T> m) {
  const bool empty = m.rows == 0 || m.columns == 0 || m.data == nullptr;
  return {name, m.data, empty ? 0 : ((m.rows - 1) * m.stride + m.columns) * sizeof(T)};
}

Extent extent(const char* name, const float* data, std::size_t n) {
  return {name, data, data == nullptr ? 0 : n * sizeof(float)};
}

// The first `n_written` are written to: they share memory with nothing else of the list.
void check_apart(const std::vector<Extent>& all, std::size_t n_written) {
  for (std::size_t i = 0; i < n_written; ++i)
    for (std::size_t j = i + 1; j < all.size(); ++j) {
      const auto* a = static_cast<const char*>(all[i].data);
      const auto* b = static_cast<const char*>(all[j].data);
      if (all[i].bytes > 0 && all[j].bytes > 0 && a < b + all[j].bytes && b < a + all[i].bytes)
        fail(std::string(all[i].name) + " overlaps " + all[j].name +
             ", expected arrays that share no memory");
    }
}

void check_range(const char* name, double value, double low, double high) {
  if (value >= low && value < high) return;
  std::string text = std::string(name) + " is " + std::to_string(value) +
                     ", expected a finite number of at least " + std::to_string(low);
  if (std::isfinite(high)) text += " and below " + std::to_string(high);
  fail(text);
}

// Rows in groups of whole tiles; a tile task is one panel and one group. Blocks count from the first row of their group.
class Groups {
 public:
  Groups(std::size_t n_rows, std::size_t tile_rows, std::size_t group_blocks)
      : n_rows_(n_rows), rows_(std::min(group_blocks * tile_rows, n_rows)) {
    full_ = product::row_blocks(rows_, tile_rows);
    if (rows_ > 0) tail_ = product::row_blocks(n_rows % rows_, tile_rows);
  }
  std::size_t count() const { return rows_ == 0 ? 0 : divide_up(n_rows_, rows_); }
  std::size_t max_rows() const { return rows_; }
  std::size_t first(std::size_t group) const { return group * rows_; }
  std::size_t rows(std::size_t group) const { return std::min(rows_, n_rows_ - first(group)); }
  const std::vector<RowBlock>& blocks(std::size_t group) const {
    return rows(group) == rows_ ? full_ : tail_;
  }

 private:
  std::size_t n_rows_, rows_;
  std::vector<RowBlock> full_, tail_;
};

// Groups of batch rows: as few as keep the threads busy and the memory of a tile small.
Groups batch_groups(std::size_t batch, std::size_t n_panels, int n_threads) {
  const std::size_t tile = product::kernels().f32.tile_rows;
  const std::size_t wanted =
      n_threads == 1 ? 1
                     : divide_up(kTilesPerThread * static_cast<std::size_t>(n_threads), n_panels);
  const std::size_t rows = std::min(divide_up(batch, wanted), kMaxRows);
  return {batch, tile, std::max<std::size_t>(divide_up(rows, tile), 1)};
}

// Two phases of one region: f1(tile) for all tiles, then f2(tile, scratch).
template <class F1, class F2>
class TwoPhases final : public PhaseSource {
 public:
  TwoPhases(std::size_t n1, const F1& f1, std::size_t n2, const F2& f2) : f1_(f1), f2_(f2) {
    plans_[0] = {n1,
                 [](const void* self, std::size_t t, const Worker&) {
                   static_cast<const TwoPhases*>(self)->f1_(t);
                 },
                 this};
    plans_[1] = {n2,
                 [](const void* self, std::size_t t, const Worker& worker) {
                   static_cast<const TwoPhases*>(self)->f2_(t, static_cast<float*>(worker.scratch));
                 },
                 this};
  }
  bool next(std::span<const Plan>& plans) noexcept override {
    if (stage_ == 2) return false;
    plans = {&plans_[stage_++], 1};
    return true;
  }

 private:
  const F1& f1_;
  const F2& f2_;
  Plan plans_[2];
  int stage_ = 0;
};

// Runs the two phases with so many floats of scratch a thread.
template <class F1, class F2>
void run_with_scratch(int n_threads, std::size_t scratch_floats, std::size_t n1, const F1& f1,
                      std::size_t n2, const F2& f2) {
  std::vector<Buffer<float>> memory;
  std::vector<void*> scratch;
  for (int t = 0; t < n_threads; ++t) {
    memory.emplace_back(scratch_floats);
    scratch.push_back(memory.back().data());
  }
  TwoPhases<F1, F2> source(n1, f1, n2, f2);
  run_phases(n_threads, source, scratch);
}

double flops(std::size_t a, std::size_t b, std::size_t c) {
  return 2.0 * static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
}

// Some rows of a panel of columns out of a plain array, padded with zeros to the panel's width; and back.
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

float feedback_scale(const FeedbackSource& source, std::size_t n_outputs) {
  return source.scale / std::sqrt(static_cast<float>(n_outputs));  // as the trainers write it
}

random::Counter feedback_counter(const FeedbackSource& source) {
  return {random::Purpose::feedback, source.layer, 0, 0};
}

// Throws what making any part of the matrix would throw: a tile must not.
void check_source(const FeedbackSource& source, std::size_t n_outputs, std::size_t n_hidden) {
  if (!std::isfinite(source.scale) || source.scale < 0)
    fail("scale is " + std::to_string(source.scale) + ", expected a finite number of at least 0");
  if (source.layer >= 1u << 24)
    fail("layer is " + std::to_string(source.layer) + ", expected a number below 2^24");
  random::matrix_block(nullptr, 0, source.distribution, 0, source.seed, feedback_counter(source),
                       n_hidden, n_outputs, 0, 0, 0);
}

}  // namespace

void dense_forward(MatrixView<float> h, MatrixView<float> preactivation, MatrixView<const float> x,
                   MatrixView<const float> weights, const float* bias,
                   formulas::Activation activation, int n_threads) {
  const std::size_t batch = x.rows, n_in = x.columns, n_out = weights.columns;
  const bool keeps_a = preactivation.data != nullptr;
  check_shape("x", x, batch, n_in);
  check_shape("W", weights, n_in, n_out);
  check_shape("h", h, batch, n_out);
  if (keeps_a) check_shape("preactivation", preactivation, batch, n_out);
  if (keeps_a && !formulas::derivative_from_preactivation(activation))
    fail(
        "preactivation was given, but only gelu has its derivative from it: the others have it "
        "from h");
  check_apart({extent("h", h), extent("preactivation", preactivation), extent("x", x),
               extent("W", weights), extent("b", bias, n_out)},
              2);
  const int threads = threads_for(n_threads, flops(batch, n_in, n_out));
  if (batch == 0 || n_out == 0) return;

  const product::DtypeKernels& k = product::kernels().f32;
  const std::size_t n_panels = divide_up(n_out, kPanel);
  const Groups groups = batch_groups(batch, n_panels, threads);
  const bool copy_x = x.stride * sizeof(float) % kAliasBytes == 0 && batch > 1;
  const std::size_t copy_stride = row_stride(n_in, sizeof(float));
  const Buffer<float> copy(copy_x ? checked_product(batch, copy_stride) : 0);
  const product::GatherArgs gather{copy.data(), copy_stride, x.data, x.stride, nullptr, 0, n_in};

  // Scratch: the panel of W, padded biases, and where the last panel's whole vectors do not fit into h, its h and a.
  const std::size_t edge = n_out % kPanel == 0 ? 0 : groups.max_rows() * kPanel;
  const std::size_t scratch = checked_product(n_in, kPanel) + kPanel + 2 * edge;
  const auto copy_rows = [&](std::size_t t) {
    k.gather_f32(gather, t * kGatherRows, std::min((t + 1) * kGatherRows, batch));
  };
  const auto multiply = [&](std::size_t tile, float* memory) {
    const std::size_t group = tile / n_panels;
    const std::size_t row = groups.first(group), rows = groups.rows(group);
    const std::size_t column = tile % n_panels * kPanel;
    const std::size_t n_columns = std::min(kPanel, n_out - column);
    const bool whole = n_columns == kPanel;
    float* panel = memory;
    float* padded_bias = panel + n_in * kPanel;
    float* edge_h = padded_bias + kPanel;
    float* edge_a = edge_h + edge;
    load_panel(panel, weights.data + column, weights.stride, n_in, n_columns);
    if (bias != nullptr) load_panel(padded_bias, bias + column, 0, 1, n_columns);
    const std::vector<RowBlock>& blocks = groups.blocks(group);
    const product::ForwardArgs args{
        .x = {copy_x ? copy.data() + row * copy_stride : x.data + row * x.stride,
              copy_x ? copy_stride : x.stride, std::max<std::size_t>(n_in, 1), 0},
        .panel = panel,
        .next_panel = nullptr,
        .depth = n_in,
        .blocks = blocks.data(),
        .n_blocks = blocks.size(),
        .n_columns = n_columns,
        .bias = bias != nullptr ? padded_bias : nullptr,
        .scale = 1,
        .activation = activation,
        .h = whole ? h.row(row) + column : edge_h,
        .h_stride = whole ? h.stride : kPanel,
        .preactivation = !keeps_a ? nullptr
                         : whole  ? preactivation.row(row) + column
                                  : edge_a,
        .preactivation_stride = whole ? preactivation.stride : kPanel};
    k.forward(args);
    if (whole) return;
    store_panel(h.row(row) + column, h.stride, edge_h, rows, n_columns);
    if (keeps_a)
      store_panel(preactivation.row(row) + column, preactivation.stride, edge_a, rows, n_columns);
  };
  run_with_scratch(threads, scratch, copy_x ? divide_up(batch, kGatherRows) : 0, copy_rows,
                   n_panels * groups.count(), multiply);
}

namespace {

void check_update(MatrixView<float> weights, const float* bias, const DenseState& state,
                  MatrixView<const float> x, MatrixView<const float> delta, const DenseStep& step) {
  const OptimizerOptions& o = step.optimizer;
  const double infinity = std::numeric_limits<double>::infinity();
  check_shape("x", x, x.rows, weights.rows);
  if (x.rows == 0) fail("x has 0 rows, expected at least 1");
  check_shape("delta", delta, x.rows, weights.columns);
  check_shape("W", weights, weights.rows, weights.columns);
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
  std::vector<Extent> all = {extent("W", weights), extent("b", bias, weights.columns)};
  static constexpr const char* kNames[2][2] = {{"the first state of W", "the first state of b"},
                                               {"the second state of W", "the second state of b"}};
  for (int i = 0; i < n_states; ++i) {
    if (state.weights[i] == nullptr && weights.rows > 0 && weights.columns > 0)
      fail(std::string(kNames[i][0]) + " is missing: this solver keeps " +
           std::to_string(n_states));
    if (bias != nullptr && state.biases[i] == nullptr)
      fail(std::string(kNames[i][1]) + " is missing: this solver keeps " +
           std::to_string(n_states));
    MatrixView<float> of_weights = weights;
    of_weights.data = state.weights[i];
    all.push_back(extent(kNames[i][0], of_weights));
    all.push_back(
        extent(kNames[i][1], bias != nullptr ? state.biases[i] : nullptr, weights.columns));
  }
  const std::size_t n_written = all.size();
  all.push_back(extent("x", x));
  all.push_back(extent("delta", delta));
  check_apart(all, n_written);
}

}  // namespace

void dense_update(MatrixView<float> weights, float* bias, const DenseState& state,
                  MatrixView<const float> x, MatrixView<const float> delta, const DenseStep& step,
                  int n_threads) {
  check_update(weights, bias, state, x, delta, step);
  const std::size_t batch = x.rows, n_in = weights.rows, n_out = weights.columns;
  const int threads = threads_for(n_threads, flops(batch, n_in, n_out));
  if (n_out == 0) return;

  const product::DtypeKernels& k = product::kernels().f32;
  const double n_samples = step.n_samples > 0 ? step.n_samples : static_cast<double>(batch);
  const formulas::Step weight_step =
      step_constants(step.optimizer, step.learning_rate, step.t, n_samples, false);
  const formulas::Step bias_step =
      step_constants(step.optimizer, step.learning_rate, step.t, n_samples, true);
  const int n_states = formulas::n_states(step.optimizer.solver);
  const std::size_t n_panels = divide_up(n_out, kPanel);
  const Groups groups(n_in, k.tile_rows, kUpdateBlocks);
  const std::vector<RowBlock> batch_blocks = product::row_blocks(batch, k.tile_rows);
  const Buffer<float> packed(checked_product(n_in, batch));

  const auto pack_x = [&](std::size_t group) {
    const std::vector<RowBlock>& blocks = groups.blocks(group);
    k.pack_columns({.dst = packed.data() + groups.first(group) * batch,
                    .src = x.data + groups.first(group),
                    .src_stride = x.stride,
                    .depth = batch,
                    .blocks = blocks.data(),
                    .n_blocks = blocks.size()});
  };
  // Scratch: column sums, delta as a panel, the edge of delta padded, and the rows of W and its states.
  const std::size_t delta_floats = checked_product(batch, kPanel);
  const std::size_t group_floats = groups.max_rows() * kPanel;
  const auto update = [&](std::size_t tile, float* memory) {
    const std::size_t group = tile / n_panels;
    const std::size_t column = tile % n_panels * kPanel;
    const std::size_t n_columns = std::min(kPanel, n_out - column);
    float* column_sums = memory;
    float* delta_panel = column_sums + kPanel;
    float* edge = delta_panel + delta_floats;
    float* values[3];
    for (std::size_t i = 0; i < 3; ++i) values[i] = edge + delta_floats + i * group_floats;
    const bool whole = n_columns == kPanel;
    if (!whole) load_panel(edge, delta.data + column, delta.stride, batch, n_columns);
    k.project(
        {.signal = {whole ? delta.data + column : edge, whole ? delta.stride : kPanel, kPanel, 0},
         .feedback = nullptr,
         .depth = 0,
         .blocks = batch_blocks.data(),
         .n_blocks = batch_blocks.size(),
         .n_columns = n_columns,
         .activation = formulas::Activation::identity,
         .h = nullptr,
         .h_stride = 0,
         .preactivation = nullptr,
         .preactivation_stride = 0,
         .delta = delta_panel,
         .column_sums = column_sums});
    if (group < groups.count()) {
      const std::size_t at = groups.first(group) * weights.stride + column;
      float* const arrays[3] = {weights.data, state.weights[0], state.weights[1]};
      for (int i = 0; i <= n_states; ++i)
        load_panel(values[i], arrays[i] + at, weights.stride, groups.rows(group), n_columns);
      const std::vector<RowBlock>& blocks = groups.blocks(group);
      k.update({.x_packed = packed.data() + groups.first(group) * batch,
                .delta = delta_panel,
                .depth = batch,
                .blocks = blocks.data(),
                .n_blocks = blocks.size(),
                .n_columns = n_columns,
                .parameters = {{.value = values[0], .state1 = values[1], .state2 = values[2]}, {}},
                .n_parameters = 1,
                .step = weight_step});
      for (int i = 0; i <= n_states; ++i)
        store_panel(arrays[i] + at, weights.stride, values[i], groups.rows(group), n_columns);
    }
    if (group != 0 || bias == nullptr) return;
    product::Parameters biases{.value = bias + column};
    if (n_states > 0) biases.state1 = state.biases[0] + column;
    if (n_states > 1) biases.state2 = state.biases[1] + column;
    product::kernels().vector_update(
        {.parameters = biases, .gradient = column_sums, .n = n_columns, .step = bias_step});
  };
  // Without inputs there are still biases.
  run_with_scratch(threads, kPanel + 2 * delta_floats + 3 * group_floats, groups.count(), pack_x,
                   n_panels * std::max<std::size_t>(groups.count(), 1), update);
}

void feedback_matrix(MatrixView<float> out, const FeedbackSource& source, int n_threads) {
  check_shape("out", out, out.rows, out.columns);
  check_source(source, out.rows, out.columns);
  constexpr double kFlopsPerElement = 20;
  const double size = static_cast<double>(out.rows) * static_cast<double>(out.columns);
  const int threads = threads_for(n_threads, kFlopsPerElement * size);
  if (out.rows == 0 || out.columns == 0) return;
  constexpr std::size_t kTileElements = 1 << 14;
  const std::size_t rows = std::max<std::size_t>(kTileElements / out.columns, 1);
  const float scale = feedback_scale(source, out.rows);
  parallel_for(divide_up(out.rows, rows), threads, [&](std::size_t tile, const Worker&) {
    const std::size_t first = tile * rows;
    random::matrix_block(out.row(first), out.stride, source.distribution, scale, source.seed,
                         feedback_counter(source), out.columns, first,
                         std::min(rows, out.rows - first), 0, out.columns);
  });
}

void project_feedback(MatrixView<float> delta, MatrixView<const float> e,
                      MatrixView<const float> feedback, const FeedbackSource& source,
                      MatrixView<const float> h, formulas::Activation activation, int n_threads) {
  const std::size_t batch = e.rows, n_outputs = e.columns, n_hidden = delta.columns;
  const bool generates = feedback.data == nullptr;
  const bool is_linear = activation == formulas::Activation::identity;
  check_shape("e", e, batch, n_outputs);
  check_shape("delta", delta, batch, n_hidden);
  if (!generates) check_shape("feedback", feedback, n_outputs, n_hidden);
  if (generates) check_source(source, n_outputs, n_hidden);
  if (!is_linear) {
    if (h.data == nullptr && batch > 0 && n_hidden > 0)
      fail(
          "h is missing: this activation has its derivative from the layer's output (gelu: from "
          "its pre-activation)");
    check_shape("h", h, batch, n_hidden);
  }
  check_apart({extent("delta", delta), extent("e", e), extent("feedback", feedback),
               extent("h", is_linear ? MatrixView<const float>{} : h)},
              1);
  const int threads = threads_for(n_threads, flops(batch, n_outputs, n_hidden));
  if (batch == 0 || n_hidden == 0) return;

  const product::DtypeKernels& k = product::kernels().f32;
  const std::size_t n_panels = divide_up(n_hidden, kPanel);
  const Groups groups = batch_groups(batch, n_panels, threads);
  const float scale = feedback_scale(source, n_outputs);
  const std::size_t panel_floats = checked_product(n_outputs, kPanel);
  const std::size_t group_floats = groups.max_rows() * kPanel;
  const auto project = [&](std::size_t tile, float* memory) {
    const std::size_t group = tile / n_panels;
    const std::size_t row = groups.first(group), rows = groups.rows(group);
    const std::size_t column = tile % n_panels * kPanel;
    const std::size_t n_columns = std::min(kPanel, n_hidden - column);
    float* column_sums = memory;
    float* panel = column_sums + kPanel;
    float* delta_panel = panel + panel_floats;
    float* edge_h = delta_panel + group_floats;
    if (generates) {
      random::matrix_block(panel, kPanel, source.distribution, scale, source.seed,
                           feedback_counter(source), n_hidden, 0, n_outputs, column, n_columns);
    } else {
      load_panel(panel, feedback.data + column, feedback.stride, n_outputs, n_columns);
    }
    const bool whole = n_columns == kPanel;
    if (!is_linear && !whole) load_panel(edge_h, h.row(row) + column, h.stride, rows, n_columns);
    const float* from = is_linear ? nullptr : whole ? h.row(row) + column : edge_h;
    const std::size_t from_stride = whole ? h.stride : kPanel;
    const std::vector<RowBlock>& blocks = groups.blocks(group);
    k.project({.signal = {e.row(row), e.stride, std::max<std::size_t>(n_outputs, 1), 0},
               .feedback = panel,
               .depth = n_outputs,
               .blocks = blocks.data(),
               .n_blocks = blocks.size(),
               .n_columns = n_columns,
               .activation = activation,
               .h = from,
               .h_stride = from_stride,
               .preactivation = from,
               .preactivation_stride = from_stride,
               .delta = delta_panel,
               .column_sums = column_sums});
    store_panel(delta.row(row) + column, delta.stride, delta_panel, rows, n_columns);
  };
  run_with_scratch(
      threads, kPanel + panel_floats + 2 * group_floats, 0, [](std::size_t) {},
      n_panels * groups.count(), project);
}

}  // namespace bpfree
