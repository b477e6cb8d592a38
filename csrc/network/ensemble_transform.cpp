// SPDX-License-Identifier: BSD-3-Clause
#include "network/ensemble_transform.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "base/parallel.h"
#include "linalg/cholesky.h"
#include "network/array_checks.h"
#include "network/ensemble_strips.h"
#include "network/observations.h"

namespace bpfree {

namespace {

using product::Dtype;

std::size_t bytes_of(const Members& members) {
  return checked_product(members.rows, members.columns, members.is_f64 ? 8 : 4);
}

void check_members(const Members& out, const Members& theta, std::vector<Extent> inputs = {}) {
  if (theta.rows < 2)
    fail("theta has " + std::to_string(theta.rows) + (theta.rows == 1 ? " member" : " members") +
         ", expected at least 2");
  if (out.rows != theta.rows || out.columns != theta.columns || out.is_f64 != theta.is_f64)
    fail("out is " + shape_text(out.rows, out.columns) + ", expected " +
         shape_text(theta.rows, theta.columns) + " and the type of theta");
  inputs.insert(inputs.begin(), {"out", out.data, bytes_of(out)});
  if (out.data != theta.data) inputs.push_back({"theta", theta.data, bytes_of(theta)});
  check_apart(inputs, 1);
}

MatrixView<double> square(const Buffer<double>& buffer, std::size_t n) {
  return {buffer.data(), n, n, n};
}

// What z of the data form is made from, [n_obs, n_ens].
Buffer<double> residuals(const ObservationRows& rows, const UpdateOptions& options) {
  const std::size_t n = rows.whitened.columns - 1;
  const double own =
      std::sqrt(static_cast<double>(n - 1)) * (options.method == EnsembleMethod::denkf ? 0.5 : 1);
  const double noise = 1 / std::sqrt(options.dt);
  auto r = Buffer<double>::uninitialized(checked_product(rows.count, n));
  for (std::size_t m = 0; m < rows.count; ++m)
    for (std::size_t j = 0; j < n; ++j) {
      double value = rows.whitened(m, n) - own * rows.whitened(m, j);
      if (is_perturbed(options.method)) value += noise * rows.companion(m, j);
      r[m * n + j] = value;
    }
  return r;
}

// What effective_rank() gives.
double rank_of(const Buffer<double>& a, std::size_t n) {
  double trace = 0, squares = 0;
  for (std::size_t i = 0; i < n; ++i) trace += a[i * n + i];
  for (std::size_t i = 0; trace > 0 && i < n * n; ++i) squares += (a[i] / trace) * (a[i] / trace);
  return trace > 0 ? 1 / squares : 0;
}

bool factor(const Buffer<double>& a, std::size_t n, int n_threads) {
  const double floor = linalg::rounding_of_pivots(constant(square(a, n)));
  return linalg::cholesky(square(a, n), floor, n_threads) == n;
}

// y y^T [n_obs, n_obs] or y^T y [n_ens, n_ens].
Buffer<double> gram(MatrixView<double> y, std::size_t n_ens, bool of_outputs, int n_threads) {
  const std::size_t size = of_outputs ? y.rows : n_ens;
  const product::Matrix matrix{y.data, y.rows, n_ens, y.stride};
  auto a = Buffer<double>::uninitialized(checked_product(size, size));
  product::product(a.data(), size, matrix, !of_outputs, matrix, of_outputs, Dtype::f64, false,
                   n_threads);
  return a;
}

// r <- (1 + dt Y^T Y)^-1 r, with the smaller of the two matrices that this can be done with.
double solve(const Buffer<double>& r, const ObservationRows& rows, double dt, int n_threads) {
  const std::size_t n = rows.whitened.columns - 1, n_obs = rows.count;
  const MatrixView<double> residual{r.data(), n_obs, n, n};
  const product::Matrix y{rows.whitened.data, n_obs, n, rows.whitened.stride};
  const bool small = n_obs <= n;
  const std::size_t size = small ? n_obs : n;
  const Buffer<double> a = gram(rows.whitened, n, small, n_threads);
  const double rank = rank_of(a, size);
  for (double& value : a) value *= dt;
  for (std::size_t i = 0; i < size; ++i) a[i * size + i] += 1;
  if (!factor(a, size, n_threads)) fail_indefinite(dt);
  const auto lower = constant(square(a, size));
  if (small) {
    linalg::solve_lower(residual, lower, n_threads);
    linalg::solve_lower_transposed(residual, lower, n_threads);
    return rank;
  }
  const auto s = Buffer<double>::uninitialized(checked_product(n, n));
  product::product(s.data(), n, y, true, {r.data(), n_obs, n, n}, false, Dtype::f64, false,
                   n_threads);
  linalg::solve_lower(square(s, n), lower, n_threads);
  linalg::solve_lower_transposed(square(s, n), lower, n_threads);
  for (double& value : s) value *= -dt;
  product::product(r.data(), n, y, false, {s.data(), n, n, n}, false, Dtype::f64, true, n_threads);
  return rank;
}

// The lower half of covariances of outputs, each times what localisation makes of it.
void shrink_outputs(const Buffer<double>& a, std::size_t n, const UpdateOptions& options) {
  const bool by_taper = options.localization == product::Localization::taper;
  if (by_taper && options.obs_taper == nullptr) return;
  std::vector<double> inverse(n);
  for (std::size_t i = 0; i < n; ++i) {
    const double variance = a[i * n + i];
    inverse[i] = variance > 0 ? 1 / std::sqrt(variance) : 0;
  }
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < i + (by_taper ? 1 : 0); ++j) {
      const double r = a[i * n + j] * inverse[i] * inverse[j];
      a[i * n + j] *= by_taper ? options.obs_taper[i * n + j] : r * r;
    }
}

// Outputs and residuals as localisation wants them: y [n_obs, n_ens] with a noise of variance 1 each.
struct Localised {
  MatrixView<double> y;
  double rank = 0;
};

// r <- (dt shrunk(C_gg) + Gamma)^-1 r, all in deviations of each output's noise. Shrinking looks at single outputs: where Gamma
// is a matrix, its factor is not in them.
Localised solve_localised(Buffer<double>& r, const ObservationRows& rows,
                          const Observations& observations, const EnsembleOutputs& outputs,
                          const UpdateOptions& options, int n_threads) {
  const std::size_t n = rows.whitened.columns - 1, n_obs = rows.count;
  const bool matrix = outputs.noise.is_matrix;
  Localised found{matrix ? rows.plain : rows.whitened};
  std::vector<double> scale(n_obs, 1.0);
  if (matrix) {
    found.rank = n < n_obs ? rank_of(gram(rows.whitened, n, false, n_threads), n)
                           : rank_of(gram(rows.whitened, n, true, n_threads), n_obs);
    const auto lower = observations.factor();
    const Buffer<double> dense(checked_product(n_obs, n_obs));
    for (std::size_t m = 0; m < n_obs; ++m) {
      scale[m] = 1 / std::sqrt(outputs.noise.values[m * n_obs + m]);
      for (std::size_t i = 0; i <= m; ++i) dense[m * n_obs + i] = scale[m] * lower(m, i);
      for (std::size_t j = 0; j < n; ++j) found.y(m, j) *= scale[m];
    }
    auto plain = Buffer<double>::uninitialized(r.size());
    product::product(plain.data(), n, {dense.data(), n_obs, n_obs, n_obs}, false,
                     {r.data(), n_obs, n, n}, false, Dtype::f64, false, n_threads);
    r = std::move(plain);
  }
  const Buffer<double> a = gram(found.y, n, true, n_threads);
  if (!matrix) found.rank = rank_of(a, n_obs);
  shrink_outputs(a, n_obs, options);
  for (std::size_t i = 0; i < n_obs; ++i)
    for (std::size_t j = 0; j <= i; ++j) {
      const double noise = matrix   ? outputs.noise.values[i * n_obs + j] * scale[i] * scale[j]
                           : i == j ? 1
                                    : 0;
      a[i * n_obs + j] = options.dt * a[i * n_obs + j] + noise;
    }
  if (!factor(a, n_obs, n_threads)) {
    if (options.obs_taper == nullptr) fail_indefinite(options.dt);
    fail(
        "the outputs' tapered covariance times dt and their noise have no positive definite sum, "
        "expected a taper of outputs that is positive semidefinite, or a larger noise");
  }
  const MatrixView<double> residual{r.data(), n_obs, n, n};
  linalg::solve_lower(residual, constant(square(a, n_obs)), n_threads);
  linalg::solve_lower_transposed(residual, constant(square(a, n_obs)), n_threads);
  return found;
}

// Whether float32 is too coarse for sum_m (sum_k A_k Y_k,m) z_m,j: what Y z has no part of cancels, but for its rounding, of
// about u |Y| |z| anomalies. The members keep less than that anyway where a step is as long.
bool cancels(const Buffer<double>& z, MatrixView<double> y, std::size_t n, int n_threads) {
  constexpr double kMost = 64;
  std::vector<double> length(n), moved(n);
  double size = 0;
  for (std::size_t m = 0; m < y.rows; ++m)
    for (std::size_t j = 0; j < n; ++j) {
      size += y(m, j) * y(m, j);
      length[j] += z[m * n + j] * z[m * n + j];
    }
  const auto longest = [](const std::vector<double>& squares) {
    return std::sqrt(*std::max_element(squares.begin(), squares.end()));
  };
  const double lost = std::sqrt(size) * longest(length) / kMost;
  if (lost <= 1) return false;
  const auto t = Buffer<double>::uninitialized(checked_product(n, n));
  product::product(t.data(), n, {y.data, y.rows, n, y.stride}, true, {z.data(), y.rows, n, n},
                   false, Dtype::f64, false, n_threads);
  for (std::size_t k = 0; k < n; ++k)
    for (std::size_t j = 0; j < n; ++j) moved[j] += t[k * n + j] * t[k * n + j];
  return lost > longest(moved);
}

// float32 members by strips of float64, some parameters at a time.
void run_wide(const EnsembleStrips& strips, const Members& out, const Members& theta,
              int n_threads) {
  constexpr std::size_t kColumns = 4096;
  const std::size_t columns = theta.columns, width = std::min(kColumns, columns);
  const auto wide = Buffer<double>::uninitialized(checked_product(theta.rows, width));
  const auto* from = static_cast<const float*>(theta.data);
  auto* to = static_cast<float*>(out.data);
  for (std::size_t begin = 0; begin < columns; begin += width) {
    const std::size_t n = std::min(width, columns - begin);
    const int threads = threads_for(n_threads, 4.0 * static_cast<double>(theta.rows * n));
    const Members piece{wide.data(), theta.rows, n, true};
    const auto widen = [&](std::size_t j, const Worker&) {
      const float* row = from + j * columns + begin;
      for (std::size_t i = 0; i < n; ++i) wide[j * n + i] = static_cast<double>(row[i]);
    };
    const auto round = [&](std::size_t j, const Worker&) {
      float* row = to + j * columns + begin;
      for (std::size_t i = 0; i < n; ++i) row[i] = static_cast<float>(wide[j * n + i]);
    };
    parallel_for(theta.rows, threads, widen);
    strips.run(piece, piece, n_threads);
    parallel_for(theta.rows, threads, round);
  }
}

EnsembleReport update_by_data(const Members& out, const Members& theta,
                              const EnsembleOutputs& outputs, const UpdateOptions& options,
                              int n_threads) {
  const bool localised = options.localization != product::Localization::none;
  Observations observations(outputs, localised && outputs.noise.is_matrix, true, n_threads);
  const std::size_t n = theta.rows, n_obs = observations.n_obs();
  const ObservationRows rows = observations.rows(0);
  EnsembleReport report;
  report.form = EnsembleForm::data;
  ObservationSums sums(n, true);
  sums.add(rows, n_threads);
  report.misfit = std::move(sums.misfit());
  Buffer<double> z = residuals(rows, options);
  MatrixView<double> y = rows.whitened;
  if (localised) {
    const Localised found = solve_localised(z, rows, observations, outputs, options, n_threads);
    y = found.y;
    report.effective_rank = found.rank;
  } else {
    report.effective_rank = solve(z, rows, options.dt, n_threads);
  }
  const double step = options.dt / std::sqrt(static_cast<double>(n - 1));
  for (double& value : z) value *= step;
  EnsembleStrips::Shrinking shrinking{options.localization, options.taper, {}};
  for (std::size_t m = 0; localised && m < n_obs; ++m) {
    double sum = 0;
    for (std::size_t j = 0; j < n; ++j) sum += y(m, j) * y(m, j);
    shrinking.inverse.push_back(sum > 0 ? 1 / std::sqrt(sum) : 0);
  }
  const bool wide = !localised && !theta.is_f64 && cancels(z, y, n, n_threads);
  const EnsembleStrips strips(theta.is_f64 || wide ? Dtype::f64 : Dtype::f32, n,
                              {z.data(), n, n_obs, 1, n}, {y.data, n_obs, n, y.stride, 1},
                              shrinking, n_threads);
  if (wide)
    run_wide(strips, out, theta, n_threads);
  else
    strips.run(out, theta, n_threads);
  return report;
}

void check_update(const Members& theta, const EnsembleOutputs& outputs,
                  const UpdateOptions& options, int n_threads) {
  if (outputs.g.rows != theta.rows)
    fail("g has " + std::to_string(outputs.g.rows) + " members, expected the " +
         std::to_string(theta.rows) + " of theta");
  if (outputs.y == nullptr || outputs.score.data != nullptr)
    fail("a score was given, expected y: an update by a score goes through ensemble_weights()");
  check_dt(options.dt);
  const bool localised = options.localization != product::Localization::none;
  if (options.method == EnsembleMethod::etki && localised)
    fail(
        "method is etki, expected another with localization: the root acts on members, not on "
        "covariances");
  if (options.method == EnsembleMethod::etki && options.form == EnsembleForm::data)
    fail("method is etki, expected another for the data form: the root is one of members");
  if (localised && options.form == EnsembleForm::ensemble)
    fail(
        "form is ensemble, expected data or auto with localization: a shrunk covariance is no "
        "product with anomalies");
  const bool tapered = options.localization == product::Localization::taper;
  if (tapered && options.taper == nullptr) fail("the taper is a null pointer");
  const std::size_t n_obs = outputs.g.columns;
  if (options.obs_taper != nullptr && !tapered)
    fail("a taper of outputs was given without one of parameters and outputs, expected both");
  if (tapered && options.obs_taper == nullptr && n_obs >= theta.rows)
    fail("there are " + std::to_string(n_obs) + " outputs of " + std::to_string(theta.rows) +
         " members and no taper of outputs, expected one (obs_localization) where outputs are not "
         "fewer than members: a step with their whole covariance would diverge");
  if (tapered) check_taper({options.taper, theta.columns, n_obs, theta.is_f64}, n_threads);
  if (options.obs_taper != nullptr)
    check_symmetric("the taper of outputs", options.obs_taper, n_obs);
  if (options.localization == product::Localization::sec_fisher && theta.rows < 4)
    fail("theta has " + std::to_string(theta.rows) +
         " members, expected at least 4 for localization 'sec_fisher'");
}

// Flops of the one against those of the other; float64's count twice where the members are float32.
bool data_is_cheaper(const Members& theta, const EnsembleOutputs& outputs) {
  const double n = static_cast<double>(theta.rows), p = static_cast<double>(theta.columns);
  const double m = static_cast<double>(outputs.g.columns), algebra = theta.is_f64 ? 1 : 2;
  const double by_ensemble =
      2 * p * n * n + algebra * ((outputs.perturbed ? 4 : 2) * m * n * n + 7 * n * n * n / 3);
  return 4 * p * m * n + algebra * (4 * m * m * n + m * m * m / 3) < by_ensemble;
}

}  // namespace

void ensemble_transform(const Members& out, const Members& theta, const double* transform,
                        bool bf16, int n_threads, float* mean) {
  check_members(out, theta);
  if (mean != nullptr && theta.is_f64) fail("theta is float64, expected float32 where a mean goes");
  if (bf16 && theta.is_f64) fail("theta is float64, expected float32 members for bfloat16");
  const std::size_t n = theta.rows;
  const Dtype dtype = bf16 ? Dtype::bf16 : theta.is_f64 ? Dtype::f64 : Dtype::f32;
  const EnsembleStrips strips(dtype, n, {transform, n, n, n, 1}, {}, {}, n_threads);
  strips.run(out, theta, n_threads, mean);
}

EnsembleReport ensemble_update(const Members& out, const Members& theta,
                               const EnsembleOutputs& outputs, const UpdateOptions& options,
                               int n_threads) {
  const std::size_t n_obs = outputs.g.columns, word = sizeof(double);
  const auto bytes = [](const void* data, std::size_t rows, std::size_t columns, bool f64) {
    return data == nullptr ? 0 : checked_product(rows, columns, f64 ? 8 : 4);
  };
  check_members(
      out, theta,
      {{"g", outputs.g.data, bytes(outputs.g.data, outputs.g.rows, n_obs, outputs.g.is_f64)},
       {"y", outputs.y, bytes(outputs.y, n_obs, 1, true)},
       {"obs_noise_cov", outputs.noise.values, checked_product(outputs.noise.size, word)},
       {"the taper", options.taper, bytes(options.taper, theta.columns, n_obs, theta.is_f64)},
       {"the taper of outputs", options.obs_taper, bytes(options.obs_taper, n_obs, n_obs, true)}});
  check_update(theta, outputs, options, n_threads);
  EnsembleOutputs source = outputs;
  source.perturbed = is_perturbed(options.method);
  const bool automatic = options.form == EnsembleForm::automatic &&
                         options.method != EnsembleMethod::etki && data_is_cheaper(theta, source);
  if (options.localization != product::Localization::none || automatic ||
      options.form == EnsembleForm::data)
    return update_by_data(out, theta, source, options, n_threads);
  EnsembleMoments moments = ensemble_moments(source, n_threads);
  const auto transform = Buffer<double>::uninitialized(checked_product(theta.rows, theta.rows));
  ensemble_weights(transform.data(), moments, options.method, options.dt, n_threads);
  ensemble_transform(out, theta, transform.data(), false, n_threads);
  return {std::move(moments.misfit), effective_rank(moments), EnsembleForm::ensemble};
}

}  // namespace bpfree
