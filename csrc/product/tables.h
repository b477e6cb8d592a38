// SPDX-License-Identifier: BSD-3-Clause
// One kernel table per instruction set; product.cpp chooses.
#pragma once

#include "product/kernels.h"

namespace bpfree::product {

const Kernels* kernels_scalar();
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
const Kernels* kernels_avx512bf16(bool dot);  // bf16 products by the dot product, or widened
const Kernels* kernels_neon();

}  // namespace bpfree::product
