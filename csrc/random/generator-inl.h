// SPDX-License-Identifier: BSD-3-Clause
// The generator in registers, for kernels that want noise where they need it.
//
// Shapes: a run makes two groups side by side, each from a block of its own choice: kBlocks
//         consecutive blocks, kElements elements in order, kVectors vectors. A group is 32 elements
//         with AVX-512, so a panel's row is one group.
// Cost:   with AVX-512 60 instructions a group for the ten rounds, and 55 more for normals.
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

  template <class V>
  struct Groups {
    V a[kVectors], b[kVectors];
  };

  [[gnu::always_inline]] explicit Generator(const Stream& stream) {
    for (int i = 0; i < 3; ++i) counter_[i] = U::set(stream.counter[i]);
    std::uint32_t key[2] = {stream.key[0], stream.key[1]};
    for (int round = 0; round < formulas::kPhiloxRounds; ++round)
      for (int i = 0; i < 2; ++i) {
        key_[round][i] = U::set(key[i]);
        key[i] += formulas::kPhiloxKeyStep[i];
      }
    // Blocks are spread over the lanes so that zip_low and zip_high, which work within 128 bits,
    // leave elements in order.
    std::uint32_t first[U::N] = {};
    for (std::size_t lane = 0; lane < U::N; ++lane)
      first[lane] = static_cast<std::uint32_t>(lane / 4 + lane % 4 / 2 * (kBlocks / 2));
    lanes_ = U::load(first);
  }

  [[gnu::always_inline]] void bits(Groups<U>& out, std::uint32_t block_a,
                                   std::uint32_t block_b) const {
    U2 even[kPairs], odd[kPairs];
    words(even, odd, block_a, block_b);
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
    U2 even[kPairs], odd[kPairs];
    words(even, odd, block_a, block_b);
    F2 cosine[kPairs], sine[kPairs];
    for (std::size_t i = 0; i < kPairs; ++i)
      formulas::normal_pair(even[i], odd[i], cosine[i], sine[i]);
    interleave(out, cosine, sine);
  }

 private:
  using F2 = simd::Two<F>;
  using U2 = simd::Two<U>;
  using W = std::conditional_t<kOneLane, U2, EvenLanes<U2>>;
  static constexpr std::size_t kPairs = kVectors / 2;

  // Words 0 and 2 of each block, and words 1 and 3.
  [[gnu::always_inline]] void words(U2 (&even)[kPairs], U2 (&odd)[kPairs], std::uint32_t block_a,
                                    std::uint32_t block_b) const {
    W c[4] = {{lanes_ + U::set(block_a), lanes_ + U::set(block_b)},
              {U2::both(counter_[0])},
              {U2::both(counter_[1])},
              {U2::both(counter_[2])}};
#pragma GCC unroll 10
    for (int round = 0; round < formulas::kPhiloxRounds; ++round)
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

  U counter_[3];
  U key_[formulas::kPhiloxRounds][2];
  U lanes_;
};

}  // namespace bpfree::random
