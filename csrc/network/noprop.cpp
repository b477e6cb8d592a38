// SPDX-License-Identifier: BSD-3-Clause
#include "network/noprop.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "base/error.h"

namespace bpfree {

namespace {

// Eight sums side by side, in an order of their own: the same on every machine.
float dot(const float* a, const float* b, std::size_t n) {
  constexpr std::size_t kSums = 8;
  float sums[kSums] = {};
  std::size_t i = 0;
  for (; i + kSums <= n; i += kSums)
    for (std::size_t k = 0; k < kSums; ++k) sums[k] += a[i + k] * b[i + k];
  for (std::size_t k = 0; i < n; ++i, ++k) sums[k] += a[i] * b[i];
  float sum = 0;
  for (const float s : sums) sum += s;
  return sum;
}

}  // namespace

std::vector<double> noise_schedule(NoiseSchedule kind, std::size_t n_blocks) {
  std::vector<double> alpha_bar(n_blocks + 1);
  for (std::size_t t = 0; t <= n_blocks; ++t) {
    const double share = static_cast<double>(t) / static_cast<double>(n_blocks);
    const double sine = std::sin(std::numbers::pi / 2 * share);
    alpha_bar[t] = std::min(kind == NoiseSchedule::cosine ? sine * sine : share, kAlphaBarMax);
  }
  // With more than 15 blocks of the cosine several values are beyond the cut: between it and 1 they go on rising.
  const std::size_t first = static_cast<std::size_t>(
      std::find(alpha_bar.begin(), alpha_bar.end(), kAlphaBarMax) - alpha_bar.begin());
  for (std::size_t t = first + 1; t <= n_blocks; ++t)
    alpha_bar[t] = kAlphaBarMax + (1 - kAlphaBarMax) * static_cast<double>(t - first) /
                                      static_cast<double>(n_blocks - first + 1);
  return alpha_bar;
}

void check_noise_schedule(const std::vector<double>& alpha_bar) {
  if (alpha_bar.size() < 3)
    fail("noise_schedule has " + std::to_string(alpha_bar.size()) +
         " values, expected at least 3: those before and after each of 2 blocks");
  for (std::size_t t = 0; t < alpha_bar.size(); ++t) {
    const double value = alpha_bar[t];
    if (!(value >= 0 && value <= 1))
      fail("noise_schedule[" + std::to_string(t) + "] is " + std::to_string(value) +
           ", expected a number from 0 to 1");
    if (t > 0 && !(value > alpha_bar[t - 1]))
      fail("noise_schedule[" + std::to_string(t) + "] is " + std::to_string(value) +
           ", expected more than the " + std::to_string(alpha_bar[t - 1]) + " before it");
  }
}

std::vector<PosteriorCoefficients> posterior_coefficients(const std::vector<double>& alpha_bar) {
  check_noise_schedule(alpha_bar);
  std::vector<PosteriorCoefficients> table;
  for (std::size_t t = 1; t < alpha_bar.size(); ++t) {
    const double before = alpha_bar[t - 1], after = alpha_bar[t];
    const double alpha = before / after;
    table.push_back({std::sqrt(after) * (1 - alpha) / (1 - before),
                     std::sqrt(alpha) * (1 - after) / (1 - before),
                     (1 - after) * (1 - alpha) / (1 - before)});
    if (after == 1) table.back() = {1, 0, 0};  // not 1 up to rounding
  }
  return table;
}

std::vector<double> snr_weights(const std::vector<double>& alpha_bar, double eta) {
  check_noise_schedule(alpha_bar);
  const auto snr = [](double value) {
    const double cut = std::min(value, kAlphaBarMax);
    return cut / (1 - cut);
  };
  std::vector<double> weights;
  const double scale = static_cast<double>(alpha_bar.size() - 1) * eta / 2;
  for (std::size_t t = 1; t < alpha_bar.size(); ++t) {
    const double rise = snr(alpha_bar[t]) - snr(alpha_bar[t - 1]);
    weights.push_back(rise > 0 || weights.empty() ? scale * rise : weights.back());
  }
  return weights;
}

double alpha_bar_at(NoiseSchedule kind, double t) {
  const double sine = std::sin(std::numbers::pi / 2 * t);
  return kAlphaBarMax * (kind == NoiseSchedule::cosine ? sine * sine : t);
}

double snr_derivative(NoiseSchedule kind, double t) {
  const double rest = 1 - alpha_bar_at(kind, t);
  const double slope =
      kind == NoiseSchedule::cosine ? std::numbers::pi / 2 * std::sin(std::numbers::pi * t) : 1.0;
  return kAlphaBarMax * slope / (rest * rest);
}

void embed(float* out, const DenoisingHead& head, const float* p) {
  if (head.embedding == nullptr) {
    std::copy_n(p, head.n_classes, out);
    return;
  }
  std::fill_n(out, head.dim, 0.0f);
  for (std::size_t c = 0; c < head.n_classes; ++c) {
    const float* row = head.embedding + c * head.dim;
    const float share = p[c];
    for (std::size_t j = 0; j < head.dim; ++j) out[j] += share * row[j];
  }
}

float denoising_error(float* error, const DenoisingHead& head, const float* p, const float* target,
                      float weight, float* scratch) {
  embed(scratch, head, p);
  for (std::size_t j = 0; j < head.dim; ++j) scratch[j] -= target[j];
  const float twice = 2 * weight;
  float mean = 0;
  for (std::size_t c = 0; c < head.n_classes; ++c) {
    const float s = head.embedding == nullptr
                        ? scratch[c]
                        : dot(head.embedding + c * head.dim, scratch, head.dim);
    error[c] = twice * s;
    mean += p[c] * error[c];
  }
  if (head.softmax)
    for (std::size_t c = 0; c < head.n_classes; ++c) error[c] = p[c] * (error[c] - mean);
  return weight * dot(scratch, scratch, head.dim);
}

}  // namespace bpfree
