// SPDX-License-Identifier: BSD-3-Clause
// Activations and their derivatives, elementwise, as templates over the vector type.
// Source: gelu is Hendrycks & Gimpel 2016 (arXiv:1606.08415), the exact form with erf; leaky slope 0.01.
//         step is 1 above 0 and 0 elsewhere, sign is -1, 0 and 1: neither has a derivative to train by.
#pragma once

#include "formulas/kinds.h"
#include "simd/math.h"

namespace bpfree::formulas {

// h = f(a). Kind is a template parameter: the caller switches once per tile, not per element.
template <Activation kKind, class V>
[[gnu::always_inline]] inline V activate(V a) {
  const V zero = V::zero();
  if constexpr (kKind == Activation::relu)
    return V::select(a <= zero, zero, a);  // this way round NaN stays NaN
  if constexpr (kKind == Activation::leaky_relu)
    return V::select(a < zero, V::set(kLeakySlope) * a, a);
  if constexpr (kKind == Activation::tanh) return simd::tanh(a);
  if constexpr (kKind == Activation::logistic) return simd::sigmoid(a);
  if constexpr (kKind == Activation::gelu)
    return V::set(0.5f) * a * (V::set(1.0f) + simd::erf(a * V::set(0.70710678118654752f)));
  if constexpr (kKind == Activation::step)
    return V::select(a > zero, V::set(1.0f), V::select(a <= zero, zero, a));
  if constexpr (kKind == Activation::sign)
    return V::select(a > zero, V::set(1.0f), V::select(a < zero, V::set(-1.0f), a));
  return a;
}

// gradient * f'(a), from the output h; for gelu from the pre-activation, given in h's place.
template <Activation kKind, class V>
[[gnu::always_inline]] inline V times_derivative(V gradient, V h) {
  const V zero = V::zero();
  const V one = V::set(1.0f);
  if constexpr (kKind == Activation::relu) return V::select(h > zero, gradient, zero);
  if constexpr (kKind == Activation::leaky_relu)
    return V::select(h < zero, V::set(kLeakySlope) * gradient, gradient);
  if constexpr (kKind == Activation::tanh) return gradient * V::fnma(h, h, one);
  if constexpr (kKind == Activation::logistic) return gradient * (h * (one - h));
  if constexpr (kKind == Activation::gelu) {
    const V cdf = V::set(0.5f) * (one + simd::erf(h * V::set(0.70710678118654752f)));
    const V pdf = V::set(0.39894228040143268f) * simd::exp(V::set(-0.5f) * h * h);
    return gradient * (cdf + h * pdf);
  }
  return gradient;
}

}  // namespace bpfree::formulas
