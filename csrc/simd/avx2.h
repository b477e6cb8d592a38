// SPDX-License-Identifier: BSD-3-Clause
// The contract of vec.h on AVX2 with FMA: 8 floats.
#pragma once

#include <immintrin.h>

#include <concepts>

#include "simd/vec.h"

namespace bpfree::simd {

// A constrained template, not a full specialisation: the types of one instruction set may then name
// each other freely.
template <class Isa>
concept Avx2Tag = std::same_as<Isa, isa::Avx2>;

template <class Isa>
  requires Avx2Tag<Isa>
struct Vec<Isa, float> {
  static constexpr std::size_t N = 8;
  using Element = float;
  using Float = Vec;
  using Bits = Vec<Isa, std::uint32_t>;

  __m256 v;

  struct Mask {
    __m256 m;
    [[gnu::always_inline]] friend Mask operator&(Mask a, Mask b) {
      return {_mm256_and_ps(a.m, b.m)};
    }
    [[gnu::always_inline]] friend Mask operator|(Mask a, Mask b) {
      return {_mm256_or_ps(a.m, b.m)};
    }
    [[gnu::always_inline]] friend Mask operator!(Mask a) {
      return {_mm256_xor_ps(a.m, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))};
    }
  };

  [[gnu::always_inline]] static __m256i first(std::size_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }

  [[gnu::always_inline]] static Vec zero() { return {_mm256_setzero_ps()}; }
  [[gnu::always_inline]] static Vec set(float x) { return {_mm256_set1_ps(x)}; }
  [[gnu::always_inline]] static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  [[gnu::always_inline]] static Vec load_partial(const float* p, std::size_t n) {
    return {_mm256_maskload_ps(p, first(n))};
  }
  // Plain loads: the gather instruction is no faster and much slower where its data leak is
  // patched.
  [[gnu::always_inline]] static Vec gather(const float* p, std::ptrdiff_t s) {
    return {_mm256_setr_ps(p[0], p[s], p[2 * s], p[3 * s], p[4 * s], p[5 * s], p[6 * s], p[7 * s])};
  }
  [[gnu::always_inline]] void store(float* p) const { _mm256_storeu_ps(p, v); }
  [[gnu::always_inline]] void store_partial(float* p, std::size_t n) const {
    _mm256_maskstore_ps(p, first(n), v);
  }
  [[gnu::always_inline]] void store_double(double* p) const {
    _mm256_storeu_pd(p, _mm256_cvtps_pd(_mm256_castps256_ps128(v)));
    _mm256_storeu_pd(p + 4, _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)));
  }

  [[gnu::always_inline]] friend Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
  [[gnu::always_inline]] friend Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
  [[gnu::always_inline]] friend Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
  [[gnu::always_inline]] friend Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
  [[gnu::always_inline]] friend Vec operator-(Vec a) { return {-a.v}; }

  [[gnu::always_inline]] static Vec fma(Vec a, Vec b, Vec c) {
    return {_mm256_fmadd_ps(a.v, b.v, c.v)};
  }
  [[gnu::always_inline]] static Vec fnma(Vec a, Vec b, Vec c) {
    return {_mm256_fnmadd_ps(a.v, b.v, c.v)};
  }
  [[gnu::always_inline]] static Vec mul_add(Vec a, Vec b, Vec c) { return fma(a, b, c); }
  [[gnu::always_inline]] static Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
  [[gnu::always_inline]] static Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
  [[gnu::always_inline]] static Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
  [[gnu::always_inline]] static Vec sqrt_fast(Vec a) { return sqrt(a); }
  [[gnu::always_inline]] static Vec divide_fast(Vec a, Vec b) { return a / b; }
  [[gnu::always_inline]] static Vec abs(Vec a) {
    return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)};
  }
  [[gnu::always_inline]] static Vec floor(Vec a) { return {_mm256_round_ps(a.v, 9)}; }
  [[gnu::always_inline]] static Vec round_nearest(Vec a) { return {_mm256_round_ps(a.v, 8)}; }

  [[gnu::always_inline]] float reduce_add() const {
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
  }
  [[gnu::always_inline]] float reduce_max() const {
    const __m128 b = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
  }

  [[gnu::always_inline]] friend Mask operator>(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)};
  }
  [[gnu::always_inline]] friend Mask operator>=(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)};
  }
  [[gnu::always_inline]] friend Mask operator<(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)};
  }
  [[gnu::always_inline]] friend Mask operator<=(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)};
  }
  [[gnu::always_inline]] friend Mask operator==(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)};
  }
  [[gnu::always_inline]] static Vec select(Mask m, Vec a, Vec b) {
    return {_mm256_blendv_ps(b.v, a.v, m.m)};
  }

  [[gnu::always_inline]] Bits bits() const { return {_mm256_castps_si256(v)}; }
  [[gnu::always_inline]] static Vec from_bits(Bits u) { return {_mm256_castsi256_ps(u.v)}; }
  [[gnu::always_inline]] static void split(Vec x, Vec& m, Vec& e) {
    const __m256i base = _mm256_set1_epi32(0x3f400000);  // 0.75
    const __m256i shifted = _mm256_sub_epi32(_mm256_castps_si256(x.v), base);
    e = {_mm256_cvtepi32_ps(_mm256_srai_epi32(shifted, 23))};
    m = {_mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_and_si256(shifted, _mm256_set1_epi32(0x7fffff)), base))};
  }
  [[gnu::always_inline]] static Vec scale(Vec x, Vec n) {
    const __m256i power = _mm256_cvttps_epi32(n.v);
    const __m256i half =
        _mm256_srai_epi32(power, 1);  // twice, since 2^n itself need not be a normal number
    const __m256i bias = _mm256_set1_epi32(127);
    const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    const __m256i second =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(power, half), bias), 23);
    return {x.v * _mm256_castsi256_ps(first) * _mm256_castsi256_ps(second)};
  }
  [[gnu::always_inline]] static Vec flip_sign(Vec x, Bits u) {
    return {_mm256_xor_ps(x.v, _mm256_and_ps(_mm256_castsi256_ps(u.v), _mm256_set1_ps(-0.0f)))};
  }
  [[gnu::always_inline]] static Vec zip_low(Vec a, Vec b) { return {_mm256_unpacklo_ps(a.v, b.v)}; }
  [[gnu::always_inline]] static Vec zip_high(Vec a, Vec b) {
    return {_mm256_unpackhi_ps(a.v, b.v)};
  }

  [[gnu::always_inline]] static Vec from_pair_low(Bits u) { return from_bits(u << 16); }
  [[gnu::always_inline]] static Vec from_pair_high(Bits u) {
    return from_bits(u & Bits::set(0xffff0000u));
  }
  [[gnu::always_inline]] static Vec load_bf16(const std::uint16_t* p) {
    const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16))};
  }
  [[gnu::always_inline]] static Vec load_bf16_partial(const std::uint16_t* p, std::size_t n) {
    std::uint16_t buffer[N] = {};
    for (std::size_t i = 0; i < n; ++i) buffer[i] = p[i];
    return load_bf16(buffer);
  }
  // bf16 of each lane in its low half.
  [[gnu::always_inline]] static __m256i narrow(__m256 x) {
    const __m256i u = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  }
  [[gnu::always_inline]] static Bits pack_pair(Vec low, Vec high) {
    return {_mm256_or_si256(narrow(low.v), _mm256_slli_epi32(narrow(high.v), 16))};
  }
  [[gnu::always_inline]] void store_bf16(std::uint16_t* p) const {
    const __m256i u = narrow(v);
    const __m128i h = _mm_packus_epi32(_mm256_castsi256_si128(u), _mm256_extracti128_si256(u, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), h);
  }
  [[gnu::always_inline]] void store_bf16_partial(std::uint16_t* p, std::size_t n) const {
    std::uint16_t buffer[N];
    store_bf16(buffer);
    for (std::size_t i = 0; i < n; ++i) p[i] = buffer[i];
  }
};

template <class Isa>
  requires Avx2Tag<Isa>
struct Vec<Isa, double> {
  static constexpr std::size_t N = 4;
  using Element = double;

  __m256d v;

  struct Mask {
    __m256d m;
    [[gnu::always_inline]] friend Mask operator&(Mask a, Mask b) {
      return {_mm256_and_pd(a.m, b.m)};
    }
    [[gnu::always_inline]] friend Mask operator|(Mask a, Mask b) {
      return {_mm256_or_pd(a.m, b.m)};
    }
    [[gnu::always_inline]] friend Mask operator!(Mask a) {
      return {_mm256_xor_pd(a.m, _mm256_castsi256_pd(_mm256_set1_epi32(-1)))};
    }
  };

  [[gnu::always_inline]] static __m256i first(std::size_t n) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(static_cast<long long>(n)),
                              _mm256_setr_epi64x(0, 1, 2, 3));
  }

  [[gnu::always_inline]] static Vec zero() { return {_mm256_setzero_pd()}; }
  [[gnu::always_inline]] static Vec set(double x) { return {_mm256_set1_pd(x)}; }
  [[gnu::always_inline]] static Vec load(const double* p) { return {_mm256_loadu_pd(p)}; }
  [[gnu::always_inline]] static Vec load_partial(const double* p, std::size_t n) {
    return {_mm256_maskload_pd(p, first(n))};
  }
  [[gnu::always_inline]] static Vec gather(const double* p, std::ptrdiff_t s) {
    return {_mm256_setr_pd(p[0], p[s], p[2 * s], p[3 * s])};
  }
  [[gnu::always_inline]] void store(double* p) const { _mm256_storeu_pd(p, v); }
  [[gnu::always_inline]] void store_partial(double* p, std::size_t n) const {
    _mm256_maskstore_pd(p, first(n), v);
  }

  [[gnu::always_inline]] friend Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
  [[gnu::always_inline]] friend Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
  [[gnu::always_inline]] friend Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
  [[gnu::always_inline]] friend Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
  [[gnu::always_inline]] friend Vec operator-(Vec a) { return {-a.v}; }

  [[gnu::always_inline]] static Vec fma(Vec a, Vec b, Vec c) {
    return {_mm256_fmadd_pd(a.v, b.v, c.v)};
  }
  [[gnu::always_inline]] static Vec fnma(Vec a, Vec b, Vec c) {
    return {_mm256_fnmadd_pd(a.v, b.v, c.v)};
  }
  [[gnu::always_inline]] static Vec mul_add(Vec a, Vec b, Vec c) { return fma(a, b, c); }
  [[gnu::always_inline]] static Vec min(Vec a, Vec b) { return {_mm256_min_pd(a.v, b.v)}; }
  [[gnu::always_inline]] static Vec max(Vec a, Vec b) { return {_mm256_max_pd(a.v, b.v)}; }
  [[gnu::always_inline]] static Vec sqrt(Vec a) { return {_mm256_sqrt_pd(a.v)}; }
  [[gnu::always_inline]] static Vec abs(Vec a) {
    return {_mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v)};
  }
  [[gnu::always_inline]] static Vec floor(Vec a) { return {_mm256_round_pd(a.v, 9)}; }
  [[gnu::always_inline]] static Vec round_nearest(Vec a) { return {_mm256_round_pd(a.v, 8)}; }

  [[gnu::always_inline]] double reduce_add() const {
    const __m128d b = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(b, _mm_unpackhi_pd(b, b)));
  }
  [[gnu::always_inline]] double reduce_max() const {
    const __m128d b = _mm_max_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_max_sd(b, _mm_unpackhi_pd(b, b)));
  }

  [[gnu::always_inline]] friend Mask operator>(Vec a, Vec b) {
    return {_mm256_cmp_pd(a.v, b.v, _CMP_GT_OQ)};
  }
  [[gnu::always_inline]] friend Mask operator>=(Vec a, Vec b) {
    return {_mm256_cmp_pd(a.v, b.v, _CMP_GE_OQ)};
  }
  [[gnu::always_inline]] friend Mask operator<(Vec a, Vec b) {
    return {_mm256_cmp_pd(a.v, b.v, _CMP_LT_OQ)};
  }
  [[gnu::always_inline]] friend Mask operator<=(Vec a, Vec b) {
    return {_mm256_cmp_pd(a.v, b.v, _CMP_LE_OQ)};
  }
  [[gnu::always_inline]] friend Mask operator==(Vec a, Vec b) {
    return {_mm256_cmp_pd(a.v, b.v, _CMP_EQ_OQ)};
  }
  [[gnu::always_inline]] static Vec select(Mask m, Vec a, Vec b) {
    return {_mm256_blendv_pd(b.v, a.v, m.m)};
  }
};

template <class Isa>
  requires Avx2Tag<Isa>
struct Vec<Isa, std::uint32_t> {
  static constexpr std::size_t N = 8;
  using Element = std::uint32_t;
  using Bits = Vec;
  using Float = Vec<Isa, float>;

  __m256i v;

  [[gnu::always_inline]] static Vec zero() { return {_mm256_setzero_si256()}; }
  [[gnu::always_inline]] static Vec set(std::uint32_t x) {
    return {_mm256_set1_epi32(static_cast<int>(x))};
  }
  [[gnu::always_inline]] static Vec load(const std::uint32_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
  }
  [[gnu::always_inline]] static Vec load_partial(const std::uint32_t* p, std::size_t n) {
    return {_mm256_maskload_epi32(reinterpret_cast<const int*>(p), Float::first(n))};
  }
  [[gnu::always_inline]] void store(std::uint32_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  }
  [[gnu::always_inline]] void store_partial(std::uint32_t* p, std::size_t n) const {
    _mm256_maskstore_epi32(reinterpret_cast<int*>(p), Float::first(n), v);
  }
  [[gnu::always_inline]] static Vec iota() { return {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)}; }

  [[gnu::always_inline]] friend Vec operator+(Vec a, Vec b) { return {_mm256_add_epi32(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_epi32(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator&(Vec a, Vec b) { return {_mm256_and_si256(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator|(Vec a, Vec b) { return {_mm256_or_si256(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator^(Vec a, Vec b) { return {_mm256_xor_si256(a.v, b.v)}; }
  // As in avx512.h: not the intrinsics, which want a literal.
  [[gnu::always_inline]] friend Vec operator<<(Vec a, int n) {
    return {(__m256i)((__v8su)a.v << n)};
  }
  [[gnu::always_inline]] friend Vec operator>>(Vec a, int n) {
    return {(__m256i)((__v8su)a.v >> n)};
  }

  [[gnu::always_inline]] static Vec mul_even(Vec a, Vec b) { return {_mm256_mul_epu32(a.v, b.v)}; }
  [[gnu::always_inline]] static Vec high_to_even(Vec a) { return {_mm256_srli_epi64(a.v, 32)}; }
  [[gnu::always_inline]] static Vec zip_even(Vec a, Vec b) {
    return {_mm256_blend_epi32(a.v, _mm256_shuffle_epi32(b.v, 0xa0), 0xaa)};
  }
  [[gnu::always_inline]] static Vec zip_low(Vec a, Vec b) {
    return {_mm256_unpacklo_epi32(a.v, b.v)};
  }
  [[gnu::always_inline]] static Vec zip_high(Vec a, Vec b) {
    return {_mm256_unpackhi_epi32(a.v, b.v)};
  }
  [[gnu::always_inline]] static void mul_hi_lo(Vec a, std::uint32_t m, Vec& hi, Vec& lo) {
    const Vec factor = set(m);
    const __m256i even = mul_even(a, factor).v;
    const __m256i odd = mul_even(high_to_even(a), factor).v;
    hi = {_mm256_blend_epi32(_mm256_shuffle_epi32(even, 0xf5), odd, 0xaa)};
    lo = {_mm256_blend_epi32(even, _mm256_shuffle_epi32(odd, 0xa0), 0xaa)};
  }

  [[gnu::always_inline]] static typename Float::Mask any_bit(Vec a, Vec b) {
    return !typename Float::Mask{
        _mm256_castsi256_ps(_mm256_cmpeq_epi32((a & b).v, _mm256_setzero_si256()))};
  }
  // Both halves are exact, so the fma rounds once.
  [[gnu::always_inline]] Float to_float() const {
    const Float high = (*this >> 16).to_float_signed();
    const Float low = (*this & set(0xffff)).to_float_signed();
    return Float::fma(high, Float::set(65536.0f), low);
  }
  [[gnu::always_inline]] Float to_float_signed() const { return {_mm256_cvtepi32_ps(v)}; }
  [[gnu::always_inline]] static Vec from_float_trunc(Float x) { return {_mm256_cvttps_epi32(x.v)}; }
};

}  // namespace bpfree::simd
