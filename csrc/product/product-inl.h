// SPDX-License-Identifier: BSD-3-Clause
// The kernel table of one instruction set. Every instantiated (dtype, walk, epilogue) is listed in make_kernels(); tile heights
// are those of with_height(). Compiled once per instruction set by product_<isa>.cpp.
#pragma once

#include <type_traits>

#include "product/batch_norm-inl.h"
#include "product/ensemble-inl.h"
#include "product/goodness-inl.h"
#include "product/loss-inl.h"
#include "product/pack-inl.h"
#include "product/perturbed-inl.h"
#include "product/similarity-inl.h"

namespace bpfree::product {

template <class Isa, class M>
struct Products {
  using V = Vec<Isa, float>;
  static constexpr bool kBf16 = M::kPerWord == 2;

  static void store(const StoreArgs& args) {
    const Operands<M> o{args.a, static_cast<const typename M::Word*>(args.packed),
                        static_cast<const typename M::Word*>(args.panel), args.depth};
    const StoreEpilogue<M> epilogue{args};
    if (args.packed != nullptr)
      run_panel<M, Walk::columns>(o, args.blocks, args.n_blocks, args.n_columns, epilogue);
    else
      run_panel<M, Walk::rows>(o, args.blocks, args.n_blocks, args.n_columns, epilogue);
  }

  template <bool kOutBf16>
  static void forward(const ForwardArgs& args) {
    Operands<M> o{args.x, nullptr, static_cast<const typename M::Word*>(args.panel), args.depth};
    if (args.next_panel != nullptr) {
      const RowBlock last = args.blocks[args.n_blocks - 1];
      o.next = static_cast<const char*>(args.next_panel);
      o.next_bytes = args.depth * M::kWidth * sizeof(typename M::Word);
      o.n_rows = last.row + last.height;
    }
    clear_squares(args.row_squares, args);
    for (std::size_t k = 0; k < args.n_variants; ++k)
      clear_squares(args.variants[k].row_squares, args);
    run_panel<M, Walk::rows>(o, args.blocks, args.n_blocks, args.n_columns,
                             ForwardEpilogue<Isa, M, kOutBf16>{args});
  }

  // e and feedback are float32 in every compute type: the product is small, and its result is what gets rounded.
  static void project(const ProjectArgs& args) {
    for (std::size_t j = 0; j < kPanel; j += V::N) V::zero().store(args.column_sums + j);
    const ProjectEpilogue<Isa, M> epilogue{args};
    if (args.feedback == nullptr) return copy_panel(args, epilogue);
    const Operands<F32<Isa>> o{args.signal, nullptr, args.feedback, args.depth};
    run_panel<F32<Isa>, Walk::rows>(o, args.blocks, args.n_blocks, args.n_columns, epilogue);
  }

  static void transpose(const TransposeArgs& args) {
    for (std::size_t j = 0; j < kPanel; j += V::N) V::zero().store(args.column_sums + j);
    for (std::size_t j = 0; j < kPanel; j += V::N) {
      V sum = V::zero();
      for (std::size_t b = 0; b < args.batch; b += 2) {
        V c[2][1] = {{column(args, b, j)},
                     {b + 1 < args.batch ? column(args, b + 1, j) : V::zero()}};
        sum = sum + c[0][0] + c[1][0];
        if (kBf16 || b + 1 < args.batch) {
          store_delta<M>(args.delta, c, b, j);
        } else {
          const V last[1][1] = {{c[0][0]}};
          store_delta<M>(args.delta, last, b, j);
        }
      }
      sum.store(args.column_sums + j);
    }
  }

  static void backward(const BackwardArgs& args) {
    const Operands<M> o{args.weights, nullptr, static_cast<const typename M::Word*>(args.panel),
                        args.depth};
    run_panel<M, Walk::rows>(o, args.blocks, args.n_blocks, kPanel, BackwardEpilogue<Isa, M>{args});
  }

  static void update(const UpdateArgs& args) {
    using formulas::Solver;
    switch (args.step.solver) {
      case Solver::sgd:
        return update_with<Solver::sgd>(args);
      case Solver::momentum:
        return update_with<Solver::momentum>(args);
      case Solver::nesterov:
        return update_with<Solver::nesterov>(args);
      case Solver::adam:
        return update_with<Solver::adam>(args);
      case Solver::rmsprop:
        return update_with<Solver::rmsprop>(args);
    }
  }

 private:
  template <formulas::Solver kSolver>
  static void update_with(const UpdateArgs& args) {
    const Operands<M> o{{},
                        static_cast<const typename M::Word*>(args.x_packed),
                        static_cast<const typename M::Word*>(args.delta),
                        args.depth};
    run_panel<M, Walk::columns>(o, args.blocks, args.n_blocks, args.n_columns,
                                UpdateEpilogue<Isa, M, kSolver>{args});
  }

  // The panel's tiles add to them.
  static void clear_squares(float* row_squares, const ForwardArgs& args) {
    if (row_squares == nullptr) return;
    const RowBlock last = args.blocks[args.n_blocks - 1];
    for (std::size_t i = args.blocks[0].row; i < last.row + last.height; ++i) row_squares[i] = 0;
  }

  // The output layer: e is the delta already.
  static void copy_panel(const ProjectArgs& args, const ProjectEpilogue<Isa, M>& epilogue) {
    const float* e = static_cast<const float*>(args.signal.data);
    for (std::size_t b = 0; b < args.n_blocks; ++b) {
      const RowBlock block = args.blocks[b];
      for (std::size_t i = 0; i < block.height; i += 2)
        for (std::size_t j = 0; j < kPanel; j += V::N) {
          const float* p = e + (block.row + i) * args.signal.stride + j;
          if (i + 1 < block.height) {
            V c[2][1] = {{V::load(p)}, {V::load(p + args.signal.stride)}};
            epilogue(c, block.row + i, j);
          } else {
            V c[1][1] = {{V::load(p)}};
            epilogue(c, block.row + i, j);
          }
        }
    }
  }

  [[gnu::always_inline]] static V column(const TransposeArgs& args, std::size_t b, std::size_t j) {
    return V::gather(args.delta_t + b / kPanel * args.batch_stride + j * kPanel + b % kPanel,
                     static_cast<std::ptrdiff_t>(kPanel));
  }
};

template <class Isa>
struct Elementwise {
  using V = Vec<Isa, float>;

  static void vector_update(const VectorUpdateArgs& args) {
    using formulas::Solver;
    switch (args.step.solver) {
      case Solver::sgd:
        return update_with<Solver::sgd>(args);
      case Solver::momentum:
        return update_with<Solver::momentum>(args);
      case Solver::nesterov:
        return update_with<Solver::nesterov>(args);
      case Solver::adam:
        return update_with<Solver::adam>(args);
      case Solver::rmsprop:
        return update_with<Solver::rmsprop>(args);
    }
  }

  static void make_shadows(const Parameters& p, std::size_t n_in) {
    for (std::size_t k = 0; k < n_in; k += 2)
      for (std::size_t j = 0; j < kPanel; j += V::N) {
        const V low = V::load(p.value + k * kPanel + j);
        const V high = k + 1 < n_in ? V::load(p.value + (k + 1) * kPanel + j) : V::zero();
        if (p.shadow != nullptr) V::pack_pair(low, high).store(p.shadow + k / 2 * kPanel + j);
        if (p.shadow_rows == nullptr) continue;
        low.store_bf16(p.shadow_rows + k * kPanel + j);
        if (k + 1 < n_in) high.store_bf16(p.shadow_rows + (k + 1) * kPanel + j);
      }
  }

  static void sign_of(float* dst, const float* weights, const float* magnitude, float scale,
                      std::size_t n) {
    const V zero = V::zero();
    for (std::size_t i = 0; i < n; i += V::N) {
      const std::size_t left = n - i < V::N ? n - i : V::N;
      const V w = V::load_partial(weights + i, left);
      const V size =
          magnitude != nullptr ? V::abs(V::load_partial(magnitude + i, left)) : V::set(scale);
      V::select(w > zero, size, V::select(w < zero, zero - size, zero))
          .store_partial(dst + i, left);
    }
  }

  static void to_bf16(std::uint16_t* dst, const float* src, std::size_t n) {
    for (std::size_t i = 0; i < n; i += V::N) {
      const std::size_t left = n - i < V::N ? n - i : V::N;
      V::load_partial(src + i, left).store_bf16_partial(dst + i, left);
    }
  }

  static void from_bf16(float* dst, const std::uint16_t* src, std::size_t n) {
    for (std::size_t i = 0; i < n; i += V::N) {
      const std::size_t left = n - i < V::N ? n - i : V::N;
      V::load_bf16_partial(src + i, left).store_partial(dst + i, left);
    }
  }

  template <class M>
  static double peak(std::size_t rounds) {
    using Operand = typename M::Operand;
    constexpr std::size_t kDepth = 64;
    // Distinct starting values, unknown to the compiler, so that no two sums are one.
    alignas(64) volatile float seeds[2 * M::kRows] = {};
    alignas(64) typename M::Word zeros[Operand::N] = {};
    Tile<M, M::kRows, 2> tile;
#pragma GCC unroll 16
    for (std::size_t i = 0; i < M::kRows; ++i) {
      tile.c[i][0] = V::set(seeds[2 * i]);
      tile.c[i][1] = V::set(seeds[2 * i + 1]);
    }
    const Operand a = Operand::load(zeros), b = Operand::load(zeros);
    for (std::size_t round = 0; round < rounds * kDepth; ++round) {
#pragma GCC unroll 16
      for (std::size_t i = 0; i < M::kRows; ++i) {
        tile.c[i][0] = M::step(tile.c[i][0], a, b);
        tile.c[i][1] = M::step(tile.c[i][1], b, a);
      }
    }
#pragma GCC unroll 16
    for (std::size_t i = 0; i < M::kRows; ++i)
      seeds[i] = (tile.c[i][0] + tile.c[i][1]).reduce_add();
    return 2.0 * M::kPerWord * M::kRows * 2 * M::Sum::N * kDepth * static_cast<double>(rounds);
  }

 private:
  template <formulas::Solver kSolver>
  static void update_with(const VectorUpdateArgs& args) {
    constexpr bool kState1 = kSolver != formulas::Solver::sgd;
    constexpr bool kState2 = kSolver == formulas::Solver::adam;
    const formulas::StepConstants<V> constants(args.step);
    const Parameters& p = args.parameters;
    for (std::size_t i = 0; i < args.n; i += V::N) {
      const std::size_t n = args.n - i < V::N ? args.n - i : V::N;
      V state1 = kState1 ? V::load_partial(p.state1 + i, n) : V::zero();
      V state2 = kState2 ? V::load_partial(p.state2 + i, n) : V::zero();
      formulas::update<kSolver>(V::load_partial(p.value + i, n),
                                V::load_partial(args.gradient + i, n), state1, state2, constants)
          .store_partial(p.value + i, n);
      if constexpr (kState1) state1.store_partial(p.state1 + i, n);
      if constexpr (kState2) state2.store_partial(p.state2 + i, n);
    }
  }
};

// Element type of plain arrays: bf16 travels as uint16.
template <class M>
using PanelSource = std::conditional_t<M::kPerWord == 2, std::uint16_t, typename M::Word>;

template <class Isa, class M>
DtypeKernels make_dtype_kernels() {
  constexpr bool kBf16 = M::kPerWord == 2;
  return {
      .tile_rows = M::kRows,
      .depth_per_word = M::kPerWord,
      .gather_u8 = Gather<Isa, std::uint8_t, kBf16>::run,
      .gather_f32 = Gather<Isa, float, kBf16>::run,
      .gather_f64 = Gather<Isa, double, kBf16>::run,
      .pack_columns = PackColumns<Isa, M>::run,
      .pack_panel = PackPanel<Isa, M, PanelSource<M>>::run,
      .store = Products<Isa, M>::store,
      .forward = Products<Isa, M>::template forward<kBf16>,
      .forward_f32 = Products<Isa, M>::template forward<false>,
      .project = Products<Isa, M>::project,
      .transpose = Products<Isa, M>::transpose,
      .backward = Products<Isa, M>::backward,
      .update = Products<Isa, M>::update,
      .goodness_delta = GoodnessRows<Isa, M>::delta,
      .group_delta = GoodnessRows<Isa, M>::group_delta,
      .group_norm = GoodnessRows<Isa, M>::group_norm,
      .center = CenteredRows<Isa, M>::center,
      .centered_columns = CenteredRows<Isa, M>::columns,
      .normalize = BatchNorm<Isa, M>::normalize,
      .normalize_delta = BatchNorm<Isa, M>::delta,
      .dropout = BatchNorm<Isa, M>::dropout,
      .row_squares = GoodnessRows<Isa, M>::row_squares,
      .column_sums = GoodnessRows<Isa, M>::column_sums,
      .perturbed = PerturbedProducts<Isa, M, kBf16>::perturbed,
      .perturbed_f32 = PerturbedProducts<Isa, M, false>::perturbed,
      .low_rank = PerturbedProducts<Isa, M, kBf16>::low_rank,
      .low_rank_f32 = PerturbedProducts<Isa, M, false>::low_rank,
      .ensemble = {Ensembles<Isa, M>::center, Ensembles<Isa, M>::localize},
  };
}

template <class Isa, template <class> class Bf16 = Bf16Widened>
Kernels make_kernels() {
  constexpr bool kWidens = Bf16<Isa>::kWidens;
  return {
      .f32 = make_dtype_kernels<Isa, F32<Isa>>(),
      .bf16 = make_dtype_kernels<Isa, Bf16<Isa>>(),
      .f64 = {.tile_rows = F64<Isa>::kRows,
              .pack_columns = PackColumns<Isa, F64<Isa>>::run,
              .pack_panel = PackPanel<Isa, F64<Isa>, double>::run,
              .store = Products<Isa, F64<Isa>>::store,
              .ensemble = {Ensembles<Isa, F64<Isa>>::center, Ensembles<Isa, F64<Isa>>::localize}},
      .vector_update = Elementwise<Isa>::vector_update,
      .loss = OutputRows<Isa>::loss,
      .output = OutputRows<Isa>::output,
      .row_loss = RowLoss<Isa>::run,
      .factors = PerturbedRows<Isa>::factors,
      .row_dots = PerturbedRows<Isa>::row_dots,
      .similarity = SimilarityRows<Isa>::run,
      .moments = ColumnMoments<Isa>::run,
      .make_shadows = Elementwise<Isa>::make_shadows,
      .sign_of = Elementwise<Isa>::sign_of,
      .to_bf16 = Elementwise<Isa>::to_bf16,
      .from_bf16 = Elementwise<Isa>::from_bf16,
      .peak_f32 = Elementwise<Isa>::template peak<F32<Isa>>,
      .peak_bf16 =
          Elementwise<Isa>::template peak<std::conditional_t<kWidens, F32<Isa>, Bf16<Isa>>>,
      .bf16_widens = kWidens,
  };
}

}  // namespace bpfree::product
