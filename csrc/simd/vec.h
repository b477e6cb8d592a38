// SPDX-License-Identifier: BSD-3-Clause
// The contract that every instruction set fulfils, in scalar.h, avx2.h, avx512.h, avx512bf16.h and
// neon.h. A per-ISA file includes one of those; a kernel header includes this one and is a template
// on the tag.
//
// Vec<Isa, float>, Vec<Isa, double>, Vec<Isa, uint32_t>: plain aggregates around one register.
// Every function is always inlined and carries the tag in its name, so no symbol of one instruction
// set can stand in for that of another.
//
//               lanes N: float and uint32_t  double
//   Scalar                              1       1
//   Neon                                4       2
//   Avx2                                8       4
//   Avx512, Avx512Bf16                 16       8
//
// float and double
//   zero()  set(x)  load(p)  load_partial(p, n)   n in 0..N, other lanes 0
//   gather(p, stride)          element i is p[i * stride]
//   store(p)  store_partial(p, n)                 lanes beyond n are not touched
//   + - * / and unary -
//   fma(a, b, c)      a * b + c, one rounding: the same bits on every instruction set
//   fnma(a, b, c)     c - a * b, likewise
//   mul_add(a, b, c)  a * b + c, the fastest way: Scalar rounds twice. For products only
//   min(a, b)  max(a, b)       the second operand when either is NaN
//   abs  sqrt  floor  round_nearest (ties to even)
//   reduce_add()  reduce_max() halves added to each other, in a fixed order
//   Mask, from > >= < <= ==, false for NaN; & | !; select(mask, a, b) is a where the mask is set
// float only
//   bits()  from_bits(u)
//   split(x, m, e)    x = m * 2^e with m in [0.75, 1.5); x positive and normal
//   scale(x, n)       x * 2^n, one rounding; n integral, |n| <= 252, x in [0.5, 2]
//   sqrt_fast(a)  divide_fast(a, b)   within 3 ulp; a in [0, 2^126] and 2^-126 in the place of a smaller
//                     one, b in [2^-126, 2^126]. Not the same bits on every instruction set
//   flip_sign(x, u)   x with its sign bit xored with the sign bits of u (other bits do not count)
//   store_double(p)   widened
//   zip_low(a, b)  zip_high(a, b)   in each 128 bits a0 b0 a1 b1, and a2 b2 a3 b3 (not Scalar)
//   bf16 in memory is uint16_t; a pair is a uint32_t with the even index in its low half
//   from_pair_low(u)  from_pair_high(u)  load_bf16(p)  load_bf16_partial(p, n)   exact
//   pack_pair(low, high)  store_bf16(p)  store_bf16_partial(p, n)
//                         round to nearest even, NaN stays NaN
//   dot_pair(acc, a, b)   Avx512Bf16 alone: acc + a.low * b.low + a.high * b.high by the CPU's instruction,
//                         which rounds in its own way and takes denormals for zero, as does its
//                         conversion
// uint32_t
//   zero() set load store load_partial store_partial iota()
//   + - & | ^ and << >> by a constant, >> brings in zeros
//   mul_hi_lo(a, m, hi, lo)   the 64-bit product of each lane with m
//   mul_even(a, b)            the 64-bit products of the even lanes, each in two lanes (not Scalar)
//   high_to_even(a)           odd lanes moved down to the even ones, odd lanes 0 (not Scalar)
//   zip_even(a, b)            a0 b0 a2 b2 ... (not Scalar)
//   zip_low zip_high          as above (not Scalar)
//   any_bit(a, b)             float mask: (a & b) != 0
//   to_float()  to_float_signed()  lanes as unsigned or as signed integers, round to nearest even
//   from_float_trunc(x)       towards zero, two's complement; |x| < 2^31
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/isa.h"

namespace bpfree::simd {

template <class Isa, class T>
struct Vec;

}  // namespace bpfree::simd
