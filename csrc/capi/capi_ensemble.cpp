// SPDX-License-Identifier: BSD-3-Clause
// The C face of ensemble Kalman methods.
#include <algorithm>
#include <string>

#include "base/buffer.h"
#include "capi/safe_call.h"
#include "network/ensemble_covariance.h"
#include "network/ensemble_transform.h"

namespace bpfree::capi {

namespace {

static_assert(static_cast<int>(EnsembleMethod::denkf) == BPFREE_DENKF);
static_assert(static_cast<int>(EnsembleForm::data) == BPFREE_FORM_DATA);
static_assert(static_cast<int>(product::Localization::sec_fisher) ==
              BPFREE_LOCALIZATION_SEC_FISHER);

product::Localization localization_of(bpfree_localization localization) {
  return enumerator<product::Localization>("localization", localization,
                                           BPFREE_LOCALIZATION_SEC_FISHER);
}

EnsembleMethod method_of(const bpfree_ensemble* options) {
  return enumerator<EnsembleMethod>("method", pointer("options", options, 1)->method, BPFREE_DENKF);
}

template <class T>
EnsembleRows rows(const char* name, const T* data, std::size_t rows, std::size_t columns) {
  return {pointer(name, data, checked_product(rows, columns)), rows, columns, sizeof(T) == 8};
}

template <class T>
Members members(const char* name, const T* data, std::size_t n_ens, std::size_t n) {
  const EnsembleRows r = rows(name, data, n_ens, n);
  return {const_cast<void*>(r.data), n_ens, n, r.is_f64};
}

// One observation's variance is its covariance too.
ObservationNoise noise_of(const double* values, std::size_t n, std::size_t n_obs) {
  return {pointer("obs_noise_cov", values, n), n, n != 1 && n != n_obs};
}

template <class T>
void covariance(T* out, const T* a, const T* b, const T* taper, std::size_t n_ens, std::size_t p,
                std::size_t q, bpfree_localization localization, int n_threads) {
  if (b == nullptr && p != q)
    fail("q is " + std::to_string(q) + ", expected the " + std::to_string(p) +
         " columns of a where b is null");
  ensemble_covariance(members("out", out, p, q), rows("a", a, n_ens, p),
                      b == nullptr ? EnsembleRows{} : rows("b", b, n_ens, q),
                      localization_of(localization), taper, n_threads);
}

template <class T>
void weights(double* transform, double* misfit, double* rank, const T* g, const double* y,
             const T* score, const double* noise, std::size_t n_noise, std::size_t n_ens,
             std::size_t n_obs, std::size_t softmax_classes, const bpfree_ensemble* options,
             int n_threads) {
  const EnsembleMethod method = method_of(options);
  EnsembleOutputs outputs{.g = rows("g", g, n_ens, n_obs),
                          .y = y,
                          .noise = noise_of(noise, n_noise, n_obs),
                          .softmax_classes = softmax_classes,
                          .perturbed = is_perturbed(method),
                          .seed = options->seed,
                          .iteration = options->iteration};
  if (score != nullptr) outputs.score = rows("score", score, n_ens, n_obs);
  pointer("transform", transform, checked_product(n_ens, n_ens));
  const EnsembleMoments moments = ensemble_moments(outputs, n_threads);
  if (misfit != nullptr && moments.misfit.empty())
    fail("misfit was asked for without y, or beside the Hessian of softmax");
  // What is not defined throws before anything is written.
  auto result = Buffer<double>::uninitialized(n_ens * n_ens);
  ensemble_weights(result.data(), moments, method, options->dt, n_threads);
  std::copy(result.begin(), result.end(), transform);
  if (misfit != nullptr) std::copy(moments.misfit.begin(), moments.misfit.end(), misfit);
  if (rank != nullptr) *rank = effective_rank(moments);
}

template <class T>
void transform(T* out, const T* theta, const double* matrix, std::size_t n_ens,
               std::size_t n_params, bool bf16, int n_threads) {
  ensemble_transform(members("out", out, n_ens, n_params), members("theta", theta, n_ens, n_params),
                     pointer("transform", matrix, checked_product(n_ens, n_ens)), bf16, n_threads);
}

template <class T>
void update(T* out, double* misfit, double* rank, const T* theta, const T* g, const double* y,
            const double* noise, std::size_t n_noise, const T* taper, const double* obs_taper,
            std::size_t n_ens, std::size_t n_params, std::size_t n_obs,
            const bpfree_ensemble* options, int n_threads) {
  const UpdateOptions chosen{
      .method = method_of(options),
      .dt = options->dt,
      .form = enumerator<EnsembleForm>("form", options->form, BPFREE_FORM_DATA),
      .localization = localization_of(options->localization),
      .taper = taper,
      .obs_taper = obs_taper};
  const EnsembleOutputs outputs{.g = rows("g", g, n_ens, n_obs),
                                .y = pointer("y", y, n_obs),
                                .noise = noise_of(noise, n_noise, n_obs),
                                .seed = options->seed,
                                .iteration = options->iteration};
  const EnsembleReport report =
      ensemble_update(members("out", out, n_ens, n_params),
                      members("theta", theta, n_ens, n_params), outputs, chosen, n_threads);
  if (misfit != nullptr) std::copy(report.misfit.begin(), report.misfit.end(), misfit);
  if (rank != nullptr) *rank = report.effective_rank;
}

}  // namespace

}  // namespace bpfree::capi

using namespace bpfree;
using namespace bpfree::capi;

bpfree_status bpfree_ensemble_init(bpfree_ensemble* options, bpfree_ensemble_method method) {
  return safe_call([&] {
    pointer("options", options, 1);
    enumerator<EnsembleMethod>("method", method, BPFREE_DENKF);
    *options = {.method = method,
                .form = BPFREE_FORM_AUTO,
                .localization = BPFREE_LOCALIZATION_NONE,
                .dt = 1,
                .seed = 0,
                .iteration = 0};
  });
}

bpfree_status bpfree_ensemble_covariance_f32(float* out, const float* a, const float* b,
                                             const float* taper, size_t n_ens, size_t p, size_t q,
                                             bpfree_localization localization, int n_threads) {
  return safe_call([&] { covariance(out, a, b, taper, n_ens, p, q, localization, n_threads); });
}

bpfree_status bpfree_ensemble_covariance_f64(double* out, const double* a, const double* b,
                                             const double* taper, size_t n_ens, size_t p, size_t q,
                                             bpfree_localization localization, int n_threads) {
  return safe_call([&] { covariance(out, a, b, taper, n_ens, p, q, localization, n_threads); });
}

bpfree_status bpfree_ensemble_weights_f32(double* transform, double* misfit, double* effective_rank,
                                          const float* g, const double* y, const float* score,
                                          const double* obs_noise_cov, size_t n_noise, size_t n_ens,
                                          size_t n_obs, size_t softmax_classes,
                                          const bpfree_ensemble* options, int n_threads) {
  return safe_call([&] {
    weights(transform, misfit, effective_rank, g, y, score, obs_noise_cov, n_noise, n_ens, n_obs,
            softmax_classes, options, n_threads);
  });
}

bpfree_status bpfree_ensemble_weights_f64(double* transform, double* misfit, double* effective_rank,
                                          const double* g, const double* y, const double* score,
                                          const double* obs_noise_cov, size_t n_noise, size_t n_ens,
                                          size_t n_obs, size_t softmax_classes,
                                          const bpfree_ensemble* options, int n_threads) {
  return safe_call([&] {
    weights(transform, misfit, effective_rank, g, y, score, obs_noise_cov, n_noise, n_ens, n_obs,
            softmax_classes, options, n_threads);
  });
}

bpfree_status bpfree_ensemble_transform_f32(float* out, const float* theta, const double* transform,
                                            size_t n_ens, size_t n_params, int n_threads) {
  return safe_call(
      [&] { capi::transform(out, theta, transform, n_ens, n_params, false, n_threads); });
}

bpfree_status bpfree_ensemble_transform_f64(double* out, const double* theta,
                                            const double* transform, size_t n_ens, size_t n_params,
                                            int n_threads) {
  return safe_call(
      [&] { capi::transform(out, theta, transform, n_ens, n_params, false, n_threads); });
}

bpfree_status bpfree_ensemble_transform_bf16(float* out, const float* theta,
                                             const double* transform, size_t n_ens, size_t n_params,
                                             int n_threads) {
  return safe_call(
      [&] { capi::transform(out, theta, transform, n_ens, n_params, true, n_threads); });
}

bpfree_status bpfree_ensemble_update_f32(float* out, double* misfit, double* effective_rank,
                                         const float* theta, const float* g, const double* y,
                                         const double* obs_noise_cov, size_t n_noise,
                                         const float* taper, const double* obs_taper, size_t n_ens,
                                         size_t n_params, size_t n_obs,
                                         const bpfree_ensemble* options, int n_threads) {
  return safe_call([&] {
    update(out, misfit, effective_rank, theta, g, y, obs_noise_cov, n_noise, taper, obs_taper,
           n_ens, n_params, n_obs, options, n_threads);
  });
}

bpfree_status bpfree_ensemble_update_f64(double* out, double* misfit, double* effective_rank,
                                         const double* theta, const double* g, const double* y,
                                         const double* obs_noise_cov, size_t n_noise,
                                         const double* taper, const double* obs_taper, size_t n_ens,
                                         size_t n_params, size_t n_obs,
                                         const bpfree_ensemble* options, int n_threads) {
  return safe_call([&] {
    update(out, misfit, effective_rank, theta, g, y, obs_noise_cov, n_noise, taper, obs_taper,
           n_ens, n_params, n_obs, options, n_threads);
  });
}
