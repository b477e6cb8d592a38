// SPDX-License-Identifier: BSD-3-Clause
#include "simd/avx2.h"
//
#include "methods/search-inl.h"

namespace bpfree {

const SearchKernels* search_kernels_avx2() { return &kSearchTable<isa::Avx2>; }

}  // namespace bpfree
