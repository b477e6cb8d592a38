// SPDX-License-Identifier: BSD-3-Clause
#include "base/isa.h"
#include "simd/avx512.h"
//
#include "product/shapes.h"
//
#include "product/product-inl.h"
#include "product/tables.h"

namespace bpfree::product {

const Kernels* kernels_avx512() {
  static const Kernels table = make_kernels<isa::Avx512>();
  return &table;
}

}  // namespace bpfree::product
