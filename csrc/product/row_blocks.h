// SPDX-License-Identifier: BSD-3-Clause
// Splits rows into the heights that microkernels are instantiated for: full blocks, then the cheapest tail.
#pragma once

#include <cstddef>
#include <vector>

#include "product/kernels.h"

namespace bpfree::product {

// Blocks of n_rows for a full height of tile_rows. Heights descend, and all but the last are even, so that bf16 pairs of
// rows never straddle two blocks.
std::vector<RowBlock> row_blocks(std::size_t n_rows, std::size_t tile_rows);

}  // namespace bpfree::product
