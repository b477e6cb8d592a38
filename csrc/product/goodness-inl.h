// SPDX-License-Identifier: BSD-3-Clause
// Around the products of a layer that is trained by its goodness: rows' sums, and delta as a function of them.
// Shapes: h [rows][h_stride] row-major in the compute type; a panel of delta [rows][32], in bf16 pairs of rows.
// Result: rows and columns are summed in order.
#pragma once

#include "product/epilogue.h"

namespace bpfree::product {

template <class Isa, class M>
struct GoodnessRows {
  using V = Vec<Isa, float>;
  using H = Element<Isa, M::kPerWord == 2>;
  using Type = typename H::Type;

  static void delta(const GoodnessDeltaArgs& args) {
    const Type* h = static_cast<const Type*>(args.h);
    for (std::size_t j = 0; j < kPanel; j += V::N) {
      const V peer = args.peer != nullptr ? V::load(args.peer + j) : V::zero();
      V sum = V::zero();
      const auto value = [&](std::size_t i) {
        const V scaled = V::set(args.loss_factor[i]) * H::load(h + i * args.h_stride + j);
        return i < args.n_positive ? scaled + peer : scaled;
      };
      const auto row = [&](std::size_t i) {
        const V factor = V::set(args.row_factor[i]);
        V total = V::zero();
        for (std::size_t k = i; k <= i + args.pair; k += args.pair) {
          const V v = value(k);
          sum = sum + v;
          total = total + v;
          if (args.label_gradient != nullptr) {
            float* p = args.label_gradient + static_cast<std::size_t>(args.labels[k]) * kPanel + j;
            V::mul_add(factor, v, V::load(p)).store(p);
          }
          if (args.pair == 0) break;
        }
        return factor * total;
      };
      store_rows<M>(args.delta, args.n_rows, j, row);
      sum.store(args.column_sums + j);
    }
  }

  static void group_delta(const GroupDeltaArgs& args) {
    const Type* h = static_cast<const Type*>(args.h);
    for (std::size_t j = 0; j < kPanel; j += V::N) {
      std::size_t group[V::N];
      for (std::size_t l = 0; l < V::N; ++l) {
        const std::size_t g = (args.first_column + j + l) / args.group_size;
        group[l] = g < args.n_groups ? g : args.n_groups - 1;
      }
      V sum = V::zero();
      const auto row = [&](std::size_t i) {
        alignas(64) float factors[V::N];
        for (std::size_t l = 0; l < V::N; ++l)
          factors[l] = args.factors[i * args.n_groups + group[l]];
        const V value = H::load(h + i * args.h_stride + j);
        const V factor = V::load(factors);
        const V v =
            args.indicator ? V::select(value > V::zero(), factor, V::zero()) : factor * value;
        sum = sum + v;
        return V::set(args.row_factor[i]) * v;
      };
      store_rows<M>(args.delta, args.n_rows, j, row);
      sum.store(args.column_sums + j);
    }
  }

  static void group_norm(const GroupNormArgs& args) {
    for (std::size_t i = args.row_begin; i < args.row_end; ++i) {
      Type* h = static_cast<Type*>(args.h) + i * args.h_stride;
      for (std::size_t g = 0; g < args.n_groups; ++g) {
        const std::size_t begin = g * args.group_size;
        const std::size_t end = g + 1 == args.n_groups ? args.n_columns : begin + args.group_size;
        V sum = V::zero(), squares = V::zero();
        for (std::size_t j = begin; j < end; j += V::N) {
          const V v = load(h + j, end - j);
          sum = sum + v;
          squares = V::mul_add(v, v, squares);
        }
        const float total = squares.reduce_add();
        args.sums[i * args.n_groups + g] = sum.reduce_add();
        args.squares[i * args.n_groups + g] = total;
        const float mean = total / static_cast<float>(end - begin) + args.tiny;
        // mean - mean is 0, or NaN where the squares overflowed: then the group must not vanish.
        const V factor = V::set(1.0f) / V::sqrt(V::set(mean + (mean - mean)));
        for (std::size_t j = begin; j < end; j += V::N)
          store(h + j, end - j, factor * load(h + j, end - j));
      }
    }
  }

  static void row_squares(float* out, const void* rows, std::size_t stride, std::size_t n_columns,
                          std::size_t n_rows) {
    for (std::size_t i = 0; i < n_rows; ++i) {
      const Type* row = static_cast<const Type*>(rows) + i * stride;
      V sum = V::zero();
      for (std::size_t j = 0; j < n_columns; j += V::N) {
        const V v = load(row + j, n_columns - j);
        sum = V::mul_add(v, v, sum);
      }
      out[i] = sum.reduce_add();
    }
  }

  static void column_sums(float* out, const void* rows, std::size_t stride, std::size_t n_rows) {
    for (std::size_t j = 0; j < kPanel; j += V::N) {
      V sum = V::zero();
      for (std::size_t i = 0; i < n_rows; ++i)
        sum = sum + H::load(static_cast<const Type*>(rows) + i * stride + j);
      sum.store(out + j);
    }
  }

 private:
  [[gnu::always_inline]] static V load(const Type* p, std::size_t left) {
    if (left >= V::N) return H::load(p);
    if constexpr (M::kPerWord == 2)
      return V::load_bf16_partial(p, left);
    else
      return V::load_partial(p, left);
  }

  [[gnu::always_inline]] static void store(Type* p, std::size_t left, V v) {
    if (left >= V::N) return H::store(p, v);
    if constexpr (M::kPerWord == 2)
      v.store_bf16_partial(p, left);
    else
      v.store_partial(p, left);
  }
};

}  // namespace bpfree::product
