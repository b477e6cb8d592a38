// SPDX-License-Identifier: BSD-3-Clause
#include "simd/avx2.h"
//
#include "random/noise-inl.h"

namespace bpfree::random {

const Kernels* kernels_avx2() { return &kTable<isa::Avx2>; }

}  // namespace bpfree::random
