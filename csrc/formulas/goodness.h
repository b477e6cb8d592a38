// SPDX-License-Identifier: BSD-3-Clause
// The local losses of Forward-Forward as functions of a row's goodness g, in double: a row at a time.
// Source: Hinton 2022, arXiv:2212.13345 (logistic); Lee & Song 2023, arXiv:2303.08418 (SymBa).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "formulas/kinds.h"

namespace bpfree::formulas {

inline constexpr float kTiny = 1e-8f;  // beside the mean square that a row is divided by

inline double softplus(double z) { return std::max(z, 0.0) + std::log1p(std::exp(-std::abs(z))); }
inline double sigmoid(double z) {
  const double e = std::exp(-std::abs(z));
  return z >= 0 ? 1 / (1 + e) : e / (1 + e);
}

// What brings a row of n numbers with this sum of squares to unit mean square. A sum that overflowed gives NaN: with 0 the
// row would vanish, and nobody would notice.
inline float row_factor(double squares, double n) {
  if (std::isinf(squares)) return std::numeric_limits<float>::quiet_NaN();
  return static_cast<float>(1 / std::sqrt(squares / n + static_cast<double>(kTiny)));
}

// d goodness / d h is this times h.
inline double goodness_slope(Goodness goodness, double n) {
  return goodness == Goodness::mean ? 2 / n : 2;
}

// The goodness of a row of unit mean square.
inline double default_threshold(Goodness goodness, double n) {
  return goodness == Goodness::mean ? 1 : n;
}

struct LossOfGoodness {
  double loss;
  double slope;  // d loss / d g
};

// z = (g - threshold) / temperature; a positive row wants it high.
inline LossOfGoodness logistic_loss(double g, double threshold, double temperature, bool positive) {
  const double z = (g - threshold) / temperature;
  if (positive) return {softplus(-z), -sigmoid(-z) / temperature};
  return {softplus(z), sigmoid(z) / temperature};
}

// softplus(-scale (g_positive - g_negative)): the slope for the positive row, its negative for the other.
inline LossOfGoodness symba_loss(double positive, double negative, double scale) {
  const double z = scale * (positive - negative);
  return {softplus(-z), -scale * sigmoid(-z)};
}

}  // namespace bpfree::formulas
