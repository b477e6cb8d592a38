// SPDX-License-Identifier: BSD-3-Clause
#include "network/local_loss.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
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

constexpr std::size_t kLossRows = 16;
constexpr LayerNames kHeadNames{"h",
                                "head_W",
                                "head_b",
                                {{"the first state of head_W", "the first state of head_b"},
                                 {"the second state of head_W", "the second state of head_b"}}};

MatrixView<const float> read_only(MatrixView<float> m) {
  return {m.data, m.rows, m.columns, m.stride};
}

void check_weights(const float* weights, std::size_t n) {
  for (std::size_t i = 0; weights != nullptr && i < n; ++i)
    if (!(weights[i] >= 0) || !std::isfinite(weights[i]))
      fail("sample_weight[" + std::to_string(i) + "] is " + std::to_string(weights[i]) +
           ", expected a finite number of at least 0");
}

void check_targets(const LocalTargets& y, formulas::Loss loss, std::size_t batch) {
  if (loss != formulas::Loss::softmax_cross_entropy) {
    if (y.labels != nullptr) fail("this loss needs values as y, and no class indices");
    check_shape("y", y.values, batch, y.n_outputs);
    if (batch > 1 && y.values.stride != y.n_outputs)
      fail("y has a row stride of " + std::to_string(y.values.stride) + ", expected its " +
           std::to_string(y.n_outputs) + " columns");
    return;
  }
  if (y.labels == nullptr || y.values.data != nullptr)
    fail("softmax cross-entropy needs class indices as y, and no values");
  for (std::size_t i = 0; i < batch; ++i)
    if (y.labels[i] < 0 || static_cast<std::size_t>(y.labels[i]) >= y.n_outputs)
      fail("y[" + std::to_string(i) + "] is " + std::to_string(y.labels[i]) +
           ", expected a class index in [0, " + std::to_string(y.n_outputs) + ")");
}

void check_options(const LayerLossOptions& options, std::size_t n_outputs, bool has_head) {
  const double share = options.similarity_weight;
  if (!(share >= 0 && share <= 1))
    fail("similarity_weight is " + std::to_string(share) + ", expected a number from 0 to 1");
  if (options.kind != LocalLossKind::sim && !has_head)
    fail("head_W is missing, but only sim teaches a layer without a head");
  if (n_outputs == 0)
    fail("n_outputs is 0, expected at least 1: class indices alone do not say how many there are");
  if (options.kind != LocalLossKind::pred && n_outputs < 2)
    fail("n_outputs is " + std::to_string(n_outputs) +
         ", expected at least 2: the similarity is that of centred rows of targets");
}

void check_activation(formulas::Activation activation, MatrixView<const float> preactivation,
                      MatrixView<const float> h) {
  check_has_derivative(activation);
  const bool wants = formulas::derivative_from_preactivation(activation);
  if (wants && preactivation.data == nullptr)
    fail("preactivation is missing: gelu has its derivative from it");
  if (wants) return check_shape("preactivation", preactivation, h.rows, h.columns);
  if (preactivation.data != nullptr)
    fail(
        "preactivation was given, but only gelu has its derivative from it: the others have it "
        "from h");
}

double similarity_share(const LayerLossOptions& options) {
  if (options.kind == LocalLossKind::predsim) return options.similarity_weight;
  return options.kind == LocalLossKind::sim ? 1 : 0;
}

// The layer's head: logits in panels [n_outputs / 32][batch][32] become `share` times e, which its own step then takes.
class Head {
 public:
  Head(const LayerArrays& arrays, MatrixView<const float> h, const LocalTargets& y,
       formulas::Loss loss, double share, const DenseStep& step, int n_threads)
      : forward(h, read_only(arrays.weights), arrays.bias, n_threads),
        update(arrays.weights, arrays.bias, arrays.state, h, step),
        y_(y),
        kind_(loss),
        batch_(h.rows),
        order_(batch_),
        loss_(batch_) {
    std::iota(order_.begin(), order_.end(), 0u);
    if (share == 1) return;
    weights_ = Buffer<float>(batch_);
    for (std::size_t i = 0; i < batch_; ++i)
      weights_[i] = static_cast<float>(
          share * (y.sample_weight != nullptr ? static_cast<double>(y.sample_weight[i]) : 1));
  }

  void multiply(float* e, std::size_t index, float* scratch) const {
    const LayerTile t = forward.tile(index);
    product::ForwardArgs args = forward.pack(t, scratch);
    args.h = e + (t.panel * batch_ + t.row) * kPanel;
    args.h_stride = kPanel;
    product::kernels().f32.forward(args);
  }
  std::size_t n_row_tiles() const { return divide_up(batch_, kLossRows); }
  void finish_rows(float* e, std::size_t tile) const {
    product::kernels().loss({.loss = kind_,
                             .logits = e,
                             .panel_stride = batch_ * kPanel,
                             .n_outputs = y_.n_outputs,
                             .labels = y_.labels,
                             .targets = y_.values.data,
                             .weights = weights_.size() > 0 ? weights_.data() : y_.sample_weight,
                             .order = order_.data(),
                             .row_begin = tile * kLossRows,
                             .row_end = std::min((tile + 1) * kLossRows, batch_),
                             .row_loss = loss_.data(),
                             .error_t = nullptr,
                             .error_t_stride = 0,
                             .error_pairs_t = nullptr,
                             .sign_of_error_t = false,
                             .signal = nullptr});
  }
  void step(const float* e, const std::vector<RowBlock>& batch_blocks, std::size_t index,
            float* scratch) const {
    update.run(index, scratch, [&](const LayerTile& t, float* delta, float* column_sums) {
      pass_delta(delta, column_sums, e + t.panel * batch_ * kPanel, kPanel, batch_blocks,
                 t.n_columns);
    });
  }
  double loss() const {
    double sum = 0;
    for (const float loss : loss_) sum += static_cast<double>(loss);
    return sum;
  }

  const LayerForward forward;
  const LayerUpdate update;

 private:
  LocalTargets y_;
  formulas::Loss kind_;
  std::size_t batch_;
  Buffer<std::uint32_t> order_;
  Buffer<float> loss_, weights_;
};

// delta of the layer, panel by panel: what was signalled, [signal / 32][batch][32], times what it is fed back through.
class LayerDelta {
 public:
  LayerDelta(MatrixView<const float> h, MatrixView<const float> preactivation,
             formulas::Activation activation)
      : output_(formulas::derivative_from_preactivation(activation) ? preactivation : h),
        activation_(activation),
        blocks_(product::row_blocks(h.rows, product::kernels().f32.tile_rows)),
        n_panels_(divide_up(h.columns, kPanel)),
        delta_(checked_product(n_panels_, h.rows, kPanel)),
        column_sums_(checked_product(n_panels_, kPanel)) {}

  std::size_t n_tiles() const { return n_panels_; }
  std::size_t n_columns(std::size_t tile) const {
    return std::min(kPanel, output_.columns - tile * kPanel);
  }
  const std::vector<RowBlock>& blocks() const { return blocks_; }
  // feedback [depth][32]; edge [batch][32] is scratch.
  void run(std::size_t tile, const float* signal, const float* feedback, std::size_t depth,
           float* edge) const {
    const std::size_t batch = output_.rows, columns = n_columns(tile);
    const float* from = output_.data + tile * kPanel;
    const bool whole = columns == kPanel;
    if (!whole) load_panel(edge, from, output_.stride, batch, columns);
    const float* const output = whole ? from : edge;
    const std::size_t stride = whole ? output_.stride : kPanel;
    product::kernels().f32.project({.signal = {signal, kPanel, kPanel, batch * kPanel},
                                    .feedback = feedback,
                                    .depth = depth,
                                    .blocks = blocks_.data(),
                                    .n_blocks = blocks_.size(),
                                    .n_columns = columns,
                                    .activation = activation_,
                                    .h = output,
                                    .h_stride = stride,
                                    .preactivation = output,
                                    .preactivation_stride = stride,
                                    .delta = delta_.data() + tile * batch * kPanel,
                                    .column_sums = column_sums_.data() + tile * kPanel});
  }
  const float* panels() const { return delta_.data(); }
  const float* column_sums() const { return column_sums_.data(); }

 private:
  MatrixView<const float> output_;  // what f' is computed from
  formulas::Activation activation_;
  std::vector<RowBlock> blocks_;
  std::size_t n_panels_;
  Buffer<float> delta_, column_sums_;
};

double sum_of_weights(const float* weights, std::size_t n) {
  if (weights == nullptr) return static_cast<double>(n);
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += static_cast<double>(weights[i]);
  return sum;
}

void check_arguments(const LayerArrays& layer, const LayerArrays& head, MatrixView<const float> x,
                     MatrixView<const float> h, MatrixView<const float> preactivation,
                     const LocalTargets& y, const LayerLossOptions& options,
                     const DenseStep& step) {
  const std::size_t batch = x.rows, n_out = layer.weights.columns;
  const bool has_head = head.weights.data != nullptr;
  std::vector<Extent> arrays = check_update(layer.weights, layer.bias, layer.state, x, step);
  if (n_out == 0) fail("W has 0 columns, expected at least 1");
  if (batch > std::numeric_limits<std::uint32_t>::max())
    fail("x has " + std::to_string(batch) + " rows, expected fewer than 2^32");
  check_shape("h", h, batch, n_out);
  check_options(options, y.n_outputs, has_head);
  check_targets(y, options.loss, batch);
  check_weights(y.sample_weight, batch);
  check_activation(options.activation, preactivation, h);
  if (has_head) {
    check_shape("head_W", head.weights, n_out, y.n_outputs);
    const std::vector<Extent> of_head =
        check_update(head.weights, head.bias, head.state, h, step, kHeadNames);
    arrays.insert(arrays.end(), of_head.begin(), of_head.end());
  } else if (head.bias != nullptr) {
    fail("head_b was given without head_W, expected both or none");
  }
  const std::size_t n_written = arrays.size();
  arrays.insert(arrays.end(),
                {extent("x", x),
                 extent("h", h),
                 extent("preactivation", preactivation),
                 {"y", y.labels, y.labels != nullptr ? batch * sizeof(std::int32_t) : 0},
                 extent("y", y.values),
                 extent("sample_weight", y.sample_weight, batch)});
  check_apart(arrays, n_written);
}

}  // namespace

double local_loss_update(const LayerArrays& layer, const LayerArrays& head_arrays,
                         MatrixView<const float> x, MatrixView<const float> h,
                         MatrixView<const float> preactivation, const LocalTargets& y,
                         const LayerLossOptions& options, const DenseStep& step, int n_threads) {
  check_arguments(layer, head_arrays, x, h, preactivation, y, options, step);
  const std::size_t batch = x.rows, n_outputs = y.n_outputs;
  const double share = similarity_share(options);
  const bool has_similarity = options.kind != LocalLossKind::pred;
  const bool teaches = options.kind != LocalLossKind::sim;  // the head does
  const std::size_t head_width = round_up(n_outputs, kPanel);
  const std::size_t head_depth = !teaches ? 0 : has_similarity ? head_width : n_outputs;
  const std::size_t depth = head_depth + (has_similarity ? batch : 0);
  const int threads =
      threads_for(n_threads, flops_of(batch, h.columns, x.columns + 3 * n_outputs + depth));
  DenseStep counted = step;
  if (counted.n_samples == 0) counted.n_samples = sum_of_weights(y.sample_weight, batch);

  const LayerUpdate update(layer.weights, layer.bias, layer.state, x, counted);
  const LayerDelta delta(h, preactivation, options.activation);
  std::optional<Head> head;
  if (head_arrays.weights.data != nullptr)
    head.emplace(head_arrays, h, y, options.loss, teaches ? 1 - share : 1, counted, threads);
  std::optional<Similarity> similarity;
  if (has_similarity) similarity.emplace(h, y, share);
  // Panels [batch][32]: e, then A. Columns of e beyond n_outputs are zero, and so are the rows of the head's feedback there.
  const std::size_t e_size = head ? checked_product(head_width, batch) : 0;
  const std::size_t a_size = similarity ? checked_product(round_up(batch, kPanel), batch) : 0;
  const Buffer<float> signal(e_size + a_size);
  float* const e = signal.data();
  float* const a = e + e_size;

  const auto centre = [&](std::size_t t, float*) { similarity->centre(t); };
  const auto copy_rows = [&](std::size_t t, float*) { head->forward.copy(t); };
  const auto multiply = [&](std::size_t t, float* scratch) { head->multiply(e, t, scratch); };
  const auto compare = [&](std::size_t t, float* scratch) { similarity->run(a, t, scratch); };
  const auto finish_rows = [&](std::size_t t, float*) { head->finish_rows(e, t); };
  const auto finish_similarity = [&](std::size_t, float*) { similarity->finish(a); };
  const auto make_delta = [&](std::size_t t, float* scratch) {
    const std::size_t column = t * kPanel, n_columns = delta.n_columns(t);
    float* at = scratch;
    if (teaches) {  // M^T
      const MatrixView<float>& m = head_arrays.weights;
      product::kernels().f32.pack_panel({.dst = at,
                                         .src = m.row(column),
                                         .depth_stride = 1,
                                         .column_stride = m.stride,
                                         .depth = n_outputs,
                                         .n_columns = n_columns});
      std::fill_n(at + n_outputs * kPanel, (head_depth - n_outputs) * kPanel, 0.0f);
      at += head_depth * kPanel;
    }
    if (similarity) {
      const MatrixView<const float> c = similarity->centred();
      load_panel(at, c.data + column, c.stride, batch, n_columns);
      at += batch * kPanel;
    }
    delta.run(t, teaches ? e : a, scratch, depth, at);
  };
  const std::size_t n_packs = update.n_packs();
  const auto pack = [&](std::size_t t, float*) {
    if (t < n_packs)
      update.pack(t);
    else
      head->update.pack(t - n_packs);
  };
  const auto step_layer = [&](std::size_t t, float* scratch) {
    update.run(t, scratch, delta.panels(), delta.column_sums());
  };
  const auto step_head = [&](std::size_t t, float* scratch) {
    head->step(e, delta.blocks(), t, scratch);
  };
  // The head steps after everything that reads it.
  const std::array<Plan, 2> phases[] = {
      {plan_of(similarity ? similarity->n_centre_tiles() : 0, centre),
       plan_of(head ? head->forward.n_copies() : 0, copy_rows)},
      {plan_of(head ? head->forward.n_tiles() : 0, multiply),
       plan_of(similarity ? similarity->n_tiles() : 0, compare)},
      {plan_of(head ? head->n_row_tiles() : 0, finish_rows),
       plan_of(similarity ? 1 : 0, finish_similarity)},
      {plan_of(delta.n_tiles(), make_delta),
       plan_of(n_packs + (head ? head->update.n_packs() : 0), pack)},
      {plan_of(update.n_tiles(), step_layer),
       plan_of(head ? head->update.n_tiles() : 0, step_head)}};
  std::size_t scratch_floats =
      std::max({update.scratch_floats(), checked_product(depth + batch, kPanel),
                similarity ? Similarity::kScratchFloats : 0});
  if (head)
    scratch_floats =
        std::max({scratch_floats, head->forward.scratch_floats(), head->update.scratch_floats()});
  // As in training: the errors of a confident head are denormals, and each costs a hundred cycles.
  run_in_turn(threads, scratch_floats, phases, Denormals::flushed);
  const double loss = (similarity ? similarity->loss() : 0) + (teaches && head ? head->loss() : 0);
  return counted.n_samples > 0 ? loss / counted.n_samples : 0;
}

}  // namespace bpfree
