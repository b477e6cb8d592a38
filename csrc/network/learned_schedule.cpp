// SPDX-License-Identifier: BSD-3-Clause
#include "network/learned_schedule.h"

#include <algorithm>
#include <cmath>

namespace bpfree {

namespace {

constexpr double kClean =
    99;  // signal-to-noise ratio at the end, and that of noise to signal at the beginning
constexpr double kSteepness = 8;       // V at the beginning
constexpr double kShareOfUnits = 0.5;  // of Q beside Q_0

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

std::array<float, LearnedSchedule::kSize> initial() {
  std::array<float, LearnedSchedule::kSize> parameters;
  LearnedSchedule::initialize(parameters.data());
  return parameters;
}

}  // namespace

void LearnedSchedule::initialize(float* parameters) {
  constexpr auto n = static_cast<double>(kUnits);
  *parameters++ = static_cast<float>(-std::log(kClean));
  *parameters++ = static_cast<float>(std::log(2 * std::log(kClean)));
  *parameters++ = 0;
  parameters = std::fill_n(parameters, kUnits, static_cast<float>(std::log(kShareOfUnits / n)));
  parameters = std::fill_n(parameters, kUnits, static_cast<float>(std::log(kSteepness)));
  for (std::size_t k = 0; k < kUnits; ++k)
    *parameters++ = static_cast<float>(-kSteepness * (static_cast<double>(k) + 0.5) / n);
}

LearnedSchedule::LearnedSchedule() : LearnedSchedule(initial().data()) {}

LearnedSchedule::LearnedSchedule(const float* parameters)
    : gamma_0_(static_cast<double>(parameters[0])),
      rise_(std::exp(static_cast<double>(parameters[1]))),
      linear_(std::exp(static_cast<double>(parameters[2]))) {
  const float* of_units = parameters + 3;
  for (std::size_t k = 0; k < kUnits; ++k) {
    q_[k] = std::exp(static_cast<double>(of_units[k]));
    v_[k] = std::exp(static_cast<double>(of_units[kUnits + k]));
    c_[k] = static_cast<double>(of_units[2 * kUnits + k]);
  }
  first_ = curve(0);
  last_ = curve(1);
}

LearnedSchedule::Curve LearnedSchedule::curve(double t) const {
  Curve at{linear_ * t, linear_, {}};
  for (std::size_t k = 0; k < kUnits; ++k) {
    const double s = logistic(v_[k] * t + c_[k]);
    at.sigmoid[k] = s;
    at.r += q_[k] * s;
    at.slope += q_[k] * v_[k] * s * (1 - s);
  }
  return at;
}

LearnedSchedule::Point LearnedSchedule::at(double t) const {
  const Curve now = curve(t);
  const double whole = last_.r - first_.r;
  const double gamma = gamma_0_ + rise_ * (1 - (now.r - first_.r) / whole);
  return {logistic(-gamma), rise_ * (now.slope / whole) * std::exp(-gamma)};
}

std::array<double, LearnedSchedule::kSize - 2> LearnedSchedule::r_gradient(const Curve& at,
                                                                           double t) const {
  std::array<double, kSize - 2> gradient;
  gradient[0] = linear_ * t;
  for (std::size_t k = 0; k < kUnits; ++k) {
    const double bend = q_[k] * at.sigmoid[k] * (1 - at.sigmoid[k]);
    gradient[1 + k] = q_[k] * at.sigmoid[k];
    gradient[1 + kUnits + k] = bend * t * v_[k];
    gradient[1 + 2 * kUnits + k] = bend;
  }
  return gradient;
}

void LearnedSchedule::add_gradient(double* gradient, double t, double by_gamma,
                                   double by_log_rise) const {
  const Curve now = curve(t);
  const double whole = last_.r - first_.r, g = (now.r - first_.r) / whole;
  gradient[0] += by_gamma;
  gradient[1] += by_gamma * rise_ * (1 - g) + by_log_rise;
  const auto here = r_gradient(now, t), start = r_gradient(first_, 0), end = r_gradient(last_, 1);
  std::array<double, kSize - 2> slope;  // d r'(t) / d parameter
  slope[0] = linear_;
  for (std::size_t k = 0; k < kUnits; ++k) {
    const double s = now.sigmoid[k], first = s * (1 - s), second = first * (1 - 2 * s);
    slope[1 + k] = q_[k] * v_[k] * first;
    slope[1 + kUnits + k] = q_[k] * v_[k] * (first + v_[k] * t * second);
    slope[1 + 2 * kUnits + k] = q_[k] * v_[k] * second;
  }
  for (std::size_t i = 0; i < here.size(); ++i) {
    const double of_whole = end[i] - start[i];
    gradient[2 + i] -= by_gamma * rise_ * (here[i] - start[i] - g * of_whole) / whole;
    gradient[2 + i] += by_log_rise * (slope[i] / now.slope - of_whole / whole);
  }
}

}  // namespace bpfree
