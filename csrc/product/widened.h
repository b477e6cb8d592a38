// SPDX-License-Identifier: BSD-3-Clause
// bf16 products by float32 multiply-adds, for CPUs without a dot product of bf16 pairs or with a slow one.
//
// Both operands are widened a stretch of the depth at a time, into L1: the panel's stretch serves a group of tiles one after the
// other, whose sums wait in memory meanwhile; the tile's rows are widened by the tile. In a stretch the even places of the depth
// come first, then the odd ones, as the halves of a pair come apart.
//
// Cost:   over float32's, for each tile and stretch 8 of 128 vectors of its rows, and its sums loaded and stored once.
// Result: the sums of a row run over the depth in an order that depends on the depth alone.
// Tried:  widening each pair where it is multiplied: a third slower, as the broadcast's two halves cost what 24 sums do;
//         the panel's in registers, all low halves and then all high ones: the compiler mixes the two and spills;
//         the panel's stretch anew for each tile: 74 % of the peak instead of 84 %.
#pragma once

#include <cstddef>
#include <cstdint>

#include "product/microkernel.h"

namespace bpfree::product {

template <class Isa>
struct Bf16Widened {
  using Word = std::uint32_t;
  using Out = float;
  using Sum = Vec<Isa, float>;
  static constexpr std::size_t kWidth = kPanel;
  static constexpr std::size_t kRows = TileRows<Isa>::value;
  static constexpr std::size_t kPerWord = 2;
  static constexpr bool kWidens = true;
};

// One stretch of both operands, and the sums of a group of tiles.
template <class Isa, std::size_t NV>
struct Stretch {
  using V = Vec<Isa, float>;
  using Pairs = Vec<Isa, std::uint32_t>;
  static constexpr std::size_t kWords = 64;
  static constexpr std::size_t kDepth = 2 * kWords;
  static constexpr std::size_t kRowStride = kDepth + 16;  // rows that do not share cache sets
  static constexpr std::size_t kTiles = 16;
  static constexpr std::size_t kRows = TileRows<Isa>::value;

  alignas(64) float rows[kRows * kRowStride];  // [R][kRowStride], or [depth][R]
  alignas(64) float panel[kDepth * NV * V::N];
  alignas(64) float sums[kTiles][kRows * NV * V::N];

  [[gnu::always_inline]] static void widen(float* low, float* high, const std::uint32_t* words,
                                           std::size_t n) {
    std::size_t k = 0;
    for (; k + V::N <= n; k += V::N) {
      const Pairs pairs = Pairs::load(words + k);
      V::from_pair_low(pairs).store(low + k);
      V::from_pair_high(pairs).store(high + k);
    }
    if (k == n) return;
    const Pairs pairs = Pairs::load_partial(words + k, n - k);
    V::from_pair_low(pairs).store_partial(low + k, n - k);
    V::from_pair_high(pairs).store_partial(high + k, n - k);
  }

  // Words k .. k + n of a row, which may lie in several chunks.
  [[gnu::always_inline]] void widen_row(std::size_t i, const RowsOperand& a, std::size_t row,
                                        std::size_t k, std::size_t n) {
    const auto* start =
        static_cast<const std::uint32_t*>(a.data) + (row + i - a.first_row) * a.stride;
    float* low = rows + i * kRowStride;
    for (std::size_t done = 0; done < n;) {
      const std::size_t at = (k + done) % a.chunk;
      const std::size_t piece = n - done < a.chunk - at ? n - done : a.chunk - at;
      widen(low + done, low + n + done, start + (k + done) / a.chunk * a.chunk_stride + at, piece);
      done += piece;
    }
  }

  [[gnu::always_inline]] void widen_panel(const std::uint32_t* words, std::size_t n) {
    for (std::size_t k = 0; k < n; ++k)
#pragma GCC unroll 2
      for (std::size_t v = 0; v < NV; ++v) {
        const Pairs pairs = Pairs::load(words + k * kPanel + v * V::N);
        V::from_pair_low(pairs).store(panel + (k * NV + v) * V::N);
        V::from_pair_high(pairs).store(panel + ((n + k) * NV + v) * V::N);
      }
  }
};

// Adds words k .. k + n of the depth to one tile's sums, and hands them to the epilogue with the last.
template <class Isa, Walk W, std::size_t R, std::size_t NV, class Epilogue>
[[gnu::noinline]] void run_stretch(const Operands<Bf16Widened<Isa>>& o, Stretch<Isa, NV>& stretch,
                                   std::size_t row, std::size_t column, std::size_t k,
                                   std::size_t n, float* sums, const Epilogue& epilogue) {
  using S = Stretch<Isa, NV>;
  using V = Vec<Isa, float>;
  constexpr std::size_t kRowStep = W == Walk::rows ? S::kRowStride : 1;
  constexpr std::size_t kDepthStep = W == Walk::rows ? 1 : R;
  const bool last = k + n == o.depth;
  if constexpr (W == Walk::rows) {
    for (std::size_t i = 0; i < R; ++i) stretch.widen_row(i, o.rows, row, k, n);
  } else {
    S::widen(stretch.rows, stretch.rows + n * R, o.columns + row * o.depth + k * R, n * R);
  }
  Tile<Bf16Widened<Isa>, R, NV> tile;
  tile.zero();
  if (k > 0) {
#pragma GCC unroll 16
    for (std::size_t i = 0; i < R; ++i)
#pragma GCC unroll 2
      for (std::size_t v = 0; v < NV; ++v) tile.c[i][v] = V::load(sums + (i * NV + v) * V::N);
  }
  const float* a = stretch.rows;
  const float* b = stretch.panel;
  const std::size_t ahead_step = W == Walk::rows ? o.ahead_step(R) : 0;
  const char* ahead = W == Walk::rows ? o.ahead(row) + k * ahead_step : nullptr;
  const auto streams = streams_of<R>(epilogue, row, 2 * o.depth);
  std::size_t at = 2 * k * streams.step;
  for (std::size_t j = 0; j < 2 * n; ++j, a += kDepthStep, b += NV * V::N) {
    V bv[NV];
#pragma GCC unroll 2
    for (std::size_t v = 0; v < NV; ++v) bv[v] = V::load(b + v * V::N);
    if constexpr (W == Walk::rows) {
      __builtin_prefetch(ahead, 0, 2);
      ahead += ahead_step / 2;
    } else {
      streams.prefetch(at);
      at += streams.step;
    }
#pragma GCC unroll 16
    for (std::size_t i = 0; i < R; ++i) {
      const V av = V::set(a[i * kRowStep]);
#pragma GCC unroll 2
      for (std::size_t v = 0; v < NV; ++v) tile.c[i][v] = V::mul_add(av, bv[v], tile.c[i][v]);
    }
  }
  if (last) return epilogue(tile.c, row, column);
#pragma GCC unroll 16
  for (std::size_t i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (std::size_t v = 0; v < NV; ++v) tile.c[i][v].store(sums + (i * NV + v) * V::N);
}

// The tiles of some row blocks and NV vectors of columns.
template <Walk W, std::size_t NV, class Isa, class Epilogue>
[[gnu::always_inline]] inline void run_widened(const Operands<Bf16Widened<Isa>>& o,
                                               const RowBlock* blocks, std::size_t n_blocks,
                                               std::size_t column, const Epilogue& epilogue) {
  using S = Stretch<Isa, NV>;
  S stretch;
  for (std::size_t first = 0; first < n_blocks; first += S::kTiles) {
    const std::size_t end = n_blocks - first < S::kTiles ? n_blocks : first + S::kTiles;
    std::size_t k = 0;
    do {
      const std::size_t n = o.depth - k < S::kWords ? o.depth - k : S::kWords;
      stretch.widen_panel(o.panel + k * kPanel + column, n);
      for (std::size_t i = first; i < end; ++i)
        with_height<S::kRows>(blocks[i].height,
                              [&]<std::size_t R>() __attribute__((always_inline)) {
                                run_stretch<Isa, W, R, NV>(o, stretch, blocks[i].row, column, k, n,
                                                           stretch.sums[i - first], epilogue);
                              });
      k += n;
    } while (k < o.depth);
  }
}

}  // namespace bpfree::product
