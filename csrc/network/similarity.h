// SPDX-License-Identifier: BSD-3-Clause
// The similarity loss of a layer: the cosines between the centred outputs of the batch's rows should be those between their
// centred targets.
//   c_i = h_i - mean(h_i), n_i = |c_i|, R_ij = c_i c_j / (n_i n_j), E = R - R of the targets
//   A row whose norm is at most 1e-8 has no direction: 1 / n_i counts as 0, so its cosines are 0 and nothing is sent back to it.
//   loss of row i = w_i sum_j w_j E_ij^2 / s, s the sum of weights; their sum is s times the weighted mean of E^2
//   d / dh = A c with A_ij = 4 w_i w_j E_ij / (s n_i n_j), from whose diagonal 4 w_i sum_j w_j E_ij R_ij / (s n_i^2) goes off
// Shapes: h, c [batch, n], R, E, A [batch, batch]; one-hot targets of k classes have cosines of 1 and -1 / (k - 1).
// Source: Nøkland & Eidnes 2019, arXiv:1901.06656, section 2. Differs from their code: no convolution or linear map before it,
//         and no 1e-8 beside the norm, which would send 1e8 times the error back to a row of equal numbers.
// Cost:   batch^2 n flops (R is symmetric); reads h once; c twice, A, and of targets as much.
// Result: same bits for any number of threads: 32 rows by 32 are one tile, and a row's sums add tiles in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/buffer.h"
#include "base/view.h"
#include "product/kernels.h"

namespace bpfree {

// What the rows of a batch should give: class indices, or values [batch, n_outputs].
struct LocalTargets {
  const std::int32_t* labels = nullptr;
  MatrixView<const float> values = {};
  std::size_t n_outputs = 0;
  const float* sample_weight = nullptr;  // of each row, null: 1
};

// In double, in an order of its own: the mean is what rows of almost equal numbers differ by.
double mean_of(const float* row, std::size_t n);

// Rows of a plain array without their means, and their inner products.
class CentredRows {
 public:
  explicit CentredRows(MatrixView<const float> rows);

  std::size_t n_tiles() const { return n_tiles_; }  // of 32 rows
  std::size_t first(std::size_t tile) const { return tile * product::kPanel; }
  std::size_t n_rows(std::size_t tile) const;
  void centre(std::size_t tile) const;  // first, all of them
  MatrixView<const float> rows() const {
    return {centred_.data(), rows_.rows, rows_.columns, stride_};
  }
  double inverse_norm(std::size_t row) const { return inverse_norm_[row]; }
  // out [32][32]: those of one tile's rows with another's.
  void products(float* out, std::size_t row_tile, std::size_t column_tile) const;

 private:
  MatrixView<const float> rows_;
  std::size_t stride_, n_tiles_;
  Buffer<float> centred_, packed_;
  Buffer<double> inverse_norm_;
  std::vector<product::RowBlock> full_, tail_;
};

class Similarity {
 public:
  // All of the loss is multiplied by `factor`.
  Similarity(MatrixView<const float> h, const LocalTargets& targets, double factor);

  std::size_t n_centre_tiles() const;
  void centre(std::size_t tile) const;
  std::size_t n_tiles() const { return h_.n_tiles() * (h_.n_tiles() + 1) / 2; }
  static constexpr std::size_t kScratchFloats = 2 * product::kPanel * product::kPanel;
  // A in panels [batch / 32][batch][32], once all rows are centred, and then once all tiles are there.
  void run(float* a, std::size_t tile, float* scratch) const;
  void finish(float* a);

  MatrixView<const float> centred() const { return h_.rows(); }
  double loss() const { return loss_; }  // sum over rows

 private:
  double weight(std::size_t row) const;
  void add(float* a, std::size_t row_tile, std::size_t column_tile, const float* products,
           const float* targets) const;

  CentredRows h_;
  std::optional<CentredRows> targets_;
  const std::int32_t* labels_;
  const float* sample_weight_;
  double other_;   // cosine of two rows of different classes
  double factor_;  // of w_i w_j E_ij^2
  Buffer<double> slopes_,
      losses_;  // [batch / 32][batch]: sums of w_j E R and w_j E^2 over a tile's columns
  double loss_ = 0;
};

}  // namespace bpfree
