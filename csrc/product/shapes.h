// SPDX-License-Identifier: BSD-3-Clause
// Tile heights per instruction set: as many rows as the registers hold beside two vectors of the panel.
#pragma once

#include <cstddef>

#include "base/isa.h"

namespace bpfree::product {

// 2 R sums + 2 panel vectors + 1 broadcast: 14 rows need 31 of 32 registers, 6 rows 15 of 16.
template <class Isa>
struct F32Rows {
  static constexpr std::size_t value = 14;
};
template <>
struct F32Rows<isa::Avx2> {
  static constexpr std::size_t value = 6;
};
template <>
struct F32Rows<isa::Scalar> {
  static constexpr std::size_t value = 4;
};

// Without a bf16 dot product a pair is widened to two vectors, so the panel takes four registers and the broadcast two.
template <class Isa>
struct Bf16Rows {
  static constexpr std::size_t value = 12;
};
template <>
struct Bf16Rows<isa::Avx512Bf16> {
  static constexpr std::size_t value = 14;
};
template <>
struct Bf16Rows<isa::Avx2> {
  static constexpr std::size_t value = 4;
};
template <>
struct Bf16Rows<isa::Scalar> {
  static constexpr std::size_t value = 4;
};

}  // namespace bpfree::product
