// SPDX-License-Identifier: BSD-3-Clause
// Packs: from the user's rows, or from activations, to what the microkernel reads. Functions of their own, not parameters
// of the microkernel.
#pragma once

#include "product/epilogue.h"

namespace bpfree::product {

// Rows of the user's array, converted to the compute type. uint8 becomes exact integers: the scale enters in the epilogue.
template <class Isa, class Src, bool kBf16>
struct Gather {
  using V = Vec<Isa, float>;
  using Dst = typename Element<Isa, kBf16>::Type;

  static void run(const GatherArgs& args, std::size_t row_begin, std::size_t row_end) {
    for (std::size_t i = row_begin; i < row_end; ++i) {
      const std::size_t from =
          args.order != nullptr ? args.order[args.first_row + i] : args.first_row + i;
      const Src* src = static_cast<const Src*>(args.src) + from * args.src_stride;
      Dst* dst = static_cast<Dst*>(args.dst) + i * args.dst_stride;
      std::size_t j = 0;
      for (; j + V::N <= args.n_features; j += V::N) {
        alignas(64) float values[V::N];
        for (std::size_t l = 0; l < V::N; ++l) values[l] = static_cast<float>(src[j + l]);
        Element<Isa, kBf16>::store(dst + j, V::load(values));
      }
      if (j < args.n_features) {
        alignas(64) float values[V::N] = {};
        for (std::size_t l = 0; j + l < args.n_features; ++l)
          values[l] = static_cast<float>(src[j + l]);
        Element<Isa, kBf16>::store(dst + j,
                                   V::load(values));  // the stride leaves room for a whole vector
      }
    }
  }
};

// The transpose of row-major rows, block by block: [depth][height], in words.
template <class Isa, class M>
struct PackColumns {
  using Word = typename M::Word;

  static void run(const PackColumnsArgs& args) {
    const std::size_t depth = (args.depth + M::kPerWord - 1) / M::kPerWord;
    for (std::size_t b = 0; b < args.n_blocks; ++b) {
      const RowBlock block = args.blocks[b];
      Word* dst = static_cast<Word*>(args.dst) + block.row * depth;
      for (std::size_t k = 0; k < depth; ++k, dst += block.height) pack_row(dst, args, block, k);
    }
  }

 private:
  [[gnu::always_inline]] static void pack_row(Word* dst, const PackColumnsArgs& args,
                                              RowBlock block, std::size_t k) {
    if constexpr (M::kPerWord == 1) {
      using V = typename M::Sum;
      const Word* src = static_cast<const Word*>(args.src) + k * args.src_stride + block.row;
      for (std::size_t i = 0; i < block.height; i += V::N) {
        const std::size_t n = block.height - i < V::N ? block.height - i : V::N;
        V::load_partial(src + i, n).store_partial(dst + i, n);
      }
    } else {
      using F = Vec<Isa, float>;
      using U = Vec<Isa, std::uint32_t>;
      const std::uint16_t* low =
          static_cast<const std::uint16_t*>(args.src) + 2 * k * args.src_stride + block.row;
      const bool has_high = 2 * k + 1 < args.depth;
      for (std::size_t i = 0; i < block.height; i += F::N) {
        const std::size_t n = block.height - i < F::N ? block.height - i : F::N;
        const U even = F::load_bf16_partial(low + i, n).bits() >> 16;
        const U odd =
            has_high ? F::load_bf16_partial(low + args.src_stride + i, n).bits() : U::zero();
        (even | odd).store_partial(dst + i, n);
      }
    }
  }
};

// A vector operand from a plain array of either order; bf16 pairs from uint16 elements.
template <class Isa, class M, class Src>
struct PackPanel {
  using Word = typename M::Word;

  static void run(const PackPanelArgs& args) {
    const Src* src = static_cast<const Src*>(args.src);
    const std::size_t depth = (args.depth + M::kPerWord - 1) / M::kPerWord;
    Word* dst = static_cast<Word*>(args.dst);
    if constexpr (M::kPerWord == 1) {
      using V = typename M::Sum;
      if (args.column_stride == 1) {
        for (std::size_t k = 0; k < depth; ++k)
          for (std::size_t j = 0; j < M::kWidth; j += V::N) {
            const std::size_t left = args.n_columns > j ? args.n_columns - j : 0;
            const Src* p = src + k * args.depth_stride + j;
            (left >= V::N ? V::load(p) : V::load_partial(p, left)).store(dst + k * M::kWidth + j);
          }
        return;
      }
      // Transposed: a column is contiguous along the depth. 16 depth steps at a time keep the lines in use.
      for (std::size_t k0 = 0; k0 < depth; k0 += 16)
        for (std::size_t j = 0; j < M::kWidth; ++j)
          for (std::size_t k = k0; k < depth && k < k0 + 16; ++k)
            dst[k * M::kWidth + j] =
                j < args.n_columns ? src[k * args.depth_stride + j * args.column_stride] : Word{0};
    } else {
      if (args.column_stride == 1) {
        using F = typename M::Sum;
        for (std::size_t k = 0; k < depth; ++k)
          for (std::size_t j = 0; j < M::kWidth; j += F::N) {
            const std::size_t left = args.n_columns > j ? args.n_columns - j : 0;
            const std::size_t n = left < F::N ? left : F::N;
            const Src* low = src + 2 * k * args.depth_stride + j;
            auto pairs = F::load_bf16_partial(low, n).bits() >> 16;
            if (2 * k + 1 < args.depth)
              pairs = pairs | F::load_bf16_partial(low + args.depth_stride, n).bits();
            pairs.store(dst + k * M::kWidth + j);
          }
        return;
      }
      // Transposed: the two of a pair are neighbours.
      for (std::size_t k0 = 0; k0 < depth; k0 += 16)
        for (std::size_t j = 0; j < M::kWidth; ++j)
          for (std::size_t k = k0; k < depth && k < k0 + 16; ++k) {
            Word pair = 0;
            if (j < args.n_columns)
              __builtin_memcpy(&pair, src + 2 * k + j * args.column_stride,
                               2 * k + 1 < args.depth ? sizeof(Word) : sizeof(Src));
            dst[k * M::kWidth + j] = pair;
          }
    }
  }
};

}  // namespace bpfree::product
