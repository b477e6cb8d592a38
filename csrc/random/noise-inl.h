// SPDX-License-Identifier: BSD-3-Clause
// Noise of members where it is used: sums over members, and parameters with it added. The table of
// one instruction set is at the end.
//
// Sums keep a run of blocks in registers while the members pass. A block is prepared once for all of
// them (generator-inl.h), and normals are put in order once, after the last.
// Cost:   of a normal 47 + 53 instructions per 32 and member with AVX-512, where fills take 112; of a
//         sign 4 per 16 and member, and a 128th of a block's 47.
// Tried:  a gaussian of 8 bits, an odd polynomial of a byte of the words: sums over 64 members at 4.6 G/s
//         where normals make 1.7 and signs 9 (AVX-512, one Zen 4 core); of 6 bits, by a table in two
//         registers, 8.0. Who wants noise cheaper than a normal has signs, whose estimate of the gradient
//         also varies less, and perturb() of large arrays waits for memory with either.
#pragma once

#include "random/random-inl.h"

namespace bpfree::random {

// Members whose part of the generator is kept on the stack. Sums of so many are complete before they
// are added to those before.
static constexpr std::size_t kMembersAtOnce = 512;

// Members as the generator takes them, with their weights.
template <class Isa>
struct Weighted {
  typename Generator<Isa>::Member member[kMembersAtOnce];
  float weight[kMembersAtOnce];
  std::size_t n;

  [[gnu::always_inline]] Weighted(const Generator<Isa>& generator, const AccumulateArgs& args,
                                  std::size_t first) {
    n = args.n_members - first < kMembersAtOnce ? args.n_members - first : kMembersAtOnce;
    for (std::size_t k = 0; k < n; ++k) {
      member[k] = generator.member(args.members[first + k]);
      weight[k] = args.weights[first + k];
    }
  }
};

// Where noise is added to parameters as it is made: loads and stores of large arrays then run beside
// the generator. A pass of their own over a buffer in L1 cost 30 % (10 M parameters, one core).
template <class Isa, bool kPlus, bool kMinus>
struct Add {
  using F = simd::Vec<Isa, float>;
  float* plus;
  float* minus;
  const float* base;
  F scale;

  [[gnu::always_inline]] void whole(std::size_t at, F noise) const {
    const F b = F::load(base + at);
    if constexpr (kPlus) F::fma(scale, noise, b).store(plus + at);
    if constexpr (kMinus) F::fnma(scale, noise, b).store(minus + at);
  }
  [[gnu::always_inline]] void part(std::size_t at, const float* noise, std::size_t n) const {
    for (std::size_t i = 0; i < n; i += F::N, at += F::N) {
      const std::size_t left = n - i < F::N ? n - i : F::N;
      const F e = F::load_partial(noise + i, left);
      const F b = F::load_partial(base + at, left);
      if constexpr (kPlus) F::fma(scale, e, b).store_partial(plus + at, left);
      if constexpr (kMinus) F::fnma(scale, e, b).store_partial(minus + at, left);
    }
  }
};
template <class Isa, bool kPlus, bool kMinus>
struct AddRows {
  const PerturbArgs& args;

  [[gnu::always_inline]] Add<Isa, kPlus, kMinus> row(std::size_t i) const {
    return {kPlus ? args.plus + i * args.stride : nullptr,
            kMinus ? args.minus + i * args.stride : nullptr, args.base + i * args.base_stride,
            simd::Vec<Isa, float>::set(args.scale)};
  }
};

template <class Isa>
struct Noise {
  using G = Generator<Isa>;
  using F = simd::Vec<Isa, float>;
  using U = simd::Vec<Isa, std::uint32_t>;
  static constexpr std::size_t kRunBlocks = 2 * G::kBlocks;

  static void accumulate_normal(const Stream& stream, const AccumulateArgs& args) {
    const G generator(stream);
    if (!args.add && args.n_members == 0) clear(args);
    for (std::size_t first = 0; first < args.n_members; first += kMembersAtOnce) {
      const Weighted<Isa> members(generator, args, first);
      const bool add = args.add || first > 0;
      for (BlockWalk<Isa, 4> walk{args.place}; !walk.done();) {
        BlockWalk<Isa, 4> to = walk;
        std::uint32_t block[kRunBlocks];
        walk.take(block);
        float sums[4 * kRunBlocks];
        sum_normals(sums, generator, members, block);
        for (std::size_t i = 0; i < kRunBlocks && !to.done(); ++i, to.next()) {
          std::size_t begin, end;
          float* out = args.out + to.row * args.stride + to.columns(begin, end);
          for (std::size_t j = begin; j < end; ++j, ++out)
            *out = add ? *out + sums[4 * i + j] : sums[4 * i + j];
        }
      }
    }
  }

  // Words of a run's blocks for some members, then the sums of 32 columns at a time: members pass
  // once more, in the same order.
  static void accumulate_sign(const Stream& stream, const AccumulateArgs& args) {
    const G generator(stream);
    if (!args.add) clear(args);
    for (std::size_t first = 0; first < args.n_members; first += kSignMembers) {
      const std::size_t left = args.n_members - first;
      const std::size_t n = left < kSignMembers ? left : kSignMembers;
      for (BlockWalk<Isa, 128> walk{args.place}; !walk.done();) {
        BlockWalk<Isa, 128> to = walk;
        std::uint32_t block[kRunBlocks];
        walk.take(block);
        const typename G::Blocks prepared = generator.prepare(block);
        std::uint32_t words[kSignMembers][4 * kRunBlocks];
        for (std::size_t k = 0; k < n; ++k)
          run_words(words[k], generator, prepared, generator.member(args.members[first + k]));
        for (std::size_t i = 0; i < kRunBlocks && !to.done(); ++i, to.next()) {
          std::size_t begin, end;
          float* out = args.out + to.row * args.stride + to.columns(begin, end);
          for (std::size_t part; begin < end; begin += part, out += part) {
            part = 32 - begin % 32 < end - begin ? 32 - begin % 32 : end - begin;
            add_signs(out, begin % 32, part, &words[0][4 * i + begin / 32], args.weights + first,
                      n);
          }
        }
      }
    }
  }

  // plus = base + scale noise, minus = base - scale noise; either may be null.
  static void perturb(const Stream& stream, const PerturbArgs& args) {
    if (args.minus == nullptr) return perturb_sides<true, false>(stream, args);
    if (args.plus == nullptr) return perturb_sides<false, true>(stream, args);
    perturb_sides<true, true>(stream, args);
  }

  // The same with noise of low rank: scale sum_q left[q][i] right[q][j].
  static void perturb_low_rank(const LowRankArgs& args) {
    for (std::size_t i = 0; i < args.n_rows; ++i)
      for (std::size_t j = 0; j < args.n_columns; j += F::N) {
        const std::size_t n = args.n_columns - j < F::N ? args.n_columns - j : F::N;
        F sum = F::zero();
        for (std::size_t q = 0; q < args.rank; ++q)
          sum = F::fma(F::set(args.left[q * args.left_stride + i]),
                       F::load_partial(args.right + q * args.right_stride + j, n), sum);
        sum = F::set(args.scale) * sum;
        const F base = F::load_partial(args.base + i * args.base_stride + j, n);
        if (args.plus != nullptr) (base + sum).store_partial(args.plus + i * args.stride + j, n);
        if (args.minus != nullptr) (base - sum).store_partial(args.minus + i * args.stride + j, n);
      }
  }

 private:
  static constexpr std::size_t kSignMembers = 64;

  static void clear(const AccumulateArgs& args) {
    for (std::size_t i = 0; i < args.place.n_rows; ++i)
      for (std::size_t j = 0; j < args.place.n_columns; ++j) args.out[i * args.stride + j] = 0;
  }

  [[gnu::always_inline]] static void sum_normals(float* out, const G& generator,
                                                 const Weighted<Isa>& members,
                                                 const std::uint32_t (&block)[kRunBlocks]) {
    using F2 = typename G::F2;
    const typename G::Blocks prepared = generator.prepare(block);
    typename G::NormalPairs sums;
    for (std::size_t i = 0; i < G::kPairs; ++i) sums.cosine[i] = sums.sine[i] = F2::both(F::zero());
    for (std::size_t k = 0; k < members.n; ++k) {
      typename G::NormalPairs noise;
      generator.normal_pairs(noise, prepared, members.member[k]);
      const F2 weight = F2::both(F::set(members.weight[k]));
      for (std::size_t i = 0; i < G::kPairs; ++i) {
        sums.cosine[i] = F2::fma(weight, noise.cosine[i], sums.cosine[i]);
        sums.sine[i] = F2::fma(weight, noise.sine[i], sums.sine[i]);
      }
    }
    typename G::template Groups<F> ordered;
    G::in_order(ordered, sums);
    for (std::size_t i = 0; i < G::kVectors; ++i) {
      ordered.a[i].store(out + i * F::N);
      ordered.b[i].store(out + 4 * G::kBlocks + i * F::N);
    }
  }

  // Signs of a word's bits first.. onto n columns.
  [[gnu::always_inline]] static void add_signs(float* out, std::size_t first, std::size_t n,
                                               const std::uint32_t* words, const float* weights,
                                               std::size_t n_members) {
    constexpr std::size_t kV = 32 / F::N;
    const Signs<Isa> signs(0);
    float buffer[32] = {};
    for (std::size_t j = 0; j < n; ++j) buffer[first + j] = out[j];
    F sum[kV];
    for (std::size_t v = 0; v < kV; ++v) sum[v] = F::load(buffer + v * F::N);
    for (std::size_t k = 0; k < n_members; ++k) {
      const F plus = F::set(weights[k]);
      const F minus = -plus;
      const std::uint32_t word = words[k * 4 * kRunBlocks];
#pragma GCC unroll 8
      for (std::size_t v = 0; v < kV; ++v)
        sum[v] =
            sum[v] + F::select(U::any_bit(U::set(word >> (v * F::N)), signs.lane_bit), minus, plus);
    }
    for (std::size_t v = 0; v < kV; ++v) sum[v].store(buffer + v * F::N);
    for (std::size_t j = 0; j < n; ++j) out[j] = buffer[first + j];
  }

  template <bool kPlus, bool kMinus>
  static void perturb_sides(const Stream& stream, const PerturbArgs& args) {
    const AddRows<Isa, kPlus, kMinus> rows{args};
    if (args.sign)
      fill_sign_rows(rows, G(stream), args.place, Signs<Isa>(1));
    else
      fill_rows(rows, G(stream), args.place, Normal<Isa, false>{F::zero()});
  }
};

template <class Isa>
constexpr Kernels kTable = {Fills<Isa>::bits,
                            Fills<Isa>::template uniform<float>,
                            Fills<Isa>::template uniform<double>,
                            Fills<Isa>::template normal<float>,
                            Fills<Isa>::template normal<double>,
                            Fills<Isa>::template sign<float>,
                            Fills<Isa>::template sign<double>,
                            Fills<Isa>::uniform_block,
                            Fills<Isa>::normal_block,
                            Fills<Isa>::sign_block,
                            Noise<Isa>::accumulate_normal,
                            Noise<Isa>::accumulate_sign,
                            Noise<Isa>::perturb,
                            Noise<Isa>::perturb_low_rank};

}  // namespace bpfree::random
