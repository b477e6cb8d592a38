// SPDX-License-Identifier: BSD-3-Clause
#include "simd/avx512bf16.h"
//
#include "random/noise-inl.h"

namespace bpfree::random {

const Kernels* kernels_avx512bf16() { return &kTable<isa::Avx512Bf16>; }

}  // namespace bpfree::random
