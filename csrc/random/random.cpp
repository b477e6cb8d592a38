// SPDX-License-Identifier: BSD-3-Clause
#include "random/random.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/cpu_features.h"
#include "base/error.h"
#include "base/isa.h"
#include "base/parallel.h"
#include "formulas/philox.h"
#include "random/tables.h"
#include "simd/scalar.h"

namespace bpfree::random {

namespace {

constexpr std::uint64_t kBlocks = std::uint64_t{1} << 32;  // of one counter c0
constexpr std::uint32_t kTensors = 1u << 24;

// What threads_for() is told an element costs: the flops of a product that a core would do in that
// time.
constexpr double kBitsCost = 40;
constexpr double kNormalCost = 80;
constexpr double kSignCost = 15;

const Kernels* choose(IsaId id) {
  if constexpr (kIsX86) {
    if (id == IsaId::avx2) return kernels_avx2();
    if (id == IsaId::avx512) return kernels_avx512();
    if (id == IsaId::avx512bf16) return kernels_avx512bf16();
  }
  if constexpr (kIsArm) {
    if (id == IsaId::neon) return kernels_neon();
  }
  return kernels_scalar();
}

const Kernels& kernels() {
  static const Kernels& chosen = *choose(active_isa());
  return chosen;
}

std::uint32_t low(std::uint64_t x) { return static_cast<std::uint32_t>(x); }
std::uint32_t high(std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); }

Stream internal_stream(std::uint64_t seed, const Counter& counter) {
  if (counter.tensor >= kTensors)
    fail("tensor is " + std::to_string(counter.tensor) + ", but must be below 2^24");
  return {{low(seed), high(seed)},
          {counter.member, counter.step,
           static_cast<std::uint32_t>(counter.purpose) << 24 | counter.tensor}};
}

std::uint64_t block_elements(Distribution distribution) {
  return distribution == Distribution::sign ? 128 : 4;
}

// Of a matrix with so many rows, which must fit into a stream.
std::uint64_t blocks_per_row(Distribution distribution, std::size_t rows, std::size_t columns) {
  const std::uint64_t per_block = block_elements(distribution);
  const std::uint64_t blocks = (columns + per_block - 1) / per_block;
  if (blocks > 0 && rows > kBlocks / blocks)
    fail("a random matrix of " + std::to_string(rows) + " x " + std::to_string(columns) +
         " elements needs more than 2^32 blocks");
  return blocks;
}

Place place_of(const NoiseWindow& window) {
  if (window.distribution == Distribution::uniform)
    fail("noise is uniform, expected normal or sign");
  return {
      blocks_per_row(window.distribution, window.first_row + window.n_rows, window.matrix_columns),
      window.first_row, window.n_rows, window.first_column, window.n_columns};
}

// Fills a public stream: in chunks for the threads, none of which crosses an overflow of c0.
template <class T>
void fill_public(std::span<T> out, void (*kernel)(T*, const Stream&, std::uint64_t, std::size_t),
                 std::uint64_t elements_per_block, double cost_per_element, std::uint64_t seed,
                 std::uint64_t stream, std::uint64_t offset, int n_threads) {
  constexpr std::uint64_t kChunk = 1 << 15;  // divides what 2^32 blocks hold
  const std::uint64_t limit = kBlocks * kTensors * elements_per_block;
  if (offset > limit || out.size() > limit - offset)
    fail("offset + n is " + std::to_string(offset) + " + " + std::to_string(out.size()) +
         ", but a stream has only " + std::to_string(limit) + " elements");
  const int threads = threads_for(n_threads, cost_per_element * static_cast<double>(out.size()));
  if (out.empty()) return;
  const std::uint64_t first = offset / kChunk;
  const std::uint64_t last = (offset + out.size() - 1) / kChunk;
  const auto fill_chunk = [&](std::size_t chunk, const Worker&) {
    const std::uint64_t begin = std::max(offset, (first + chunk) * kChunk);
    const std::uint64_t end =
        std::min<std::uint64_t>(offset + out.size(), (first + chunk + 1) * kChunk);
    const std::uint64_t per_overflow = kBlocks * elements_per_block;
    const Stream s = {{low(seed), high(seed)},
                      {low(stream), high(stream), low(begin / per_overflow)}};
    kernel(out.data() + (begin - offset), s, begin % per_overflow, end - begin);
  };
  parallel_for(last - first + 1, threads, fill_chunk);
}

}  // namespace

void random_bits(std::span<std::uint32_t> out, std::uint64_t seed, std::uint64_t stream,
                 std::uint64_t offset, int n_threads) {
  fill_public(out, kernels().bits, 4, kBitsCost, seed, stream, offset, n_threads);
}
void uniform(std::span<float> out, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset,
             int n_threads) {
  fill_public(out, kernels().uniform_f32, 4, kBitsCost, seed, stream, offset, n_threads);
}
void uniform(std::span<double> out, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset,
             int n_threads) {
  fill_public(out, kernels().uniform_f64, 4, kBitsCost, seed, stream, offset, n_threads);
}
void normal(std::span<float> out, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset,
            int n_threads) {
  fill_public(out, kernels().normal_f32, 4, kNormalCost, seed, stream, offset, n_threads);
}
void normal(std::span<double> out, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset,
            int n_threads) {
  fill_public(out, kernels().normal_f64, 4, kNormalCost, seed, stream, offset, n_threads);
}
void sign(std::span<float> out, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset,
          int n_threads) {
  fill_public(out, kernels().sign_f32, 128, kSignCost, seed, stream, offset, n_threads);
}
void sign(std::span<double> out, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset,
          int n_threads) {
  fill_public(out, kernels().sign_f64, 128, kSignCost, seed, stream, offset, n_threads);
}

void matrix_block(float* out, std::size_t stride, Distribution distribution, float scale,
                  std::uint64_t seed, Counter counter, std::size_t matrix_columns,
                  std::size_t first_row, std::size_t n_rows, std::size_t first_column,
                  std::size_t n_columns) {
  const std::uint64_t blocks = blocks_per_row(distribution, first_row + n_rows, matrix_columns);
  const Stream stream = internal_stream(seed, counter);
  const BlockArgs args = {out, stride, scale, {blocks, first_row, n_rows, first_column, n_columns}};
  switch (distribution) {
    case Distribution::uniform:
      return kernels().uniform_block(stream, args);
    case Distribution::normal:
      return kernels().normal_block(stream, args);
    case Distribution::sign:
      return kernels().sign_block(stream, args);
  }
}

void accumulate_noise(float* out, std::size_t stride, const NoiseWindow& window,
                      std::span<const std::uint32_t> members, std::span<const float> weights,
                      bool add) {
  const AccumulateArgs args = {
      out, stride, place_of(window), members.data(), weights.data(), members.size(), add};
  const Stream stream = internal_stream(window.seed, window.counter);
  const bool sign = window.distribution == Distribution::sign;
  (sign ? kernels().accumulate_sign : kernels().accumulate_normal)(stream, args);
}

void perturb_block(float* plus, float* minus, std::size_t stride, const float* base,
                   std::size_t base_stride, float scale, const NoiseWindow& window) {
  kernels().perturb(internal_stream(window.seed, window.counter),
                    {.plus = plus,
                     .minus = minus,
                     .stride = stride,
                     .base = base,
                     .base_stride = base_stride,
                     .scale = scale,
                     .sign = window.distribution == Distribution::sign,
                     .place = place_of(window)});
}

void perturb_low_rank(float* plus, float* minus, std::size_t stride, const float* base,
                      std::size_t base_stride, float scale, const LowRankNoise& noise,
                      std::size_t n_rows, std::size_t n_columns) {
  kernels().perturb_low_rank({.plus = plus,
                              .minus = minus,
                              .stride = stride,
                              .base = base,
                              .base_stride = base_stride,
                              .scale = scale,
                              .left = noise.left,
                              .left_stride = noise.left_stride,
                              .right = noise.right,
                              .right_stride = noise.right_stride,
                              .rank = noise.rank,
                              .n_rows = n_rows,
                              .n_columns = n_columns});
}

void uniform_matrix(float* out, std::size_t rows, std::size_t columns, std::size_t stride,
                    std::uint64_t seed, Counter counter, float bound) {
  matrix_block(out, stride, Distribution::uniform, bound, seed, counter, columns, 0, rows, 0,
               columns);
}

void normal_matrix(float* out, std::size_t rows, std::size_t columns, std::size_t stride,
                   std::uint64_t seed, Counter counter, float deviation) {
  matrix_block(out, stride, Distribution::normal, deviation, seed, counter, columns, 0, rows, 0,
               columns);
}

void permutation(std::uint32_t* out, std::size_t n, std::uint64_t seed, std::uint64_t epoch) {
  if (n >= kBlocks)
    fail("n is " + std::to_string(n) + ", but a permutation has less than 2^32 elements");
  if (epoch >= kBlocks) fail("epoch is " + std::to_string(epoch) + ", but must be below 2^32");
  for (std::size_t i = 0; i < n; ++i) out[i] = static_cast<std::uint32_t>(i);
  const Stream stream = internal_stream(seed, {Purpose::permutation, 0, low(epoch), 0});
  std::uint32_t words[1024];
  std::uint64_t position = 0;
  std::size_t left = 0;
  const auto next_word = [&] {
    if (left == 0) {
      kernels().bits(words, stream, position, std::size(words));
      position += std::size(words);
      left = std::size(words);
    }
    return words[std::size(words) - left--];
  };
  for (auto bound = static_cast<std::uint32_t>(n); bound > 1; --bound) {
    // The high half of word * bound; of the 2^32 words, the few that would favour some index are
    // drawn again.
    std::uint64_t product = std::uint64_t{next_word()} * bound;
    if (low(product) < bound) {
      const std::uint32_t reject = (0u - bound) % bound;
      while (low(product) < reject) product = std::uint64_t{next_word()} * bound;
    }
    std::swap(out[bound - 1], out[high(product)]);
  }
}

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                    std::array<std::uint32_t, 2> key) {
  using Word = simd::Vec<isa::Scalar, std::uint32_t>;
  Word c[4] = {{counter[0]}, {counter[1]}, {counter[2]}, {counter[3]}};
  formulas::philox(c, key[0], key[1]);
  return {c[0].v, c[1].v, c[2].v, c[3].v};
}

}  // namespace bpfree::random
