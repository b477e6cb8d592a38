// SPDX-License-Identifier: BSD-3-Clause
// Epilogues: what happens to a finished tile while it is still in registers. Each is called with the tile's sums c[R][NV],
// its first row and its first column within the panel.
#pragma once

#include "formulas/activation.h"
#include "formulas/update.h"
#include "product/run_panel.h"

namespace bpfree::product {

// Calls f with the activation as a compile-time constant, where it is one that has a derivative.
template <class Isa, class F>
[[gnu::always_inline]] inline void with_smooth_activation(formulas::Activation a, const F& f) {
  using formulas::Activation;
  switch (a) {
    case Activation::identity:
      return f.template operator()<Activation::identity>();
    case Activation::relu:
      return f.template operator()<Activation::relu>();
    case Activation::leaky_relu:
      return f.template operator()<Activation::leaky_relu>();
    case Activation::tanh:
      return f.template operator()<Activation::tanh>();
    case Activation::logistic:
      return f.template operator()<Activation::logistic>();
    case Activation::gelu:
      return f.template operator()<Activation::gelu>();
    case Activation::step:
    case Activation::sign:
      return;
  }
}

// The same for every activation.
template <class Isa, class F>
[[gnu::always_inline]] inline void with_activation(formulas::Activation a, const F& f) {
  using formulas::Activation;
  if (a == Activation::step) return f.template operator()<Activation::step>();
  if (a == Activation::sign) return f.template operator()<Activation::sign>();
  with_smooth_activation<Isa>(a, f);
}

static constexpr bool is_cheap(formulas::Activation a) {
  return a <= formulas::Activation::leaky_relu;
}

// The same for those that leave a tile in its registers.
template <class F>
[[gnu::always_inline]] inline void with_cheap_activation(formulas::Activation a, const F& f) {
  using formulas::Activation;
  if (a == Activation::relu) return f.template operator()<Activation::relu>();
  if (a == Activation::leaky_relu) return f.template operator()<Activation::leaky_relu>();
  return f.template operator()<Activation::identity>();
}

// Memory element of an array that is float32 or bf16: Isa is there to make the symbols its own.
template <class Isa, bool kBf16>
struct Element {
  using Type = float;
  using V = Vec<Isa, float>;
  [[gnu::always_inline]] static V load(const Type* p) { return V::load(p); }
  [[gnu::always_inline]] static void store(Type* p, V v) { v.store(p); }
};
template <class Isa>
struct Element<Isa, true> {
  using Type = std::uint16_t;
  using V = Vec<Isa, float>;
  [[gnu::always_inline]] static V load(const Type* p) { return V::load_bf16(p); }
  [[gnu::always_inline]] static void store(Type* p, V v) { v.store_bf16(p); }
};

// Only the full tile, where the time goes, gets code that stays in registers. The tails' tiles go through a buffer and loops,
// with the same arithmetic: unrolling every height made the compiler's work, and the library, five times larger.
template <class M, std::size_t R, std::size_t NV>
struct IsFull {
  static constexpr bool value = R == M::kRows && NV == 2;
};

// A tile in memory, row by row.
template <class V, std::size_t R, std::size_t NV>
struct TileBuffer {
  alignas(64) typename V::Element rows[R][NV * V::N];

  [[gnu::always_inline]] explicit TileBuffer(const V (&c)[R][NV]) {
#pragma GCC unroll 16
    for (std::size_t i = 0; i < R; ++i)
#pragma GCC unroll 2
      for (std::size_t v = 0; v < NV; ++v) c[i][v].store(&rows[i][v * V::N]);
  }
};

// out = c or out += c, with the columns beyond n_columns left alone.
template <class M>
struct StoreEpilogue {
  using V = typename M::Sum;
  const StoreArgs& args;

  template <std::size_t R, std::size_t NV>
  [[gnu::always_inline]] void operator()(V (&c)[R][NV], std::size_t row, std::size_t column) const {
    using T = typename M::Out;
    T* out = static_cast<T*>(args.out) + row * args.out_stride + column;
    if (IsFull<M, R, NV>::value && column + NV * V::N <= args.n_columns) {
#pragma GCC unroll 16
      for (std::size_t i = 0; i < R; ++i)
#pragma GCC unroll 2
        for (std::size_t v = 0; v < NV; ++v) {
          T* p = out + i * args.out_stride + v * V::N;
          (args.accumulate ? c[i][v] + V::load(p) : c[i][v]).store(p);
        }
      return;
    }
    const TileBuffer<V, R, NV> tile(c);
    for (std::size_t i = 0; i < R; ++i)
      for (std::size_t v = 0; v < NV; ++v) {
        const std::size_t begin = column + v * V::N;
        if (begin >= args.n_columns) continue;
        const std::size_t left = args.n_columns - begin;
        const std::size_t n = left < V::N ? left : V::N;
        const V value = V::load(&tile.rows[i][v * V::N]);
        T* p = out + i * args.out_stride + v * V::N;
        (args.accumulate ? value + V::load_partial(p, n) : value).store_partial(p, n);
      }
  }
};

// h = f(row_scale scale c + bias), in float32 or bf16, with the rows' sums of squares.
template <class Isa, class M, bool kBf16>
struct ForwardEpilogue {
  using V = Vec<Isa, float>;
  using H = Element<Isa, kBf16>;
  const ForwardArgs& args;

  template <std::size_t R, std::size_t NV>
  [[gnu::always_inline]] void operator()(V (&c)[R][NV], std::size_t row, std::size_t column) const {
    if (args.n_variants > 0) {
      const TileBuffer<V, R, NV> tile(c);
      for (std::size_t k = 0; k < args.n_variants; ++k)
        add_label(&tile.rows[0][0], R, NV, args.variants[k], row, column);
      return;
    }
    V bias[NV];
#pragma GCC unroll 2
    for (std::size_t v = 0; v < NV; ++v)
      bias[v] = args.bias != nullptr ? V::load(args.bias + column + v * V::N) : V::zero();
#pragma GCC unroll 16
    for (std::size_t i = 0; i < R; ++i) {
      const V scale = V::set(scale_of(args.row_scale, row + i));
#pragma GCC unroll 2
      for (std::size_t v = 0; v < NV; ++v) c[i][v] = V::mul_add(scale, c[i][v], bias[v]);
    }
    typename H::Type* h = static_cast<typename H::Type*>(args.h) + row * args.h_stride + column;
    if (IsFull<M, R, NV>::value && is_cheap(args.activation)) {
      with_cheap_activation(args.activation,
                            [&]<formulas::Activation kActivation>() __attribute__((always_inline)) {
#pragma GCC unroll 16
                              for (std::size_t i = 0; i < R; ++i)
#pragma GCC unroll 2
                                for (std::size_t v = 0; v < NV; ++v) {
                                  c[i][v] = formulas::activate<kActivation>(c[i][v]);
                                  H::store(h + i * args.h_stride + v * V::N, c[i][v]);
                                }
                            });
      if (args.row_squares != nullptr) {
#pragma GCC unroll 16
        for (std::size_t i = 0; i < R; ++i) {
          V sum = V::zero();
#pragma GCC unroll 2
          for (std::size_t v = 0; v < NV; ++v) sum = V::mul_add(c[i][v], c[i][v], sum);
          args.row_squares[row + i] += sum.reduce_add();
        }
      }
      return;
    }
    // The others need many registers.
    const TileBuffer<V, R, NV> tile(c);
    with_activation<Isa>(args.activation, [&]<formulas::Activation kActivation>() {
      for (std::size_t i = 0; i < R; ++i) {
        V sum = V::zero();
        for (std::size_t v = 0; v < NV; ++v) {
          const V a = V::load(&tile.rows[i][v * V::N]);
          if (args.preactivation != nullptr)
            a.store(args.preactivation + (row + i) * args.preactivation_stride + column + v * V::N);
          const V out = formulas::activate<kActivation>(a);
          H::store(h + i * args.h_stride + v * V::N, out);
          sum = V::mul_add(out, out, sum);
        }
        if (args.row_squares != nullptr) args.row_squares[row + i] += sum.reduce_add();
      }
    });
  }

 private:
  [[gnu::always_inline]] float scale_of(const float* row_scale, std::size_t row) const {
    return row_scale != nullptr ? args.scale * row_scale[row] : args.scale;
  }

  // Small beside the product, so one copy for all tile shapes: tile [n_rows][n_vectors * N].
  [[gnu::noinline]] void add_label(const float* tile, std::size_t n_rows, std::size_t n_vectors,
                                   const LabelVariant& variant, std::size_t row,
                                   std::size_t column) const {
    with_activation<Isa>(args.activation, [&]<formulas::Activation kActivation>() {
      for (std::size_t i = row; i < row + n_rows; ++i) {
        const std::size_t label =
            variant.labels != nullptr ? static_cast<std::size_t>(variant.labels[i]) : 0;
        const V scale = V::set(args.scale);
        const V row_scale = V::set(variant.row_scale != nullptr ? variant.row_scale[i] : 1.0f);
        V sum = V::zero();
        for (std::size_t v = 0; v < n_vectors; ++v, tile += V::N) {
          const std::size_t at = column + v * V::N;
          const V with_label =
              V::mul_add(scale, V::load(tile), V::load(variant.table + label * kPanel + at));
          const V bias = args.bias != nullptr ? V::load(args.bias + at) : V::zero();
          const V h = formulas::activate<kActivation>(V::mul_add(row_scale, with_label, bias));
          H::store(static_cast<typename H::Type*>(variant.h) + i * args.h_stride + at, h);
          sum = V::mul_add(h, h, sum);
        }
        if (variant.row_squares != nullptr) variant.row_squares[i] += sum.reduce_add();
      }
    });
  }
};

// Writes rows of delta as the weight product's vector operand: float rows, or bf16 pairs of rows.
template <class M, std::size_t R, std::size_t NV>
[[gnu::always_inline]] inline void store_delta(void* panel, const typename M::Sum (&c)[R][NV],
                                               std::size_t row, std::size_t column) {
  using V = typename M::Sum;
  if constexpr (M::kPerWord == 1) {
    float* p = static_cast<float*>(panel) + row * M::kWidth + column;
#pragma GCC unroll 16
    for (std::size_t i = 0; i < R; ++i)
#pragma GCC unroll 2
      for (std::size_t v = 0; v < NV; ++v) c[i][v].store(p + i * M::kWidth + v * V::N);
  } else {
    std::uint32_t* p = static_cast<std::uint32_t*>(panel) + row / 2 * M::kWidth + column;
#pragma GCC unroll 8
    for (std::size_t i = 0; i < R; i += 2)
#pragma GCC unroll 2
      for (std::size_t v = 0; v < NV; ++v)
        V::pack_pair(c[i][v], i + 1 < R ? c[i + 1 < R ? i + 1 : i][v] : V::zero())
            .store(p + i / 2 * M::kWidth + v * V::N);
  }
}

// Rows of one vector of columns, each as row(i) makes it.
template <class M, class F>
[[gnu::always_inline]] inline void store_rows(void* panel, std::size_t n_rows, std::size_t column,
                                              const F& row) {
  using V = typename M::Sum;
  for (std::size_t i = 0; i < n_rows; i += 2) {
    const V even = row(i);
    if (i + 1 < n_rows) {
      const V odd = row(i + 1);
      const V c[2][1] = {{even}, {odd}};
      store_delta<M>(panel, c, i, column);
    } else {
      const V c[1][1] = {{even}};
      store_delta<M>(panel, c, i, column);
    }
  }
}

// delta = c * f'(a); its column sums are the bias gradient. M says in which type delta and h are kept.
template <class Isa, class M>
struct ProjectEpilogue {
  using V = Vec<Isa, float>;
  using H = Element<Isa, M::kPerWord == 2>;
  const ProjectArgs& args;

  template <std::size_t R, std::size_t NV>
  [[gnu::always_inline]] void operator()(V (&c)[R][NV], std::size_t row, std::size_t column) const {
    using formulas::Activation;
    if (args.activation == Activation::relu && IsFull<M, R, NV>::value) {
      const typename H::Type* h =
          static_cast<const typename H::Type*>(args.h) + row * args.h_stride + column;
#pragma GCC unroll 16
      for (std::size_t i = 0; i < R; ++i)
#pragma GCC unroll 2
        for (std::size_t v = 0; v < NV; ++v)
          c[i][v] = formulas::times_derivative<Activation::relu>(
              c[i][v], H::load(h + i * args.h_stride + v * V::N));
    } else if (args.activation != Activation::identity) {
      TileBuffer<V, R, NV> tile(c);
      with_smooth_activation<Isa>(args.activation, [&]<Activation kActivation>() {
        for (std::size_t i = 0; i < R; ++i)
          for (std::size_t v = 0; v < NV; ++v) {
            float* p = &tile.rows[i][v * V::N];
            formulas::times_derivative<kActivation>(V::load(p),
                                                    output<kActivation>(row + i, column + v * V::N))
                .store(p);
          }
      });
#pragma GCC unroll 16
      for (std::size_t i = 0; i < R; ++i)
#pragma GCC unroll 2
        for (std::size_t v = 0; v < NV; ++v) c[i][v] = V::load(&tile.rows[i][v * V::N]);
    }
#pragma GCC unroll 2
    for (std::size_t v = 0; v < NV; ++v) {
      V sum = V::load(args.column_sums + column + v * V::N);
#pragma GCC unroll 16
      for (std::size_t i = 0; i < R; ++i) sum = sum + c[i][v];
      sum.store(args.column_sums + column + v * V::N);
    }
    store_delta<M>(args.delta, c, row, column);
  }

 private:
  // h, or the pre-activation where the derivative wants it.
  template <formulas::Activation kActivation>
  [[gnu::always_inline]] V output(std::size_t row, std::size_t column) const {
    if constexpr (kActivation == formulas::Activation::gelu)
      return V::load(args.preactivation + row * args.preactivation_stride + column);
    else
      return H::load(static_cast<const typename H::Type*>(args.h) + row * args.h_stride + column);
  }
};

// delta^T = c * f'(a)^T: rows are units, columns are samples, so h is read across its rows.
template <class Isa, class M>
struct BackwardEpilogue {
  using V = Vec<Isa, float>;
  const BackwardArgs& args;

  template <std::size_t R, std::size_t NV>
  [[gnu::always_inline]] void operator()(V (&c)[R][NV], std::size_t row, std::size_t column) const {
    using formulas::Activation;
    if (args.activation != Activation::identity) {
      TileBuffer<V, R, NV> tile(c);
      with_smooth_activation<Isa>(args.activation, [&]<Activation kActivation>() {
        for (std::size_t i = 0; i < R; ++i)
          for (std::size_t v = 0; v < NV; ++v) {
            float* p = &tile.rows[i][v * V::N];
            formulas::times_derivative<kActivation>(
                V::load(p), samples_of<kActivation>(row + i, column + v * V::N))
                .store(p);
          }
      });
#pragma GCC unroll 16
      for (std::size_t i = 0; i < R; ++i)
#pragma GCC unroll 2
        for (std::size_t v = 0; v < NV; ++v) c[i][v] = V::load(&tile.rows[i][v * V::N]);
    }
    float* p = args.delta_t + row * kPanel + column;
#pragma GCC unroll 16
    for (std::size_t i = 0; i < R; ++i)
#pragma GCC unroll 2
      for (std::size_t v = 0; v < NV; ++v) c[i][v].store(p + i * kPanel + v * V::N);
    if constexpr (M::kPerWord == 2)
      if (args.pairs_t != nullptr) store_delta<M>(args.pairs_t, c, row, column);
  }

 private:
  // The unit's output (gelu: pre-activation) for N samples.
  template <formulas::Activation kActivation>
  [[gnu::always_inline]] V samples_of(std::size_t unit, std::size_t sample) const {
    if constexpr (kActivation == formulas::Activation::gelu) {
      const float* a = args.preactivation + sample * args.preactivation_stride + unit;
      return V::gather(a, static_cast<std::ptrdiff_t>(args.preactivation_stride));
    } else if constexpr (M::kPerWord == 1) {
      const float* h = static_cast<const float*>(args.h) + sample * args.h_stride + unit;
      return V::gather(h, static_cast<std::ptrdiff_t>(args.h_stride));
    } else {  // the pair of units that holds it, as one float's bits
      const float* words = static_cast<const float*>(args.h) + (sample * args.h_stride + unit) / 2;
      const auto pairs = V::gather(words, static_cast<std::ptrdiff_t>(args.h_stride / 2)).bits();
      return unit % 2 == 0 ? V::from_pair_low(pairs) : V::from_pair_high(pairs);
    }
  }
};

// W <- step(W, c): the tile is the gradient, and is never stored.
template <class Isa, class M, formulas::Solver kSolver>
struct UpdateEpilogue {
  using V = Vec<Isa, float>;
  const UpdateArgs& args;

  // Parameters come from L3 or memory: those of the next tile are asked for meanwhile.
  template <std::size_t R>
  [[gnu::always_inline]] auto streams(std::size_t row, std::size_t depth) const {
    constexpr std::size_t kArrays =
        1 + (kSolver != formulas::Solver::sgd) + (kSolver == formulas::Solver::adam);
    const Parameters& p = args.parameters[0];
    const float* const arrays[] = {p.value, p.state1, p.state2};
    Streams<kArrays> streams;
    for (std::size_t s = 0; s < kArrays; ++s)
      streams.from[s] = reinterpret_cast<const char*>(arrays[s] + (row + R) * kPanel);
    streams.step = (R * kPanel * sizeof(float) << 8) / (depth > 0 ? depth : 1);
    return streams;
  }

  template <std::size_t R, std::size_t NV>
  [[gnu::always_inline]] void operator()(V (&c)[R][NV], std::size_t row, std::size_t column) const {
    apply(c, args.parameters[0], row, column);
    if (args.n_parameters == 2) apply(c, args.parameters[1], row, column);
  }

 private:
  template <std::size_t R, std::size_t NV>
  [[gnu::always_inline]] void apply(const V (&c)[R][NV], const Parameters& p, std::size_t row,
                                    std::size_t column) const {
    const formulas::StepConstants<V> constants(args.step);
    if constexpr (IsFull<M, R, NV>::value) {
#pragma GCC unroll 16
      for (std::size_t i = 0; i < R; i += 2)
#pragma GCC unroll 2
        for (std::size_t v = 0; v < NV; ++v)
          step_pair(p, row + i, column + v * V::N, c[i][v], c[i + 1][v], true, constants);
    } else {
      const TileBuffer<V, R, NV> tile(c);
      for (std::size_t i = 0; i < R; i += 2)
        for (std::size_t v = 0; v < NV; ++v) {
          const bool has_odd = i + 1 < R;
          step_pair(p, row + i, column + v * V::N, V::load(&tile.rows[i][v * V::N]),
                    V::load(&tile.rows[has_odd ? i + 1 : i][v * V::N]), has_odd, constants);
        }
    }
  }

  // Two rows of one vector, which share a word of the bf16 shadow.
  [[gnu::always_inline]] static void step_pair(const Parameters& p, std::size_t row,
                                               std::size_t column, V even_sum, V odd_sum,
                                               bool has_odd,
                                               const formulas::StepConstants<V>& constants) {
    const std::size_t at = row * kPanel + column;
    const V even = step(p, at, even_sum, constants);
    const V odd = has_odd ? step(p, at + kPanel, odd_sum, constants) : V::zero();
    if constexpr (M::kPerWord == 2) {
      if (p.shadow != nullptr) V::pack_pair(even, odd).store(p.shadow + row / 2 * kPanel + column);
      if (p.shadow_rows != nullptr) {
        even.store_bf16(p.shadow_rows + at);
        if (has_odd) odd.store_bf16(p.shadow_rows + at + kPanel);
      }
    }
  }

  [[gnu::always_inline]] static V step(const Parameters& p, std::size_t at, V sum,
                                       const formulas::StepConstants<V>& constants) {
    constexpr bool kState1 = kSolver != formulas::Solver::sgd;
    constexpr bool kState2 = kSolver == formulas::Solver::adam;
    V state1 = kState1 ? V::load(p.state1 + at) : V::zero();
    V state2 = kState2 ? V::load(p.state2 + at) : V::zero();
    const V updated =
        formulas::update<kSolver>(V::load(p.value + at), sum, state1, state2, constants);
    updated.store(p.value + at);
    if constexpr (kState1) state1.store(p.state1 + at);
    if constexpr (kState2) state2.store(p.state2 + at);
    return updated;
  }
};

}  // namespace bpfree::product
