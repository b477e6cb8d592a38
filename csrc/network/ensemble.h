// SPDX-License-Identifier: BSD-3-Clause
// Ensemble Kalman updates: what the members' outputs say about the members, in numbers that do not depend on how many parameters
// they have.
//
// An ensemble is theta [n_ens, n_params] and its outputs g [n_ens, n_obs], J = n_ens. With anomalies A_j = theta_j - mean and
// Y_j = Gamma^(-1/2) (g_j - mean) / sqrt(J - 1), an update is theta_j += sum_k T[j, k] A_k, where
//   Omega = (1 + dt gram)^-1,  gram = Y Y^T,  cross[k, j] = Y_k . r_j,  r_j = Gamma^(-1/2) (y + xi_j - g_j)
//   eki           T = dt / sqrt(J - 1) (Omega cross)^T with xi = 0
//   enkf, esmda   the same with xi_j ~ N(0, Gamma / dt): a step of ES-MDA with its alpha is dt = 1 / alpha
//   denkf         the same with xi = 0 and half the gain for anomalies: r_j is the mean of r and half of what r_j differs from it
//   etki          T = 1 w^T + Omega^(1/2) - 1 with the symmetric root and w = dt / sqrt(J - 1) Omega times the mean of cross
// Source: Evensen 2003, Ocean Dynamics 53 (enkf); Iglesias, Law & Stuart 2013, arXiv:1209.2736 (eki); Emerick & Reynolds 2013,
//         Comput. Geosci. 55 (esmda); Bishop, Etherton & Majumdar 2001, Mon. Weather Rev. 129, and Hunt, Kostelich & Szunyogh
//         2007, arXiv:physics/0511236 (etki); Sakov & Oke 2008, Tellus 60A (denkf). Covariances divide by J - 1.
// xi_j is row 0 of a normal matrix [1, n_obs] of the stream (Purpose::observation_noise, 0, iteration, j).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "base/view.h"

namespace bpfree {

enum class EnsembleMethod { eki, enkf, esmda, etki, denkf };
enum class EnsembleForm { automatic, ensemble, data };

inline bool is_perturbed(EnsembleMethod method) {
  return method == EnsembleMethod::enkf || method == EnsembleMethod::esmda;
}

// Variances: one for all observations (size 1) or one each (n_obs); or their covariance [n_obs, n_obs].
struct ObservationNoise {
  const double* values = nullptr;
  std::size_t size = 0;
  bool is_matrix = false;
};

// Rows of float32 or float64, one for each member.
struct EnsembleRows {
  const void* data = nullptr;
  std::size_t rows = 0;
  std::size_t columns = 0;
  bool is_f64 = false;
};

// What is observed. Where the loss is no squared error, `score` stands for Gamma^-1 (y - g_j): minus the derivative of the loss
// by g_j; then y may be null. With softmax_classes, g holds logits of whole samples, and the Hessian of cross-entropy at the
// members' mean over `noise` (no matrix) takes the place of Gamma^-1 in gram.
struct EnsembleOutputs {
  EnsembleRows g = {};
  const double* y = nullptr;
  ObservationNoise noise = {};
  EnsembleRows score = {};
  std::size_t softmax_classes = 0;
  bool perturbed = false;
  bool mean_only = false;  // cross is not wanted, only its mean
  std::uint64_t seed = 0;
  std::uint32_t iteration = 0;
};

struct EnsembleMoments {
  std::size_t n_ens = 0;
  Buffer<double> gram;   // [n_ens, n_ens]
  Buffer<double> cross;  // likewise, without xi; empty with mean_only
  Buffer<double>
      noise;  // likewise: Y_k . sqrt(dt) Gamma^(-1/2) xi_j; empty where outputs are not perturbed
  std::vector<double> mean_cross;  // of cross over j: with mean_only
  std::vector<double> misfit;      // |Gamma^(-1/2) (g_j - y)|^2 / 2 of each member; empty without y
};

struct EnsembleReport {
  std::vector<double> misfit;
  double effective_rank =
      0;  // (trace gram)^2 / |gram|^2: how many directions the outputs' spread has
  EnsembleForm form = EnsembleForm::ensemble;
};

// Throws where an array, a number or a covariance makes no sense; NaN and infinity in g, y or score are named.
// Cost:   2 n_ens^2 n_obs flops, twice that with noise or score; float64, some hundred observations at a time. A matrix of
//         noise adds n_obs^3 / 3 + n_obs^2 n_ens.
// Result: same bits for any number of threads.
EnsembleMoments ensemble_moments(const EnsembleOutputs& outputs, int n_threads);

double effective_rank(const EnsembleMoments& moments);

// transform [n_ens, n_ens] of the moments. Throws where dt is not above 0, or 1 + dt gram is not positive definite in float64.
// Cost:   2 n_ens^3 flops and a Cholesky factor; etki about 45 n_ens^3.
void ensemble_weights(double* transform, const EnsembleMoments& moments, EnsembleMethod method,
                      double dt, int n_threads);

// weights [n_ens] by which anomalies add to the mean, the same for eki, denkf and etki: the columns' means of their transforms.
// Cost:   a Cholesky factor.
void ensemble_mean_weights(double* weights, const EnsembleMoments& moments, double dt,
                           int n_threads);

// What every form of an update says of its step: dt must be above 0, and leave 1 + dt gram positive definite.
void check_dt(double dt);
[[noreturn]] void fail_indefinite(double dt);

// Of any shape: finite.
void check_taper(const EnsembleRows& taper, int n_threads);

// Of [n, n]: finite, and its own mirror image to a millionth.
void check_symmetric(const char* name, const double* matrix, std::size_t n);

}  // namespace bpfree
