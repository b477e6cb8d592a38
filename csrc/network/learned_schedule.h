// SPDX-License-Identifier: BSD-3-Clause
// A noise schedule that is learned: how fast a label appears in its noisy copy, over continuous time t in [0, 1].
//
// alpha_bar(t) = sigmoid(-gamma(t)), so that the signal-to-noise ratio is exp(-gamma(t));
// gamma(t) = gamma_0 + e^rho (1 - g(t)), where g rises from 0 to 1: g(t) = (r(t) - r(0)) / (r(1) - r(0)),
// r(t) = Q_0 t + sum_k Q_k sigmoid(V_k t + c_k), with Q and V above 0.
// Parameters, in this order: gamma_0, rho, log Q_0, log Q_1 .. Q_K, log V_1 .. V_K, c_1 .. c_K.
// Source: Li, Teh & Pascanu 2025, arXiv:2503.24322, section 3.2; after Kingma, Salimans, Poole & Ho 2021, arXiv:2107.00630.
#pragma once

#include <array>
#include <cstddef>

namespace bpfree {

class LearnedSchedule {
 public:
  static constexpr std::size_t kUnits = 32;
  static constexpr std::size_t kSize = 3 + 3 * kUnits;

  // Nearly straight in gamma, with alpha_bar from 0.01 to 0.99.
  static void initialize(float* parameters);
  explicit LearnedSchedule(const float* parameters);
  LearnedSchedule();  // as it begins

  struct Point {
    double alpha_bar;
    double snr_slope;  // d (alpha_bar / (1 - alpha_bar)) / d t
  };
  Point at(double t) const;

  // gradient [kSize] += the gradient of what changes by `by_gamma` with gamma(t), and by `by_log_rise` with log(e^rho g'(t)).
  void add_gradient(double* gradient, double t, double by_gamma, double by_log_rise) const;

 private:
  using Units = std::array<double, kUnits>;
  struct Curve {  // r, its slope, and the units' sigmoids at t
    double r, slope;
    Units sigmoid;
  };

  Curve curve(double t) const;
  // d r(t) / d parameter, from log Q_0 on.
  std::array<double, kSize - 2> r_gradient(const Curve& at, double t) const;

  double gamma_0_, rise_, linear_;
  Units q_, v_, c_;
  Curve first_, last_;
};

}  // namespace bpfree
