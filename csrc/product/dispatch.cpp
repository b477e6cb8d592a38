// SPDX-License-Identifier: BSD-3-Clause
#include "base/cpu_features.h"
#include "base/error.h"
#include "base/isa.h"
#include "product/tables.h"

namespace bpfree::product {

namespace {

const Kernels* choose(IsaId id) {
  if constexpr (kIsX86) {
    if (id == IsaId::avx2) return kernels_avx2();
    if (id == IsaId::avx512) return kernels_avx512();
    if (id == IsaId::avx512bf16) return kernels_avx512bf16(uses_bf16_dot());
  }
  if constexpr (kIsArm) {
    if (id == IsaId::neon) return kernels_neon();
  }
  return kernels_scalar();
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = *choose(active_isa());
  return chosen;
}

}  // namespace bpfree::product
