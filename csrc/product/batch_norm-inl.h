// SPDX-License-Identifier: BSD-3-Clause
// What may lie between a product and the next layer's inputs: batch normalization, and dropout.
// Shapes: a panel of 32 units, all rows of the batch; a float32, h in the compute type.
// Source: Ioffe & Szegedy 2015, arXiv:1502.03167; Srivastava et al. 2014 (dropout, scaled while training).
// Result: columns are summed in order, 16 rows at a time and then those sums.
#pragma once

#include "product/epilogue.h"

namespace bpfree::product {

// Sum of f(row) over n rows.
template <class V, class F>
[[gnu::always_inline]] inline V sum_of_rows(std::size_t n, const F& f) {
  constexpr std::size_t kRun = 16;
  V total = V::zero();
  for (std::size_t i = 0; i < n; i += kRun) {
    V sum = V::zero();
    for (std::size_t k = i; k < n && k < i + kRun; ++k) sum = sum + f(k);
    total = total + sum;
  }
  return total;
}

template <class Isa>
struct ColumnMoments {
  using V = Vec<Isa, float>;

  static void run(const MomentsArgs& args) {
    const V inverse = V::set(args.inverse_weight);
    for (std::size_t j = 0; j < kPanel; j += V::N) {
      const auto a = [&](std::size_t i) __attribute__((always_inline)) {
        return V::load(args.a + i * args.a_stride + j);
      };
      const auto weight = [&](std::size_t i)
                              __attribute__((always_inline)) { return V::set(args.weight[i]); };
      const V mean =
          inverse * sum_of_rows<V>(args.n_rows, [&](std::size_t i) __attribute__((always_inline)) {
            return weight(i) * a(i);
          });
      const V squares =
          sum_of_rows<V>(args.n_rows, [&](std::size_t i) __attribute__((always_inline)) {
            return weight(i) * ((a(i) - mean) * (a(i) - mean));
          });
      mean.store(args.mean + j);
      (inverse * squares).store(args.variance + j);
    }
  }
};

template <class Isa, class M>
struct BatchNorm {
  using V = Vec<Isa, float>;
  using H = Element<Isa, M::kPerWord == 2>;
  using Type = typename H::Type;

  static void normalize(const NormalizeArgs& args) {
    with_activation<Isa>(args.activation, [&]<formulas::Activation kActivation>() {
      for (std::size_t j = 0; j < kPanel; j += V::N) {
        const V mean = V::load(args.mean + j), inverse = V::load(args.inverse + j);
        const V gain = V::load(args.gain + j), shift = V::load(args.shift + j);
        for (std::size_t i = 0; i < args.n_rows; ++i) {
          float* a = args.a + i * args.a_stride + j;
          const V normalized = (V::load(a) - mean) * inverse;
          normalized.store(a);
          const V y = V::mul_add(gain, normalized, shift);
          if (args.preactivation != nullptr)
            y.store(args.preactivation + i * args.preactivation_stride + j);
          H::store(static_cast<Type*>(args.h) + i * args.h_stride + j,
                   formulas::activate<kActivation>(y));
        }
      }
    });
  }

  static void delta(const NormalizeDeltaArgs& args) {
    const V inverse = V::set(args.inverse_weight);
    for (std::size_t j = 0; j < kPanel; j += V::N) {
      by_argument(args, j);
      const auto g = [&](std::size_t i) __attribute__((always_inline)) {
        return V::load(args.gradient + i * kPanel + j);
      };
      const auto x = [&](std::size_t i) __attribute__((always_inline)) {
        return V::load(args.normalized + i * args.normalized_stride + j);
      };
      const V shift = sum_of_rows<V>(args.n_rows, g);
      const V gain = sum_of_rows<V>(
          args.n_rows, [&](std::size_t i) __attribute__((always_inline)) { return g(i) * x(i); });
      shift.store(args.shift_gradient + j);
      gain.store(args.gain_gradient + j);
      const V mean = inverse * shift, slope = inverse * gain;
      const V factor = V::load(args.factor + j);
      const auto row = [&](std::size_t i) __attribute__((always_inline)) {
        const V weight = V::set(args.weight[i]);
        // One after the other: with few rows most of g goes, and the rest must not be the sum's rounding.
        return factor * (g(i) - weight * mean - x(i) * (weight * slope));
      };
      store_rows<M>(args.delta, args.n_rows, j, row);
    }
  }

  static void dropout(const DropoutArgs& args) {
    const V bound = V::set(args.bound), scale = V::set(args.scale);
    for (std::size_t i = 0; i < args.n_rows; ++i)
      for (std::size_t j = 0; j < kPanel; j += V::N) {
        const V h = H::load(static_cast<const Type*>(args.src) + i * args.stride + j);
        const V keep = V::load(args.uniform + i * kPanel + j);
        H::store(static_cast<Type*>(args.dst) + i * args.stride + j,
                 V::select(keep >= bound, scale * h, V::zero()));
      }
  }

 private:
  // gradient <- gradient * f'
  static void by_argument(const NormalizeDeltaArgs& args, std::size_t column) {
    with_smooth_activation<Isa>(args.activation, [&]<formulas::Activation kActivation>() {
      for (std::size_t i = 0; i < args.n_rows; ++i) {
        float* p = args.gradient + i * kPanel + column;
        V out;
        if constexpr (kActivation == formulas::Activation::gelu)
          out = V::load(args.preactivation + i * args.preactivation_stride + column);
        else
          out = H::load(static_cast<const Type*>(args.h) + i * args.h_stride + column);
        formulas::times_derivative<kActivation>(V::load(p), out).store(p);
      }
    });
  }
};

}  // namespace bpfree::product
