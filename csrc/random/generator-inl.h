// SPDX-License-Identifier: BSD-3-Clause
// The generator in registers, for kernels that want noise where they need it.
//
// Shapes: a run makes two groups side by side, each from a block of its own choice: kBlocks
//         consecutive blocks, kElements elements in order, kVectors vectors. A group is 32 elements
//         with AVX-512, so a panel's row is one group.
// Members: the first two rounds and half of the third need either the block or the member, not both.
//         prepare() does the block's part, member() the member's, and what takes both does the rest:
//         whoever sums over members keeps the blocks and lets the member change.
// Cost:   with AVX-512 47 instructions a group for the rounds from prepared blocks, 8 more to
//         prepare them, and 55 for normals.
// Tried:  a counter in every lane, not only the even ones: the four products of a round then need
//         four shuffles that part high from low halves. One group at a time: 14 % fewer normals a
//         second (see simd/two.h).
#pragma once

#include <type_traits>

#include "formulas/philox.h"
#include "random/tables.h"
#include "simd/two.h"

namespace bpfree::random {

// Words of which only the even lanes count, since a product takes two lanes; the odd ones hold
// rubbish that nothing reads.
template <class U>
struct EvenLanes {
  U v;

  [[gnu::always_inline]] friend EvenLanes operator^(EvenLanes x, EvenLanes y) {
    return {x.v ^ y.v};
  }
  [[gnu::always_inline]] static void mul_hi_lo(EvenLanes x, std::uint32_t m, EvenLanes& hi,
                                               EvenLanes& lo) {
    lo = {U::mul_even(x.v, U::set(m))};
    hi = {U::high_to_even(lo.v)};
  }
};

template <class Isa>
class Generator {
 public:
  using F = simd::Vec<Isa, float>;
  using U = simd::Vec<Isa, std::uint32_t>;

  static constexpr bool kOneLane = U::N == 1;
  static constexpr std::size_t kBlocks = kOneLane ? 1 : U::N / 2;
  static constexpr std::size_t kElements = 4 * kBlocks;
  static constexpr std::size_t kVectors = kElements / U::N;
  static constexpr std::size_t kPairs = kVectors / 2;

  using F2 = simd::Two<F>;
  using U2 = simd::Two<U>;

  template <class V>
  struct Groups {
    V a[kVectors], b[kVectors];
  };

  using W = std::conditional_t<kOneLane, U2, EvenLanes<U2>>;

  // What the rounds make of the blocks alone, and of the member alone.
  struct Blocks {
    W a, b, c, d;
  };
  struct Member {
    std::uint32_t high, low;
  };

  [[gnu::always_inline]] explicit Generator(const Stream& stream) {
    std::uint32_t key[formulas::kPhiloxRounds][2] = {{stream.key[0], stream.key[1]}};
    for (int round = 1; round < formulas::kPhiloxRounds; ++round)
      for (int i = 0; i < 2; ++i) key[round][i] = key[round - 1][i] + formulas::kPhiloxKeyStep[i];
    for (int round = 0; round < formulas::kPhiloxRounds; ++round)
      for (int i = 0; i < 2; ++i) key_[round][i] = U::set(key[round][i]);
    const std::uint64_t product = std::uint64_t{formulas::kPhiloxFactor[1]} * stream.counter[1];
    first_[0] = U::set(stream.counter[2] ^ key[0][1]);
    first_[1] = U::set(static_cast<std::uint32_t>(product) ^ key[1][0]);
    member_key_[0] = static_cast<std::uint32_t>(product >> 32) ^ key[0][0];
    member_key_[1] = key[1][1];
    member_key_[2] = key[2][1];
    member_ = member(stream.counter[0]);
    // Blocks are spread over the lanes so that zip_low and zip_high, which work within 128 bits,
    // leave elements in order.
    std::uint32_t first[U::N] = {};
    for (std::size_t lane = 0; lane < U::N; ++lane)
      first[lane] = static_cast<std::uint32_t>(lane / 4 + lane % 4 / 2 * (kBlocks / 2));
    lanes_ = U::load(first);
  }

  // That of the stream, and any other.
  [[gnu::always_inline]] Member own_member() const { return member_; }
  [[gnu::always_inline]] Member member(std::uint32_t index) const {
    const std::uint64_t product =
        std::uint64_t{formulas::kPhiloxFactor[0]} * (member_key_[0] ^ index);
    return {static_cast<std::uint32_t>(product >> 32) ^ member_key_[1],
            static_cast<std::uint32_t>(product) ^ member_key_[2]};
  }

  // kBlocks blocks from block_a, and from block_b.
  [[gnu::always_inline]] Blocks prepare(std::uint32_t block_a, std::uint32_t block_b) const {
    return prepare(U2{lanes_ + U::set(block_a), lanes_ + U::set(block_b)});
  }
  // 2 kBlocks blocks of the caller's choice.
  [[gnu::always_inline]] Blocks prepare(const std::uint32_t (&block)[2 * kBlocks]) const {
    std::uint32_t lane[2][U::N] = {};
    for (std::size_t group = 0; group < 2; ++group)
      for (std::size_t i = 0; i < kBlocks; ++i)
        lane[group][kOneLane ? 0 : i % (kBlocks / 2) * 4 + i / (kBlocks / 2) * 2] =
            block[group * kBlocks + i];
    return prepare(U2{U::load(lane[0]), U::load(lane[1])});
  }

  [[gnu::always_inline]] void bits(Groups<U>& out, std::uint32_t block_a,
                                   std::uint32_t block_b) const {
    bits(out, prepare(block_a, block_b), member_);
  }
  [[gnu::always_inline]] void bits(Groups<U>& out, const Blocks& blocks, Member member) const {
    U2 even[kPairs], odd[kPairs];
    words(even, odd, blocks, member);
    interleave(out, even, odd);
  }

  // k with k 2^-24 uniform in [0, 1).
  [[gnu::always_inline]] void uniform_24(Groups<F>& out, std::uint32_t block_a,
                                         std::uint32_t block_b) const {
    Groups<U> word;
    bits(word, block_a, block_b);
    for (std::size_t i = 0; i < kVectors; ++i) {
      out.a[i] = formulas::uniform_24<F>(word.a[i]);
      out.b[i] = formulas::uniform_24<F>(word.b[i]);
    }
  }

  [[gnu::always_inline]] void normal(Groups<F>& out, std::uint32_t block_a,
                                     std::uint32_t block_b) const {
    NormalPairs pairs;
    normal_pairs(pairs, prepare(block_a, block_b), member_);
    interleave(out, pairs.cosine, pairs.sine);
  }

  // Normals before they are put in order: sums of them may wait with that until they are complete.
  struct NormalPairs {
    F2 cosine[kPairs], sine[kPairs];
  };
  [[gnu::always_inline]] void normal_pairs(NormalPairs& out, const Blocks& blocks,
                                           Member member) const {
    U2 even[kPairs], odd[kPairs];
    words(even, odd, blocks, member);
    for (std::size_t i = 0; i < kPairs; ++i)
      formulas::normal_pair(even[i], odd[i], out.cosine[i], out.sine[i]);
  }
  [[gnu::always_inline]] static void in_order(Groups<F>& out, const NormalPairs& pairs) {
    interleave(out, pairs.cosine, pairs.sine);
  }

 private:
  // The counter is (block, member, step, tensor). In round 0 the member is only xored, to what the
  // step gives; so in round 1 one product is of the member and one of the block, in round 2 one of
  // the block again. The step's product is in first_ and in the member's part.
  [[gnu::always_inline]] Blocks prepare(U2 block) const {
    Blocks out;
    W high, low;
    W::mul_hi_lo(W{block}, formulas::kPhiloxFactor[0], high, out.a);
    W::mul_hi_lo(high ^ W{U2::both(first_[0])}, formulas::kPhiloxFactor[1], high, low);
    out.b = low;
    W::mul_hi_lo(high ^ W{U2::both(first_[1])}, formulas::kPhiloxFactor[0], out.c, out.d);
    return out;
  }

  // Words 0 and 2 of each block, and words 1 and 3.
  [[gnu::always_inline]] void words(U2 (&even)[kPairs], U2 (&odd)[kPairs], const Blocks& blocks,
                                    Member member) const {
    W c[4], high;
    W::mul_hi_lo(blocks.a ^ W{U2::both(U::set(member.high))}, formulas::kPhiloxFactor[1], high,
                 c[1]);
    c[0] = high ^ blocks.b ^ W{U2::both(key_[2][0])};
    c[2] = blocks.c ^ W{U2::both(U::set(member.low))};
    c[3] = blocks.d;
#pragma GCC unroll 10
    for (int round = 3; round < formulas::kPhiloxRounds; ++round)
      formulas::philox_round(c, W{U2::both(key_[round][0])}, W{U2::both(key_[round][1])});
    if constexpr (kOneLane) {
      even[0] = c[0];
      odd[0] = c[1];
      even[1] = c[2];
      odd[1] = c[3];
    } else {
      even[0] = U2::zip_even(c[0].v, c[2].v);
      odd[0] = U2::zip_even(c[1].v, c[3].v);
    }
  }

  template <class V>
  [[gnu::always_inline]] static void interleave(Groups<V>& out, const simd::Two<V> (&even)[kPairs],
                                                const simd::Two<V> (&odd)[kPairs]) {
    if constexpr (kOneLane) {
      for (std::size_t i = 0; i < kPairs; ++i) {
        out.a[2 * i] = even[i].a;
        out.b[2 * i] = even[i].b;
        out.a[2 * i + 1] = odd[i].a;
        out.b[2 * i + 1] = odd[i].b;
      }
    } else {
      out.a[0] = V::zip_low(even[0].a, odd[0].a);
      out.a[1] = V::zip_high(even[0].a, odd[0].a);
      out.b[0] = V::zip_low(even[0].b, odd[0].b);
      out.b[1] = V::zip_high(even[0].b, odd[0].b);
    }
  }

  U key_[formulas::kPhiloxRounds][2];
  U first_[2];
  U lanes_;
  std::uint32_t member_key_[3];
  Member member_;
};

}  // namespace bpfree::random
