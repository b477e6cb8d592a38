// SPDX-License-Identifier: BSD-3-Clause
#include "network/denoising.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "base/parallel.h"
#include "network/array_checks.h"
#include "network/dense_tiles.h"
#include "network/noprop.h"

namespace bpfree {

using product::kPanel;

namespace {

constexpr std::size_t kTileRows = 32;

// Throws where they do not fit; gives the sum of sample weights.
double check_targets(const DenoisingTargets& targets, std::size_t batch, std::size_t n_classes) {
  if (n_classes < 2)
    fail("there are " + std::to_string(n_classes) + " classes, expected at least 2");
  if (targets.embedding.data != nullptr) {
    check_shape("embedding", targets.embedding, n_classes, targets.embedding.columns);
    if (targets.embedding.columns == 0)
      fail("embedding has 0 columns, expected at least 1: a dimension of the class embeddings");
  }
  check_range("weight", targets.weight, 0, std::numeric_limits<double>::infinity());
  if (targets.labels == nullptr && batch > 0) fail("labels is a null pointer");
  double sum = 0;
  for (std::size_t i = 0; i < batch; ++i) {
    const std::int32_t label = targets.labels[i];
    if (label < 0 || static_cast<std::size_t>(label) >= n_classes)
      fail("labels[" + std::to_string(i) + "] is " + std::to_string(label) +
           ", expected a class index in [0, " + std::to_string(n_classes) + ")");
    const float weight = targets.sample_weight != nullptr ? targets.sample_weight[i] : 1.0f;
    if (!(weight >= 0) || !std::isfinite(weight))
      fail("sample_weight[" + std::to_string(i) + "] is " + std::to_string(weight) +
           ", expected a finite number of at least 0");
    sum += static_cast<double>(weight);
  }
  return sum;
}

class HeadRows {
 public:
  HeadRows(MatrixView<float> error, float* row_loss, MatrixView<const float> logits,
           const DenoisingTargets& targets)
      : error_(error), row_loss_(row_loss), logits_(logits), targets_(targets) {
    const bool one_hot = targets.embedding.data == nullptr;
    dim_ = one_hot ? logits.columns : targets.embedding.columns;
    if (!one_hot) {  // without gaps between its rows
      embedding_ = Buffer<float>(checked_product(logits.columns, dim_));
      for (std::size_t c = 0; c < logits.columns; ++c)
        std::copy_n(targets.embedding.row(c), dim_, embedding_.data() + c * dim_);
    }
  }

  std::size_t n_tiles() const { return divide_up(logits_.rows, kTileRows); }
  std::size_t scratch_floats() const {
    const std::size_t n = logits_.columns;
    return checked_product(kTileRows, round_up(n, kPanel) + n) + 2 * n + dim_;
  }

  void run(std::size_t tile, float* scratch) const {
    const std::size_t n = logits_.columns, first = tile * kTileRows;
    const std::size_t rows = std::min(kTileRows, logits_.rows - first);
    float* panels = scratch;
    float* p = panels + kTileRows * round_up(n, kPanel);
    float* error = p + kTileRows * n;
    float* one_hot = error + n;
    float* difference = one_hot + n;
    for (std::size_t c = 0; c < n; c += kPanel)
      load_panel(panels + c * kTileRows, logits_.row(first) + c, logits_.stride, rows,
                 std::min(kPanel, n - c));
    product::kernels().output({.loss = formulas::Loss::softmax_cross_entropy,
                               .logits = panels,
                               .panel_stride = kTileRows * kPanel,
                               .n_outputs = n,
                               .n_rows = rows,
                               .out = p,
                               .logits_only = false});
    const DenoisingHead head{embedding_.data(), n, dim_, true};
    for (std::size_t i = first; i < first + rows; ++i, p += n) {
      const auto label = static_cast<std::size_t>(targets_.labels[i]);
      const float* target = embedding_.data() + (embedding_.size() > 0 ? label * dim_ : 0);
      if (embedding_.size() == 0) {
        std::fill_n(one_hot, n, 0.0f);
        one_hot[label] = 1.0f;
        target = one_hot;
      }
      const float weight = targets_.sample_weight != nullptr ? targets_.sample_weight[i] : 1.0f;
      const float loss = denoising_error(error, head, p, target,
                                         weight * static_cast<float>(targets_.weight), difference);
      std::copy_n(error, n, error_.row(i));
      if (row_loss_ != nullptr) row_loss_[i] = loss;
    }
  }

 private:
  MatrixView<float> error_;
  float* row_loss_;
  MatrixView<const float> logits_;
  DenoisingTargets targets_;
  std::size_t dim_;
  Buffer<float> embedding_;
};

void run_head(MatrixView<float> error, float* row_loss, MatrixView<const float> logits,
              const DenoisingTargets& targets, int n_threads) {
  const HeadRows rows(error, row_loss, logits, targets);
  const std::size_t dim = std::max(targets.embedding.columns, kPanel);
  const int threads = threads_for(n_threads, flops_of(2 * logits.rows, logits.columns, dim));
  std::vector<Buffer<float>> memory;
  std::vector<void*> scratch;
  for (int t = 0; t < threads; ++t) {
    memory.emplace_back(rows.scratch_floats());
    scratch.push_back(memory.back().data());
  }
  parallel_for(
      rows.n_tiles(), threads,
      [&](std::size_t tile, const Worker& worker) {
        rows.run(tile, static_cast<float*>(worker.scratch));
      },
      scratch);
}

}  // namespace

void denoising_head(MatrixView<float> error, float* row_loss, MatrixView<const float> logits,
                    const DenoisingTargets& targets, int n_threads) {
  check_shape("logits", logits, logits.rows, logits.columns);
  check_shape("error", error, logits.rows, logits.columns);
  check_targets(targets, logits.rows, logits.columns);
  std::vector<Extent> all = {extent("error", error), extent("row_loss", row_loss, logits.rows),
                             extent("embedding", targets.embedding),
                             extent("sample_weight", targets.sample_weight, logits.rows)};
  if (error.data != logits.data || error.stride != logits.stride)
    all.push_back(extent("logits", logits));
  check_apart(all, 2);
  run_head(error, row_loss, logits, targets, n_threads);
}

double noprop_update(MatrixView<float> weights, float* bias, const DenseState& state,
                     MatrixView<float> error, MatrixView<const float> h,
                     const DenoisingTargets& targets, const DenseStep& step, int n_threads) {
  LayerNames names = kLayerNames;
  names.x = "h";
  std::vector<Extent> all = check_update(weights, bias, state, h, step, names);
  const double sum = check_targets(targets, h.rows, weights.columns);
  if (error.data != nullptr) check_shape("error", error, h.rows, weights.columns);
  all.push_back(extent("error", error));
  const std::size_t n_written = all.size();
  all.push_back(extent("h", h));
  all.push_back(extent("embedding", targets.embedding));
  all.push_back(extent("sample_weight", targets.sample_weight, h.rows));
  check_apart(all, n_written);
  DenseStep numbers = step;
  if (numbers.n_samples == 0) numbers.n_samples = sum;
  if (numbers.n_samples == 0) fail("every sample_weight is 0, expected one above 0");
  Buffer<float> own(error.data == nullptr ? checked_product(h.rows, weights.columns) : 0);
  if (error.data == nullptr) error = {own.data(), h.rows, weights.columns, weights.columns};
  Buffer<float> row_loss(h.rows);
  dense_forward(error, {}, h, constant(weights), bias, formulas::Activation::identity, n_threads);
  const MatrixView<const float> e = constant(error);
  run_head(error, row_loss.data(), e, targets, n_threads);
  dense_update(weights, bias, state, h, e, numbers, n_threads);
  double total = 0;
  for (const float loss : row_loss) total += static_cast<double>(loss);
  return total / numbers.n_samples;
}

}  // namespace bpfree
