// SPDX-License-Identifier: BSD-3-Clause
// Elementary functions of a float Vec; a double one goes element by element through libm.
//
//   function         ulp   range
//   exp              1.1   all; 0 below -104, infinity above 88.73, denormal results included
//   log              1.1   all; 0 gives -infinity, negative gives NaN, denormals included
//   log_normal       0.9   positive normal numbers, nothing else
//   tanh             2.7   all
//   sigmoid          2.5   all
//   erf              1.2   all
//   sincos_quarter   1.7   |t| <= 0.5, in quarter turns
//   sincos_turns     1.7   |turns| < 2^22
//
// NaN gives NaN. The figures bound the error against libm's double over every 17th float of the
// range.
// Result: every step is one correctly rounded operation or an explicit fma, so the bits are the
//         same on every instruction set. random/ counts on that; a Scalar activation pays for it
//         with library calls.
// Source: the polynomials are our own minimax fits (iteratively reweighted least squares on
//         Chebyshev points), rounded to float one coefficient at a time with the rest fitted again.
#pragma once

#include <concepts>

#include "simd/vec.h"

namespace bpfree::simd {

// c0 + c1 x + c2 x^2 + ..., highest power first at run time.
template <class V>
[[gnu::always_inline]] inline V polynomial(V, float c) {
  return V::set(c);
}
template <class V, class... C>
[[gnu::always_inline]] inline V polynomial(V x, float c, C... higher) {
  return V::fma(polynomial(x, higher...), x, V::set(c));
}

// double: f of each element. A stack buffer, since libm has no vectors.
template <class V, class F>
[[gnu::always_inline]] inline V map_elements(V x, F f) {
  typename V::Element buffer[V::N];
  x.store(buffer);
  for (std::size_t i = 0; i < V::N; ++i) buffer[i] = f(buffer[i]);
  return V::load(buffer);
}

template <class V>
concept DoubleVec = std::same_as<typename V::Element, double>;

// x = n ln 2 + r with |r| <= ln 2 / 2: n, and exp(r) - 1. NaN where x is NaN.
template <class V>
[[gnu::always_inline]] inline V reduced_expm1(V x, V& n) {
  n = V::round_nearest(x * V::set(0x1.715476p+0f));
  // ln 2 in two parts; n times the first is exact.
  V r = V::fnma(n, V::set(0x1.62e4p-1f), x);
  r = V::fnma(n, V::set(0x1.7f7d1cp-20f), r);
  const V p = polynomial(r, 0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558b0p-5f, 0x1.12398ep-7f,
                         0x1.6a4d66p-10f);
  return V::fma(r * r, p, r);
}

template <class V>
[[gnu::always_inline]] inline V exp(V x) {
  if constexpr (DoubleVec<V>) {
    return map_elements(x, [](double v) { return __builtin_exp(v); });
  } else {
    // Constant first: min and max give their second operand when one is NaN.
    x = V::max(V::set(-104.0f), V::min(V::set(89.0f), x));
    V n;
    const V m = reduced_expm1(x, n);
    return V::scale(V::set(1.0f) + m, n);
  }
}

// log of positive normal numbers.
template <class V>
[[gnu::always_inline]] inline V log_normal(V x) {
  V m, e;
  V::split(x, m, e);
  const V f = m - V::set(1.0f);
  const V f2 = f * f;
  const V p = polynomial(f, 0x1.5555a4p-2f, -0x1.000048p-2f, 0x1.99698ap-3f, -0x1.54eddcp-3f,
                         0x1.28825ap-3f, -0x1.0d99cap-3f, 0x1.ace59ap-4f, -0x1.71bdb8p-5f);
  // Small parts first. ln 2 in two parts; e times the first is exact.
  V y = V::fma(p, f * f2, e * V::set(0x1.7f7d1cp-20f));
  y = V::fnma(V::set(0.5f), f2, y) + f;
  return V::fma(e, V::set(0x1.62e4p-1f), y);
}

template <class V>
[[gnu::always_inline]] inline V log(V x) {
  if constexpr (DoubleVec<V>) {
    return map_elements(x, [](double v) { return __builtin_log(v); });
  } else {
    const V infinity = V::set(__builtin_inff());
    const auto small = x < V::set(0x1p-126f);
    const V scaled = V::select(small, x * V::set(0x1p24f), x);
    V y = log_normal(scaled) - V::select(small, V::set(16.6355323334f), V::zero());  // 24 ln 2
    y = V::select(x < infinity, y, x);  // infinity and NaN
    y = V::select(x == V::zero(), -infinity, y);
    return V::select(x < V::zero(), V::set(__builtin_nanf("")), y);
  }
}

template <class V>
[[gnu::always_inline]] inline V tanh(V x) {
  if constexpr (DoubleVec<V>) {
    return map_elements(x, [](double v) { return __builtin_tanh(v); });
  } else {
    // m / (m + 2) with m = exp(2 |x|) - 1: no cancellation near 0. From 9.1 on the result is 1.
    const V a = V::min(V::set(9.1f), V::abs(x));
    V n;
    const V r = reduced_expm1(a + a, n);
    const V power = V::scale(V::set(1.0f), n);
    const V m = V::fma(power, r, power - V::set(1.0f));
    return V::flip_sign(m / (m + V::set(2.0f)), x.bits());
  }
}

template <class V>
[[gnu::always_inline]] inline V sigmoid(V x) {
  if constexpr (DoubleVec<V>) {
    return map_elements(x, [](double v) { return 1.0 / (1.0 + __builtin_exp(-v)); });
  } else {
    const V one = V::set(1.0f);
    const V e = exp(-V::abs(x));  // never overflows
    return V::select(x < V::zero(), e, one) / (one + e);
  }
}

template <class V>
[[gnu::always_inline]] inline V erf(V x) {
  if constexpr (DoubleVec<V>) {
    return map_elements(x, [](double v) { return __builtin_erf(v); });
  } else {
    // Near 0 an odd polynomial; beyond, 1 - exp of a polynomial for log(1 - erf). From 4 on the
    // result is 1.
    const V a = V::min(V::set(4.0f), V::abs(x));
    const V p = polynomial(a * a, 0x1.06eba6p-3f, -0x1.8126eep-2f, 0x1.ce1bf4p-4f, -0x1.b6a314p-6f,
                           0x1.47cffcp-8f, -0x1.3c9b7ap-11f);
    const V near = V::fma(a, p, a);
    const V q = polynomial(a, 0x1.182026p-13f, 0x1.20c06cp+0f, 0x1.46026cp-1f, 0x1.ab5358p-4f,
                           -0x1.6f555ap-6f, 0x1.9550b2p-9f, -0x1.a586b0p-13f);
    const V far = V::set(1.0f) - exp(-q);
    return V::flip_sign(V::select(a <= V::set(0.875f), near, far), x.bits());
  }
}

// Sine and cosine of t quarter turns, |t| <= 0.5.
template <class V>
[[gnu::always_inline]] inline void sincos_quarter(V t, V& sine, V& cosine) {
  const V t2 = t * t;
  sine = t * polynomial(t2, 0x1.921fb6p+0f, -0x1.4abc24p-1f, 0x1.4680a0p-4f, -0x1.33182cp-8f);
  cosine = polynomial(t2, 1.0f, -0x1.3bd39cp+0f, 0x1.03b058p-2f, -0x1.4e78bep-6f);
}

// The same for any angle: t quarter turns from the axis that the two highest bits of `axis` name.
template <class V>
[[gnu::always_inline]] inline void sincos_axis(V t, typename V::Bits axis, V& sine, V& cosine) {
  using U = typename V::Bits;
  V s, c;
  sincos_quarter(t, s, c);
  const auto swap = U::any_bit(axis, U::set(0x40000000u));
  sine = V::flip_sign(V::select(swap, c, s), axis);
  cosine = V::flip_sign(V::select(swap, s, c), axis ^ (axis << 1));
}

// Sine and cosine of 2 pi turns.
template <class V>
[[gnu::always_inline]] inline void sincos_turns(V turns, V& sine, V& cosine) {
  const V quarters = V::set(4.0f) * (turns - V::round_nearest(turns));  // exact, in [-2, 2]
  const V axis = V::round_nearest(quarters);
  sincos_axis(quarters - axis, V::Bits::from_float_trunc(axis) << 30, sine, cosine);
}

}  // namespace bpfree::simd
