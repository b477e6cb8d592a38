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

// Where elements go: whole(at, vector) and part(at, elements, n). Another one adds them to parameters
// (noise-inl.h).
template <class Isa, class T>
struct Store {
  T* out;

  template <class V>
  [[gnu::always_inline]] void whole(std::size_t at, V v) const {
    store_as(v, out + at);
  }
  template <class E>
  [[gnu::always_inline]] void part(std::size_t at, const E* elements, std::size_t n) const {
    for (std::size_t i = 0; i < n; ++i) out[at + i] = static_cast<T>(elements[i]);
  }
};
template <class Isa>
struct StoreRows {
  float* out;
  std::size_t stride;

  [[gnu::always_inline]] Store<Isa, float> row(std::size_t i) const { return {out + i * stride}; }
};

// What the groups of two blocks become.
template <class Isa>
struct Bits {
  using G = Generator<Isa>;
  using V = typename G::U;

  [[gnu::always_inline]] void groups(typename G::template Groups<V>& v, const G& generator,
                                     std::uint32_t block_a, std::uint32_t block_b) const {
    generator.bits(v, block_a, block_b);
  }
};

// low + (high - low) u, rounded once; exact for [0, 1).
template <class Isa>
struct Uniform {
  using G = Generator<Isa>;
  using V = typename G::F;
  V low, width;

  [[gnu::always_inline]] Uniform(float from, float to)
      : low(V::set(from)), width(V::set((to - from) * 0x1p-24f)) {}

  [[gnu::always_inline]] void groups(typename G::template Groups<V>& v, const G& generator,
                                     std::uint32_t block_a, std::uint32_t block_b) const {
    generator.uniform_24(v, block_a, block_b);
    for (std::size_t i = 0; i < G::kVectors; ++i) {
      v.a[i] = V::fma(v.a[i], width, low);
      v.b[i] = V::fma(v.b[i], width, low);
    }
  }
};

template <class Isa, bool kScaled>
struct Normal {
  using G = Generator<Isa>;
  using V = typename G::F;
  V scale;

  [[gnu::always_inline]] void groups(typename G::template Groups<V>& v, const G& generator,
                                     std::uint32_t block_a, std::uint32_t block_b) const {
    generator.normal(v, block_a, block_b);
    if constexpr (kScaled)
      for (std::size_t i = 0; i < G::kVectors; ++i) {
        v.a[i] = scale * v.a[i];
        v.b[i] = scale * v.b[i];
      }
  }
};

// Elements offset.. of the stream. What is not wanted whole goes through a buffer.
template <class Isa, class Values, class To>
[[gnu::always_inline]] inline void fill(const To& to, const Generator<Isa>& generator,
                                        const Values& values, std::uint64_t offset, std::size_t n) {
  using G = Generator<Isa>;
  using V = typename Values::V;
  constexpr std::size_t kRun = 2 * G::kElements;
  auto block = static_cast<std::uint32_t>(offset / 4);
  std::size_t skip = offset % 4;
  for (std::size_t at = 0; at < n; block += 2 * G::kBlocks) {
    typename G::template Groups<V> v;
    values.groups(v, generator, block, block + G::kBlocks);
    if (skip == 0 && n - at >= kRun) {
      for (std::size_t i = 0; i < G::kVectors; ++i) to.whole(at + i * V::N, v.a[i]);
      for (std::size_t i = 0; i < G::kVectors; ++i) to.whole(at + G::kElements + i * V::N, v.b[i]);
      at += kRun;
    } else {
      typename V::Element buffer[kRun];
      for (std::size_t i = 0; i < G::kVectors; ++i) v.a[i].store(buffer + i * V::N);
      for (std::size_t i = 0; i < G::kVectors; ++i) v.b[i].store(buffer + G::kElements + i * V::N);
      const std::size_t part = n - at < kRun - skip ? n - at : kRun - skip;
      to.part(at, buffer + skip, part);
      at += part;
      skip = 0;
    }
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

  // n elements from the word's bit `first`.
  template <class To>
  [[gnu::always_inline]] void expand(const To& to, std::size_t at, std::uint32_t word,
                                     std::size_t first, std::size_t n) const {
    F v[32 / F::N];
    for (std::size_t i = 0; i < 32 / F::N; ++i)
      v[i] = F::select(U::any_bit(U::set(word >> (i * F::N)), lane_bit), minus, plus);
    if (n == 32) {
      for (std::size_t i = 0; i < 32 / F::N; ++i) to.whole(at + i * F::N, v[i]);
    } else {
      float buffer[32];
      for (std::size_t i = 0; i < 32 / F::N; ++i) v[i].store(buffer + i * F::N);
      to.part(at, buffer + first, n);
    }
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
  for (std::size_t at = 0; at < n;) {
    const std::size_t needed = (skip + n - at + 31) / 32;
    const std::size_t count = needed < kWords ? needed : kWords;
    fill(Store<Isa, std::uint32_t>{words}, generator, Bits<Isa>{}, word, count);
    word += count;
    for (std::size_t w = 0; w < count; ++w) {
      const std::size_t part = n - at < 32 - skip ? n - at : 32 - skip;
      signs.expand(Store<Isa, T>{out}, at, words[w], skip, part);
      at += part;
      skip = 0;
    }
  }
}

// Rows of a matrix. Panels are as wide as a group with AVX-512: then two rows share a run.
template <class Isa, class Values, class Rows>
[[gnu::always_inline]] inline void fill_rows(const Rows& to, const Generator<Isa>& generator,
                                             const Place& p, const Values& values) {
  using G = Generator<Isa>;
  using V = typename Values::V;
  const bool narrow = p.first_column % 4 == 0 && p.n_columns <= G::kElements;
  for (std::size_t i = 0; i < p.n_rows; ++i) {
    const std::uint64_t block = (p.first_row + i) * p.blocks_per_row + p.first_column / 4;
    if (!narrow || i + 1 == p.n_rows) {
      fill(to.row(i), generator, values, 4 * block + p.first_column % 4, p.n_columns);
      continue;
    }
    typename G::template Groups<V> v;
    values.groups(v, generator, static_cast<std::uint32_t>(block),
                  static_cast<std::uint32_t>(block + p.blocks_per_row));
    if (p.n_columns == G::kElements) {
      for (std::size_t j = 0; j < G::kVectors; ++j) to.row(i).whole(j * V::N, v.a[j]);
      for (std::size_t j = 0; j < G::kVectors; ++j) to.row(i + 1).whole(j * V::N, v.b[j]);
    } else {
      float buffer[2][G::kElements];
      for (std::size_t j = 0; j < G::kVectors; ++j) v.a[j].store(buffer[0] + j * V::N);
      for (std::size_t j = 0; j < G::kVectors; ++j) v.b[j].store(buffer[1] + j * V::N);
      to.row(i).part(0, buffer[0], p.n_columns);
      to.row(i + 1).part(0, buffer[1], p.n_columns);
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
template <class Isa, class Rows>
[[gnu::always_inline]] inline void fill_sign_rows(const Rows& rows, const Generator<Isa>& generator,
                                                  const Place& place, const Signs<Isa>& signs) {
  constexpr std::size_t kRun = 2 * Generator<Isa>::kBlocks;
  for (BlockWalk<Isa, 128> walk{place}; !walk.done();) {
    BlockWalk<Isa, 128> to = walk;
    std::uint32_t block[kRun], words[4 * kRun];
    walk.take(block);
    run_words(words, generator, generator.prepare(block), generator.own_member());
    for (std::size_t i = 0; i < kRun && !to.done(); ++i, to.next()) {
      std::size_t begin, end;
      std::size_t at = to.columns(begin, end);
      for (std::size_t n; begin < end; begin += n, at += n) {
        n = 32 - begin % 32 < end - begin ? 32 - begin % 32 : end - begin;
        signs.expand(rows.row(to.row), at, words[4 * i + begin / 32], begin % 32, n);
      }
    }
  }
}

template <class Isa>
struct Fills {
  static void bits(std::uint32_t* out, const Stream& s, std::uint64_t offset, std::size_t n) {
    fill(Store<Isa, std::uint32_t>{out}, Generator<Isa>(s), Bits<Isa>{}, offset, n);
  }
  template <class T>
  static void uniform(T* out, const Stream& s, std::uint64_t offset, std::size_t n) {
    fill(Store<Isa, T>{out}, Generator<Isa>(s), Uniform<Isa>(0.0f, 1.0f), offset, n);
  }
  template <class T>
  static void normal(T* out, const Stream& s, std::uint64_t offset, std::size_t n) {
    fill(Store<Isa, T>{out}, Generator<Isa>(s), Normal<Isa, false>{}, offset, n);
  }
  template <class T>
  static void sign(T* out, const Stream& s, std::uint64_t offset, std::size_t n) {
    fill_sign(out, Generator<Isa>(s), 1.0f, offset, n);
  }
  static void uniform_block(const Stream& s, const BlockArgs& a) {
    fill_rows(StoreRows<Isa>{a.out, a.stride}, Generator<Isa>(s), a.place,
              Uniform<Isa>(-a.scale, a.scale));
  }
  static void normal_block(const Stream& s, const BlockArgs& a) {
    fill_rows(StoreRows<Isa>{a.out, a.stride}, Generator<Isa>(s), a.place,
              Normal<Isa, true>{simd::Vec<Isa, float>::set(a.scale)});
  }
  static void sign_block(const Stream& s, const BlockArgs& a) {
    fill_sign_rows(StoreRows<Isa>{a.out, a.stride}, Generator<Isa>(s), a.place,
                   Signs<Isa>(a.scale));
  }
};

}  // namespace bpfree::random
