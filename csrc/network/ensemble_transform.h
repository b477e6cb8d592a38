// SPDX-License-Identifier: BSD-3-Clause
// Ensemble Kalman updates of the members, strip by strip of parameters: anomalies of a strip are packed, multiplied, and what
// comes out is added to the members where they lie.
#pragma once

#include <cstddef>

#include "base/view.h"
#include "network/ensemble.h"
#include "product/ensemble.h"
#include "product/product.h"

namespace bpfree {

// Members of float32 or float64, [n_ens, n_params].
struct Members {
  void* data = nullptr;
  std::size_t rows = 0;
  std::size_t columns = 0;
  bool is_f64 = false;
};

struct UpdateOptions {
  EnsembleMethod method = EnsembleMethod::eki;
  double dt = 1;
  EnsembleForm form = EnsembleForm::automatic;
  product::Localization localization = product::Localization::none;
  const void* taper = nullptr;        // [n_params, n_obs] of the members' type
  const double* obs_taper = nullptr;  // [n_obs, n_obs], symmetric: of outputs among themselves
};

// out_j = theta_j + sum_k transform[j, k] (theta_k - mean), where out may be theta itself. With bf16 the members are float32,
// and transform and anomalies are rounded to bfloat16; members and sums are float32. mean: that of the new members, which
// must be float32; null: not wanted.
// Shapes: out and theta [n_ens, n_params], transform [n_ens, n_ens], mean [n_params].
// Cost:   2 n_params n_ens^2 flops; theta is read, and out written, once. Workspace: transform in the members' type, and in
//         each thread the anomalies of some strips of 32 parameters (16 of float64).
// Result: same bits for any number of threads; |error| <= (n_ens + 5) u (|transform| |anomalies|) beside out's own rounding.
void ensemble_transform(const Members& out, const Members& theta, const double* transform,
                        bool bf16, int n_threads, float* mean = nullptr);

// out = theta after one Kalman update; out may be theta itself. Nothing of n_params x n_obs is stored.
//   ensemble form  the transform of ensemble_weights()
//   data form      sum_m (sum_k A_k Y_k,m) z_m,j with z = dt / sqrt(J - 1) (1 + dt Y^T Y)^-1 r: where observations are fewer than
//                  half the members. Not for etki. float32 members take float64 strips, at twice the cost, where z is so much longer than
//                  what it moves that rounding would show: a residual that no output's anomaly explains, over a small noise.
//   localised      the data form with the covariance of each parameter and output shrunk, tile by tile (product/ensemble.h), and
//                  that of outputs among themselves too, or the step would diverge where directions of the noise are many: by
//                  obs_taper; with sec and sec_fisher by r^2, which leaves it positive semidefinite (Schur) as |r| would not.
//                  A taper without obs_taper leaves it whole, and is refused unless outputs are fewer than members.
// Cost:   data form 4 n_params n_obs n_ens flops and n_obs^2 (2 n_ens + n_obs / 3); with more observations than members the
//         n_obs x n_obs matrix is replaced by one of the members (Woodbury), but not where it is localised.
// Result: same bits for any number of threads. Throws before out is touched.
EnsembleReport ensemble_update(const Members& out, const Members& theta,
                               const EnsembleOutputs& outputs, const UpdateOptions& options,
                               int n_threads);

}  // namespace bpfree
