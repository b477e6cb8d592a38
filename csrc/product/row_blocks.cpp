// SPDX-License-Identifier: BSD-3-Clause
#include "product/row_blocks.h"

#include <algorithm>
#include <array>
#include <cassert>

namespace bpfree::product {

namespace {

// Instantiated besides the full height; keep in step with with_height() in microkernel.h.
constexpr std::array<std::size_t, 4> kTailHeights = {8, 4, 2, 1};

constexpr std::size_t kHighestTile = 16;

// Cycles per depth step: two multiply-adds a cycle, and below four rows their latency is what counts.
constexpr std::size_t cost(std::size_t height) { return std::max<std::size_t>(height, 4); }

}  // namespace

std::vector<RowBlock> row_blocks(std::size_t n_rows, std::size_t tile_rows) {
  assert(tile_rows > 0 && tile_rows <= kHighestTile);
  // Cheapest split of every remainder below two full blocks: 16 rows are 8 + 8 rather than 14 + 2.
  std::array<std::size_t, 2 * kHighestTile> best{};
  std::array<std::size_t, 2 * kHighestTile> first{};
  for (std::size_t n = 1; n < 2 * tile_rows; ++n) {
    best[n] = static_cast<std::size_t>(-1);
    const auto consider = [&](std::size_t height) {
      if (height > n || height > tile_rows) return;
      const std::size_t total = cost(height) + best[n - height];
      if (total < best[n]) {
        best[n] = total;
        first[n] = height;
      }
    };
    consider(tile_rows);
    for (const std::size_t height : kTailHeights) consider(height);
  }
  std::vector<RowBlock> blocks;
  blocks.reserve(n_rows / tile_rows + kTailHeights.size() + 2);
  std::size_t row = 0;
  const auto add = [&](std::size_t height) {
    blocks.push_back({static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(height)});
    row += height;
  };
  while (n_rows - row >= 2 * tile_rows) add(tile_rows);
  const std::size_t n_full = blocks.size();
  for (std::size_t left = n_rows - row; left > 0; left -= first[left])
    blocks.push_back({0, static_cast<std::uint32_t>(first[left])});
  const auto tail = blocks.begin() + static_cast<std::ptrdiff_t>(n_full);
  std::sort(tail, blocks.end(), [](RowBlock a, RowBlock b) { return a.height > b.height; });
  for (auto block = tail; block != blocks.end(); ++block) {
    block->row = static_cast<std::uint32_t>(row);
    row += block->height;
  }
  return blocks;
}

}  // namespace bpfree::product
