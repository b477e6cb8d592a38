// SPDX-License-Identifier: BSD-3-Clause
// The contract of vec.h on AVX-512 (F, DQ, BW, VL): 16 floats. Avx512Bf16 shares all of it but
// Avx512Pairs.
//
// Zero-masked forms with a full mask stand where GCC 12's plain intrinsics pass an undefined
// register on and warn of it.
#pragma once

#include <immintrin.h>

#include <type_traits>

#include "simd/vec.h"

namespace bpfree::simd {

template <class Isa>
concept Avx512Tag = std::is_same_v<Isa, isa::Avx512> || std::is_same_v<Isa, isa::Avx512Bf16>;

// What depends on the bf16 instructions. Tag: avx512bf16.h specialises it.
template <class Isa>
struct Avx512Pairs {
  // bf16 of each lane in its low half.
  [[gnu::always_inline]] static __m512i narrow(__m512 x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd =
        _mm512_and_si512(_mm512_maskz_srli_epi32(0xffff, bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    return _mm512_maskz_srli_epi32(0xffff, _mm512_mask_mov_epi32(rounded, nan, quiet), 16);
  }
  [[gnu::always_inline]] static __m256i narrow_packed(__m512 x) {
    return _mm512_maskz_cvtepi32_epi16(0xffff, narrow(x));
  }
  [[gnu::always_inline]] static __m512i pack_pair(__m512 low, __m512 high) {
    return _mm512_or_si512(narrow(low), _mm512_maskz_slli_epi32(0xffff, narrow(high), 16));
  }
};

template <class Isa>
  requires Avx512Tag<Isa>
struct Vec<Isa, float> {
  static constexpr std::size_t N = 16;
  using Element = float;
  using Float = Vec;
  using Bits = Vec<Isa, std::uint32_t>;

  __m512 v;

  struct Mask {
    __mmask16 m;
    [[gnu::always_inline]] friend Mask operator&(Mask a, Mask b) {
      return {static_cast<__mmask16>(a.m & b.m)};
    }
    [[gnu::always_inline]] friend Mask operator|(Mask a, Mask b) {
      return {static_cast<__mmask16>(a.m | b.m)};
    }
    [[gnu::always_inline]] friend Mask operator!(Mask a) { return {static_cast<__mmask16>(~a.m)}; }
  };

  [[gnu::always_inline]] static __mmask16 first(std::size_t n) {
    return static_cast<__mmask16>((1u << n) - 1);
  }

  [[gnu::always_inline]] static Vec zero() { return {_mm512_setzero_ps()}; }
  [[gnu::always_inline]] static Vec set(float x) { return {_mm512_set1_ps(x)}; }
  [[gnu::always_inline]] static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  [[gnu::always_inline]] static Vec load_partial(const float* p, std::size_t n) {
    return {_mm512_maskz_loadu_ps(first(n), p)};
  }
  [[gnu::always_inline]] static Vec gather(const float* p, std::ptrdiff_t stride) {
    const __m512i step = _mm512_set1_epi64(stride);
    const __m512i low = _mm512_mullo_epi64(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), step);
    const __m512i high = _mm512_mullo_epi64(_mm512_setr_epi64(8, 9, 10, 11, 12, 13, 14, 15), step);
    const __m256 a = _mm512_mask_i64gather_ps(_mm256_setzero_ps(), 0xff, low, p, 4);
    const __m256 b = _mm512_mask_i64gather_ps(_mm256_setzero_ps(), 0xff, high, p, 4);
    return {_mm512_maskz_insertf32x8(0xffff, _mm512_castps256_ps512(a), b, 1)};
  }
  [[gnu::always_inline]] void store(float* p) const { _mm512_storeu_ps(p, v); }
  [[gnu::always_inline]] void store_partial(float* p, std::size_t n) const {
    _mm512_mask_storeu_ps(p, first(n), v);
  }
  [[gnu::always_inline]] void store_double(double* p) const {
    _mm512_storeu_pd(p, _mm512_maskz_cvtps_pd(0xff, _mm512_maskz_extractf32x8_ps(0xff, v, 0)));
    _mm512_storeu_pd(p + 8, _mm512_maskz_cvtps_pd(0xff, _mm512_maskz_extractf32x8_ps(0xff, v, 1)));
  }

  [[gnu::always_inline]] friend Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
  [[gnu::always_inline]] friend Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
  [[gnu::always_inline]] friend Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
  [[gnu::always_inline]] friend Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
  [[gnu::always_inline]] friend Vec operator-(Vec a) { return {-a.v}; }

  [[gnu::always_inline]] static Vec fma(Vec a, Vec b, Vec c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
  }
  [[gnu::always_inline]] static Vec fnma(Vec a, Vec b, Vec c) {
    return {_mm512_fnmadd_ps(a.v, b.v, c.v)};
  }
  [[gnu::always_inline]] static Vec mul_add(Vec a, Vec b, Vec c) { return fma(a, b, c); }
  [[gnu::always_inline]] static Vec min(Vec a, Vec b) {
    return {_mm512_maskz_min_ps(0xffff, a.v, b.v)};
  }
  [[gnu::always_inline]] static Vec max(Vec a, Vec b) {
    return {_mm512_maskz_max_ps(0xffff, a.v, b.v)};
  }
  [[gnu::always_inline]] static Vec sqrt(Vec a) { return {_mm512_maskz_sqrt_ps(0xffff, a.v)}; }
  // The CPU's estimates of 14 bits and a step of Newton's: 10 operations for a root and a quotient, which block the CPU's
  // divider for some 35 cycles otherwise.
  [[gnu::always_inline]] static Vec sqrt_fast(Vec a) {
    a = max(a, set(0x1p-126f));
    const Vec inverse = {_mm512_maskz_rsqrt14_ps(0xffff, a.v)};
    const Vec root = a * inverse;
    return fma(root, fnma(root, set(0.5f) * inverse, set(0.5f)), root);
  }
  [[gnu::always_inline]] static Vec divide_fast(Vec a, Vec b) {
    const Vec inverse = {_mm512_maskz_rcp14_ps(0xffff, b.v)};
    return a * fma(inverse, fnma(b, inverse, set(1.0f)), inverse);
  }
  [[gnu::always_inline]] static Vec abs(Vec a) {
    return {_mm512_castsi512_ps(
        _mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7fffffff)))};
  }
  [[gnu::always_inline]] static Vec floor(Vec a) {
    return {_mm512_maskz_roundscale_ps(0xffff, a.v, 9)};
  }
  [[gnu::always_inline]] static Vec round_nearest(Vec a) {
    return {_mm512_maskz_roundscale_ps(0xffff, a.v, 8)};
  }

  [[gnu::always_inline]] float reduce_add() const {
    const __m256 a = _mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xff, v, 0),
                                   _mm512_maskz_extractf32x8_ps(0xff, v, 1));
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
  }
  [[gnu::always_inline]] float reduce_max() const {
    const __m256 a = _mm256_max_ps(_mm512_maskz_extractf32x8_ps(0xff, v, 0),
                                   _mm512_maskz_extractf32x8_ps(0xff, v, 1));
    const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
  }

  [[gnu::always_inline]] friend Mask operator>(Vec a, Vec b) {
    return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)};
  }
  [[gnu::always_inline]] friend Mask operator>=(Vec a, Vec b) {
    return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)};
  }
  [[gnu::always_inline]] friend Mask operator<(Vec a, Vec b) {
    return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)};
  }
  [[gnu::always_inline]] friend Mask operator<=(Vec a, Vec b) {
    return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)};
  }
  [[gnu::always_inline]] friend Mask operator==(Vec a, Vec b) {
    return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)};
  }
  [[gnu::always_inline]] static Vec select(Mask m, Vec a, Vec b) {
    return {_mm512_mask_mov_ps(b.v, m.m, a.v)};
  }

  [[gnu::always_inline]] Bits bits() const { return {_mm512_castps_si512(v)}; }
  [[gnu::always_inline]] static Vec from_bits(Bits u) { return {_mm512_castsi512_ps(u.v)}; }
  [[gnu::always_inline]] static void split(Vec x, Vec& m, Vec& e) {
    m = {_mm512_maskz_getmant_ps(0xffff, x.v, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_zero)};
    // The exponent of x counts one less where the mantissa lay in [1.5, 2).
    e = {_mm512_maskz_getexp_ps(0xffff, x.v)};
    e = {_mm512_mask_add_ps(e.v, _mm512_cmp_ps_mask(m.v, _mm512_set1_ps(1.0f), _CMP_LT_OQ), e.v,
                            _mm512_set1_ps(1.0f))};
  }
  [[gnu::always_inline]] static Vec scale(Vec x, Vec n) {
    return {_mm512_maskz_scalef_ps(0xffff, x.v, n.v)};
  }
  [[gnu::always_inline]] static Vec flip_sign(Vec x, Bits u) {
    return {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(
        _mm512_castps_si512(x.v), u.v, _mm512_set1_epi32(static_cast<int>(0x80000000u)), 0x78))};
  }
  [[gnu::always_inline]] static Vec zip_low(Vec a, Vec b) {
    return {_mm512_maskz_unpacklo_ps(0xffff, a.v, b.v)};
  }
  [[gnu::always_inline]] static Vec zip_high(Vec a, Vec b) {
    return {_mm512_maskz_unpackhi_ps(0xffff, a.v, b.v)};
  }

  [[gnu::always_inline]] static Vec from_pair_low(Bits u) { return from_bits(u << 16); }
  [[gnu::always_inline]] static Vec from_pair_high(Bits u) {
    return from_bits(u & Bits::set(0xffff0000u));
  }
  [[gnu::always_inline]] static Vec load_bf16(const std::uint16_t* p) {
    const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return from_bits(Bits{_mm512_maskz_cvtepu16_epi32(0xffff, h)} << 16);
  }
  [[gnu::always_inline]] static Vec load_bf16_partial(const std::uint16_t* p, std::size_t n) {
    const __m256i h = _mm256_maskz_loadu_epi16(first(n), p);
    return from_bits(Bits{_mm512_maskz_cvtepu16_epi32(0xffff, h)} << 16);
  }
  [[gnu::always_inline]] static Bits pack_pair(Vec low, Vec high) {
    return {Avx512Pairs<Isa>::pack_pair(low.v, high.v)};
  }
  [[gnu::always_inline]] void store_bf16(std::uint16_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), Avx512Pairs<Isa>::narrow_packed(v));
  }
  [[gnu::always_inline]] void store_bf16_partial(std::uint16_t* p, std::size_t n) const {
    _mm256_mask_storeu_epi16(p, first(n), Avx512Pairs<Isa>::narrow_packed(v));
  }
  // Avx512Bf16 alone.
  [[gnu::always_inline]] static Vec dot_pair(Vec acc, Bits a, Bits b) {
    return {Avx512Pairs<Isa>::dot_pair(acc.v, a.v, b.v)};
  }
};

template <class Isa>
  requires Avx512Tag<Isa>
struct Vec<Isa, double> {
  static constexpr std::size_t N = 8;
  using Element = double;

  __m512d v;

  struct Mask {
    __mmask8 m;
    [[gnu::always_inline]] friend Mask operator&(Mask a, Mask b) {
      return {static_cast<__mmask8>(a.m & b.m)};
    }
    [[gnu::always_inline]] friend Mask operator|(Mask a, Mask b) {
      return {static_cast<__mmask8>(a.m | b.m)};
    }
    [[gnu::always_inline]] friend Mask operator!(Mask a) { return {static_cast<__mmask8>(~a.m)}; }
  };

  [[gnu::always_inline]] static __mmask8 first(std::size_t n) {
    return static_cast<__mmask8>((1u << n) - 1);
  }

  [[gnu::always_inline]] static Vec zero() { return {_mm512_setzero_pd()}; }
  [[gnu::always_inline]] static Vec set(double x) { return {_mm512_set1_pd(x)}; }
  [[gnu::always_inline]] static Vec load(const double* p) { return {_mm512_loadu_pd(p)}; }
  [[gnu::always_inline]] static Vec load_partial(const double* p, std::size_t n) {
    return {_mm512_maskz_loadu_pd(first(n), p)};
  }
  [[gnu::always_inline]] static Vec gather(const double* p, std::ptrdiff_t stride) {
    const __m512i index =
        _mm512_mullo_epi64(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), _mm512_set1_epi64(stride));
    return {_mm512_mask_i64gather_pd(_mm512_setzero_pd(), 0xff, index, p, 8)};
  }
  [[gnu::always_inline]] void store(double* p) const { _mm512_storeu_pd(p, v); }
  [[gnu::always_inline]] void store_partial(double* p, std::size_t n) const {
    _mm512_mask_storeu_pd(p, first(n), v);
  }

  [[gnu::always_inline]] friend Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
  [[gnu::always_inline]] friend Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
  [[gnu::always_inline]] friend Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
  [[gnu::always_inline]] friend Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
  [[gnu::always_inline]] friend Vec operator-(Vec a) { return {-a.v}; }

  [[gnu::always_inline]] static Vec fma(Vec a, Vec b, Vec c) {
    return {_mm512_fmadd_pd(a.v, b.v, c.v)};
  }
  [[gnu::always_inline]] static Vec fnma(Vec a, Vec b, Vec c) {
    return {_mm512_fnmadd_pd(a.v, b.v, c.v)};
  }
  [[gnu::always_inline]] static Vec mul_add(Vec a, Vec b, Vec c) { return fma(a, b, c); }
  [[gnu::always_inline]] static Vec min(Vec a, Vec b) {
    return {_mm512_maskz_min_pd(0xff, a.v, b.v)};
  }
  [[gnu::always_inline]] static Vec max(Vec a, Vec b) {
    return {_mm512_maskz_max_pd(0xff, a.v, b.v)};
  }
  [[gnu::always_inline]] static Vec sqrt(Vec a) { return {_mm512_maskz_sqrt_pd(0xff, a.v)}; }
  [[gnu::always_inline]] static Vec abs(Vec a) {
    return {_mm512_castsi512_pd(
        _mm512_and_si512(_mm512_castpd_si512(a.v), _mm512_set1_epi64(0x7fffffffffffffff)))};
  }
  [[gnu::always_inline]] static Vec floor(Vec a) {
    return {_mm512_maskz_roundscale_pd(0xff, a.v, 9)};
  }
  [[gnu::always_inline]] static Vec round_nearest(Vec a) {
    return {_mm512_maskz_roundscale_pd(0xff, a.v, 8)};
  }

  [[gnu::always_inline]] double reduce_add() const {
    const __m256d a = _mm256_add_pd(_mm512_maskz_extractf64x4_pd(0xff, v, 0),
                                    _mm512_maskz_extractf64x4_pd(0xff, v, 1));
    const __m128d b = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(b, _mm_unpackhi_pd(b, b)));
  }
  [[gnu::always_inline]] double reduce_max() const {
    const __m256d a = _mm256_max_pd(_mm512_maskz_extractf64x4_pd(0xff, v, 0),
                                    _mm512_maskz_extractf64x4_pd(0xff, v, 1));
    const __m128d b = _mm_max_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_max_sd(b, _mm_unpackhi_pd(b, b)));
  }

  [[gnu::always_inline]] friend Mask operator>(Vec a, Vec b) {
    return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_GT_OQ)};
  }
  [[gnu::always_inline]] friend Mask operator>=(Vec a, Vec b) {
    return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_GE_OQ)};
  }
  [[gnu::always_inline]] friend Mask operator<(Vec a, Vec b) {
    return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ)};
  }
  [[gnu::always_inline]] friend Mask operator<=(Vec a, Vec b) {
    return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LE_OQ)};
  }
  [[gnu::always_inline]] friend Mask operator==(Vec a, Vec b) {
    return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_EQ_OQ)};
  }
  [[gnu::always_inline]] static Vec select(Mask m, Vec a, Vec b) {
    return {_mm512_mask_mov_pd(b.v, m.m, a.v)};
  }
};

template <class Isa>
  requires Avx512Tag<Isa>
struct Vec<Isa, std::uint32_t> {
  static constexpr std::size_t N = 16;
  using Element = std::uint32_t;
  using Bits = Vec;
  using Float = Vec<Isa, float>;

  __m512i v;

  [[gnu::always_inline]] static Vec zero() { return {_mm512_setzero_si512()}; }
  [[gnu::always_inline]] static Vec set(std::uint32_t x) {
    return {_mm512_set1_epi32(static_cast<int>(x))};
  }
  [[gnu::always_inline]] static Vec load(const std::uint32_t* p) { return {_mm512_loadu_si512(p)}; }
  [[gnu::always_inline]] static Vec load_partial(const std::uint32_t* p, std::size_t n) {
    return {_mm512_maskz_loadu_epi32(Float::first(n), p)};
  }
  [[gnu::always_inline]] void store(std::uint32_t* p) const { _mm512_storeu_si512(p, v); }
  [[gnu::always_inline]] void store_partial(std::uint32_t* p, std::size_t n) const {
    _mm512_mask_storeu_epi32(p, Float::first(n), v);
  }
  [[gnu::always_inline]] static Vec iota() {
    return {_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)};
  }

  [[gnu::always_inline]] friend Vec operator+(Vec a, Vec b) { return {_mm512_add_epi32(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_epi32(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator&(Vec a, Vec b) { return {_mm512_and_si512(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator|(Vec a, Vec b) { return {_mm512_or_si512(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator^(Vec a, Vec b) { return {_mm512_xor_si512(a.v, b.v)}; }
  // The compiler's own vector shifts: the intrinsics want a literal, which a parameter is not in a
  // debug build.
  [[gnu::always_inline]] friend Vec operator<<(Vec a, int n) {
    return {(__m512i)((__v16su)a.v << n)};
  }
  [[gnu::always_inline]] friend Vec operator>>(Vec a, int n) {
    return {(__m512i)((__v16su)a.v >> n)};
  }

  [[gnu::always_inline]] static Vec mul_even(Vec a, Vec b) {
    return {_mm512_maskz_mul_epu32(0xff, a.v, b.v)};
  }
  [[gnu::always_inline]] static Vec high_to_even(Vec a) { return {(__m512i)((__v8du)a.v >> 32)}; }
  [[gnu::always_inline]] static Vec zip_even(Vec a, Vec b) {
    return {_mm512_mask_shuffle_epi32(a.v, 0xaaaa, b.v, _MM_PERM_CCAA)};
  }
  [[gnu::always_inline]] static Vec zip_low(Vec a, Vec b) {
    return {_mm512_maskz_unpacklo_epi32(0xffff, a.v, b.v)};
  }
  [[gnu::always_inline]] static Vec zip_high(Vec a, Vec b) {
    return {_mm512_maskz_unpackhi_epi32(0xffff, a.v, b.v)};
  }
  [[gnu::always_inline]] static void mul_hi_lo(Vec a, std::uint32_t m, Vec& hi, Vec& lo) {
    const Vec factor = set(m);
    const __m512i even = mul_even(a, factor).v;
    const __m512i odd = mul_even(high_to_even(a), factor).v;
    hi = {_mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB)};
    lo = {_mm512_mask_shuffle_epi32(even, 0xaaaa, odd, _MM_PERM_CCAA)};
  }

  [[gnu::always_inline]] static typename Float::Mask any_bit(Vec a, Vec b) {
    return {_mm512_test_epi32_mask(a.v, b.v)};
  }
  [[gnu::always_inline]] Float to_float() const { return {_mm512_maskz_cvtepu32_ps(0xffff, v)}; }
  [[gnu::always_inline]] Float to_float_signed() const {
    return {_mm512_maskz_cvtepi32_ps(0xffff, v)};
  }
  [[gnu::always_inline]] static Vec from_float_trunc(Float x) {
    return {_mm512_maskz_cvttps_epi32(0xffff, x.v)};
  }
};

}  // namespace bpfree::simd
