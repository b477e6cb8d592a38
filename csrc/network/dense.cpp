// SPDX-License-Identifier: BSD-3-Clause
#include "network/dense.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "base/parallel.h"
#include "network/dense_tiles.h"
#include "product/row_blocks.h"

namespace bpfree {

using product::kPanel;
using product::RowBlock;

namespace {

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
  const int threads = threads_for(n_threads, flops_of(batch, n_in, n_out));
  if (batch == 0 || n_out == 0) return;

  const LayerForward forward(x, weights, bias, threads);
  // Where the last panel's whole vectors do not fit into h, its h and a go through scratch.
  const std::size_t edge = n_out % kPanel == 0 ? 0 : forward.max_rows() * kPanel;
  const auto copy_rows = [&](std::size_t t, float*) { forward.copy(t); };
  const auto multiply = [&](std::size_t index, float* scratch) {
    const LayerTile t = forward.tile(index);
    float* edge_h = scratch + forward.scratch_floats();
    float* edge_a = edge_h + edge;
    product::ForwardArgs args = forward.pack(t, scratch);
    args.activation = activation;
    args.h = t.whole() ? h.row(t.row) + t.column : edge_h;
    args.h_stride = t.whole() ? h.stride : kPanel;
    if (keeps_a) {
      args.preactivation = t.whole() ? preactivation.row(t.row) + t.column : edge_a;
      args.preactivation_stride = t.whole() ? preactivation.stride : kPanel;
    }
    product::kernels().f32.forward(args);
    if (t.whole()) return;
    store_panel(h.row(t.row) + t.column, h.stride, edge_h, t.rows, t.n_columns);
    if (keeps_a)
      store_panel(preactivation.row(t.row) + t.column, preactivation.stride, edge_a, t.rows,
                  t.n_columns);
  };
  const std::array<Plan, 2> phases[] = {{plan_of(forward.n_copies(), copy_rows)},
                                        {plan_of(forward.n_tiles(), multiply)}};
  run_in_turn(threads, forward.scratch_floats() + 2 * edge, phases);
}

void dense_update(MatrixView<float> weights, float* bias, const DenseState& state,
                  MatrixView<const float> x, MatrixView<const float> delta, const DenseStep& step,
                  int n_threads) {
  std::vector<Extent> arrays = check_update(weights, bias, state, x, step);
  const std::size_t batch = x.rows, n_in = weights.rows, n_out = weights.columns;
  const std::size_t n_written = arrays.size();
  check_shape("delta", delta, batch, n_out);
  arrays.push_back(extent("x", x));
  arrays.push_back(extent("delta", delta));
  check_apart(arrays, n_written);
  const int threads = threads_for(n_threads, flops_of(batch, n_in, n_out));
  if (n_out == 0) return;

  const LayerUpdate update(weights, bias, state, x, step);
  const std::vector<RowBlock> batch_blocks =
      product::row_blocks(batch, product::kernels().f32.tile_rows);
  const auto pack_x = [&](std::size_t t, float*) { update.pack(t); };
  const auto step_tile = [&](std::size_t index, float* scratch) {
    // Scratch of our own: the edge of delta padded.
    float* edge = scratch + update.scratch_floats();
    update.run(index, scratch, [&](const LayerTile& t, float* panel, float* column_sums) {
      if (!t.whole()) load_panel(edge, delta.data + t.column, delta.stride, batch, t.n_columns);
      pass_delta(panel, column_sums, t.whole() ? delta.data + t.column : edge,
                 t.whole() ? delta.stride : kPanel, batch_blocks, t.n_columns);
    });
  };
  const std::array<Plan, 2> phases[] = {{plan_of(update.n_packs(), pack_x)},
                                        {plan_of(update.n_tiles(), step_tile)}};
  run_in_turn(threads, update.scratch_floats() + batch * kPanel, phases);
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
  check_has_derivative(activation);
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
  const int threads = threads_for(n_threads, flops_of(batch, n_outputs, n_hidden));
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
  const std::array<Plan, 2> phases[] = {{plan_of(n_panels * groups.count(), project)}};
  run_in_turn(threads, kPanel + panel_floats + 2 * group_floats, phases);
}

}  // namespace bpfree
