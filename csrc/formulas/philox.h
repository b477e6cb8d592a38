// SPDX-License-Identifier: BSD-3-Clause
// Philox4x32-10, and what its words become, as templates over the value type.
//
// Shapes: a block of four words from a counter of four words and a key of two.
// Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; Box & Muller 1958.
// Result: integers, correctly rounded operations and explicit fma: the same bits wherever this is
//         compiled.
#pragma once

#include <cstdint>

#include "simd/math.h"

namespace bpfree::formulas {

constexpr std::uint32_t kPhiloxFactor[2] = {0xD2511F53u, 0xCD9E8D57u};

// W: words, with set(), ^ and mul_hi_lo() as in simd/vec.h.
template <class W>
[[gnu::always_inline]] inline void philox_round(W (&c)[4], W key_0, W key_1) {
  W hi_0, lo_0, hi_1, lo_1;
  W::mul_hi_lo(c[0], kPhiloxFactor[0], hi_0, lo_0);
  W::mul_hi_lo(c[2], kPhiloxFactor[1], hi_1, lo_1);
  c[0] = hi_1 ^ c[1] ^ key_0;
  c[1] = lo_1;
  c[2] = hi_0 ^ c[3] ^ key_1;
  c[3] = lo_0;
}

// The keys of a round are the key plus this, times the number of the round.
constexpr std::uint32_t kPhiloxKeyStep[2] = {0x9E3779B9u, 0xBB67AE85u};
constexpr int kPhiloxRounds = 10;

template <class W>
[[gnu::always_inline]] inline void philox(W (&c)[4], std::uint32_t key_0, std::uint32_t key_1) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    philox_round(c, W::set(key_0), W::set(key_1));
    key_0 += kPhiloxKeyStep[0];
    key_1 += kPhiloxKeyStep[1];
  }
}

// The 24 high bits as an integer: exact in float. Times 2^-24 it is uniform in [0, 1).
template <class V>
[[gnu::always_inline]] inline V uniform_24(typename V::Bits word) {
  return (word >> 8).to_float_signed();
}

// Two independent standard normals from two words. The uniform under the logarithm is an odd
// multiple of 2^-31 rounded to float: never 0, and without bias. |normal| <= sqrt(62 log 2) = 6.56.
template <class V>
[[gnu::always_inline]] inline void normal_pair(typename V::Bits radius_word,
                                               typename V::Bits angle_word, V& first, V& second) {
  using U = typename V::Bits;
  const U odd = (radius_word & U::set(0x7fffffffu)) | U::set(1);
  const V radius =
      V::sqrt(V::set(-2.0f) * simd::log_normal(odd.to_float_signed() * V::set(0x1p-31f)));
  // Two bits choose the axis, the others the angle from it, within an eighth of a turn to either
  // side.
  const V t = (angle_word << 2).to_float_signed() * V::set(0x1p-32f);
  V sine, cosine;
  simd::sincos_axis(t, angle_word, sine, cosine);
  first = radius * cosine;
  second = radius * sine;
}

}  // namespace bpfree::formulas
