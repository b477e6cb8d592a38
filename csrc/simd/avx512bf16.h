// SPDX-License-Identifier: BSD-3-Clause
// avx512.h with the bf16 instructions of the CPU (AVX512_BF16).
#pragma once

#include "simd/avx512.h"

namespace bpfree::simd {

template <>
struct Avx512Pairs<isa::Avx512Bf16> {
  [[gnu::always_inline]] static __m256i narrow_packed(__m512 x) {
    return (__m256i)_mm512_cvtneps_pbh(x);
  }
  [[gnu::always_inline]] static __m512i pack_pair(__m512 low, __m512 high) {
    // One conversion leaves low in the first half of the register and high in the second; pairs
    // want them interleaved.
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_maskz_permutexvar_epi16(0xffffffffu, order, halves);
  }
  [[gnu::always_inline]] static __m512 dot_pair(__m512 acc, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
  }
};

}  // namespace bpfree::simd
