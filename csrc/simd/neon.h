// SPDX-License-Identifier: BSD-3-Clause
// The contract of vec.h on 64-bit Arm: 4 floats.
#pragma once

#include <arm_neon.h>

#include <concepts>

#include "simd/vec.h"

namespace bpfree::simd {

template <class Isa>
concept NeonTag = std::same_as<Isa, isa::Neon>;

template <class Isa>
  requires NeonTag<Isa>
struct Vec<Isa, float> {
  static constexpr std::size_t N = 4;
  using Element = float;
  using Float = Vec;
  using Bits = Vec<Isa, std::uint32_t>;

  float32x4_t v;

  struct Mask {
    uint32x4_t m;
    [[gnu::always_inline]] friend Mask operator&(Mask a, Mask b) { return {vandq_u32(a.m, b.m)}; }
    [[gnu::always_inline]] friend Mask operator|(Mask a, Mask b) { return {vorrq_u32(a.m, b.m)}; }
    [[gnu::always_inline]] friend Mask operator!(Mask a) { return {vmvnq_u32(a.m)}; }
  };

  [[gnu::always_inline]] static Vec zero() { return {vdupq_n_f32(0.0f)}; }
  [[gnu::always_inline]] static Vec set(float x) { return {vdupq_n_f32(x)}; }
  [[gnu::always_inline]] static Vec load(const float* p) { return {vld1q_f32(p)}; }
  [[gnu::always_inline]] static Vec load_partial(const float* p, std::size_t n) {
    float buffer[N] = {};
    for (std::size_t i = 0; i < n; ++i) buffer[i] = p[i];
    return load(buffer);
  }
  [[gnu::always_inline]] static Vec gather(const float* p, std::ptrdiff_t s) {
    const float buffer[N] = {p[0], p[s], p[2 * s], p[3 * s]};
    return load(buffer);
  }
  [[gnu::always_inline]] void store(float* p) const { vst1q_f32(p, v); }
  [[gnu::always_inline]] void store_partial(float* p, std::size_t n) const {
    float buffer[N];
    store(buffer);
    for (std::size_t i = 0; i < n; ++i) p[i] = buffer[i];
  }
  [[gnu::always_inline]] void store_double(double* p) const {
    vst1q_f64(p, vcvt_f64_f32(vget_low_f32(v)));
    vst1q_f64(p + 2, vcvt_high_f64_f32(v));
  }

  [[gnu::always_inline]] friend Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator-(Vec a) { return {vnegq_f32(a.v)}; }

  [[gnu::always_inline]] static Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
  [[gnu::always_inline]] static Vec fnma(Vec a, Vec b, Vec c) { return {vfmsq_f32(c.v, a.v, b.v)}; }
  [[gnu::always_inline]] static Vec mul_add(Vec a, Vec b, Vec c) { return fma(a, b, c); }
  // Not fmin and fmax, which treat NaN otherwise than the contract.
  [[gnu::always_inline]] static Vec min(Vec a, Vec b) { return select(a < b, a, b); }
  [[gnu::always_inline]] static Vec max(Vec a, Vec b) { return select(a > b, a, b); }
  [[gnu::always_inline]] static Vec sqrt(Vec a) { return {vsqrtq_f32(a.v)}; }
  [[gnu::always_inline]] static Vec sqrt_fast(Vec a) { return sqrt(a); }
  [[gnu::always_inline]] static Vec divide_fast(Vec a, Vec b) { return a / b; }
  [[gnu::always_inline]] static Vec abs(Vec a) { return {vabsq_f32(a.v)}; }
  [[gnu::always_inline]] static Vec floor(Vec a) { return {vrndmq_f32(a.v)}; }
  [[gnu::always_inline]] static Vec round_nearest(Vec a) { return {vrndnq_f32(a.v)}; }

  [[gnu::always_inline]] float reduce_add() const {
    const float32x2_t half = vadd_f32(vget_low_f32(v), vget_high_f32(v));
    return vget_lane_f32(half, 0) + vget_lane_f32(half, 1);
  }
  [[gnu::always_inline]] float reduce_max() const {
    const Vec half = max(*this, {vextq_f32(v, v, 2)});
    return vgetq_lane_f32(max(half, {vextq_f32(half.v, half.v, 1)}).v, 0);
  }

  [[gnu::always_inline]] friend Mask operator>(Vec a, Vec b) { return {vcgtq_f32(a.v, b.v)}; }
  [[gnu::always_inline]] friend Mask operator>=(Vec a, Vec b) { return {vcgeq_f32(a.v, b.v)}; }
  [[gnu::always_inline]] friend Mask operator<(Vec a, Vec b) { return {vcltq_f32(a.v, b.v)}; }
  [[gnu::always_inline]] friend Mask operator<=(Vec a, Vec b) { return {vcleq_f32(a.v, b.v)}; }
  [[gnu::always_inline]] friend Mask operator==(Vec a, Vec b) { return {vceqq_f32(a.v, b.v)}; }
  [[gnu::always_inline]] static Vec select(Mask m, Vec a, Vec b) {
    return {vbslq_f32(m.m, a.v, b.v)};
  }

  [[gnu::always_inline]] Bits bits() const { return {vreinterpretq_u32_f32(v)}; }
  [[gnu::always_inline]] static Vec from_bits(Bits u) { return {vreinterpretq_f32_u32(u.v)}; }
  [[gnu::always_inline]] static void split(Vec x, Vec& m, Vec& e) {
    const uint32x4_t base = vdupq_n_u32(0x3f400000u);  // 0.75
    const uint32x4_t shifted = vsubq_u32(x.bits().v, base);
    e = {vcvtq_f32_s32(vshrq_n_s32(vreinterpretq_s32_u32(shifted), 23))};
    m = from_bits({vaddq_u32(vandq_u32(shifted, vdupq_n_u32(0x7fffffu)), base)});
  }
  [[gnu::always_inline]] static Vec scale(Vec x, Vec n) {
    const int32x4_t power = vcvtq_s32_f32(n.v);
    const int32x4_t half =
        vshrq_n_s32(power, 1);  // twice, since 2^n itself need not be a normal number
    const int32x4_t bias = vdupq_n_s32(127);
    const int32x4_t first = vshlq_n_s32(vaddq_s32(half, bias), 23);
    const int32x4_t second = vshlq_n_s32(vaddq_s32(vsubq_s32(power, half), bias), 23);
    return x * Vec{vreinterpretq_f32_s32(first)} * Vec{vreinterpretq_f32_s32(second)};
  }
  [[gnu::always_inline]] static Vec flip_sign(Vec x, Bits u) {
    return from_bits(x.bits() ^ (u & Bits::set(0x80000000u)));
  }
  [[gnu::always_inline]] static Vec zip_low(Vec a, Vec b) { return {vzip1q_f32(a.v, b.v)}; }
  [[gnu::always_inline]] static Vec zip_high(Vec a, Vec b) { return {vzip2q_f32(a.v, b.v)}; }

  [[gnu::always_inline]] static Vec from_pair_low(Bits u) { return from_bits(u << 16); }
  [[gnu::always_inline]] static Vec from_pair_high(Bits u) {
    return from_bits(u & Bits::set(0xffff0000u));
  }
  [[gnu::always_inline]] static Vec load_bf16(const std::uint16_t* p) {
    return from_bits({vshll_n_u16(vld1_u16(p), 16)});
  }
  [[gnu::always_inline]] static Vec load_bf16_partial(const std::uint16_t* p, std::size_t n) {
    std::uint16_t buffer[N] = {};
    for (std::size_t i = 0; i < n; ++i) buffer[i] = p[i];
    return load_bf16(buffer);
  }
  // bf16 of each lane in its low half.
  [[gnu::always_inline]] static uint32x4_t narrow(Vec x) {
    const uint32x4_t u = x.bits().v;
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), odd);
    const uint32x4_t quiet = vorrq_u32(u, vdupq_n_u32(0x400000));
    return vshrq_n_u32(vbslq_u32((x == x).m, rounded, quiet), 16);
  }
  [[gnu::always_inline]] static Bits pack_pair(Vec low, Vec high) {
    return Bits{narrow(low)} | (Bits{narrow(high)} << 16);
  }
  [[gnu::always_inline]] void store_bf16(std::uint16_t* p) const {
    vst1_u16(p, vmovn_u32(narrow(*this)));
  }
  [[gnu::always_inline]] void store_bf16_partial(std::uint16_t* p, std::size_t n) const {
    std::uint16_t buffer[N];
    store_bf16(buffer);
    for (std::size_t i = 0; i < n; ++i) p[i] = buffer[i];
  }
};

template <class Isa>
  requires NeonTag<Isa>
struct Vec<Isa, double> {
  static constexpr std::size_t N = 2;
  using Element = double;

  float64x2_t v;

  struct Mask {
    uint64x2_t m;
    [[gnu::always_inline]] friend Mask operator&(Mask a, Mask b) { return {vandq_u64(a.m, b.m)}; }
    [[gnu::always_inline]] friend Mask operator|(Mask a, Mask b) { return {vorrq_u64(a.m, b.m)}; }
    [[gnu::always_inline]] friend Mask operator!(Mask a) {
      return {veorq_u64(a.m, vdupq_n_u64(~0ull))};
    }
  };

  [[gnu::always_inline]] static Vec zero() { return {vdupq_n_f64(0.0)}; }
  [[gnu::always_inline]] static Vec set(double x) { return {vdupq_n_f64(x)}; }
  [[gnu::always_inline]] static Vec load(const double* p) { return {vld1q_f64(p)}; }
  [[gnu::always_inline]] static Vec load_partial(const double* p, std::size_t n) {
    double buffer[N] = {};
    for (std::size_t i = 0; i < n; ++i) buffer[i] = p[i];
    return load(buffer);
  }
  [[gnu::always_inline]] static Vec gather(const double* p, std::ptrdiff_t s) {
    const double buffer[N] = {p[0], p[s]};
    return load(buffer);
  }
  [[gnu::always_inline]] void store(double* p) const { vst1q_f64(p, v); }
  [[gnu::always_inline]] void store_partial(double* p, std::size_t n) const {
    double buffer[N];
    store(buffer);
    for (std::size_t i = 0; i < n; ++i) p[i] = buffer[i];
  }

  [[gnu::always_inline]] friend Vec operator+(Vec a, Vec b) { return {vaddq_f64(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator-(Vec a, Vec b) { return {vsubq_f64(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator*(Vec a, Vec b) { return {vmulq_f64(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator/(Vec a, Vec b) { return {vdivq_f64(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator-(Vec a) { return {vnegq_f64(a.v)}; }

  [[gnu::always_inline]] static Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f64(c.v, a.v, b.v)}; }
  [[gnu::always_inline]] static Vec fnma(Vec a, Vec b, Vec c) { return {vfmsq_f64(c.v, a.v, b.v)}; }
  [[gnu::always_inline]] static Vec mul_add(Vec a, Vec b, Vec c) { return fma(a, b, c); }
  [[gnu::always_inline]] static Vec min(Vec a, Vec b) { return select(a < b, a, b); }
  [[gnu::always_inline]] static Vec max(Vec a, Vec b) { return select(a > b, a, b); }
  [[gnu::always_inline]] static Vec sqrt(Vec a) { return {vsqrtq_f64(a.v)}; }
  [[gnu::always_inline]] static Vec abs(Vec a) { return {vabsq_f64(a.v)}; }
  [[gnu::always_inline]] static Vec floor(Vec a) { return {vrndmq_f64(a.v)}; }
  [[gnu::always_inline]] static Vec round_nearest(Vec a) { return {vrndnq_f64(a.v)}; }

  [[gnu::always_inline]] double reduce_add() const {
    return vgetq_lane_f64(v, 0) + vgetq_lane_f64(v, 1);
  }
  [[gnu::always_inline]] double reduce_max() const {
    return vgetq_lane_f64(max(*this, {vextq_f64(v, v, 1)}).v, 0);
  }

  [[gnu::always_inline]] friend Mask operator>(Vec a, Vec b) { return {vcgtq_f64(a.v, b.v)}; }
  [[gnu::always_inline]] friend Mask operator>=(Vec a, Vec b) { return {vcgeq_f64(a.v, b.v)}; }
  [[gnu::always_inline]] friend Mask operator<(Vec a, Vec b) { return {vcltq_f64(a.v, b.v)}; }
  [[gnu::always_inline]] friend Mask operator<=(Vec a, Vec b) { return {vcleq_f64(a.v, b.v)}; }
  [[gnu::always_inline]] friend Mask operator==(Vec a, Vec b) { return {vceqq_f64(a.v, b.v)}; }
  [[gnu::always_inline]] static Vec select(Mask m, Vec a, Vec b) {
    return {vbslq_f64(m.m, a.v, b.v)};
  }
};

template <class Isa>
  requires NeonTag<Isa>
struct Vec<Isa, std::uint32_t> {
  static constexpr std::size_t N = 4;
  using Element = std::uint32_t;
  using Bits = Vec;
  using Float = Vec<Isa, float>;

  uint32x4_t v;

  [[gnu::always_inline]] static Vec zero() { return {vdupq_n_u32(0)}; }
  [[gnu::always_inline]] static Vec set(std::uint32_t x) { return {vdupq_n_u32(x)}; }
  [[gnu::always_inline]] static Vec load(const std::uint32_t* p) { return {vld1q_u32(p)}; }
  [[gnu::always_inline]] static Vec load_partial(const std::uint32_t* p, std::size_t n) {
    std::uint32_t buffer[N] = {};
    for (std::size_t i = 0; i < n; ++i) buffer[i] = p[i];
    return load(buffer);
  }
  [[gnu::always_inline]] void store(std::uint32_t* p) const { vst1q_u32(p, v); }
  [[gnu::always_inline]] void store_partial(std::uint32_t* p, std::size_t n) const {
    std::uint32_t buffer[N];
    store(buffer);
    for (std::size_t i = 0; i < n; ++i) p[i] = buffer[i];
  }
  [[gnu::always_inline]] static Vec iota() {
    const std::uint32_t index[N] = {0, 1, 2, 3};
    return load(index);
  }

  [[gnu::always_inline]] friend Vec operator+(Vec a, Vec b) { return {vaddq_u32(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator-(Vec a, Vec b) { return {vsubq_u32(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator&(Vec a, Vec b) { return {vandq_u32(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator|(Vec a, Vec b) { return {vorrq_u32(a.v, b.v)}; }
  [[gnu::always_inline]] friend Vec operator^(Vec a, Vec b) { return {veorq_u32(a.v, b.v)}; }
  // The compiler's own vector shifts: the intrinsics want a literal, which a parameter is not in a
  // debug build.
  [[gnu::always_inline]] friend Vec operator<<(Vec a, int n) { return {a.v << n}; }
  [[gnu::always_inline]] friend Vec operator>>(Vec a, int n) { return {a.v >> n}; }

  [[gnu::always_inline]] static Vec mul_even(Vec a, Vec b) {
    return {vreinterpretq_u32_u64(
        vmull_u32(vmovn_u64(vreinterpretq_u64_u32(a.v)), vmovn_u64(vreinterpretq_u64_u32(b.v))))};
  }
  [[gnu::always_inline]] static Vec high_to_even(Vec a) {
    return {vreinterpretq_u32_u64(vshrq_n_u64(vreinterpretq_u64_u32(a.v), 32))};
  }
  [[gnu::always_inline]] static Vec zip_even(Vec a, Vec b) { return {vtrn1q_u32(a.v, b.v)}; }
  [[gnu::always_inline]] static Vec zip_low(Vec a, Vec b) { return {vzip1q_u32(a.v, b.v)}; }
  [[gnu::always_inline]] static Vec zip_high(Vec a, Vec b) { return {vzip2q_u32(a.v, b.v)}; }
  [[gnu::always_inline]] static void mul_hi_lo(Vec a, std::uint32_t m, Vec& hi, Vec& lo) {
    const uint32x4_t low = vreinterpretq_u32_u64(vmull_u32(vget_low_u32(a.v), vdup_n_u32(m)));
    const uint32x4_t high = vreinterpretq_u32_u64(vmull_high_u32(a.v, vdupq_n_u32(m)));
    hi = {vuzp2q_u32(low, high)};
    lo = {vuzp1q_u32(low, high)};
  }

  [[gnu::always_inline]] static typename Float::Mask any_bit(Vec a, Vec b) {
    return {vtstq_u32(a.v, b.v)};
  }
  [[gnu::always_inline]] Float to_float() const { return {vcvtq_f32_u32(v)}; }
  [[gnu::always_inline]] Float to_float_signed() const {
    return {vcvtq_f32_s32(vreinterpretq_s32_u32(v))};
  }
  [[gnu::always_inline]] static Vec from_float_trunc(Float x) {
    return {vreinterpretq_u32_s32(vcvtq_s32_f32(x.v))};
  }
};

}  // namespace bpfree::simd
