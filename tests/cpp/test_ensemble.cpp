// SPDX-License-Identifier: BSD-3-Clause
// Ensemble Kalman methods through the C interface: naive sums, members in place, forms, refusals.
#include <array>
#include <cmath>
#include <cstddef>
#include <vector>

#include "bpfree/bpfree.h"
#include "check.h"

namespace bpfree::test {

namespace {

std::vector<double> doubles(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

// Means of the columns of [n, columns].
std::vector<double> means(const std::vector<double>& a, std::size_t n, std::size_t columns) {
  std::vector<double> mean(columns);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < columns; ++j)
      mean[j] += a[i * columns + j] / static_cast<double>(n);
  return mean;
}

void covariances(std::size_t n, std::size_t p, std::size_t q) {
  Numbers numbers(n + p + q);
  const std::vector<float> a = numbers.floats(n * p), b = numbers.floats(n * q);
  const std::vector<double> x = doubles(a), y = doubles(b);
  const std::vector<double> mean_x = means(x, n, p), mean_y = means(y, n, q);
  std::vector<float> out(p * q), own(p * p);
  std::vector<double> wide(p * q);
  for (const int n_threads : {1, 3}) {
    check(bpfree_ensemble_covariance_f32(out.data(), a.data(), b.data(), nullptr, n, p, q,
                                         BPFREE_LOCALIZATION_NONE, n_threads) == BPFREE_OK,
          bpfree_last_error());
    check(bpfree_ensemble_covariance_f64(wide.data(), x.data(), y.data(), nullptr, n, p, q,
                                         BPFREE_LOCALIZATION_NONE, n_threads) == BPFREE_OK,
          bpfree_last_error());
  }
  for (std::size_t i = 0; i < p; ++i)
    for (std::size_t j = 0; j < q; ++j) {
      double sum = 0;
      for (std::size_t k = 0; k < n; ++k)
        sum += (x[k * p + i] - mean_x[i]) * (y[k * q + j] - mean_y[j]);
      sum /= static_cast<double>(n - 1);
      check(near(wide[i * q + j], sum, 1e-13), "a covariance in float64");
      check(near(static_cast<double>(out[i * q + j]), sum, 1e-5), "a covariance in float32");
    }
  for (const bpfree_localization kind :
       {BPFREE_LOCALIZATION_NONE, BPFREE_LOCALIZATION_SEC, BPFREE_LOCALIZATION_SEC_FISHER}) {
    const bool few = kind == BPFREE_LOCALIZATION_SEC_FISHER && n < 4;
    check(bpfree_ensemble_covariance_f32(own.data(), a.data(), nullptr, nullptr, n, p, p, kind,
                                         2) == (few ? BPFREE_INVALID_ARGUMENT : BPFREE_OK),
          "localised");
    for (std::size_t i = 0; !few && i < p; ++i)
      for (std::size_t j = 0; j < p; ++j)
        check(own[i * p + j] == own[j * p + i], "a covariance is symmetric");
  }
}

// Every form and method, in place and not; the data form and the ensemble form agree.
void updates(std::size_t n, std::size_t n_params, std::size_t n_obs) {
  Numbers numbers(n + n_params + n_obs);
  const std::vector<float> members = numbers.floats(n * n_params),
                           outputs = numbers.floats(n * n_obs);
  const std::vector<double> theta = doubles(members), g = doubles(outputs),
                            y = doubles(numbers.floats(n_obs));
  std::vector<double> noise(n_obs * n_obs), variances(n_obs, 0.5);
  for (std::size_t i = 0; i < n_obs; ++i) noise[i * n_obs + i] = 0.5;
  const std::vector<double> taper(n_params * n_obs, 1.0), obs_taper(n_obs * n_obs, 1.0);
  std::vector<double> first, misfit(n);
  for (int method = BPFREE_EKI; method <= BPFREE_DENKF; ++method) {
    first.clear();
    for (const bpfree_ensemble_form form : {BPFREE_FORM_ENSEMBLE, BPFREE_FORM_DATA})
      for (const bpfree_localization kind : {BPFREE_LOCALIZATION_NONE, BPFREE_LOCALIZATION_TAPER})
        for (const std::size_t n_noise : {std::size_t{1}, n_obs, n_obs * n_obs}) {
          bpfree_ensemble options;
          check(bpfree_ensemble_init(&options, static_cast<bpfree_ensemble_method>(method)) ==
                    BPFREE_OK,
                bpfree_last_error());
          options.form = form;
          options.localization = kind;
          options.dt = 0.25;
          const bool ensemble_only = method == BPFREE_ETKI && form == BPFREE_FORM_DATA;
          const bool localised = kind != BPFREE_LOCALIZATION_NONE;
          if (ensemble_only ||
              (localised && (method == BPFREE_ETKI || form == BPFREE_FORM_ENSEMBLE)))
            continue;
          std::vector<double> out = theta;
          double rank = 0;
          check(bpfree_ensemble_update_f64(
                    out.data(), misfit.data(), &rank, out.data(), g.data(), y.data(),
                    n_noise == n_obs * n_obs ? noise.data() : variances.data(), n_noise,
                    localised ? taper.data() : nullptr, localised ? obs_taper.data() : nullptr, n,
                    n_params, n_obs, &options, 3) == BPFREE_OK,
                bpfree_last_error());
          if (first.empty()) first = out;
          for (std::size_t i = 0; i < out.size(); ++i)
            check(near(out[i], first[i], 1e-10), "the forms agree");
          check(rank >= 1 - 1e-12 && rank <= static_cast<double>(n_obs) + 1e-9, "a rank");
          std::vector<float> narrow(members.size());
          check(bpfree_ensemble_update_f32(narrow.data(), nullptr, nullptr, members.data(),
                                           outputs.data(), y.data(), variances.data(), n_obs,
                                           nullptr, nullptr, n, n_params, n_obs, &options,
                                           2) == (localised ? BPFREE_INVALID_ARGUMENT : BPFREE_OK),
                "float32");
          for (std::size_t i = 0; !localised && i < narrow.size(); ++i)
            check(near(static_cast<double>(narrow[i]), first[i], 1e-4), "float32 is near float64");
        }
  }
}

void transforms(std::size_t n, std::size_t n_params) {
  Numbers numbers(n + n_params);
  const std::vector<float> theta = numbers.floats(n * n_params);
  const std::vector<double> wide = doubles(theta), matrix = doubles(numbers.floats(n * n));
  const std::vector<double> mean = means(wide, n, n_params);
  std::vector<double> out(n * n_params);
  std::vector<float> narrow(n * n_params), bf16(n * n_params);
  check(bpfree_ensemble_transform_f64(out.data(), wide.data(), matrix.data(), n, n_params, 2) ==
            BPFREE_OK,
        bpfree_last_error());
  check(bpfree_ensemble_transform_f32(narrow.data(), theta.data(), matrix.data(), n, n_params, 2) ==
            BPFREE_OK,
        bpfree_last_error());
  check(bpfree_ensemble_transform_bf16(bf16.data(), theta.data(), matrix.data(), n, n_params, 2) ==
            BPFREE_OK,
        bpfree_last_error());
  const double size = static_cast<double>(n);
  for (std::size_t j = 0; j < n; ++j)
    for (std::size_t i = 0; i < n_params; ++i) {
      double sum = wide[j * n_params + i];
      for (std::size_t k = 0; k < n; ++k)
        sum += matrix[j * n + k] * (wide[k * n_params + i] - mean[i]);
      const std::size_t at = j * n_params + i;
      check(near(out[at], sum, 1e-14 * size), "a transform in float64");
      check(near(static_cast<double>(narrow[at]), sum, 1e-6 * size), "a transform in float32");
      check(near(static_cast<double>(bf16[at]), sum, 2e-2 * size), "a transform in bfloat16");
    }
}

// The weights of softmax's Hessian, and what is refused.
void weights() {
  constexpr std::size_t kMembers = 5, kOutputs = 6;
  Numbers numbers(3);
  const std::vector<float> g = numbers.floats(kMembers * kOutputs),
                           score = numbers.floats(kMembers * kOutputs);
  const std::vector<double> y(kOutputs);
  std::vector<double> transform(kMembers * kMembers, 7.0), misfit(kMembers, 7.0);
  double rank = 7, noise = 0.5;
  bpfree_ensemble options;
  check(bpfree_ensemble_init(&options, BPFREE_ETKI) == BPFREE_OK, bpfree_last_error());
  const auto call = [&](double* to, const double* data, const float* scores, std::size_t classes) {
    return bpfree_ensemble_weights_f32(transform.data(), to, &rank, g.data(), data, scores, &noise,
                                       1, kMembers, kOutputs, classes, &options, 1);
  };
  check(call(nullptr, nullptr, nullptr, 0) == BPFREE_INVALID_ARGUMENT, "neither y nor score");
  check(call(misfit.data(), nullptr, score.data(), 0) == BPFREE_INVALID_ARGUMENT,
        "misfit without y");
  check(call(nullptr, nullptr, score.data(), 4) == BPFREE_INVALID_ARGUMENT,
        "samples that do not fit");
  check(call(nullptr, y.data(), nullptr, 3) == BPFREE_INVALID_ARGUMENT, "softmax without a score");
  options.dt = 0;
  check(call(nullptr, y.data(), nullptr, 0) == BPFREE_INVALID_ARGUMENT, "dt 0");
  options.dt = 1;
  noise = -1;
  check(call(nullptr, y.data(), nullptr, 0) == BPFREE_INVALID_ARGUMENT, "a negative variance");
  noise = 0.5;
  options.method = static_cast<bpfree_ensemble_method>(5);
  check(call(nullptr, y.data(), nullptr, 0) == BPFREE_INVALID_ARGUMENT, "an unknown method");
  options.method = BPFREE_ETKI;
  check(transform == std::vector<double>(kMembers * kMembers, 7.0) && rank == 7 &&
            misfit == std::vector<double>(kMembers, 7.0),
        "a refusal changes nothing");
  check(call(misfit.data(), y.data(), nullptr, 0) == BPFREE_OK, bpfree_last_error());
  check(call(nullptr, nullptr, score.data(), 3) == BPFREE_OK, bpfree_last_error());
  for (const double value : transform) check(std::isfinite(value), "a weight is finite");
}

// out may be theta, and nothing else; factors are finite. A refusal changes nothing.
void refused_updates() {
  constexpr std::size_t kMembers = 6, kParams = 20, kObs = 4;
  Numbers numbers(4);
  std::vector<double> theta(kMembers * kParams), g = doubles(numbers.floats(kMembers * kObs)),
                                                 y(kMembers * kParams, 1.0), noise = y;
  std::vector<double> taper(kParams * kObs + kMembers * kParams, 1.0), own(kParams * kMembers, 1.0);
  g.resize(kMembers * kParams);
  theta = doubles(numbers.floats(theta.size()));
  bpfree_ensemble options;
  check(bpfree_ensemble_init(&options, BPFREE_EKI) == BPFREE_OK, bpfree_last_error());
  options.localization = BPFREE_LOCALIZATION_TAPER;
  const auto call = [&](double* out) {
    return bpfree_ensemble_update_f64(out, nullptr, nullptr, theta.data(), g.data(), y.data(),
                                      noise.data(), kObs, taper.data(), own.data(), kMembers,
                                      kParams, kObs, &options, 1);
  };
  std::vector<double> out(kMembers * kParams, 7.0);
  check(call(out.data()) == BPFREE_OK, bpfree_last_error());
  for (std::vector<double>* input : {&g, &y, &noise, &taper, &own}) {
    const std::vector<double> before = *input;
    check(call(input->data()) == BPFREE_INVALID_ARGUMENT, "out overlaps an input");
    check(*input == before, "a refusal changes nothing");
  }
  out.assign(out.size(), 7.0);
  taper[kParams * kObs - 1] = std::nan("");
  check(call(out.data()) == BPFREE_INVALID_ARGUMENT, "a factor that is NaN");
  std::vector<double> covariance(kParams * kObs, 7.0);
  check(bpfree_ensemble_covariance_f64(covariance.data(), theta.data(), g.data(), taper.data(),
                                       kMembers, kParams, kObs, BPFREE_LOCALIZATION_TAPER,
                                       1) == BPFREE_INVALID_ARGUMENT,
        "a factor that is NaN");
  taper[kParams * kObs - 1] = 1;
  check(bpfree_ensemble_covariance_f64(taper.data(), theta.data(), g.data(), taper.data(), kMembers,
                                       kParams, kObs, BPFREE_LOCALIZATION_TAPER,
                                       1) == BPFREE_INVALID_ARGUMENT,
        "out is the taper");
  check(out == std::vector<double>(out.size(), 7.0) &&
            covariance == std::vector<double>(covariance.size(), 7.0) && taper[0] == 1,
        "a refusal changes nothing");
}

}  // namespace

void test_ensemble() {
  constexpr std::array<std::array<std::size_t, 3>, 5> kShapes = {
      {{2, 1, 1}, {3, 7, 5}, {17, 33, 40}, {40, 113, 9}, {70, 65, 129}}};
  for (const auto& [n, p, q] : kShapes) {
    covariances(n, p, q);
    updates(n, p, q);
    transforms(n, p);
  }
  weights();
  refused_updates();
}

}  // namespace bpfree::test
