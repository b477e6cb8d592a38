// SPDX-License-Identifier: BSD-3-Clause
#include "network/observations.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "base/parallel.h"
#include "linalg/cholesky.h"
#include "random/random.h"

namespace bpfree {

namespace {

constexpr std::size_t kTile = 32;                            // observations of a task
constexpr std::size_t kChunkDoubles = std::size_t{1} << 16;  // of one array of a stretch
constexpr std::size_t kMinChunk = 256;  // observations: fewer would read the Gram matrix too often
constexpr std::size_t kMembersAtOnce = 8;  // a line of a row, which is then written as a whole
constexpr double kElementCost = 30;        // flops that a core does in the time of one

template <class T>
const T* row(const EnsembleRows& rows, std::size_t i) {
  return static_cast<const T*>(rows.data) + i * rows.columns;
}

template <class T>
bool all_finite(const T* values, std::size_t n) {
  bool finite = true;
  for (std::size_t i = 0; i < n; ++i) finite = finite && std::isfinite(values[i]);
  return finite;
}

void check_members(const char* name, const EnsembleRows& rows, int n_threads) {
  std::vector<char> finite(rows.rows);
  const auto member = [&](std::size_t j, const Worker&) {
    finite[j] = static_cast<char>(rows.is_f64 ? all_finite(row<double>(rows, j), rows.columns)
                                              : all_finite(row<float>(rows, j), rows.columns));
  };
  parallel_for(rows.rows,
               threads_for(n_threads, 4.0 * static_cast<double>(rows.rows * rows.columns)), member);
  for (std::size_t j = 0; j < rows.rows; ++j)
    if (finite[j] == 0)
      fail(std::string(name) + " has NaN or infinity in member " + std::to_string(j) +
           ", expected finite outputs of all " + std::to_string(rows.rows) + " members");
}

}  // namespace

Observations::Observations(const EnsembleOutputs& outputs, bool keep_plain, bool whole,
                           int n_threads)
    : outputs_(outputs), n_ens_(outputs.g.rows), n_obs_(outputs.g.columns), n_threads_(n_threads) {
  check();
  const std::size_t classes = std::max<std::size_t>(outputs.softmax_classes, 1);
  stride_ = round_up(n_ens_ + 1, 8) + 8;  // rows that do not fall onto the same sets of the cache
  tile_ = round_up(kTile, classes);
  chunk_ = round_up(std::max(kChunkDoubles / stride_, kMinChunk), tile_);
  if (whole || outputs.noise.is_matrix || chunk_ > n_obs_) chunk_ = n_obs_;
  if (outputs.noise.is_matrix) factor_noise();
  const std::size_t size = checked_product(chunk_, stride_);
  whitened_ = Buffer<double>::uninitialized(size);
  if (keep_plain || has_score()) plain_ = Buffer<double>::uninitialized(size);
  if (has_score() || outputs.perturbed) companion_ = Buffer<double>::uninitialized(size);
}

void Observations::check() const {
  const EnsembleRows& g = outputs_.g;
  const ObservationNoise& noise = outputs_.noise;
  if (g.rows < 2)
    fail("g has " + std::to_string(g.rows) + (g.rows == 1 ? " member" : " members") +
         ", expected at least 2");
  if (g.columns == 0) fail("g has no observations, expected at least 1");
  if (outputs_.y == nullptr && !has_score())
    fail("y is missing, expected it where there is no score");
  if (has_score() && outputs_.perturbed)
    fail("a score was given, expected a method whose observations are not perturbed");
  if (outputs_.y != nullptr)
    for (std::size_t m = 0; m < n_obs_; ++m)
      if (!std::isfinite(outputs_.y[m]))
        fail("y[" + std::to_string(m) + "] is " + std::to_string(outputs_.y[m]) +
             ", expected a finite number");
  const std::size_t classes = outputs_.softmax_classes;
  if (classes > 0 && n_obs_ % classes != 0)
    fail("g has " + std::to_string(n_obs_) + " outputs, expected whole samples of " +
         std::to_string(classes) + " logits");
  if (classes > 0 && !has_score())
    fail("softmax_classes is " + std::to_string(classes) + " without a score, expected both");
  if (classes > 0 && noise.is_matrix)
    fail("obs_noise_cov is a matrix, expected variances beside the Hessian of softmax");
  const std::size_t expected = noise.is_matrix ? checked_product(n_obs_, n_obs_) : n_obs_;
  if (noise.size != expected && (noise.is_matrix || noise.size != 1))
    fail("obs_noise_cov has " + std::to_string(noise.size) + " values, expected 1, " +
         std::to_string(n_obs_) + " or " + std::to_string(n_obs_) + " x " + std::to_string(n_obs_));
  if (!noise.is_matrix)
    for (std::size_t m = 0; m < noise.size; ++m)
      if (!(noise.values[m] > 0) || !std::isfinite(noise.values[m]))
        fail("obs_noise_cov[" + std::to_string(m) + "] is " + std::to_string(noise.values[m]) +
             ", expected a finite variance above 0");
  check_members("g", g, n_threads_);
  if (!has_score()) return;
  if (outputs_.score.rows != g.rows || outputs_.score.columns != g.columns)
    fail("score is [" + std::to_string(outputs_.score.rows) + ", " +
         std::to_string(outputs_.score.columns) + "], expected [" + std::to_string(g.rows) + ", " +
         std::to_string(g.columns) + "] as g");
  check_members("score", outputs_.score, n_threads_);
}

void Observations::factor_noise() {
  const double* cov = outputs_.noise.values;
  check_symmetric("obs_noise_cov", cov, n_obs_);
  factor_ = Buffer<double>::uninitialized(checked_product(n_obs_, n_obs_));
  std::copy_n(cov, n_obs_ * n_obs_, factor_.data());
  const std::size_t pivot =
      linalg::cholesky({factor_.data(), n_obs_, n_obs_, n_obs_}, 0, n_threads_);
  if (pivot < n_obs_)
    fail("obs_noise_cov is not positive definite at row " + std::to_string(pivot) +
         ", expected a covariance with an inverse");
}

double Observations::inverse_deviation(std::size_t observation) const {
  if (outputs_.noise.is_matrix) return 1;
  return 1 / std::sqrt(outputs_.noise.values[outputs_.noise.size == 1 ? 0 : observation]);
}

// Observations begin..end, whose means over the members are measured from the first member.
template <class T>
void Observations::fill(const ObservationRows& rows, std::size_t first, std::size_t begin,
                        std::size_t end) const {
  const std::size_t n = end - begin;
  const double members = static_cast<double>(n_ens_), root = std::sqrt(members - 1);
  std::vector<double> mean(n), scale(n);
  const T* origin = row<T>(outputs_.g, 0) + begin;
  for (std::size_t j = 1; j < n_ens_; ++j) {
    const T* g = row<T>(outputs_.g, j) + begin;
    for (std::size_t m = 0; m < n; ++m)
      mean[m] += static_cast<double>(g[m]) - static_cast<double>(origin[m]);
  }
  for (std::size_t m = 0; m < n; ++m) {
    mean[m] /= members;
    scale[m] = inverse_deviation(begin + m) / root;
  }
  const std::size_t at = begin - first;
  for (std::size_t first_j = 0; first_j < n_ens_; first_j += kMembersAtOnce) {
    const std::size_t end_j = std::min(n_ens_, first_j + kMembersAtOnce);
    for (std::size_t m = 0; m < n; ++m) {
      double* whitened = rows.whitened.row(at + m);
      double* plain = rows.plain.data != nullptr ? rows.plain.row(at + m) : nullptr;
      const double start = static_cast<double>(origin[m]);
      for (std::size_t j = first_j; j < end_j; ++j) {
        const double anomaly = (static_cast<double>(origin[j * n_obs_ + m]) - start) - mean[m];
        whitened[j] = anomaly * scale[m];
        if (plain != nullptr) plain[j] = anomaly / root;
      }
    }
  }
  for (std::size_t m = 0; m < n; ++m) {
    const double center = mean[m] + static_cast<double>(origin[m]);
    rows.whitened(at + m, n_ens_) =
        outputs_.y == nullptr ? 0 : (outputs_.y[begin + m] - center) * scale[m] * root;
    mean[m] = center;
  }
  if (outputs_.softmax_classes > 0) metric_of_softmax(rows, at, at + n, mean.data());
}

// diag(p) - p p^T = (1 - p 1^T) diag(p) (1 - 1 p^T): anomalies less their mean under p, times the root of p.
void Observations::metric_of_softmax(const ObservationRows& rows, std::size_t begin,
                                     std::size_t end, const double* mean) const {
  const std::size_t classes = outputs_.softmax_classes;
  std::vector<double> p(classes);
  for (std::size_t m = begin; m < end; m += classes, mean += classes) {
    const double largest = *std::max_element(mean, mean + classes);
    double sum = 0;
    for (std::size_t c = 0; c < classes; ++c) sum += p[c] = std::exp(mean[c] - largest);
    for (std::size_t c = 0; c < classes; ++c) p[c] /= sum;
    for (std::size_t j = 0; j < n_ens_; ++j) {
      double center = 0;
      for (std::size_t c = 0; c < classes; ++c) center += p[c] * rows.whitened(m + c, j);
      for (std::size_t c = 0; c < classes; ++c)
        rows.whitened(m + c, j) = std::sqrt(p[c]) * (rows.whitened(m + c, j) - center);
    }
  }
}

template <class T>
void Observations::fill_score(const ObservationRows& rows, std::size_t first, std::size_t begin,
                              std::size_t end) const {
  const T* score = row<T>(outputs_.score, 0);
  for (std::size_t first_j = 0; first_j < n_ens_; first_j += kMembersAtOnce) {
    const std::size_t end_j = std::min(n_ens_, first_j + kMembersAtOnce);
    for (std::size_t m = begin; m < end; ++m)
      for (std::size_t j = first_j; j < end_j; ++j)
        rows.companion(m - first, j) = static_cast<double>(score[j * n_obs_ + m]);
  }
}

void Observations::fill_normals(const ObservationRows& rows, std::size_t first, std::size_t begin,
                                std::size_t end) const {
  float normal[kTile];
  for (std::size_t j = 0; j < n_ens_; ++j) {
    random::matrix_block(normal, kTile, random::Distribution::normal, 1, outputs_.seed,
                         {.purpose = random::Purpose::observation_noise,
                          .step = outputs_.iteration,
                          .member = static_cast<std::uint32_t>(j)},
                         n_obs_, 0, 1, begin, end - begin);
    for (std::size_t m = begin; m < end; ++m)
      rows.companion(m - first, j) = static_cast<double>(normal[m - begin]);
  }
}

ObservationRows Observations::rows(std::size_t first) {
  const std::size_t count = std::min(chunk_, n_obs_ - first);
  const auto view = [&](const Buffer<double>& buffer, std::size_t columns) {
    return MatrixView<double>{buffer.data(), count, columns, stride_};
  };
  const ObservationRows rows{count, view(whitened_, n_ens_ + 1), view(plain_, n_ens_),
                             view(companion_, n_ens_)};
  const double elements = static_cast<double>(count) * static_cast<double>(n_ens_);
  const int threads = threads_for(n_threads_, kElementCost * elements);
  const auto tile = [&](std::size_t t, const Worker&) {
    const std::size_t begin = first + t * tile_, end = std::min(begin + tile_, first + count);
    if (outputs_.g.is_f64)
      fill<double>(rows, first, begin, end);
    else
      fill<float>(rows, first, begin, end);
    if (has_score() && outputs_.score.is_f64) fill_score<double>(rows, first, begin, end);
    if (has_score() && !outputs_.score.is_f64) fill_score<float>(rows, first, begin, end);
    if (outputs_.perturbed) fill_normals(rows, first, begin, end);
  };
  parallel_for(divide_up(count, tile_), threads, tile);
  if (outputs_.noise.is_matrix) linalg::solve_lower(rows.whitened, factor(), n_threads_);
  return rows;
}

ObservationSums::ObservationSums(std::size_t n_ens, bool wants_misfit)
    : slope_(n_ens), misfit_(wants_misfit ? n_ens : 0), n_(n_ens) {}

// Tasks leave parts, which are added in their order.
void ObservationSums::add(const ObservationRows& rows, int n_threads) {
  const std::size_t n_tiles = divide_up(rows.count, kTile);
  const Buffer<double> parts(checked_product(n_tiles, 2, n_));
  const double root = std::sqrt(static_cast<double>(n_ - 1));
  const auto tile = [&](std::size_t t, const Worker&) {
    double* slope = parts.data() + t * 2 * n_;
    double* misfit = slope + n_;
    for (std::size_t m = t * kTile; m < std::min(rows.count, (t + 1) * kTile); ++m) {
      const double* y = rows.whitened.row(m);
      const double residual = y[n_];
      for (std::size_t j = 0; j < n_; ++j) {
        const double off = root * y[j] - residual;
        slope[j] += residual * y[j];
        misfit[j] += off * off / 2;
      }
    }
  };
  const double elements = static_cast<double>(rows.count) * static_cast<double>(n_);
  parallel_for(n_tiles, threads_for(n_threads, 10 * elements), tile);
  for (std::size_t t = 0; t < n_tiles; ++t)
    for (std::size_t j = 0; j < n_; ++j) {
      slope_[j] += parts[t * 2 * n_ + j];
      if (!misfit_.empty()) misfit_[j] += parts[t * 2 * n_ + n_ + j];
    }
}

}  // namespace bpfree
