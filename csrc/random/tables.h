// SPDX-License-Identifier: BSD-3-Clause
// The kernels of random/, one table per instruction set; random.cpp chooses.
#pragma once

#include <cstddef>
#include <cstdint>

#include "random/random.h"

namespace bpfree::random {

// Key and counter without the block, as the generator takes them.
struct Stream {
  std::uint32_t key[2];
  std::uint32_t counter[3];  // c1, c2, c3
};

// Rows first_row.. of a matrix whose rows take `blocks_per_row` blocks each; see matrix_block().
struct BlockArgs {
  float* out;
  std::size_t stride;
  float scale;
  std::uint64_t blocks_per_row;
  std::size_t first_row;
  std::size_t n_rows;
  std::size_t first_column;
  std::size_t n_columns;
};

// Fills take a position in elements; what they make lies within 2^32 blocks.
struct Kernels {
  void (*bits)(std::uint32_t* out, const Stream&, std::uint64_t offset, std::size_t n);
  void (*uniform_f32)(float* out, const Stream&, std::uint64_t offset, std::size_t n);
  void (*uniform_f64)(double* out, const Stream&, std::uint64_t offset, std::size_t n);
  void (*normal_f32)(float* out, const Stream&, std::uint64_t offset, std::size_t n);
  void (*normal_f64)(double* out, const Stream&, std::uint64_t offset, std::size_t n);
  void (*sign_f32)(float* out, const Stream&, std::uint64_t offset, std::size_t n);
  void (*sign_f64)(double* out, const Stream&, std::uint64_t offset, std::size_t n);
  void (*uniform_block)(const Stream&, const BlockArgs&);
  void (*normal_block)(const Stream&, const BlockArgs&);
  void (*sign_block)(const Stream&, const BlockArgs&);
};

const Kernels* kernels_scalar();
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
const Kernels* kernels_avx512bf16();
const Kernels* kernels_neon();

}  // namespace bpfree::random
