// SPDX-License-Identifier: BSD-3-Clause
// The microkernel: a tile of R rows and NV vectors of columns, held in registers over the whole depth, then handed to an
// epilogue. Everything else in product/ is what feeds it and what becomes of its tile.
//
// Shapes: broadcast operand rows [R, depth] or columns [depth][R]; vector operand a panel [depth][kPanel].
// Cost:   2 R NV N flops a depth step; 14 rows and 2 vectors keep 28 of 32 registers as sums, one load of the panel serves 14
//         rows, and the broadcasts are memory operands.
// Result: each sum runs over the depth in order, whatever the tile's shape, so a row's result does not depend on its
//         neighbours, on tails or on threads.
// Tried:  packing the forward product's rows: 186 against 186 GFLOP/s of 195, so they are read where they lie (adr/0001).
#pragma once

#include <cstddef>
#include <cstdint>

#include "product/kernels.h"

namespace bpfree::product {

using simd::Vec;

// What a product multiplies: the types of its words, of its sums, and one step. kRows: height of a full tile.
template <class Isa>
struct F32 {
  using Word = float;
  using Out = float;
  using Sum = Vec<Isa, float>;
  using Operand = Vec<Isa, float>;
  static constexpr std::size_t kWidth = kPanel;
  static constexpr std::size_t kRows = TileRows<Isa>::value;
  static constexpr std::size_t kPerWord = 1;
  static constexpr bool kWidens = false;
  [[gnu::always_inline]] static Sum step(Sum sum, Operand a, Operand b) {
    return Sum::mul_add(a, b, sum);
  }
};

template <class Isa>
struct F64 {
  using Word = double;
  using Out = double;
  using Sum = Vec<Isa, double>;
  using Operand = Vec<Isa, double>;
  static constexpr std::size_t kWidth = kPanelF64;
  static constexpr std::size_t kRows = TileRows<Isa>::value;
  static constexpr std::size_t kPerWord = 1;
  static constexpr bool kWidens = false;
  [[gnu::always_inline]] static Sum step(Sum sum, Operand a, Operand b) {
    return Sum::mul_add(a, b, sum);
  }
};

// bf16 by the CPU's dot product of pairs.
template <class Isa>
struct Bf16Dot {
  using Word = std::uint32_t;
  using Out = float;
  using Sum = Vec<Isa, float>;
  using Operand = Vec<Isa, std::uint32_t>;
  static constexpr std::size_t kWidth = kPanel;
  static constexpr std::size_t kRows = TileRows<Isa>::value;
  static constexpr std::size_t kPerWord = 2;
  static constexpr bool kWidens = false;
  [[gnu::always_inline]] static Sum step(Sum sum, Operand a, Operand b) {
    return Sum::dot_pair(sum, a, b);
  }
};

enum class Walk { rows, columns };

// Streams of memory that a tile's product brings into L1 meanwhile, a little with each depth step. Tried: all at once at the
// tile's beginning, into L2 and a tile earlier: update with momentum 85 % of the peak instead of 92 %, with Adam 71 % instead
// of 79 %. They filled the few buffers through which the product's own loads go.
template <std::size_t K>
struct Streams {
  const char* from[K > 0 ? K : 1] = {};
  std::size_t step = 0;  // of a depth step, in 2^-8 bytes

  [[gnu::always_inline]] void prefetch(std::size_t at) const {
#pragma GCC unroll 3
    for (std::size_t s = 0; s < K; ++s) __builtin_prefetch(from[s] + (at >> 8), 0, 3);
  }
};

template <class M, std::size_t R, std::size_t NV>
struct Tile {
  using Sum = typename M::Sum;
  static constexpr std::size_t kPanelAhead = 12;  // depth steps
  Sum c[R][NV];

  [[gnu::always_inline]] inline void zero() {
#pragma GCC unroll 16
    for (std::size_t i = 0; i < R; ++i)
#pragma GCC unroll 2
      for (std::size_t v = 0; v < NV; ++v) c[i][v] = Sum::zero();
  }

  // Broadcast operand read row by row. Three rows share a pointer: x86 addresses base, base + s and base + 2 s.
  // `ahead` walks `ahead_step` bytes a depth step over what the next tiles will read, to have it in L2 by then.
  [[gnu::always_inline]] inline void multiply_rows(const RowsOperand& a, std::size_t row,
                                                   const typename M::Word* b, std::size_t depth,
                                                   const char* ahead, std::size_t ahead_step) {
    using Operand = typename M::Operand;
    const std::size_t s = a.stride;
    const typename M::Word* chunk_start =
        static_cast<const typename M::Word*>(a.data) + (row - a.first_row) * s;
    for (std::size_t k0 = 0; k0 < depth; k0 += a.chunk, chunk_start += a.chunk_stride) {
      const std::size_t n = depth - k0 < a.chunk ? depth - k0 : a.chunk;
      const typename M::Word* p[(R + 2) / 3];
#pragma GCC unroll 5
      for (std::size_t g = 0; g < (R + 2) / 3; ++g) p[g] = chunk_start + 3 * g * s;
      for (std::size_t k = 0; k < n; ++k) {
        Operand bv[NV];
#pragma GCC unroll 2
        for (std::size_t v = 0; v < NV; ++v) bv[v] = Operand::load(b + v * Operand::N);
        // Panels deeper than 1,024 come from L2 with too little warning for the CPU's own prefetcher: 94 % of the peak at a
        // depth of 2,000 instead of 91 %.
#pragma GCC unroll 2
        for (std::size_t v = 0; v < NV * Operand::N; v += 64 / sizeof(typename M::Word))
          __builtin_prefetch(b + kPanelAhead * M::kWidth + v, 0, 3);
        b += M::kWidth;
        __builtin_prefetch(ahead, 0, 2);
        ahead += ahead_step;
#pragma GCC unroll 16
        for (std::size_t i = 0; i < R; ++i) {
          const Operand av = Operand::set(p[i / 3][(i % 3) * s + k]);
#pragma GCC unroll 2
          for (std::size_t v = 0; v < NV; ++v) c[i][v] = M::step(c[i][v], av, bv[v]);
        }
      }
    }
  }

  // Broadcast operand packed [depth][R].
  template <std::size_t K>
  [[gnu::always_inline]] inline void multiply_columns(const typename M::Word* a,
                                                      const typename M::Word* b, std::size_t depth,
                                                      const Streams<K>& streams) {
    using Operand = typename M::Operand;
    std::size_t at = 0;
    for (std::size_t k = 0; k < depth; ++k, at += streams.step) {
      streams.prefetch(at);
      Operand bv[NV];
#pragma GCC unroll 2
      for (std::size_t v = 0; v < NV; ++v) bv[v] = Operand::load(b + v * Operand::N);
      b += M::kWidth;
#pragma GCC unroll 16
      for (std::size_t i = 0; i < R; ++i) {
        const Operand av = Operand::set(a[i]);
#pragma GCC unroll 2
        for (std::size_t v = 0; v < NV; ++v) c[i][v] = M::step(c[i][v], av, bv[v]);
      }
      a += R;
    }
  }
};

// One operand pair as the loop over tiles sees it.
template <class M>
struct Operands {
  RowsOperand rows;                 // Walk::rows
  const typename M::Word* columns;  // Walk::columns, packed blocks
  const typename M::Word* panel;
  std::size_t depth;
  const char* next =
      nullptr;  // Walk::rows: what to bring into L2 meanwhile, `next_bytes` of it spread over `n_rows` rows
  std::size_t next_bytes = 0;
  std::size_t n_rows = 1;

  // Where a tile of rows begins with it, and bytes a depth step. Never a null pointer: asking for an address that is not
  // mapped walks the page tables each time.
  [[gnu::always_inline]] const char* ahead(std::size_t row) const {
    if (next == nullptr) return reinterpret_cast<const char*>(panel);
    return next + next_bytes / n_rows * (row - rows.first_row);
  }
  [[gnu::always_inline]] std::size_t ahead_step(std::size_t height) const {
    return next_bytes / n_rows * height / (depth + 1);
  }
};

// What an epilogue will read with the next tile.
template <std::size_t R, class Epilogue>
[[gnu::always_inline]] inline auto streams_of(const Epilogue& epilogue, std::size_t row,
                                              std::size_t depth) {
  if constexpr (requires { epilogue.template streams<R>(row, depth); })
    return epilogue.template streams<R>(row, depth);
  else
    return Streams<0>{};
}

template <class M, Walk W, std::size_t R, std::size_t NV, class Epilogue>
[[gnu::noinline]] void run_tile(const Operands<M>& o, std::size_t row, std::size_t column,
                                const Epilogue& epilogue) {
  Tile<M, R, NV> tile;
  tile.zero();
  if constexpr (W == Walk::rows)
    tile.multiply_rows(o.rows, row, o.panel + column, o.depth, o.ahead(row), o.ahead_step(R));
  else
    tile.multiply_columns(o.columns + row * o.depth, o.panel + column, o.depth,
                          streams_of<R>(epilogue, row, o.depth));
  epilogue(tile.c, row, column);
}

// Calls f with a block's height as a compile-time constant; keep in step with row_blocks.cpp.
template <std::size_t kFull, class F>
[[gnu::always_inline]] inline void with_height(std::size_t height, const F& f) {
  if (height == kFull) return f.template operator()<kFull>();
  if constexpr (kFull > 8)
    if (height == 8) return f.template operator()<8>();
  if (height == 4) return f.template operator()<4>();
  if (height == 2) return f.template operator()<2>();
  return f.template operator()<1>();
}

}  // namespace bpfree::product
