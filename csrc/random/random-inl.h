// SPDX-License-Identifier: BSD-3-Clause
// The fills of tables.h, for one instruction set.
#pragma once

#include "random/generator-inl.h"

namespace bpfree::random {

template <class V>
[[gnu::always_inline]] inline void store_as(V v, typename V::Element* p) {
  v.store(p);
}
template <class V>
[[gnu::always_inline]] inline void store_as(V v, double* p) {
  v.store_double(p);
}

// What the groups of two blocks become: groups(generator, a, b, out_a, out_b) writes kElements
// elements to each.
template <class Isa>
struct Bits {
  using G = Generator<Isa>;
  using U = typename G::U;

  [[gnu::always_inline]] void groups(const G& generator, std::uint32_t block_a,
                                     std::uint32_t block_b, std::uint32_t* out_a,
                                     std::uint32_t* out_b) const {
    typename G::template Groups<U> v;
    generator.bits(v, block_a, block_b);
    for (std::size_t i = 0; i < G::kVectors; ++i) v.a[i].store(out_a + i * U::N);
    for (std::size_t i = 0; i < G::kVectors; ++i) v.b[i].store(out_b + i * U::N);
  }
};

// low + (high - low) u, rounded once; exact for [0, 1).
template <class Isa>
struct Uniform {
  using G = Generator<Isa>;
  using F = typename G::F;
  F low, width;

  [[gnu::always_inline]] Uniform(float from, float to)
      : low(F::set(from)), width(F::set((to - from) * 0x1p-24f)) {}

  template <class T>
  [[gnu::always_inline]] void groups(const G& generator, std::uint32_t block_a,
                                     std::uint32_t block_b, T* out_a, T* out_b) const {
    typename G::template Groups<F> v;
    generator.uniform_24(v, block_a, block_b);
    for (std::size_t i = 0; i < G::kVectors; ++i)
      store_as(F::fma(v.a[i], width, low), out_a + i * F::N);
    for (std::size_t i = 0; i < G::kVectors; ++i)
      store_as(F::fma(v.b[i], width, low), out_b + i * F::N);
  }
};

template <class Isa, bool kScaled>
struct Normal {
  using G = Generator<Isa>;
  using F = typename G::F;
  F scale;

  template <class T>
  [[gnu::always_inline]] void groups(const G& generator, std::uint32_t block_a,
                                     std::uint32_t block_b, T* out_a, T* out_b) const {
    typename G::template Groups<F> v;
    generator.normal(v, block_a, block_b);
    for (std::size_t i = 0; i < G::kVectors; ++i)
      store_as(kScaled ? scale * v.a[i] : v.a[i], out_a + i * F::N);
    for (std::size_t i = 0; i < G::kVectors; ++i)
      store_as(kScaled ? scale * v.b[i] : v.b[i], out_b + i * F::N);
  }
};

// Elements offset.. of the stream. What is not wanted whole goes through a buffer.
template <class Isa, class Values, class T>
[[gnu::always_inline]] inline void fill(T* out, const Generator<Isa>& generator,
                                        const Values& values, std::uint64_t offset, std::size_t n) {
  using G = Generator<Isa>;
  constexpr std::size_t kRun = 2 * G::kElements;
  auto block = static_cast<std::uint32_t>(offset / 4);
  std::size_t skip = offset % 4;
  while (n > 0) {
    if (skip == 0 && n >= kRun) {
      values.groups(generator, block, block + G::kBlocks, out, out + G::kElements);
      out += kRun;
      n -= kRun;
    } else {
      T buffer[kRun];
      values.groups(generator, block, block + G::kBlocks, buffer, buffer + G::kElements);
      const std::size_t part = n < kRun - skip ? n : kRun - skip;
      for (std::size_t i = 0; i < part; ++i) out[i] = buffer[skip + i];
      out += part;
      n -= part;
      skip = 0;
    }
    block += 2 * G::kBlocks;
  }
}

// +-scale, 32 elements a word.
template <class Isa>
struct Signs {
  using F = simd::Vec<Isa, float>;
  using U = simd::Vec<Isa, std::uint32_t>;
  F plus, minus;
  U lane_bit;

  [[gnu::always_inline]] explicit Signs(float scale) : plus(F::set(scale)), minus(-plus) {
    std::uint32_t bits[U::N];
    for (std::size_t i = 0; i < U::N; ++i) bits[i] = 1u << i;
    lane_bit = U::load(bits);
  }

  template <class T>
  [[gnu::always_inline]] void expand(T* out, std::uint32_t word) const {
    for (std::size_t i = 0; i < 32; i += U::N)
      store_as(F::select(U::any_bit(U::set(word >> i), lane_bit), minus, plus), out + i);
  }
  // n of them from the word's bit `first`.
  template <class T>
  [[gnu::always_inline]] void expand(T* out, std::uint32_t word, std::size_t first,
                                     std::size_t n) const {
    if (n == 32) return expand(out, word);
    T buffer[32];
    expand(buffer, word);
    for (std::size_t i = 0; i < n; ++i) out[i] = buffer[first + i];
  }
};

template <class Isa, class T>
[[gnu::always_inline]] inline void fill_sign(T* out, const Generator<Isa>& generator, float scale,
                                             std::uint64_t offset, std::size_t n) {
  const Signs<Isa> signs(scale);
  constexpr std::size_t kWords = 256;
  std::uint32_t words[kWords];
  std::uint64_t word = offset / 32;
  std::size_t skip = offset % 32;
  while (n > 0) {
    const std::size_t needed = (skip + n + 31) / 32;
    const std::size_t count = needed < kWords ? needed : kWords;
    fill(words, generator, Bits<Isa>{}, word, count);
    word += count;
    for (std::size_t w = 0; w < count; ++w) {
      const std::size_t part = n < 32 - skip ? n : 32 - skip;
      signs.expand(out, words[w], skip, part);
      out += part;
      n -= part;
      skip = 0;
    }
  }
}

// Rows of a matrix. Panels are as wide as a group with AVX-512: then two rows share a run.
template <class Isa, class Values>
[[gnu::always_inline]] inline void fill_rows(const Generator<Isa>& generator, const BlockArgs& a,
                                             const Values& values) {
  using G = Generator<Isa>;
  const Place& p = a.place;
  const bool narrow = p.first_column % 4 == 0 && p.n_columns <= G::kElements;
  for (std::size_t i = 0; i < p.n_rows; ++i) {
    float* out = a.out + i * a.stride;
    const std::uint64_t block = (p.first_row + i) * p.blocks_per_row + p.first_column / 4;
    if (!narrow || i + 1 == p.n_rows) {
      fill(out, generator, values, 4 * block + p.first_column % 4, p.n_columns);
      continue;
    }
    const auto block_a = static_cast<std::uint32_t>(block);
    const auto block_b = static_cast<std::uint32_t>(block + p.blocks_per_row);
    if (p.n_columns == G::kElements) {
      values.groups(generator, block_a, block_b, out, out + a.stride);
    } else {
      float buffer[2][G::kElements];
      values.groups(generator, block_a, block_b, buffer[0], buffer[1]);
      for (std::size_t row = 0; row < 2; ++row)
        for (std::size_t c = 0; c < p.n_columns; ++c) out[row * a.stride + c] = buffer[row][c];
    }
    ++i;
  }
}

// The blocks under a place, row by row, to be taken in runs across rows.
template <class Isa, std::size_t kPerBlock>
struct BlockWalk {
  const Place& place;
  std::size_t first_block = place.first_column / kPerBlock;
  std::size_t blocks_in_row =
      place.n_columns == 0
          ? 0
          : (place.first_column + place.n_columns - 1) / kPerBlock - first_block + 1;
  std::size_t row = 0;
  std::size_t at = 0;

  [[gnu::always_inline]] bool done() const { return blocks_in_row == 0 || row == place.n_rows; }
  [[gnu::always_inline]] void next() {
    if (++at < blocks_in_row) return;
    at = 0;
    ++row;
  }
  // The next n blocks; those beyond the last are 0.
  template <std::size_t n>
  [[gnu::always_inline]] void take(std::uint32_t (&blocks)[n]) {
    for (std::size_t i = 0; i < n; ++i) {
      blocks[i] = 0;
      if (done()) continue;
      blocks[i] = static_cast<std::uint32_t>((place.first_row + row) * place.blocks_per_row +
                                             first_block + at);
      next();
    }
  }
  // Elements begin..end of the block are within the place, the first of them in this column of it.
  [[gnu::always_inline]] std::size_t columns(std::size_t& begin, std::size_t& end) const {
    const std::size_t first = (first_block + at) * kPerBlock;
    begin = first < place.first_column ? place.first_column - first : 0;
    const std::size_t left = place.first_column + place.n_columns - first;
    end = left < kPerBlock ? left : kPerBlock;
    return first + begin - place.first_column;
  }
};

// Words of the 2 kBlocks blocks of a run, in order.
template <class Isa>
[[gnu::always_inline]] inline void run_words(std::uint32_t* out, const Generator<Isa>& generator,
                                             const typename Generator<Isa>::Blocks& blocks,
                                             typename Generator<Isa>::Member member) {
  using G = Generator<Isa>;
  typename G::template Groups<typename G::U> word;
  generator.bits(word, blocks, member);
  for (std::size_t i = 0; i < G::kVectors; ++i) {
    word.a[i].store(out + i * G::U::N);
    word.b[i].store(out + 4 * G::kBlocks + i * G::U::N);
  }
}

// Signs in rows: a run's blocks may lie in several rows, so that a panel's 32 columns, which are a
// quarter of a block, do not cost a run each.
template <class Isa>
[[gnu::always_inline]] inline void fill_sign_rows(const Generator<Isa>& generator,
                                                  const BlockArgs& a) {
  constexpr std::size_t kRun = 2 * Generator<Isa>::kBlocks;
  const Signs<Isa> signs(a.scale);
  for (BlockWalk<Isa, 128> walk{a.place}; !walk.done();) {
    BlockWalk<Isa, 128> to = walk;
    std::uint32_t block[kRun], words[4 * kRun];
    walk.take(block);
    run_words(words, generator, generator.prepare(block), generator.own_member());
    for (std::size_t i = 0; i < kRun && !to.done(); ++i, to.next()) {
      std::size_t begin, end;
      float* out = a.out + to.row * a.stride + to.columns(begin, end);
      for (std::size_t n; begin < end; begin += n, out += n) {
        n = 32 - begin % 32 < end - begin ? 32 - begin % 32 : end - begin;
        signs.expand(out, words[4 * i + begin / 32], begin % 32, n);
      }
    }
  }
}

template <class Isa>
struct Fills {
  static void bits(std::uint32_t* out, const Stream& s, std::uint64_t offset, std::size_t n) {
    fill(out, Generator<Isa>(s), Bits<Isa>{}, offset, n);
  }
  template <class T>
  static void uniform(T* out, const Stream& s, std::uint64_t offset, std::size_t n) {
    fill(out, Generator<Isa>(s), Uniform<Isa>(0.0f, 1.0f), offset, n);
  }
  template <class T>
  static void normal(T* out, const Stream& s, std::uint64_t offset, std::size_t n) {
    fill(out, Generator<Isa>(s), Normal<Isa, false>{}, offset, n);
  }
  template <class T>
  static void sign(T* out, const Stream& s, std::uint64_t offset, std::size_t n) {
    fill_sign(out, Generator<Isa>(s), 1.0f, offset, n);
  }
  static void uniform_block(const Stream& s, const BlockArgs& a) {
    fill_rows(Generator<Isa>(s), a, Uniform<Isa>(-a.scale, a.scale));
  }
  static void normal_block(const Stream& s, const BlockArgs& a) {
    fill_rows(Generator<Isa>(s), a, Normal<Isa, true>{simd::Vec<Isa, float>::set(a.scale)});
  }
  static void sign_block(const Stream& s, const BlockArgs& a) {
    fill_sign_rows(Generator<Isa>(s), a);
  }
};

}  // namespace bpfree::random
