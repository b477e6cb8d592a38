// SPDX-License-Identifier: BSD-3-Clause
// Anomalies and localisation: see ensemble.h.
#pragma once

#include "product/microkernel.h"

namespace bpfree::product {

template <class Isa, class M>
struct Ensembles {
  using V = typename M::Sum;
  using Real = typename M::Out;
  static constexpr std::size_t kColumns = 2 * V::N;

  static void center(const CenterColumnsArgs& args) {
    for (std::size_t j = 0; j < M::kWidth; j += kColumns) {
      const std::size_t left = args.n_columns > j ? args.n_columns - j : 0;
      if (left < kColumns)
        columns<false, true>(args, j, left);
      else if (args.squares == nullptr)
        columns<true, false>(args, j, kColumns);
      else
        columns<true, true>(args, j, kColumns);
    }
  }

  static void localize(const LocalizeArgs& args) {
    switch (args.kind) {
      case Localization::none:
        return;
      case Localization::taper:
        return shrink<Localization::taper>(args);
      case Localization::sec:
        return shrink<Localization::sec>(args);
      case Localization::sec_fisher:
        return shrink<Localization::sec_fisher>(args);
    }
  }

 private:
  // Two vectors of columns, of which n are valid.
  template <bool kWhole, bool kSquares>
  [[gnu::always_inline]] static void columns(const CenterColumnsArgs& args, std::size_t j,
                                             std::size_t n) {
    const Real* src = static_cast<const Real*>(args.src) + j;
    const std::size_t n_low = n < V::N ? n : V::N;
    const auto load = [&](std::size_t k, std::size_t v) __attribute__((always_inline)) {
      const Real* p = src + k * args.src_stride + v * V::N;
      if constexpr (kWhole) return V::load(p);
      return v == 0     ? V::load_partial(p, n_low)
             : n > V::N ? V::load_partial(p, n - V::N)
                        : V::zero();
    };
    if (args.depth == 0) return;
    const V first[2] = {load(0, 0), load(0, 1)};
    V even[2] = {V::zero(), V::zero()}, odd[2] = {V::zero(), V::zero()};
    std::size_t k = 0;
    for (; k + 1 < args.depth; k += 2)
#pragma GCC unroll 2
      for (std::size_t v = 0; v < 2; ++v) {
        even[v] = even[v] + (load(k, v) - first[v]);
        odd[v] = odd[v] + (load(k + 1, v) - first[v]);
      }
    const V inverse = V::set(static_cast<Real>(1.0 / static_cast<double>(args.depth)));
    V mean[2];
#pragma GCC unroll 2
    for (std::size_t v = 0; v < 2; ++v) {
      if (k < args.depth) even[v] = even[v] + (load(k, v) - first[v]);
      mean[v] = (even[v] + odd[v]) * inverse;
    }
    const V scale = V::set(static_cast<Real>(args.scale));
    V squares[2] = {V::zero(), V::zero()};
    const auto anomaly = [&](std::size_t row, std::size_t v) __attribute__((always_inline)) {
      const V x = (load(row, v) - first[v]) - mean[v];
      if constexpr (kSquares) squares[v] = V::mul_add(x, x, squares[v]);
      return scale * x;
    };
    for (std::size_t row = 0; row < args.depth; row += M::kPerWord)
#pragma GCC unroll 2
      for (std::size_t v = 0; v < 2; ++v) {
        const std::size_t column = j + v * V::N;
        if constexpr (M::kPerWord == 2) {
          const V low = anomaly(row, v);
          const V high = row + 1 < args.depth ? anomaly(row + 1, v) : V::zero();
          V::pack_pair(low, high).store(static_cast<typename M::Word*>(args.dst) +
                                        row / 2 * args.dst_stride + column);
        } else {
          anomaly(row, v).store(static_cast<Real*>(args.dst) + row * args.dst_stride + column);
        }
      }
    if (args.squares == nullptr) return;
#pragma GCC unroll 2
    for (std::size_t v = 0; v < 2; ++v)
      squares[v].store(static_cast<Real*>(args.squares) + j + v * V::N);
  }

  template <Localization kKind>
  static void shrink(const LocalizeArgs& args) {
    const V one = V::set(Real{1}), fisher = V::set(static_cast<Real>(args.fisher));
    for (std::size_t i = 0; i < args.n_rows; ++i) {
      Real* c = static_cast<Real*>(args.c) + i * args.stride;
      const V row = kKind == Localization::taper
                        ? one
                        : V::set(static_cast<const Real*>(args.row_inverse)[i]);
      for (std::size_t j = 0; j < args.n_columns; j += V::N) {
        const std::size_t left = args.n_columns - j;
        const std::size_t n = left < V::N ? left : V::N;
        const V x = V::load_partial(c + j, n);
        V factor;
        if constexpr (kKind == Localization::taper) {
          factor =
              V::load_partial(static_cast<const Real*>(args.taper) + i * args.taper_stride + j, n);
        } else {
          const V column = V::load_partial(static_cast<const Real*>(args.column_inverse) + j, n);
          const V r = V::min(V::abs(x * row * column), one);
          factor = r;
          if constexpr (kKind == Localization::sec_fisher) {
            const V r2 = r * r;
            const V a = V::fnma(r2, fisher, one);
            const V b = one - r2;
            const V signal = r2 * a * a;
            factor = signal / V::mul_add(fisher * b, b, signal);
          }
        }
        (x * factor).store_partial(c + j, n);
      }
    }
  }
};

}  // namespace bpfree::product
