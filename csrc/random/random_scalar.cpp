// SPDX-License-Identifier: BSD-3-Clause
#include "simd/scalar.h"
//
#include "random/noise-inl.h"

namespace bpfree::random {

const Kernels* kernels_scalar() { return &kTable<isa::Scalar>; }

}  // namespace bpfree::random
