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

// scale * sign: 32 elements a word.
template <class Isa, class T>
[[gnu::always_inline]] inline void fill_sign(T* out, const Generator<Isa>& generator, float scale,
                                             std::uint64_t offset, std::size_t n) {
  using F = simd::Vec<Isa, float>;
  using U = simd::Vec<Isa, std::uint32_t>;
  const F plus = F::set(scale);
  const F minus = -plus;
  std::uint32_t lane_bits[U::N];
  for (std::size_t i = 0; i < U::N; ++i) lane_bits[i] = 1u << i;
  const U lane_bit = U::load(lane_bits);
  const auto expand = [&](T* to, std::uint32_t word) {
    for (std::size_t i = 0; i < 32; i += U::N)
      store_as(F::select(U::any_bit(U::set(word >> i), lane_bit), minus, plus), to + i);
  };

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
      if (skip == 0 && n >= 32) {
        expand(out, words[w]);
        out += 32;
        n -= 32;
      } else {
        T buffer[32];
        expand(buffer, words[w]);
        const std::size_t part = n < 32 - skip ? n : 32 - skip;
        for (std::size_t i = 0; i < part; ++i) out[i] = buffer[skip + i];
        out += part;
        n -= part;
        skip = 0;
      }
    }
  }
}

// Rows of a matrix. Panels are as wide as a group with AVX-512: then two rows share a run.
template <class Isa, class Values>
[[gnu::always_inline]] inline void fill_rows(const Stream& s, const BlockArgs& a,
                                             const Values& values) {
  using G = Generator<Isa>;
  const G generator(s);
  const bool narrow = a.first_column % 4 == 0 && a.n_columns <= G::kElements;
  for (std::size_t i = 0; i < a.n_rows; ++i) {
    float* out = a.out + i * a.stride;
    const std::uint64_t block = (a.first_row + i) * a.blocks_per_row + a.first_column / 4;
    if (!narrow || i + 1 == a.n_rows) {
      fill(out, generator, values, 4 * block + a.first_column % 4, a.n_columns);
      continue;
    }
    const auto block_a = static_cast<std::uint32_t>(block);
    const auto block_b = static_cast<std::uint32_t>(block + a.blocks_per_row);
    if (a.n_columns == G::kElements) {
      values.groups(generator, block_a, block_b, out, out + a.stride);
    } else {
      float buffer[2][G::kElements];
      values.groups(generator, block_a, block_b, buffer[0], buffer[1]);
      for (std::size_t row = 0; row < 2; ++row)
        for (std::size_t c = 0; c < a.n_columns; ++c) out[row * a.stride + c] = buffer[row][c];
    }
    ++i;
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
    fill_rows<Isa>(s, a, Uniform<Isa>(-a.scale, a.scale));
  }
  static void normal_block(const Stream& s, const BlockArgs& a) {
    fill_rows<Isa>(s, a, Normal<Isa, true>{simd::Vec<Isa, float>::set(a.scale)});
  }
  static void sign_block(const Stream& s, const BlockArgs& a) {
    const Generator<Isa> generator(s);
    for (std::size_t i = 0; i < a.n_rows; ++i)
      fill_sign(a.out + i * a.stride, generator, a.scale,
                (a.first_row + i) * a.blocks_per_row * 128 + a.first_column, a.n_columns);
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
                            Fills<Isa>::sign_block};

}  // namespace bpfree::random
