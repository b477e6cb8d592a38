// SPDX-License-Identifier: BSD-3-Clause
#include "network/ensemble.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "base/parallel.h"
#include "linalg/cholesky.h"
#include "linalg/symmetric_root.h"
#include "network/observations.h"
#include "product/product.h"

namespace bpfree {

namespace {

constexpr std::size_t kStripe = 128;  // rows of the Gram matrix that end at the same column

// out [n, n] += a^T b for rows that are observations.
void add_product(Buffer<double>& out, std::size_t n, MatrixView<const double> a,
                 MatrixView<const double> b, bool first, int n_threads) {
  product::product(out.data(), n, {a.data, a.rows, n, a.stride}, true,
                   {b.data, b.rows, n, b.stride}, false, product::Dtype::f64, !first, n_threads);
}

// The lower half of it, and of the upper what stands in the same rows of a stripe.
void add_gram(Buffer<double>& out, std::size_t n, MatrixView<const double> a, bool first,
              int n_threads) {
  for (std::size_t row = 0; row < n; row += kStripe) {
    const std::size_t count = std::min(kStripe, n - row);
    product::product(out.data() + row * n, n, {a.data + row, a.rows, count, a.stride}, true,
                     {a.data, a.rows, row + count, a.stride}, false, product::Dtype::f64, !first,
                     n_threads);
  }
}

// The mean of the columns of plain^T companion.
void add_mean(std::vector<double>& out, const ObservationRows& rows, bool first, int n_threads) {
  const std::size_t n = out.size();
  const auto mean = Buffer<double>::uninitialized(rows.count);
  const double elements = static_cast<double>(rows.count) * static_cast<double>(n);
  parallel_for(rows.count, threads_for(n_threads, 2 * elements), [&](std::size_t m, const Worker&) {
    double sum = 0;
    for (std::size_t j = 0; j < n; ++j) sum += rows.companion(m, j);
    mean[m] = sum / static_cast<double>(n);
  });
  product::product(out.data(), 1, {rows.plain.data, rows.count, n, rows.plain.stride}, true,
                   {mean.data(), rows.count, 1, 1}, false, product::Dtype::f64, !first, n_threads);
}

// 1 + dt gram and its Cholesky factor, in place.
MatrixView<double> factor_of(const Buffer<double>& omega, const EnsembleMoments& moments, double dt,
                             int n_threads) {
  const std::size_t n = moments.n_ens;
  for (std::size_t i = 0; i < n * n; ++i) omega[i] = dt * moments.gram[i];
  for (std::size_t i = 0; i < n; ++i) omega[i * n + i] += 1;
  const MatrixView<double> factor{omega.data(), n, n, n};
  const double floor = linalg::rounding_of_pivots(constant(factor));
  if (linalg::cholesky(factor, floor, n_threads) < n) fail_indefinite(dt);
  return factor;
}

}  // namespace

void ensemble_mean_weights(double* weights, const EnsembleMoments& moments, double dt,
                           int n_threads) {
  check_dt(dt);
  const std::size_t n = moments.n_ens;
  if (moments.mean_cross.size() != n)
    fail("the moments have no mean, expected those of outputs with mean_only");
  const auto omega = Buffer<double>::uninitialized(checked_product(n, n));
  const auto factor = constant(factor_of(omega, moments, dt, n_threads));
  std::copy_n(moments.mean_cross.data(), n, weights);
  const MatrixView<double> w{weights, n, 1, 1};
  linalg::solve_lower(w, factor, n_threads);
  linalg::solve_lower_transposed(w, factor, n_threads);
  for (std::size_t k = 0; k < n; ++k) weights[k] *= dt / std::sqrt(static_cast<double>(n - 1));
}

void fail_indefinite(double dt) {
  fail("dt is " + std::to_string(dt) +
       ", and beside dt times the outputs' spread over obs_noise_cov 1 is lost to rounding: "
       "expected "
       "a smaller step or a larger noise");
}

void check_dt(double dt) {
  if (!(dt > 0) || !std::isfinite(dt))
    fail("dt is " + std::to_string(dt) + ", expected a finite number above 0");
}

void check_taper(const EnsembleRows& taper, int n_threads) {
  constexpr std::size_t kRows = 64;
  std::vector<std::size_t> wrong(divide_up(taper.rows, kRows), taper.rows);
  const auto finite = [&](std::size_t i) {
    bool all = true;
    for (std::size_t j = i * taper.columns; j < (i + 1) * taper.columns; ++j)
      all = all && (taper.is_f64 ? std::isfinite(static_cast<const double*>(taper.data)[j])
                                 : std::isfinite(static_cast<const float*>(taper.data)[j]));
    return all;
  };
  const auto rows = [&](std::size_t t, const Worker&) {
    for (std::size_t i = t * kRows; i < std::min(taper.rows, (t + 1) * kRows); ++i)
      if (!finite(i)) {
        wrong[t] = i;
        return;
      }
  };
  const double elements = static_cast<double>(taper.rows) * static_cast<double>(taper.columns);
  parallel_for(wrong.size(), threads_for(n_threads, 4 * elements), rows);
  for (const std::size_t i : wrong)
    if (i < taper.rows)
      fail("the taper has NaN or infinity in row " + std::to_string(i) +
           ", expected finite factors");
}

void check_symmetric(const char* name, const double* matrix, std::size_t n) {
  constexpr double kAsymmetry = 1e-6;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j <= i; ++j) {
      const double a = matrix[i * n + j], b = matrix[j * n + i];
      if (!std::isfinite(a) || !std::isfinite(b) ||
          std::abs(a - b) > kAsymmetry * (std::abs(a) + std::abs(b)))
        fail(std::string(name) + "[" + std::to_string(i) + ", " + std::to_string(j) + "] is " +
             std::to_string(a) + " and its mirror image " + std::to_string(b) +
             ", expected a symmetric matrix");
    }
}

EnsembleMoments ensemble_moments(const EnsembleOutputs& outputs, int n_threads) {
  Observations observations(outputs, false, false, n_threads);
  const std::size_t n = observations.n_ens(), size = checked_product(n, n);
  EnsembleMoments moments;
  moments.n_ens = n;
  moments.gram = Buffer<double>::uninitialized(size);
  if (!outputs.mean_only) moments.cross = Buffer<double>::uninitialized(size);
  if (outputs.perturbed) moments.noise = Buffer<double>::uninitialized(size);
  const bool score = observations.has_score();
  moments.mean_cross.resize(outputs.mean_only ? n : 0);
  ObservationSums sums(n, outputs.y != nullptr && outputs.softmax_classes == 0);
  for (std::size_t m = 0; m < observations.n_obs(); m += observations.chunk()) {
    const ObservationRows rows = observations.rows(m);
    const auto whitened = constant(rows.whitened);
    add_gram(moments.gram, n, whitened, m == 0, n_threads);
    if (score && outputs.mean_only)
      add_mean(moments.mean_cross, rows, m == 0, n_threads);
    else if (score)
      add_product(moments.cross, n, constant(rows.plain), constant(rows.companion), m == 0,
                  n_threads);
    else if (outputs.perturbed)
      add_product(moments.noise, n, whitened, constant(rows.companion), m == 0, n_threads);
    sums.add(rows, n_threads);
  }
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < i; ++j) moments.gram[j * n + i] = moments.gram[i * n + j];
  if (outputs.mean_only) {
    if (!score) moments.mean_cross = sums.slope();
    moments.misfit = std::move(sums.misfit());
    return moments;
  }
  // Residuals without noise are those of the mean less the member's own anomaly.
  const double root = std::sqrt(static_cast<double>(n - 1));
  for (std::size_t k = 0; !score && k < n; ++k)
    for (std::size_t j = 0; j < n; ++j)
      moments.cross[k * n + j] = sums.slope()[k] - root * moments.gram[k * n + j];
  moments.misfit = std::move(sums.misfit());
  return moments;
}

double effective_rank(const EnsembleMoments& moments) {
  const std::size_t n = moments.n_ens;
  double trace = 0, squares = 0;
  for (std::size_t i = 0; i < n; ++i) trace += moments.gram[i * n + i];
  if (trace == 0) return 0;
  for (const double value : moments.gram) squares += (value / trace) * (value / trace);
  return 1 / squares;
}

void ensemble_weights(double* transform, const EnsembleMoments& moments, EnsembleMethod method,
                      double dt, int n_threads) {
  check_dt(dt);
  const std::size_t n = moments.n_ens, size = n * n;
  const double step = dt / std::sqrt(static_cast<double>(n - 1));
  if (is_perturbed(method) && moments.noise.size() != size)
    fail("the moments have no noise, expected it for a method whose observations are perturbed");
  auto omega = Buffer<double>::uninitialized(size), solved = Buffer<double>::uninitialized(size);
  std::vector<double> mean(n);
  for (std::size_t k = 0; k < n; ++k) {
    for (std::size_t j = 0; j < n; ++j) mean[k] += moments.cross[k * n + j];
    mean[k] /= static_cast<double>(n);
  }
  if (method == EnsembleMethod::etki) {
    for (std::size_t i = 0; i < size; ++i) omega[i] = dt * moments.gram[i];
    for (std::size_t i = 0; i < n; ++i) omega[i * n + i] += 1;
    const MatrixView<double> root{solved.data(), n, n, n};
    if (!linalg::inverse_symmetric_root(root, {omega.data(), n, n, n}, n_threads))
      fail_indefinite(dt);
    std::vector<double> half(n), w(n);
    for (std::size_t k = 0; k < n; ++k)
      for (std::size_t i = 0; i < n; ++i) half[k] += root(k, i) * mean[i];
    for (std::size_t k = 0; k < n; ++k)
      for (std::size_t i = 0; i < n; ++i) w[k] += root(k, i) * half[i];
    for (std::size_t j = 0; j < n; ++j)
      for (std::size_t k = 0; k < n; ++k)
        transform[j * n + k] = step * w[k] + (root(j, k) - (j == k ? 1 : 0));
    return;
  }
  const double noise = 1 / std::sqrt(dt);
  for (std::size_t k = 0; k < n; ++k)
    for (std::size_t j = 0; j < n; ++j) {
      double value = moments.cross[k * n + j];
      if (method == EnsembleMethod::denkf) value = (value + mean[k]) / 2;
      if (is_perturbed(method)) value += noise * moments.noise[k * n + j];
      solved[k * n + j] = value;
    }
  const MatrixView<double> factor = factor_of(omega, moments, dt, n_threads);
  const MatrixView<double> s{solved.data(), n, n, n};
  linalg::solve_lower(s, constant(factor), n_threads);
  linalg::solve_lower_transposed(s, constant(factor), n_threads);
  for (std::size_t j = 0; j < n; ++j)
    for (std::size_t k = 0; k < n; ++k) transform[j * n + k] = step * solved[k * n + j];
}

}  // namespace bpfree
