// SPDX-License-Identifier: BSD-3-Clause
// What ensembles add to the product's kernels: anomalies as they are packed, and covariances that are shrunk.
#pragma once

#include <cstddef>

namespace bpfree::product {

// Anomalies of some columns of an ensemble, scale (x - mean of the column), as a vector operand or as rows: words [depth][stride].
// Members are measured from the first one, so that a mean far from 0 costs no accuracy. bf16: pairs along the depth.
// Result: sums of the even members, then of the odd ones; |error| <= (depth + 3) u max |x - x_0|.
struct CenterColumnsArgs {
  void* dst;  // float, double or bf16 pairs
  std::size_t dst_stride;
  const void* src;  // float or double [depth][src_stride]
  std::size_t src_stride;
  std::size_t depth;
  std::size_t n_columns;  // 1..32 (16 of double); those beyond, up to that width, become zero
  double scale;
  void* squares =
      nullptr;  // of each column: sum of squares of the anomalies before `scale`; null: not wanted
};

enum class Localization { none, taper, sec, sec_fisher };

// Covariances of some rows and columns, shrunk in place: c_ij times
//   taper       taper_ij
//   sec         |r_ij|, with r_ij = c_ij row_inverse_i column_inverse_j the correlation
//   sec_fisher  Q^2 / (1 + Q^2), with Q = r / sigma and sigma half the distance from tanh(artanh r - 1 / sqrt(n - 3)) to
//               tanh(artanh r + 1 / sqrt(n - 3)); with t the hyperbolic tangent of that root, this is
//               r^2 a^2 / (r^2 a^2 + t^2 (1 - r^2)^2), a = 1 - r^2 t^2
struct LocalizeArgs {
  Localization kind;
  void* c;
  std::size_t stride;
  std::size_t n_rows;
  std::size_t n_columns;
  const void* taper;
  std::size_t taper_stride;
  const void* row_inverse;
  const void* column_inverse;
  double fisher;  // t^2
};

struct EnsembleKernels {
  void (*center)(const CenterColumnsArgs&);
  void (*localize)(const LocalizeArgs&);
};

}  // namespace bpfree::product
