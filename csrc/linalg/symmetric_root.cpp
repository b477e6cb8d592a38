// SPDX-License-Identifier: BSD-3-Clause
#include "linalg/symmetric_root.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

#include "base/buffer.h"
#include "base/parallel.h"
#include "linalg/cholesky.h"
#include "product/product.h"

namespace bpfree::linalg {

namespace {

constexpr int kMaxSteps = 50;
constexpr double kClose = 1e-2;  // from here on the scale is 1, and convergence is quadratic
constexpr std::size_t kTile = 32;

// m <- (m + m^T) / 2.
void symmetrize(MatrixView<double> m, int n_threads) {
  const auto tile = [&](std::size_t t, const Worker&) {
    for (std::size_t first = 0; first <= t * kTile; first += kTile)
      for (std::size_t i = t * kTile; i < std::min(m.rows, (t + 1) * kTile); ++i)
        for (std::size_t j = first; j < std::min(i, first + kTile); ++j)
          m(i, j) = m(j, i) = (m(i, j) + m(j, i)) / 2;
  };
  parallel_for(divide_up(m.rows, kTile),
               threads_for(n_threads, 20.0 * static_cast<double>(m.rows * m.rows)), tile);
}

}  // namespace

bool inverse_symmetric_root(MatrixView<double> out, MatrixView<double> a, int n_threads) {
  const std::size_t n = a.rows;
  assert(a.columns == n && out.rows == n && out.columns == n);
  const std::size_t size = checked_product(n, n);
  auto factor = Buffer<double>::uninitialized(size), inverse = Buffer<double>::uninitialized(size),
       next = Buffer<double>::uninitialized(size);
  const MatrixView<double> l{factor.data(), n, n, n}, x{inverse.data(), n, n, n};
  for (std::size_t i = 0; i < n; ++i) {
    std::fill_n(out.row(i), n, 0.0);
    out(i, i) = 1;
  }
  double before = std::numeric_limits<double>::infinity();
  for (int step = 0; step < kMaxSteps; ++step) {
    // M^-1, and how far M is from 1.
    for (std::size_t i = 0; i < n; ++i) {
      std::copy_n(a.row(i), n, l.row(i));
      std::fill_n(x.row(i), n, 0.0);
      x(i, i) = 1;
    }
    const double floor = step == 0 ? rounding_of_pivots({a.data, n, n, a.stride}) : 0;
    if (cholesky(l, floor, n_threads) < n) return false;
    const MatrixView<const double> lower{l.data, n, n, n};
    solve_lower(x, lower, n_threads);
    solve_lower_transposed(x, lower, n_threads);
    symmetrize(x, n_threads);
    double distance = 0, log_det = 0;
    for (std::size_t i = 0; i < n; ++i) {
      log_det += 2 * std::log(l(i, i));
      for (std::size_t j = 0; j < n; ++j) {
        const double d = a(i, j) - (i == j ? 1 : 0);
        distance += d * d;
      }
    }
    distance = std::sqrt(distance);
    if (!std::isfinite(distance)) return false;
    // Rounding alone remains where a step brings nothing.
    if (distance < kClose && distance >= before / 2) return true;
    before = distance;
    const double mu = distance < kClose ? 1 : std::exp(-log_det / (2 * static_cast<double>(n)));
    // Y <- mu / 2 (Y + mu^-2 Y M^-1), M <- (1 + (mu^2 M + mu^-2 M^-1) / 2) / 2
    product::product(next.data(), n, {out.data, n, n, out.stride}, false, {x.data, n, n, n}, false,
                     product::Dtype::f64, false, n_threads);
    const double square = mu * mu;
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j) {
        out(i, j) = mu / 2 * (out(i, j) + next[i * n + j] / square);
        a(i, j) = ((i == j ? 1 : 0) + (square * a(i, j) + x(i, j) / square) / 2) / 2;
      }
    symmetrize(out, n_threads);
  }
  return true;
}

}  // namespace bpfree::linalg
