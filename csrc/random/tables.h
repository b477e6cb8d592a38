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

// Columns first_column.. of rows first_row.. of a matrix whose rows take `blocks_per_row` blocks each;
// see matrix_block().
struct Place {
  std::uint64_t blocks_per_row;
  std::size_t first_row;
  std::size_t n_rows;
  std::size_t first_column;
  std::size_t n_columns;
};

struct BlockArgs {
  float* out;
  std::size_t stride;
  float scale;
  Place place;
};

// out = sum_k weights[k] noise of members[k], or added to what is there.
struct AccumulateArgs {
  float* out;
  std::size_t stride;
  Place place;
  const std::uint32_t* members;  // c1 of each
  const float* weights;
  std::size_t n_members;
  bool add;
};

// plus = base + scale noise, minus = base - scale noise; either may be null.
struct PerturbArgs {
  float* plus;
  float* minus;
  std::size_t stride;
  const float* base;
  std::size_t base_stride;
  float scale;
  bool sign;  // noise of signs, else of normals
  Place place;
};

// The same with noise sum_q left[q][i] right[q][j] of row i, column j.
struct LowRankArgs {
  float* plus;
  float* minus;
  std::size_t stride;
  const float* base;
  std::size_t base_stride;
  float scale;
  const float* left;
  std::size_t left_stride;
  const float* right;
  std::size_t right_stride;
  std::size_t rank;
  std::size_t n_rows;
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
  void (*accumulate_normal)(const Stream&, const AccumulateArgs&);
  void (*accumulate_sign)(const Stream&, const AccumulateArgs&);
  void (*perturb)(const Stream&, const PerturbArgs&);
  void (*perturb_low_rank)(const LowRankArgs&);
};

const Kernels* kernels_scalar();
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
const Kernels* kernels_avx512bf16();
const Kernels* kernels_neon();

}  // namespace bpfree::random
