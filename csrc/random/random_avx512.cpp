// SPDX-License-Identifier: BSD-3-Clause
#include "simd/avx512.h"
//
#include "random/noise-inl.h"

namespace bpfree::random {

const Kernels* kernels_avx512() { return &kTable<isa::Avx512>; }

}  // namespace bpfree::random
