// SPDX-License-Identifier: BSD-3-Clause
#include "simd/scalar.h"
//
#include "methods/search-inl.h"

namespace bpfree {

const SearchKernels* search_kernels_scalar() { return &kSearchTable<isa::Scalar>; }

}  // namespace bpfree
