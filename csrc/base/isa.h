// SPDX-License-Identifier: BSD-3-Clause
// Instruction-set tags. A kernel is a template on one of these, so that every instruction set has symbols of its own.
#pragma once

namespace bpfree::isa {

struct Scalar {};
struct Avx2 {};        // AVX2 and FMA
struct Avx512 {};      // F, DQ, BW, VL
struct Avx512Bf16 {};  // Avx512 and the bf16 dot product
struct Neon {};

}  // namespace bpfree::isa

namespace bpfree {

// Which architecture this is, for `if constexpr`: a discarded branch needs no symbol of the other one.
#if defined(__x86_64__)
inline constexpr bool kIsX86 = true;
inline constexpr bool kIsArm = false;
#elif defined(__aarch64__)
inline constexpr bool kIsX86 = false;
inline constexpr bool kIsArm = true;
#else
inline constexpr bool kIsX86 = false;
inline constexpr bool kIsArm = false;
#endif

}  // namespace bpfree
