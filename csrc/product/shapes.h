// SPDX-License-Identifier: BSD-3-Clause
// Tile heights per instruction set: as many rows as the registers hold beside two vectors of the panel.
#pragma once

#include <cstddef>

#include "base/isa.h"

namespace bpfree::product {

// 2 R sums + 2 panel vectors + 1 broadcast: 14 rows need 31 of 32 registers, 6 rows 15 of 16.
template <class Isa>
struct TileRows {
  static constexpr std::size_t value = 14;
};
template <>
struct TileRows<isa::Avx2> {
  static constexpr std::size_t value = 6;
};
template <>
struct TileRows<isa::Scalar> {
  static constexpr std::size_t value = 4;
};

}  // namespace bpfree::product
