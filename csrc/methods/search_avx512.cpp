// SPDX-License-Identifier: BSD-3-Clause
#include "simd/avx512.h"
//
#include "methods/search-inl.h"

namespace bpfree {

const SearchKernels* search_kernels_avx512() { return &kSearchTable<isa::Avx512>; }

}  // namespace bpfree
