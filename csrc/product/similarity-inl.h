// SPDX-License-Identifier: BSD-3-Clause
// Around the products of a similarity loss: rows centred each by its own mean, and what the loss of their cosines sends back.
// Shapes: rows [n][stride] row-major in the compute type; cosines and factors in panels [n / 32][rows][32].
// Source: Nøkland & Eidnes 2019, arXiv:1901.06656; the closed form of the derivative is ours (methods/local_loss.h).
// Result: rows are summed in order, so a row's result does not depend on how the rows are cut into tiles.
#pragma once

#include "product/epilogue.h"

namespace bpfree::product {

template <class Isa, class M>
struct CenteredRows {
  using V = Vec<Isa, float>;
  using H = Element<Isa, M::kPerWord == 2>;
  using Type = typename H::Type;

  static void center(const CenterArgs& args) {
    alignas(64) float mean[kPanel] = {};
    alignas(64) float valid[kPanel] = {};
    const Type* rows = static_cast<const Type*>(args.rows);
    for (std::size_t i = 0; i < kPanel; ++i) args.mean[i] = args.inverse_norm[i] = 0;
    const float inverse_n = 1.0f / static_cast<float>(args.n_columns);
    for (std::size_t i = 0; i < args.n_rows; ++i) {
      const Type* row = rows + i * args.stride;
      const auto sum = [&](const auto& f) __attribute__((always_inline)) {
        return sum_of_row(row, args.n_columns, f);
      };
      valid[i] = 1.0f;
      mean[i] = inverse_n * sum([](V v) __attribute__((always_inline)) { return v; });
      // What rounding left: a row of equal numbers must come out as zeros, since its norm divides.
      V middle = V::set(mean[i]);
      mean[i] += inverse_n * sum([&](V v) __attribute__((always_inline)) { return v - middle; });
      middle = V::set(mean[i]);
      const float squares =
          sum([&](V v) __attribute__((always_inline)) { return (v - middle) * (v - middle); });
      alignas(64) float norm[V::N];
      V::sqrt(V::set(squares)).store(norm);
      args.mean[i] = mean[i];
      // No direction: cosines of 0, and nothing sent back. An infinite norm becomes NaN, which the loss shows.
      args.inverse_norm[i] = norm[0] <= args.tiny ? 0 : norm[0] / norm[0] / norm[0];
    }
    for (std::size_t j = 0; j < kPanel; j += V::N) {
      const V middle = V::load(mean + j);
      const auto wanted = V::load(valid + j) > V::zero();
      transpose(args, rows + j * args.stride, j, [&](V v) __attribute__((always_inline)) {
        return V::select(wanted, v - middle, V::zero());
      });
    }
  }

  static void columns(const CenteredColumnsArgs& args) {
    const Type* row = static_cast<const Type*>(args.rows);
    for (std::size_t i = 0; i < args.n_rows; ++i, row += args.stride) {
      const V middle = V::set(args.mean[i]);
      for (std::size_t j = 0; j < kPanel; j += V::N) {
        float* out = args.out + i * kPanel + j;
        const std::size_t left = args.n_columns > j ? args.n_columns - j : 0;
        const V v = H::load(row + j) - middle;
        if (left < V::N) V::zero().store(out);
        v.store_partial(out, left < V::N ? left : V::N);
      }
    }
  }

 private:
  // Sum of f over a row's columns. Four sums in turn: more are in flight, and each is shorter.
  template <class F>
  [[gnu::always_inline]] static float sum_of_row(const Type* row, std::size_t n, const F& f) {
    V sums[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
    std::size_t j = 0;
    for (; j + 4 * V::N <= n; j += 4 * V::N)
#pragma GCC unroll 4
      for (std::size_t k = 0; k < 4; ++k) sums[k] = sums[k] + f(H::load(row + j + k * V::N));
    float total = ((sums[0] + sums[1]) + (sums[2] + sums[3])).reduce_add();
    for (; j < n; j += V::N) {
      alignas(64) float values[V::N] = {};
      f(H::load(row + j)).store_partial(values, n - j < V::N ? n - j : V::N);
      total += V::load(values).reduce_add();
    }
    return total;
  }

  // N samples a vector, gathered across the rows: rows beyond the batch are there, since buffers hold whole panels.
  template <class F>
  [[gnu::always_inline]] static void transpose(const CenterArgs& args, const Type* rows,
                                               std::size_t column, const F& f) {
    if constexpr (M::kPerWord == 1) {
      float* out = static_cast<float*>(args.panel) + column;
      for (std::size_t k = 0; k < args.n_columns; ++k)
        f(V::gather(rows + k, static_cast<std::ptrdiff_t>(args.stride))).store(out + k * kPanel);
    } else {
      const float* words = reinterpret_cast<const float*>(rows);
      std::uint32_t* out = static_cast<std::uint32_t*>(args.panel) + column;
      for (std::size_t k = 0; k < args.n_columns; k += 2) {
        const auto pairs =
            V::gather(words + k / 2, static_cast<std::ptrdiff_t>(args.stride / 2)).bits();
        const V high = k + 1 < args.n_columns ? f(V::from_pair_high(pairs)) : V::zero();
        V::pack_pair(f(V::from_pair_low(pairs)), high).store(out + k / 2 * kPanel);
      }
    }
  }
};

template <class Isa>
struct SimilarityRows {
  using V = Vec<Isa, float>;

  static void run(const SimilarityArgs& args) {
    for (std::size_t i = args.row_begin; i < args.row_end; ++i) {
      const V inverse_i = V::set(args.inverse_norm[i]);
      const V scale = V::set(args.scale * args.weight[i]);
      V slope = V::zero(), loss = V::zero();
      for (std::size_t j = 0; j < args.n_rows; j += V::N) {
        const std::size_t at = j / kPanel * args.panel_stride + i * kPanel + j % kPanel;
        const V inverse = V::load(args.inverse_norm + j);
        const V weight = V::load(args.weight + j);
        // In this order: the product of two small inverse norms may be zero.
        const V cosine = product(args, i, j, at) * inverse_i * inverse;
        const V error = cosine - V::load(args.targets + at);
        const V weighted = weight * error;
        loss = V::mul_add(weighted, error, loss);
        const V by_cosine = scale * weighted;
        slope = V::mul_add(by_cosine, cosine, slope);
        (by_cosine * inverse_i * inverse).store(args.factor + at);
      }
      args.row_loss[i] = 0.25f * args.scale * args.weight[i] * loss.reduce_add();
      args.factor[i / kPanel * args.panel_stride + i * kPanel + i % kPanel] -=
          slope.reduce_add() * args.inverse_norm[i] * args.inverse_norm[i];
    }
  }

 private:
  [[gnu::always_inline]] static V product(const SimilarityArgs& args, std::size_t i, std::size_t j,
                                          std::size_t at) {
    if (j / kPanel >= i / kPanel) return V::load(args.products + at);
    return V::gather(args.products + i / kPanel * args.panel_stride + j * kPanel + i % kPanel,
                     static_cast<std::ptrdiff_t>(kPanel));
  }
};

}  // namespace bpfree::product
