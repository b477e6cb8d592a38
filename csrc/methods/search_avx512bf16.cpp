// SPDX-License-Identifier: BSD-3-Clause
#include "simd/avx512bf16.h"
//
#include "methods/search-inl.h"

namespace bpfree {

const SearchKernels* search_kernels_avx512bf16() { return &kSearchTable<isa::Avx512Bf16>; }

}  // namespace bpfree
