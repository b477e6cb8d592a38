// SPDX-License-Identifier: BSD-3-Clause
// The pieces that every product's arguments are made of; kernels.h says what lies in which layout.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bpfree::product {

inline constexpr std::size_t kPanel = 32;  // columns of a float32 or bf16 panel
inline constexpr std::size_t kPanelF64 = 16;

struct RowBlock {
  std::uint32_t row;
  std::uint32_t height;
};

// Element (i, k) of the broadcast operand, in words: data[(i - first_row) * stride + (k / chunk) * chunk_stride + k % chunk].
// The chunk lets panels be read as rows: stride 32, chunk 32, chunk_stride the size of a panel.
struct RowsOperand {
  const void* data;
  std::size_t stride;
  std::size_t chunk;  // at least the depth for plain rows
  std::size_t chunk_stride;
  std::size_t first_row = 0;
};

}  // namespace bpfree::product
