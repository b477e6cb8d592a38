// SPDX-License-Identifier: BSD-3-Clause
// The table of product kernels, one per instruction set: what may be called, with which operands, in which layout.
//
// Layouts. A panel is 32 columns wide (16 for float64), stored [depth][32]: the vector operand of the microkernel.
//   weights    W [n_in, n_out] lives as panels [n_out / 32][n_in][32]; columns beyond n_out are zero and stay zero.
//   bf16       words are pairs along the depth, the even index in the low half: panels [n_in / 2][32] of 32-bit words.
//   rows       the broadcast operand of a forward product is read where it lies, row-major, nothing packed.
//   columns    the broadcast operand of a weight product is packed per row block: [block][depth][height].
// A row block is as many rows as a microkernel holds in registers; blocks are listed by the caller (row_blocks.h), so that a
// pack and the kernel that reads it agree, and so that this header needs no code.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formulas/kinds.h"

namespace bpfree::product {

inline constexpr std::size_t kPanel = 32;  // columns of a float32 or bf16 panel
inline constexpr std::size_t kPanelF64 = 16;

struct RowBlock {
  std::uint32_t row;
  std::uint32_t height;
};

// Element (i, k) of the broadcast operand, in words: data[(i - first_row) * stride + (k / chunk) * chunk_stride + k % chunk].
// The chunk lets panels be read as rows: stride 32, chunk 32, chunk_stride the size of a panel.
struct RowsOperand {
  const void* data;
  std::size_t stride;
  std::size_t chunk;  // at least the depth for plain rows
  std::size_t chunk_stride;
  std::size_t first_row = 0;
};

// Gathers rows of the user's array into row-major words of the compute type, padded with zeros to `dst_stride`.
struct GatherArgs {
  void* dst;  // float [rows][dst_stride], or bf16 [rows][dst_stride]
  std::size_t dst_stride;
  const void* src;  // uint8, float or double [n][src_stride]
  std::size_t src_stride;
  const std::uint32_t* order;  // row of src for each row of dst; null: first_row + i
  std::size_t first_row;
  std::size_t n_features;
};

// Packs the transpose of row-major rows for the weight product: dst of a block holds [depth][height].
struct PackColumnsArgs {
  void* dst;
  const void* src;  // float or bf16 [depth][src_stride]
  std::size_t src_stride;
  std::size_t depth;  // rows of src
  const RowBlock* blocks;
  std::size_t n_blocks;
};

// Packs a vector operand from a plain array. Element (k, j) is src[k * depth_stride + j * column_stride]; one stride is 1.
struct PackPanelArgs {
  void* dst;
  const void* src;
  std::size_t depth_stride;
  std::size_t column_stride;
  std::size_t depth;
  std::size_t n_columns;  // of this panel, 1..32; the rest becomes zero
};

// out = rows x panel, plain.
struct StoreArgs {
  RowsOperand a;  // rows walk
  const void*
      packed;  // columns walk when not null (then `a` is unused): blocks as PackColumnsArgs makes them
  const void* panel;
  std::size_t depth;  // in words
  const RowBlock* blocks;
  std::size_t n_blocks;
  void* out;  // the panel's first column; float, or double for f64
  std::size_t out_stride;
  std::size_t n_columns;
  bool accumulate;
};

// h = f(scale * (x W) + b) for one panel of columns.
struct ForwardArgs {
  RowsOperand x;
  const void* panel;
  const void* next_panel;  // brought into L2 meanwhile; null: nothing
  std::size_t depth;       // in words
  const RowBlock* blocks;
  std::size_t n_blocks;
  std::size_t n_columns;  // valid columns of the panel, 1..32
  const float* bias;      // of the panel, 32 values; null: none
  float scale;
  formulas::Activation activation;
  void* h;  // of the panel's first column, float or bf16; whole panels are written
  std::size_t h_stride;
  float* preactivation;  // of the panel's first column, or null
  std::size_t preactivation_stride;
};

// delta = (signal F) * f'(a) for one panel, written as the weight product's vector operand, with its column sums.
struct ProjectArgs {
  RowsOperand signal;  // float rows: e, or whatever the rule projects
  const float*
      feedback;  // panel [depth][32]; null: signal is one chunk of this very panel (output layer)
  std::size_t depth;
  const RowBlock* blocks;
  std::size_t n_blocks;
  std::size_t n_columns;
  formulas::Activation activation;
  const void*
      h;  // of the panel's first column, float or bf16; null when the activation is identity
  std::size_t h_stride;
  const float* preactivation;
  std::size_t preactivation_stride;
  void* delta;         // float [batch][32], or bf16 words [batch / 2][32]
  float* column_sums;  // 32 values
};

// delta of one panel of columns out of the transposed delta [batch / 32][n][32] that backward() leaves behind.
struct TransposeArgs {
  const float* delta_t;      // of the panel's first column (a row here)
  std::size_t batch_stride;  // floats from one batch panel to the next
  std::size_t batch;
  void* delta;
  float* column_sums;
};

// delta^T of a lower layer: (W delta^T) * f'(a)^T for some row blocks and one batch panel of 32.
struct BackwardArgs {
  RowsOperand weights;     // panels read as rows
  const void* panel;       // delta^T of the upper layer for this batch panel, [depth][32]
  std::size_t depth;       // in words
  const RowBlock* blocks;  // rows are units of the lower layer
  std::size_t n_blocks;
  formulas::Activation activation;
  const void* h;  // row-major [batch][h_stride], row of the batch panel's first sample
  std::size_t h_stride;
  const float* preactivation;
  std::size_t preactivation_stride;
  float* delta_t;          // [n][32]
  std::uint32_t* pairs_t;  // bf16 words [n / 2][32], or null
};

// One parameter array as the update sees it: a panel [n_in][32] and what belongs to it.
struct Parameters {
  float* value = nullptr;
  float* state1 = nullptr;          // velocity, or first moment; null where the solver has none
  float* state2 = nullptr;          // second moment
  std::uint32_t* shadow = nullptr;  // bf16 pairs along n_in, or null
  std::uint16_t* shadow_rows =
      nullptr;  // bf16 [n_in][32], for methods that walk W backwards; null otherwise
};

// W <- step(W, x^T delta) for one panel and some row blocks.
struct UpdateArgs {
  const void* x_packed;  // columns walk
  const void* delta;     // panel [depth][32]
  std::size_t depth;     // in words
  const RowBlock* blocks;
  std::size_t n_blocks;
  std::size_t n_columns;
  Parameters parameters[2];  // the second: feedback that learns with the weights (Kolen-Pollack)
  std::size_t n_parameters;
  formulas::Step step;
};

// The same step for parameters whose gradient is already there: biases, learned feedback.
struct VectorUpdateArgs {
  Parameters parameters;
  const float* gradient;  // sum, scaled by step.gradient_scale
  std::size_t n;
  formulas::Step step;
};

// Output error and loss of some rows. Logits come as panels [n_outputs / 32][batch][32] and become e in place.
struct LossArgs {
  formulas::Loss loss;
  float* logits;
  std::size_t panel_stride;  // floats between panels
  std::size_t n_outputs;
  const std::int32_t* labels;  // of the rows' samples (softmax), through `order`
  const float* targets;        // [n][n_outputs], through `order`
  const float* weights;        // per sample, through `order`, or null
  const std::uint32_t* order;  // sample of each row
  std::size_t row_begin;
  std::size_t row_end;
  float* row_loss;
  float* error_t;                // e^T as [batch / 32][n_outputs][32], or null
  std::size_t error_t_stride;    // floats between batch panels
  std::uint32_t* error_pairs_t;  // the same in bf16 pairs, or null
  bool sign_of_error_t;          // e^T holds sign(e)
  float*
      signal;  // what the feedback rule projects when it is not e: sign(e); panels as logits, or null
};

// Turns logits into what predict() returns.
struct OutputArgs {
  formulas::Loss loss;
  const float* logits;  // panels [n_outputs / 32][rows][32]
  std::size_t panel_stride;
  std::size_t n_outputs;
  std::size_t n_rows;
  float* out;  // [rows][n_outputs]
  bool logits_only;
};

struct DtypeKernels {
  std::size_t tile_rows;       // height of a full row block
  std::size_t depth_per_word;  // 1, or 2 for bf16
  void (*gather_u8)(const GatherArgs&, std::size_t row_begin, std::size_t row_end);
  void (*gather_f32)(const GatherArgs&, std::size_t row_begin, std::size_t row_end);
  void (*gather_f64)(const GatherArgs&, std::size_t row_begin, std::size_t row_end);
  void (*pack_columns)(const PackColumnsArgs&);
  void (*pack_panel)(const PackPanelArgs&);
  void (*store)(const StoreArgs&);
  void (*forward)(const ForwardArgs&);      // h in the compute type
  void (*forward_f32)(const ForwardArgs&);  // h in float32 (output layer)
  void (*project)(const ProjectArgs&);
  void (*transpose)(const TransposeArgs&);
  void (*backward)(const BackwardArgs&);
  void (*update)(const UpdateArgs&);
};

struct F64Kernels {
  std::size_t tile_rows;
  void (*pack_columns)(const PackColumnsArgs&);
  void (*pack_panel)(const PackPanelArgs&);
  void (*store)(const StoreArgs&);
};

struct Kernels {
  DtypeKernels f32;
  DtypeKernels bf16;
  F64Kernels f64;
  void (*vector_update)(const VectorUpdateArgs&);
  void (*loss)(const LossArgs&);
  void (*output)(const OutputArgs&);
  // Writes the bf16 shadows of a panel [n_in][32] that was set from outside.
  void (*make_shadows)(const Parameters&, std::size_t n_in);
  // sign(W) * magnitude for the sign-symmetric rules: a panel's rows, magnitude null: the constant `scale`.
  void (*sign_of)(float* dst, const float* weights, const float* magnitude, float scale,
                  std::size_t n);
  void (*to_bf16)(std::uint16_t* dst, const float* src, std::size_t n);
  void (*from_bf16)(float* dst, const std::uint16_t* src, std::size_t n);
  // A register-only loop of `rounds` full tiles: what the machine can do at most. Returns the flops done.
  double (*peak_f32)(std::size_t rounds);
  double (*peak_bf16)(std::size_t rounds);
};

const Kernels& kernels();  // of the active instruction set
bool bf16_is_native();     // whether that instruction set has a bf16 dot product

}  // namespace bpfree::product
