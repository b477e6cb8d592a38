// SPDX-License-Identifier: BSD-3-Clause
#include "simd/neon.h"
//
#include "methods/search-inl.h"

namespace bpfree {

const SearchKernels* search_kernels_neon() { return &kSearchTable<isa::Neon>; }

}  // namespace bpfree
