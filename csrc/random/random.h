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
  negatives = 9,
  noise_right = 10,
  observation_noise = 11
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

// Noise of a population, tile by tile: what members share is made once, and no noise is stored. A
// tile is a window of a random matrix, as in matrix_block(): rows first_row.., columns
// first_column.. of `matrix_columns`. The distribution is normal or sign. Serial: for use inside
// tiles.
struct NoiseWindow {
  Distribution distribution = Distribution::normal;
  std::uint64_t seed = 0;
  Counter counter;  // whose member is not looked at where there is a list of them
  std::size_t matrix_columns = 0;
  std::size_t first_row = 0;
  std::size_t n_rows = 0;
  std::size_t first_column = 0;
  std::size_t n_columns = 0;
};

// out = sum_k weights[k] noise(members[k]), or with `add` added to what is there; out [n_rows][stride]
// of the window's first element, and only the window is written. For an update on packed panels:
// stride 32, first_column the panel's, n_columns its valid columns.
// Cost:   with AVX-512 about 100 instructions for 32 normals of a member, 10 for 32 signs; an
//         even number of rows of 32 columns, and members in the hundreds, use it best.
// Result: the same bits for any cut into tiles, on any instruction set: members are added in order,
//         by fma, normals in groups of 512 whose sums are then added.
void accumulate_noise(float* out, std::size_t stride, const NoiseWindow& window,
                      std::span<const std::uint32_t> members, std::span<const float> weights,
                      bool add = false);

// plus = base + scale noise and minus = base - scale noise, each one fma, of the counter's member.
// Either may be null; plus or minus may be base itself.
void perturb_block(float* plus, float* minus, std::size_t stride, const float* base,
                   std::size_t base_stride, float scale, const NoiseWindow& window);

// The same with the noise sum_q left[q][i] right[q][j] for row i and column j, of n_rows x n_columns.
struct LowRankNoise {
  const float* left;  // [rank][left_stride], at the first row
  std::size_t left_stride;
  const float* right;  // [rank][right_stride], at the first column
  std::size_t right_stride;
  std::size_t rank;
};
void perturb_low_rank(float* plus, float* minus, std::size_t stride, const float* base,
                      std::size_t base_stride, float scale, const LowRankNoise& noise,
                      std::size_t n_rows, std::size_t n_columns);

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
