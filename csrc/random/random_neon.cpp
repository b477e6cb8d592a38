// SPDX-License-Identifier: BSD-3-Clause
#include "simd/neon.h"
//
#include "random/noise-inl.h"

namespace bpfree::random {

const Kernels* kernels_neon() { return &kTable<isa::Neon>; }

}  // namespace bpfree::random
