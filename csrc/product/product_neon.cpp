// SPDX-License-Identifier: BSD-3-Clause
#include "base/isa.h"
#include "simd/neon.h"
//
#include "product/shapes.h"
//
#include "product/product-inl.h"
#include "product/tables.h"

namespace bpfree::product {

const Kernels* kernels_neon() {
  static const Kernels table = make_kernels<isa::Neon>();
  return &table;
}

}  // namespace bpfree::product
