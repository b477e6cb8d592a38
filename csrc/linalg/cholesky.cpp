// SPDX-License-Identifier: BSD-3-Clause
#include "linalg/cholesky.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "base/buffer.h"
#include "base/parallel.h"
#include "product/product.h"

namespace bpfree::linalg {

namespace {

using product::Dtype;

constexpr std::size_t kBlock = 64;
constexpr std::size_t kStripe = 256;  // rows of the trailing update that end at the same column
constexpr std::size_t kAtOnce = 8;    // rows or columns whose sums run side by side

double flops_of(std::size_t a, std::size_t b, std::size_t c) {
  return static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
}

product::Matrix matrix(MatrixView<const double> m) { return {m.data, m.rows, m.columns, m.stride}; }

template <class T>
MatrixView<T> part(MatrixView<T> m, std::size_t row, std::size_t column, std::size_t rows,
                   std::size_t columns) {
  return {m.data + row * m.stride + column, rows, columns, m.stride};
}

// The factor of one block; gives the first bad pivot, or the block's size.
std::size_t factor_block(MatrixView<double> a, double floor) {
  for (std::size_t j = 0; j < a.rows; ++j) {
    double* row = a.row(j);
    for (std::size_t i = 0; i <= j; ++i) {
      double sum = row[i];
      for (std::size_t k = 0; k < i; ++k) sum -= row[k] * a(i, k);
      if (i < j) {
        row[i] = sum / a(i, i);
      } else {
        if (!(sum > floor) || !std::isfinite(sum)) return j;
        row[j] = std::sqrt(sum);
      }
    }
  }
  return a.rows;
}

// x <- x L^-T for up to kAtOnce rows of x.
void solve_rows(MatrixView<double> x, MatrixView<const double> l) {
  double columns[kBlock][kAtOnce] = {};
  for (std::size_t r = 0; r < x.rows; ++r)
    for (std::size_t j = 0; j < l.rows; ++j) columns[j][r] = x(r, j);
  for (std::size_t j = 0; j < l.rows; ++j) {
    double sum[kAtOnce];
    std::copy_n(columns[j], kAtOnce, sum);
    for (std::size_t k = 0; k < j; ++k) {
      const double factor = l(j, k);
      for (std::size_t r = 0; r < kAtOnce; ++r) sum[r] -= factor * columns[k][r];
    }
    for (std::size_t r = 0; r < kAtOnce; ++r) columns[j][r] = sum[r] / l(j, j);
  }
  for (std::size_t r = 0; r < x.rows; ++r)
    for (std::size_t j = 0; j < l.rows; ++j) x(r, j) = columns[j][r];
}

// b <- L^-1 (b - minus), or L^-T (b - minus), for up to kAtOnce columns.
template <bool kTransposed>
void solve_columns(MatrixView<double> b, MatrixView<const double> minus,
                   MatrixView<const double> l) {
  double rows[kBlock][kAtOnce] = {};
  const std::size_t n = l.rows;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t c = 0; c < b.columns; ++c)
      rows[i][c] = minus.data == nullptr ? b(i, c) : b(i, c) - minus(i, c);
  for (std::size_t step = 0; step < n; ++step) {
    const std::size_t i = kTransposed ? n - 1 - step : step;
    double sum[kAtOnce];
    std::copy_n(rows[i], kAtOnce, sum);
    const std::size_t first = kTransposed ? i + 1 : 0, last = kTransposed ? n : i;
    for (std::size_t k = first; k < last; ++k) {
      const double factor = kTransposed ? l(k, i) : l(i, k);
      for (std::size_t c = 0; c < kAtOnce; ++c) sum[c] -= factor * rows[k][c];
    }
    for (std::size_t c = 0; c < kAtOnce; ++c) rows[i][c] = sum[c] / l(i, i);
  }
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t c = 0; c < b.columns; ++c) b(i, c) = rows[i][c];
}

template <bool kTransposed>
void solve(MatrixView<double> b, MatrixView<const double> l, int n_threads) {
  const std::size_t n = l.rows, m = b.columns;
  assert(b.rows == n);
  if (m == 0) return;
  auto known = Buffer<double>::uninitialized(checked_product(std::min(n, kBlock), m));
  const std::size_t n_blocks = divide_up(n, kBlock);
  for (std::size_t step = 0; step < n_blocks; ++step) {
    const std::size_t first = (kTransposed ? n_blocks - 1 - step : step) * kBlock;
    const std::size_t size = std::min(kBlock, n - first), end = first + size;
    MatrixView<double> minus;
    if (step > 0) {
      // What the blocks that are done contribute to this one.
      minus = {known.data(), size, m, m};
      if (kTransposed)
        product::product(minus.data, m, matrix(part(l, end, first, n - end, size)), true,
                         matrix(constant(part(b, end, 0, n - end, m))), false, Dtype::f64, false,
                         n_threads);
      else
        product::product(minus.data, m, matrix(part(l, first, 0, size, first)), false,
                         matrix(constant(part(b, 0, 0, first, m))), false, Dtype::f64, false,
                         n_threads);
    }
    const auto columns = [&](std::size_t tile, const Worker&) {
      const std::size_t c = tile * kAtOnce, count = std::min(kAtOnce, m - c);
      solve_columns<kTransposed>(
          part(b, first, c, size, count),
          step > 0 ? constant(part(minus, 0, c, size, count)) : MatrixView<const double>{},
          part(l, first, first, size, size));
    };
    parallel_for(divide_up(m, kAtOnce), threads_for(n_threads, 4 * flops_of(size, size, m)),
                 columns);
  }
}

}  // namespace

std::size_t cholesky(MatrixView<double> a, double floor, int n_threads) {
  const std::size_t n = a.rows;
  assert(a.columns == n);
  auto negative = Buffer<double>::uninitialized(checked_product(n, kBlock));
  for (std::size_t first = 0; first < n; first += kBlock) {
    const std::size_t size = std::min(kBlock, n - first), end = first + size, below = n - end;
    const MatrixView<double> corner = part(a, first, first, size, size);
    const std::size_t done = factor_block(corner, floor);
    if (done < size) return first + done;
    const MatrixView<double> panel = part(a, end, first, below, size);
    const auto rows = [&](std::size_t tile, const Worker&) {
      const std::size_t r = tile * kAtOnce, count = std::min(kAtOnce, below - r);
      solve_rows(part(panel, r, 0, count, size), constant(corner));
      for (std::size_t i = r; i < r + count; ++i)
        for (std::size_t j = 0; j < size; ++j) negative[i * size + j] = -panel(i, j);
    };
    parallel_for(divide_up(below, kAtOnce), threads_for(n_threads, 4 * flops_of(size, size, below)),
                 rows);
    for (std::size_t r = 0; r < below; r += kStripe) {
      const std::size_t count = std::min(kStripe, below - r);
      product::product(part(a, end + r, end, count, r + count).data, a.stride,
                       {negative.data() + r * size, count, size, size}, false,
                       matrix(constant(part(panel, 0, 0, r + count, size))), true, Dtype::f64, true,
                       n_threads);
    }
  }
  return n;
}

double rounding_of_pivots(MatrixView<const double> a) {
  double largest = 0;
  for (std::size_t i = 0; i < a.rows; ++i) largest = std::max(largest, a(i, i));
  return largest * static_cast<double>(a.rows) * 0x1p-53;
}

void solve_lower(MatrixView<double> b, MatrixView<const double> l, int n_threads) {
  solve<false>(b, l, n_threads);
}

void solve_lower_transposed(MatrixView<double> b, MatrixView<const double> l, int n_threads) {
  solve<true>(b, l, n_threads);
}

}  // namespace bpfree::linalg
