// SPDX-License-Identifier: BSD-3-Clause
// A layer of perturbed networks: the product of the noise serves both members of a pair, and of low-rank noise only the factors
// are seen, beside the product with W that all members share.
// Shapes: rows of a batch, one panel of 32 columns; see perturbed.h.
// Source: mirrored sampling, Salimans et al. 2017, arXiv:1703.03864; noise of low rank, Sarkar et al. 2025, arXiv:2511.16652.
// Cost:   of low rank, beyond the layer's product: rank multiply-adds for each output, and as many for the next layer's x left.
// Result: a row depends on no other row and on no tile: both paths of an epilogue compute in the same order.
#pragma once

#include "product/epilogue.h"

namespace bpfree::product {

template <class Isa, class M, bool kBf16>
struct PerturbedEpilogue {
  using V = Vec<Isa, float>;
  using H = Element<Isa, kBf16>;
  const PerturbedArgs& args;

  template <std::size_t R, std::size_t NV>
  [[gnu::always_inline]] void operator()(V (&c)[R][NV], std::size_t row, std::size_t column) const {
    if (IsFull<M, R, NV>::value && is_cheap(args.activation)) {
      with_cheap_activation(args.activation,
                            [&]<formulas::Activation kActivation>() __attribute__((always_inline)) {
                              if (args.n_sides == 2)
                                full<kActivation, 2>(c, row, column);
                              else
                                full<kActivation, 1>(c, row, column);
                            });
      return;
    }
    const TileBuffer<V, R, NV> tile(c);
    with_activation<Isa>(args.activation, [&]<formulas::Activation kActivation>() {
      for (std::size_t i = 0; i < R; ++i)
        for (std::size_t v = 0; v < NV; ++v)
          for (std::size_t s = 0; s < args.n_sides; ++s)
            one<kActivation>(V::load(&tile.rows[i][v * V::N]), s, row + i, column + v * V::N);
    });
  }

 private:
  template <formulas::Activation kActivation, std::size_t kSides, std::size_t R, std::size_t NV>
  [[gnu::always_inline]] void full(V (&c)[R][NV], std::size_t row, std::size_t column) const {
#pragma GCC unroll 16
    for (std::size_t i = 0; i < R; ++i)
#pragma GCC unroll 2
      for (std::size_t v = 0; v < NV; ++v)
#pragma GCC unroll 2
        for (std::size_t s = 0; s < kSides; ++s)
          one<kActivation>(c[i][v], s, row + i, column + v * V::N);
  }

  template <formulas::Activation kActivation>
  [[gnu::always_inline]] void one(V c, std::size_t s, std::size_t row, std::size_t column) const {
    const PerturbedSide& side = args.sides[s];
    const V at_center =
        V::mul_add(V::set(args.scale), V::load(args.base + row * args.base_stride + column),
                   V::load(side.bias + column));
    H::store(static_cast<typename H::Type*>(side.h) + row * args.h_stride + column,
             formulas::activate<kActivation>(V::mul_add(V::set(side.std), c, at_center)));
  }
};

template <class Isa, class M, bool kBf16>
struct LowRankEpilogue {
  using V = Vec<Isa, float>;
  using H = Element<Isa, kBf16>;
  const LowRankArgs& args;

  template <std::size_t R, std::size_t NV>
  [[gnu::always_inline]] void operator()(V (&c)[R][NV], std::size_t row, std::size_t column) const {
    // Smaller tiles too, since rows of a member come in few: 4 % of the forward pass.
    if ((R == M::kRows || R >= 8) && is_cheap(args.activation) && args.rank == 1) {
      with_cheap_activation(args.activation,
                            [&]<formulas::Activation kActivation>() __attribute__((always_inline)) {
                              if (args.next_left != nullptr)
                                full<kActivation, true>(c, row, column);
                              else
                                full<kActivation, false>(c, row, column);
                            });
      return;
    }
    const TileBuffer<V, R, NV> tile(c);
    with_activation<Isa>(args.activation, [&]<formulas::Activation kActivation>() {
      for (std::size_t i = 0; i < R; ++i) rows<kActivation>(tile.rows[i], NV, row + i, column);
    });
  }

 private:
  typename H::Type* h(std::size_t row, std::size_t column) const {
    return static_cast<typename H::Type*>(args.h) + row * args.h_stride + column;
  }
  bool sets_sums(std::size_t column) const { return args.first_panel && column == 0; }

  // Rank 1, in registers.
  template <formulas::Activation kActivation, bool kNext, std::size_t R, std::size_t NV>
  [[gnu::always_inline]] void full(V (&c)[R][NV], std::size_t row, std::size_t column) const {
    V right[NV], bias[NV], left[NV];
#pragma GCC unroll 2
    for (std::size_t v = 0; v < NV; ++v) {
      right[v] = V::load(args.right + column + v * V::N);
      bias[v] = V::load(args.bias + column + v * V::N);
      if constexpr (kNext) left[v] = V::load(args.next_left + column + v * V::N);
    }
    const V scale = V::set(args.scale);
    const bool sets = sets_sums(column);
#pragma GCC unroll 16
    for (std::size_t i = 0; i < R; ++i) {
      const V factor = V::set(args.factors[row + i]);
      [[maybe_unused]] float* sums = args.next_sums + (row + i) * kSumLanes;
      [[maybe_unused]] V sum = V::zero();
      if constexpr (kNext)
        if (!sets) sum = V::load(sums);
#pragma GCC unroll 2
      for (std::size_t v = 0; v < NV; ++v) {
        const V a = V::mul_add(scale, c[i][v], V::mul_add(factor, right[v], bias[v]));
        const V out = formulas::activate<kActivation>(a);
        H::store(h(row + i, column + v * V::N), out);
        if constexpr (kNext) sum = V::mul_add(out, left[v], sum);
      }
      if constexpr (kNext) sum.store(sums);
    }
  }

  // Any rank, a row at a time; one copy for all heights.
  template <formulas::Activation kActivation>
  [[gnu::noinline]] void rows(const float* tile, std::size_t n_vectors, std::size_t row,
                              std::size_t column) const {
    for (std::size_t v = 0; v < n_vectors; ++v) {
      const std::size_t at = column + v * V::N;
      V start = V::load(args.bias + at);
      for (std::size_t q = 0; q < args.rank; ++q)
        start = V::mul_add(V::set(args.factors[row * args.rank + q]),
                           V::load(args.right + q * args.right_stride + at), start);
      const V out = formulas::activate<kActivation>(
          V::mul_add(V::set(args.scale), V::load(tile + v * V::N), start));
      H::store(h(row, at), out);
      for (std::size_t q = 0; args.next_left != nullptr && q < args.rank; ++q) {
        float* sums = args.next_sums + (row * args.rank + q) * kSumLanes;
        const V sum = sets_sums(at) ? V::zero() : V::load(sums);
        V::mul_add(out, V::load(args.next_left + q * args.next_left_stride + at), sum).store(sums);
      }
    }
  }
};

template <class Isa, class M, bool kOutBf16>
struct PerturbedProducts {
  using V = Vec<Isa, float>;

  static void perturbed(const PerturbedArgs& args) {
    const Operands<M> o{args.x, nullptr, static_cast<const typename M::Word*>(args.panel),
                        args.depth};
    run_panel<M, Walk::rows>(o, args.blocks, args.n_blocks, args.n_columns,
                             PerturbedEpilogue<Isa, M, kOutBf16>{args});
  }

  static void low_rank(const LowRankArgs& args) {
    const LowRankEpilogue<Isa, M, kOutBf16> epilogue{args};
    if (args.x.data == nullptr) return from_base(args, epilogue);
    Operands<M> o{args.x, nullptr, static_cast<const typename M::Word*>(args.panel), args.depth};
    if (args.next_panel != nullptr) {
      const RowBlock last = args.blocks[args.n_blocks - 1];
      o.next = static_cast<const char*>(args.next_panel);
      o.next_bytes = args.depth * M::kWidth * sizeof(typename M::Word);
      o.n_rows = last.row + last.height;
    }
    run_panel<M, Walk::rows>(o, args.blocks, args.n_blocks, args.n_columns, epilogue);
  }

 private:
  // Tiles of a product that is there already.
  static void from_base(const LowRankArgs& args,
                        const LowRankEpilogue<Isa, M, kOutBf16>& epilogue) {
    const auto run = [&]<std::size_t NV>(std::size_t column) {
      for (std::size_t b = 0; b < args.n_blocks; ++b)
        with_height<M::kRows>(args.blocks[b].height, [&]<std::size_t R>() {
          load_tile<R, NV>(args, args.blocks[b].row, column, epilogue);
        });
    };
    std::size_t column = 0;
    for (; column + V::N < args.n_columns; column += 2 * V::N) run.template operator()<2>(column);
    if (column < args.n_columns) run.template operator()<1>(column);
  }

  template <std::size_t R, std::size_t NV>
  [[gnu::noinline]] static void load_tile(const LowRankArgs& args, std::size_t row,
                                          std::size_t column,
                                          const LowRankEpilogue<Isa, M, kOutBf16>& epilogue) {
    V c[R][NV];
#pragma GCC unroll 16
    for (std::size_t i = 0; i < R; ++i)
#pragma GCC unroll 2
      for (std::size_t v = 0; v < NV; ++v)
        c[i][v] = V::load(args.base + (row + i) * args.base_stride + column + v * V::N);
    epilogue(c, row, column);
  }
};

template <class Isa>
struct PerturbedRows {
  using V = Vec<Isa, float>;

  static void factors(const FactorsArgs& args) {
    for (std::size_t i = 0; i < args.n; ++i)
      args.factors[i] = args.scale * V::load(args.sums + i * kSumLanes).reduce_add();
  }

  // Four rows share the loads of a left factor; a row's sum does not depend on which.
  static void row_dots(const RowDotsArgs& args) {
    std::size_t i = 0;
    for (; i + 4 <= args.n_rows; i += 4) dots<4>(args, i);
    for (; i < args.n_rows; ++i) dots<1>(args, i);
  }

 private:
  template <std::size_t kRows>
  [[gnu::always_inline]] static void dots(const RowDotsArgs& args, std::size_t row) {
    const float* x = args.x + row * args.x_stride;
    for (std::size_t q = 0; q < args.rank; ++q) {
      const float* left = args.left + q * args.left_stride;
      V sums[kRows];
      for (V& sum : sums) sum = V::zero();
      std::size_t j = 0;
      for (; j + V::N <= args.n_in; j += V::N) {
        const V a = V::load(left + j);
#pragma GCC unroll 4
        for (std::size_t i = 0; i < kRows; ++i)
          sums[i] = V::mul_add(V::load(x + i * args.x_stride + j), a, sums[i]);
      }
      if (j < args.n_in) {
        const V a = V::load_partial(left + j, args.n_in - j);
#pragma GCC unroll 4
        for (std::size_t i = 0; i < kRows; ++i)
          sums[i] =
              V::mul_add(V::load_partial(x + i * args.x_stride + j, args.n_in - j), a, sums[i]);
      }
      for (std::size_t i = 0; i < kRows; ++i)
        args.factors[(row + i) * args.rank + q] = args.scale * sums[i].reduce_add();
    }
  }
};

// Softmax needs of a row only its sum of exponentials; the logarithms are taken of a vector of rows.
template <class Isa>
struct RowLoss {
  using V = Vec<Isa, float>;

  static void run(const RowLossArgs& args) {
    const bool softmax = args.loss == formulas::Loss::softmax_cross_entropy;
    for (std::size_t begin = 0; begin < args.n_rows; begin += V::N) {
      const std::size_t n = args.n_rows - begin < V::N ? args.n_rows - begin : V::N;
      alignas(64) float sums[V::N], rest[V::N], weights[V::N];
      for (std::size_t k = 0; k < V::N; ++k) sums[k] = weights[k] = 1.0f, rest[k] = 0.0f;
      for (std::size_t k = 0; k < n; ++k) {
        const std::size_t sample = args.order[begin + k];
        const float* row = args.logits + (begin + k) * kPanel;
        if (args.weights != nullptr) weights[k] = args.weights[sample];
        if (softmax)
          softmax_row(args, row, static_cast<std::size_t>(args.labels[sample]), sums[k], rest[k]);
        else
          rest[k] = target_row(args, row, args.targets + sample * args.n_outputs);
      }
      const V loss = softmax ? simd::log(V::load(sums)) + V::load(rest) : V::load(rest);
      (V::load(weights) * loss).store_partial(args.row_loss + begin, n);
    }
  }

 private:
  // f(vector of logits, valid lanes, column) along a row.
  template <class F>
  [[gnu::always_inline]] static void for_row(const RowLossArgs& args, const float* row,
                                             const F& f) {
    for (std::size_t column = 0; column < args.n_outputs; column += V::N) {
      const std::size_t left = args.n_outputs - column;
      f(V::load(row + column / kPanel * args.panel_stride + column % kPanel),
        left < V::N ? left : V::N, column);
    }
  }

  // Lanes beyond n become -infinity.
  [[gnu::always_inline]] static V valid(V v, std::size_t n) {
    alignas(64) float lanes[V::N];
    for (std::size_t l = 0; l < V::N; ++l) lanes[l] = static_cast<float>(l);
    return V::select(V::load(lanes) < V::set(static_cast<float>(n)), v, V::set(-__builtin_inff()));
  }

  [[gnu::always_inline]] static void softmax_row(const RowLossArgs& args, const float* row,
                                                 std::size_t label, float& sum, float& rest) {
    V high = V::set(-__builtin_inff());
    for_row(args, row, [&](V v, std::size_t n, std::size_t) __attribute__((always_inline)) {
      high = V::max(high, valid(v, n));
    });
    const float top = high.reduce_max();
    V total = V::zero();
    for_row(args, row, [&](V v, std::size_t n, std::size_t) __attribute__((always_inline)) {
      total = total + simd::exp(valid(v, n) - V::set(top));
    });
    sum = total.reduce_add();
    rest = top - row[label / kPanel * args.panel_stride + label % kPanel];
  }

  [[gnu::always_inline]] static float target_row(const RowLossArgs& args, const float* row,
                                                 const float* target) {
    V sum = V::zero();
    const bool binary = args.loss == formulas::Loss::binary_cross_entropy;
    for_row(args, row, [&](V a, std::size_t n, std::size_t column) __attribute__((always_inline)) {
      const V y = V::load_partial(target + column, n);
      V loss = V::set(0.5f) * (a - y) * (a - y);
      if (binary)  // max(a, 0) - a y + log(1 + exp(-|a|))
        loss = V::max(a, V::zero()) - a * y +
               simd::log(V::set(1.0f) + simd::exp(V::zero() - V::abs(a)));
      alignas(64) float values[V::N] = {};
      loss.store_partial(values, n);
      sum = sum + V::load(values);
    });
    return sum.reduce_add();
  }
};

}  // namespace bpfree::product
