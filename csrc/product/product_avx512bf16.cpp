// SPDX-License-Identifier: BSD-3-Clause
#include "base/isa.h"
#include "simd/avx512bf16.h"
//
#include "product/shapes.h"
//
#include "product/product-inl.h"
#include "product/tables.h"

namespace bpfree::product {

const Kernels* kernels_avx512bf16(bool dot) {
  static const Kernels table =
      dot ? make_kernels<isa::Avx512Bf16, Bf16Dot>() : make_kernels<isa::Avx512Bf16, Bf16Widened>();
  return &table;
}

}  // namespace bpfree::product
