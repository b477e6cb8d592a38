// SPDX-License-Identifier: BSD-3-Clause
// The contract of vec.h with one lane: what runs where nothing else does, and the plainest thing to
// compare with.
//
// Builtins instead of <cmath> and <bit>: their inline functions would become symbols that carry no
// tag.
#pragma once

#include <concepts>

#include "simd/vec.h"

namespace bpfree::simd {

template <class Isa>
concept ScalarTag = std::same_as<Isa, isa::Scalar>;

// float and double. What the contract has for float only is compiled for double when asked for, and
// then refused.
template <class Isa, class T>
  requires ScalarTag<Isa> && std::floating_point<T>
struct Vec<Isa, T> {
  static constexpr std::size_t N = 1;
  using Element = T;
  using Float = Vec;
  using Bits = Vec<Isa, std::uint32_t>;

  T v;

  struct Mask {
    bool m;
    [[gnu::always_inline]] friend Mask operator&(Mask a, Mask b) {
      return {static_cast<bool>(a.m & b.m)};
    }
    [[gnu::always_inline]] friend Mask operator|(Mask a, Mask b) {
      return {static_cast<bool>(a.m | b.m)};
    }
    [[gnu::always_inline]] friend Mask operator!(Mask a) { return {!a.m}; }
  };

  static constexpr bool kFloat = std::same_as<T, float>;

  [[gnu::always_inline]] static Vec zero() { return {T(0)}; }
  [[gnu::always_inline]] static Vec set(T x) { return {x}; }
  [[gnu::always_inline]] static Vec load(const T* p) { return {*p}; }
  [[gnu::always_inline]] static Vec load_partial(const T* p, std::size_t n) {
    return {n > 0 ? *p : T(0)};
  }
  [[gnu::always_inline]] static Vec gather(const T* p, std::ptrdiff_t) { return {*p}; }
  [[gnu::always_inline]] void store(T* p) const { *p = v; }
  [[gnu::always_inline]] void store_partial(T* p, std::size_t n) const {
    if (n > 0) *p = v;
  }
  [[gnu::always_inline]] void store_double(double* p) const { *p = v; }

  [[gnu::always_inline]] friend Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
  [[gnu::always_inline]] friend Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
  [[gnu::always_inline]] friend Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
  [[gnu::always_inline]] friend Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
  [[gnu::always_inline]] friend Vec operator-(Vec a) { return {-a.v}; }

  [[gnu::always_inline]] static Vec fma(Vec a, Vec b, Vec c) {
    if constexpr (kFloat)
      return {__builtin_fmaf(a.v, b.v, c.v)};
    else
      return {__builtin_fma(a.v, b.v, c.v)};
  }
  [[gnu::always_inline]] static Vec fnma(Vec a, Vec b, Vec c) { return fma(-a, b, c); }
  [[gnu::always_inline]] static Vec mul_add(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
  [[gnu::always_inline]] static Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
  [[gnu::always_inline]] static Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
  [[gnu::always_inline]] static Vec sqrt(Vec a) {
    if constexpr (kFloat)
      return {__builtin_sqrtf(a.v)};
    else
      return {__builtin_sqrt(a.v)};
  }
  [[gnu::always_inline]] static Vec sqrt_fast(Vec a) { return sqrt(a); }
  [[gnu::always_inline]] static Vec divide_fast(Vec a, Vec b) { return a / b; }
  [[gnu::always_inline]] static Vec abs(Vec a) {
    if constexpr (kFloat)
      return {__builtin_fabsf(a.v)};
    else
      return {__builtin_fabs(a.v)};
  }
  [[gnu::always_inline]] static Vec floor(Vec a) {
    if constexpr (kFloat)
      return {__builtin_floorf(a.v)};
    else
      return {__builtin_floor(a.v)};
  }
  [[gnu::always_inline]] static Vec round_nearest(Vec a) {
    if constexpr (kFloat)
      return {__builtin_rintf(a.v)};
    else
      return {__builtin_rint(a.v)};
  }

  [[gnu::always_inline]] T reduce_add() const { return v; }
  [[gnu::always_inline]] T reduce_max() const { return v; }

  [[gnu::always_inline]] friend Mask operator>(Vec a, Vec b) { return {a.v > b.v}; }
  [[gnu::always_inline]] friend Mask operator>=(Vec a, Vec b) { return {a.v >= b.v}; }
  [[gnu::always_inline]] friend Mask operator<(Vec a, Vec b) { return {a.v < b.v}; }
  [[gnu::always_inline]] friend Mask operator<=(Vec a, Vec b) { return {a.v <= b.v}; }
  [[gnu::always_inline]] friend Mask operator==(Vec a, Vec b) { return {a.v == b.v}; }
  [[gnu::always_inline]] static Vec select(Mask m, Vec a, Vec b) { return m.m ? a : b; }

  [[gnu::always_inline]] Bits bits() const { return {__builtin_bit_cast(std::uint32_t, v)}; }
  [[gnu::always_inline]] static Vec from_bits(Bits u) { return {__builtin_bit_cast(float, u.v)}; }
  [[gnu::always_inline]] static void split(Vec x, Vec& m, Vec& e) {
    const std::uint32_t shifted = x.bits().v - 0x3f400000u;  // 0.75
    e = {static_cast<float>(static_cast<std::int32_t>(shifted) >> 23)};
    m = from_bits(Bits{(shifted & 0x7fffffu) + 0x3f400000u});
  }
  [[gnu::always_inline]] static Vec scale(Vec x, Vec n) {
    const auto power = static_cast<std::int32_t>(n.v);
    const std::int32_t half = power >> 1;  // twice, since 2^n itself need not be a normal number
    const Vec first = from_bits(Bits{static_cast<std::uint32_t>(half + 127) << 23});
    const Vec second = from_bits(Bits{static_cast<std::uint32_t>(power - half + 127) << 23});
    return x * first * second;
  }
  [[gnu::always_inline]] static Vec flip_sign(Vec x, Bits u) {
    return from_bits(Bits{x.bits().v ^ (u.v & 0x80000000u)});
  }

  [[gnu::always_inline]] static Vec from_pair_low(Bits u) { return from_bits(Bits{u.v << 16}); }
  [[gnu::always_inline]] static Vec from_pair_high(Bits u) {
    return from_bits(Bits{u.v & 0xffff0000u});
  }
  [[gnu::always_inline]] static Vec load_bf16(const std::uint16_t* p) {
    return from_bits(Bits{static_cast<std::uint32_t>(*p) << 16});
  }
  [[gnu::always_inline]] static Vec load_bf16_partial(const std::uint16_t* p, std::size_t n) {
    return n > 0 ? load_bf16(p) : zero();
  }
  // bf16 of x in the low half.
  [[gnu::always_inline]] static std::uint32_t narrow(Vec x) {
    const std::uint32_t u = x.bits().v;
    if (x.v != x.v) return (u | 0x400000u) >> 16;
    return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  }
  [[gnu::always_inline]] static Bits pack_pair(Vec low, Vec high) {
    return {narrow(low) | narrow(high) << 16};
  }
  [[gnu::always_inline]] void store_bf16(std::uint16_t* p) const {
    *p = static_cast<std::uint16_t>(narrow(*this));
  }
  [[gnu::always_inline]] void store_bf16_partial(std::uint16_t* p, std::size_t n) const {
    if (n > 0) store_bf16(p);
  }
};

template <class Isa>
  requires ScalarTag<Isa>
struct Vec<Isa, std::uint32_t> {
  static constexpr std::size_t N = 1;
  using Element = std::uint32_t;
  using Bits = Vec;
  using Float = Vec<Isa, float>;

  std::uint32_t v;

  [[gnu::always_inline]] static Vec zero() { return {0}; }
  [[gnu::always_inline]] static Vec set(std::uint32_t x) { return {x}; }
  [[gnu::always_inline]] static Vec load(const std::uint32_t* p) { return {*p}; }
  [[gnu::always_inline]] static Vec load_partial(const std::uint32_t* p, std::size_t n) {
    return {n > 0 ? *p : 0};
  }
  [[gnu::always_inline]] void store(std::uint32_t* p) const { *p = v; }
  [[gnu::always_inline]] void store_partial(std::uint32_t* p, std::size_t n) const {
    if (n > 0) *p = v;
  }
  [[gnu::always_inline]] static Vec iota() { return {0}; }

  [[gnu::always_inline]] friend Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
  [[gnu::always_inline]] friend Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
  [[gnu::always_inline]] friend Vec operator&(Vec a, Vec b) { return {a.v & b.v}; }
  [[gnu::always_inline]] friend Vec operator|(Vec a, Vec b) { return {a.v | b.v}; }
  [[gnu::always_inline]] friend Vec operator^(Vec a, Vec b) { return {a.v ^ b.v}; }
  [[gnu::always_inline]] friend Vec operator<<(Vec a, int n) { return {a.v << n}; }
  [[gnu::always_inline]] friend Vec operator>>(Vec a, int n) { return {a.v >> n}; }

  [[gnu::always_inline]] static void mul_hi_lo(Vec a, std::uint32_t m, Vec& hi, Vec& lo) {
    const std::uint64_t product = static_cast<std::uint64_t>(a.v) * m;
    hi = {static_cast<std::uint32_t>(product >> 32)};
    lo = {static_cast<std::uint32_t>(product)};
  }
  [[gnu::always_inline]] static typename Float::Mask any_bit(Vec a, Vec b) {
    return {(a.v & b.v) != 0};
  }
  [[gnu::always_inline]] Float to_float() const { return {static_cast<float>(v)}; }
  [[gnu::always_inline]] Float to_float_signed() const {
    return {static_cast<float>(static_cast<std::int32_t>(v))};
  }
  [[gnu::always_inline]] static Vec from_float_trunc(Float x) {
    return {static_cast<std::uint32_t>(static_cast<std::int32_t>(x.v))};
  }
};

}  // namespace bpfree::simd
