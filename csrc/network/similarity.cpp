// SPDX-License-Identifier: BSD-3-Clause
#include "network/similarity.h"

#include <algorithm>
#include <cmath>

#include "network/network.h"
#include "product/row_blocks.h"

namespace bpfree {

using product::kPanel;

namespace {

constexpr double kTinyNorm = 1e-8;  // a row of at most this norm has no direction

}  // namespace

double mean_of(const float* row, std::size_t n) {
  constexpr std::size_t kLanes = 8;
  double sums[kLanes] = {};
  std::size_t j = 0;
  for (; j + kLanes <= n; j += kLanes)
    for (std::size_t l = 0; l < kLanes; ++l) sums[l] += static_cast<double>(row[j + l]);
  for (; j < n; ++j) sums[j % kLanes] += static_cast<double>(row[j]);
  double total = 0;
  for (const double sum : sums) total += sum;
  return total / static_cast<double>(n);
}

CentredRows::CentredRows(MatrixView<const float> rows)
    : rows_(rows),
      stride_(row_stride(rows.columns, sizeof(float))),
      n_tiles_(divide_up(rows.rows, kPanel)),
      centred_(checked_product(rows.rows, stride_)),
      packed_(checked_product(n_tiles_, rows.columns, kPanel)),
      inverse_norm_(rows.rows),
      full_(product::row_blocks(kPanel, product::kernels().f32.tile_rows)),
      tail_(product::row_blocks(rows.rows % kPanel, product::kernels().f32.tile_rows)) {}

std::size_t CentredRows::n_rows(std::size_t tile) const {
  return std::min(kPanel, rows_.rows - first(tile));
}

void CentredRows::centre(std::size_t tile) const {
  const product::DtypeKernels& k = product::kernels().f32;
  float* const out = centred_.data() + first(tile) * stride_;
  float squares[kPanel];
  for (std::size_t i = 0; i < n_rows(tile); ++i) {
    const float* row = rows_.row(first(tile) + i);
    const double mean = mean_of(row, rows_.columns);
    for (std::size_t j = 0; j < rows_.columns; ++j)
      out[i * stride_ + j] = static_cast<float>(static_cast<double>(row[j]) - mean);
  }
  k.row_squares(squares, out, stride_, rows_.columns, n_rows(tile));
  for (std::size_t i = 0; i < n_rows(tile); ++i) {
    const double norm = std::sqrt(static_cast<double>(squares[i]));
    // An infinite norm becomes NaN, which the loss shows.
    inverse_norm_[first(tile) + i] = norm <= kTinyNorm ? 0 : norm / norm / norm;
  }
  k.pack_panel({.dst = packed_.data() + tile * rows_.columns * kPanel,
                .src = out,
                .depth_stride = 1,
                .column_stride = stride_,
                .depth = rows_.columns,
                .n_columns = n_rows(tile)});
}

void CentredRows::products(float* out, std::size_t row_tile, std::size_t column_tile) const {
  const std::vector<product::RowBlock>& blocks = n_rows(row_tile) == kPanel ? full_ : tail_;
  product::kernels().f32.store(
      {.a = {centred_.data() + first(row_tile) * stride_, stride_, rows_.columns, 0},
       .packed = nullptr,
       .panel = packed_.data() + column_tile * rows_.columns * kPanel,
       .depth = rows_.columns,
       .blocks = blocks.data(),
       .n_blocks = blocks.size(),
       .out = out,
       .out_stride = kPanel,
       .n_columns = n_rows(column_tile),
       .accumulate = false});
}

Similarity::Similarity(MatrixView<const float> h, const LocalTargets& targets, double factor)
    : h_(h),
      labels_(targets.labels),
      sample_weight_(targets.sample_weight),
      other_(-1 / (static_cast<double>(targets.n_outputs) - 1)),
      slopes_(checked_product(h_.n_tiles(), h.rows)),
      losses_(slopes_.size()) {
  if (labels_ == nullptr) targets_.emplace(targets.values);
  double total = 0;
  for (std::size_t i = 0; i < h.rows; ++i) total += weight(i);
  factor_ = total > 0 ? factor / total : 0;
}

double Similarity::weight(std::size_t row) const {
  return sample_weight_ != nullptr ? static_cast<double>(sample_weight_[row]) : 1;
}

std::size_t Similarity::n_centre_tiles() const {
  return targets_ ? 2 * h_.n_tiles() : h_.n_tiles();
}

void Similarity::centre(std::size_t tile) const {
  if (tile < h_.n_tiles())
    h_.centre(tile);
  else if (targets_)
    targets_->centre(tile - h_.n_tiles());
}

void Similarity::run(float* a, std::size_t tile, float* scratch) const {
  std::size_t row_tile = tile, column_tile = 0;  // row_tile <= column_tile: the rest is the mirror
  while (row_tile > column_tile) row_tile -= ++column_tile;
  float* const of_targets = scratch + kPanel * kPanel;
  h_.products(scratch, row_tile, column_tile);
  if (targets_) targets_->products(of_targets, row_tile, column_tile);
  add(a, row_tile, column_tile, scratch, of_targets);
}

void Similarity::add(float* a, std::size_t row_tile, std::size_t column_tile, const float* products,
                     const float* targets) const {
  const std::size_t first_row = h_.first(row_tile), first_column = h_.first(column_tile);
  const std::size_t batch = h_.rows().rows;
  double slopes[kPanel] = {}, losses[kPanel] = {};  // of the mirror's rows, the columns here
  for (std::size_t r = 0; r < h_.n_rows(row_tile); ++r) {
    const std::size_t i = first_row + r;
    double slope = 0, loss = 0;
    for (std::size_t c = 0; c < h_.n_rows(column_tile); ++c) {
      const std::size_t j = first_column + c, at = r * kPanel + c;
      const double inverse = h_.inverse_norm(i) * h_.inverse_norm(j);
      const double cosine = static_cast<double>(products[at]) * inverse;
      const double wanted = targets_ ? static_cast<double>(targets[at]) *
                                           targets_->inverse_norm(i) * targets_->inverse_norm(j)
                            : labels_[i] == labels_[j] ? 1
                                                       : other_;
      const double error = cosine - wanted;
      slope += weight(j) * error * cosine;
      loss += weight(j) * error * error;
      slopes[c] += weight(i) * error * cosine;
      losses[c] += weight(i) * error * error;
      const auto value = static_cast<float>(4 * factor_ * weight(i) * weight(j) * error * inverse);
      a[(column_tile * batch + i) * kPanel + c] = value;
      if (row_tile != column_tile) a[(row_tile * batch + j) * kPanel + r] = value;
    }
    slopes_[column_tile * batch + i] = slope;
    losses_[column_tile * batch + i] = loss;
  }
  if (row_tile == column_tile) return;
  std::copy_n(slopes, h_.n_rows(column_tile), slopes_.data() + row_tile * batch + first_column);
  std::copy_n(losses, h_.n_rows(column_tile), losses_.data() + row_tile * batch + first_column);
}

void Similarity::finish(float* a) {
  const std::size_t batch = h_.rows().rows;
  loss_ = 0;
  for (std::size_t i = 0; i < batch; ++i) {
    double slope = 0, loss = 0;
    for (std::size_t tile = 0; tile < h_.n_tiles(); ++tile) {
      slope += slopes_[tile * batch + i];
      loss += losses_[tile * batch + i];
    }
    loss_ += factor_ * weight(i) * loss;
    float& diagonal = a[(i / kPanel * batch + i) * kPanel + i % kPanel];
    diagonal = static_cast<float>(static_cast<double>(diagonal) - 4 * factor_ * weight(i) * slope *
                                                                      h_.inverse_norm(i) *
                                                                      h_.inverse_norm(i));
  }
}

}  // namespace bpfree
