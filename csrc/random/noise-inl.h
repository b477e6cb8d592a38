// SPDX-License-Identifier: BSD-3-Clause
// Noise of members where it is used: sums over members, and parameters with it added. The table of
// one instruction set is at the end.
//
// Sums keep a run of blocks in registers while the members pass. A block is prepared once for all of
// them (generator-inl.h), and normals are put in order once, after the last.
// Cost:   of a normal 47 + 53 instructions per 32 and member with AVX-512, where fills take 112; of a
//         sign 4 per 16 and member, and a 128th of a block's 47.
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
    constexpr std::size_t kColumns = 1024;
    float noise[kColumns];
    const G generator(stream);
    const Place& p = args.place;
    const bool narrow = p.n_columns > 0 && p.n_columns <= kColumns / 2;
    const std::size_t rows_at_once = narrow ? kColumns / p.n_columns : 1;
    for (std::size_t i = 0; i < p.n_rows; i += rows_at_once) {
      const std::size_t left = p.n_rows - i;
      const std::size_t rows = left < rows_at_once ? left : rows_at_once;
      for (std::size_t j = 0; j < p.n_columns; j += kColumns) {
        const std::size_t n = p.n_columns - j < kColumns ? p.n_columns - j : kColumns;
        const BlockArgs block = {
            noise, n, 1, {p.blocks_per_row, p.first_row + i, rows, p.first_column + j, n}};
        if (args.sign)
          fill_sign_rows(generator, block);
        else
          fill_rows(generator, block, Normal<Isa, false>{F::zero()});
        for (std::size_t r = 0; r < rows; ++r)
          add_noise(args, (i + r) * args.stride + j, (i + r) * args.base_stride + j, noise + r * n,
                    n);
      }
    }
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

  [[gnu::always_inline]] static void add_noise(const PerturbArgs& args, std::size_t at,
                                               std::size_t base_at, const float* noise,
                                               std::size_t n) {
    const F scale = F::set(args.scale);
    float* const plus = args.plus != nullptr ? args.plus + at : nullptr;
    float* const minus = args.minus != nullptr ? args.minus + at : nullptr;
    const float* base = args.base + base_at;
    std::size_t j = 0;
    for (; j + F::N <= n; j += F::N) {
      const F e = F::load(noise + j);
      const F b = F::load(base + j);
      if (plus != nullptr) F::fma(scale, e, b).store(plus + j);
      if (minus != nullptr) F::fnma(scale, e, b).store(minus + j);
    }
    if (j == n) return;
    const F e = F::load_partial(noise + j, n - j);
    const F b = F::load_partial(base + j, n - j);
    if (plus != nullptr) F::fma(scale, e, b).store_partial(plus + j, n - j);
    if (minus != nullptr) F::fnma(scale, e, b).store_partial(minus + j, n - j);
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
