// SPDX-License-Identifier: BSD-3-Clause
// Arguments of the kernels that run a population of perturbed networks: what a layer does with weights W + std eps, or
// W + std E of low rank, without forming either in the compute type. A side is one member: the two of a pair share the noise.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formulas/kinds.h"
#include "product/layout.h"

namespace bpfree::product {

struct PerturbedSide {
  float std;          // with its sign, and with the input's scale
  const float* bias;  // of the panel, 32 values, the noise of the biases in it
  void* h;            // of the panel's first column
};

// h = f(scale base + std (x eps) + bias) of each side, for one panel of columns: one product of the noise.
struct PerturbedArgs {
  RowsOperand x;
  const void* panel;  // eps
  std::size_t depth;  // in words
  const RowBlock* blocks;
  std::size_t n_blocks;
  std::size_t n_columns;
  const float* base;  // x W, of the panel's first column
  std::size_t base_stride;
  float scale;
  PerturbedSide sides[2];
  std::size_t n_sides;
  formulas::Activation activation;
  std::size_t h_stride;
};

// h = f(scale (x W) + sum_q factors_q right_q + bias) for one panel of columns and one side. factors is std (x left_q), signed.
// Where the next layer is perturbed too, next_sums gets the vectors whose lanes add up to h next_left_q: rows of kSumLanes
// floats, [row][rank][kSumLanes], of which an instruction set uses as many as its vectors have.
inline constexpr std::size_t kSumLanes = 16;
struct LowRankArgs {
  RowsOperand x;      // without data: scale base stands for the product
  const void* panel;  // W
  const void* next_panel;
  std::size_t depth;
  const RowBlock* blocks;
  std::size_t n_blocks;
  std::size_t n_columns;
  const float* base;
  std::size_t base_stride;
  float scale;
  const float* factors;  // [row][rank]
  const float* right;    // of the panel's first column, rows right_stride apart
  std::size_t right_stride;
  std::size_t rank;
  const float* bias;
  formulas::Activation activation;
  void* h;
  std::size_t h_stride;
  const float* next_left;  // of the panel's first column, zero beyond the last; or null
  std::size_t next_left_stride;
  float* next_sums;
  bool first_panel;  // next_sums is set, not added to
};

// factors[i] = scale * the sum of the lanes of sums[i].
struct FactorsArgs {
  float* factors;
  const float* sums;
  std::size_t n;
  float scale;
};

// factors_iq = scale x_i left_q, where no layer below has made the sums.
struct RowDotsArgs {
  float* factors;  // [n_rows][rank]
  const float* x;
  std::size_t x_stride;
  std::size_t n_rows;
  std::size_t n_in;
  const float* left;
  std::size_t left_stride;
  std::size_t rank;
  float scale;
};

// The loss of some rows, without what would be sent back. Logits as in LossArgs, and left alone.
struct RowLossArgs {
  formulas::Loss loss;
  const float* logits;
  std::size_t panel_stride;
  std::size_t n_outputs;
  const std::int32_t* labels;
  const float* targets;
  const float* weights;
  const std::uint32_t* order;  // sample of each row
  std::size_t n_rows;
  float* row_loss;
};

}  // namespace bpfree::product
