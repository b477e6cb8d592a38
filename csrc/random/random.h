// SPDX-License-Identifier: BSD-3-Clause
// Random numbers by position: element i of a stream is a function of (seed, stream, i) and of
// nothing else. No state, so that any thread makes any part, a step can be repeated, and noise never
// has to be stored or sent.
//
// Generator: Philox4x32-10 (Salmon et al. 2011). key = the 64-bit seed, low word first. Counter:
//   c0 = block   c1 = member   c2 = step or generation   c3 = purpose << 24 | tensor
// A block is four words. Element order (docs/adr/0002): word j of block b is word 4 b + j of the
// stream.
//   bits      element i is word i
//   uniform   element i is (word i >> 8) 2^-24, in [0, 1)
//   normal    elements 2 i and 2 i + 1 are the cosine and the sine of Box-Muller on words 2 i
//             (radius) and 2 i + 1 (angle)
//   sign      element i is 1 - 2 * (bit i % 32 of word i / 32): a set bit is -1
// float64 is the float32 value widened.
//
// A stream of the library holds 2^32 blocks; whoever asks for more is refused. A public stream has
// no tensor, so there c3 counts the overflows of c0: 2^56 blocks.
// Result: the same bits for any chunking, number of threads and instruction set.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace bpfree::random {

enum class Purpose : std::uint32_t {
  user = 0,
  weights = 1,
  biases = 2,
  permutation = 3,
  feedback = 4,
  dropout = 5,
  noise = 6,
  noisy_label = 7,
  ensemble = 8,
  negatives = 9
};

// Names a stream of the library; with the block it is the counter.
struct Counter {
  Purpose purpose = Purpose::user;
  std::uint32_t tensor = 0;  // below 2^24
  std::uint32_t step = 0;
  std::uint32_t member = 0;
};

// uniform: in [-scale, scale); normal: deviation scale; sign: +-scale.
enum class Distribution { uniform, normal, sign };

// Elements offset, offset + 1, ... of a public stream.
void random_bits(std::span<std::uint32_t> out, std::uint64_t seed, std::uint64_t stream,
                 std::uint64_t offset, int n_threads);
void uniform(std::span<float> out, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset,
             int n_threads);
void uniform(std::span<double> out, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset,
             int n_threads);
void normal(std::span<float> out, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset,
            int n_threads);
void normal(std::span<double> out, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset,
            int n_threads);
void sign(std::span<float> out, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset,
          int n_threads);
void sign(std::span<double> out, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset,
          int n_threads);

// Rows first_row.. and columns first_column.. of a random matrix with `matrix_columns` columns.
// Each row starts a new block, so that neither padding nor how the matrix is cut shifts an element.
// Columns of `out` beyond n_columns are not touched.
// Serial: for use inside tiles.
void matrix_block(float* out, std::size_t stride, Distribution distribution, float scale,
                  std::uint64_t seed, Counter counter, std::size_t matrix_columns,
                  std::size_t first_row, std::size_t n_rows, std::size_t first_column,
                  std::size_t n_columns);

// Whole matrices.
void uniform_matrix(float* out, std::size_t rows, std::size_t columns, std::size_t stride,
                    std::uint64_t seed, Counter counter, float bound);
void normal_matrix(float* out, std::size_t rows, std::size_t columns, std::size_t stride,
                   std::uint64_t seed, Counter counter, float deviation);

// A permutation of 0..n-1, every one of them equally likely: Fisher-Yates, with indices free of
// bias (Lemire 2019, arXiv:1805.10941). A function of (seed, epoch); n < 2^32.
void permutation(std::uint32_t* out, std::size_t n, std::uint64_t seed, std::uint64_t epoch);

// One block, for known answers.
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                    std::array<std::uint32_t, 2> key);

}  // namespace bpfree::random
