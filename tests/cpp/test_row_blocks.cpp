// SPDX-License-Identifier: BSD-3-Clause
// Row blocks cover every row once, descend, and are even but for the last.

#include "check.h"
#include "product/row_blocks.h"

namespace bpfree::test {

void test_row_blocks() {
  for (const std::size_t tile_rows : {4, 6, 12, 14}) {
    for (std::size_t n_rows = 0; n_rows <= 300; ++n_rows) {
      const auto blocks = product::row_blocks(n_rows, tile_rows);
      std::size_t row = 0;
      for (std::size_t i = 0; i < blocks.size(); ++i) {
        check(blocks[i].row == row, "a block starts where the last one ended");
        check(blocks[i].height > 0 && blocks[i].height <= tile_rows, "a height that has a kernel");
        check(i == 0 || blocks[i].height <= blocks[i - 1].height, "heights descend");
        check(i + 1 == blocks.size() || blocks[i].height % 2 == 0, "only the last is odd");
        row += blocks[i].height;
      }
      check(row == n_rows, "the blocks cover the rows");
    }
  }
}

}  // namespace bpfree::test
