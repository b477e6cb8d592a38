// SPDX-License-Identifier: BSD-3-Clause
// All tiles of some row blocks and one panel: what every product kernel is.
#pragma once

#include "product/widened.h"

namespace bpfree::product {

// Only the vectors that hold valid columns are computed.
template <class M, Walk W, class Epilogue>
[[gnu::always_inline]] inline void run_panel(const Operands<M>& o, const RowBlock* blocks,
                                             std::size_t n_blocks, std::size_t n_columns,
                                             const Epilogue& epilogue) {
  constexpr std::size_t kLanes = M::Sum::N;
  const auto run = [&]<std::size_t NV>(std::size_t column) __attribute__((always_inline)) {
    if constexpr (M::kWidens)
      run_widened<W, NV>(o, blocks, n_blocks, column, epilogue);
    else
      for (std::size_t i = 0; i < n_blocks; ++i)
        with_height<M::kRows>(blocks[i].height,
                              [&]<std::size_t R>() __attribute__((always_inline)) {
                                run_tile<M, W, R, NV>(o, blocks[i].row, column, epilogue);
                              });
  };
  std::size_t column = 0;
  for (; column + kLanes < n_columns; column += 2 * kLanes) run.template operator()<2>(column);
  if (column < n_columns) run.template operator()<1>(column);
}

}  // namespace bpfree::product
