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
#include "product/ensemble.h"
#include "product/layout.h"
#include "product/perturbed.h"

namespace bpfree::product {

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

// One way to fill in the label inputs of a layer: row i of x W gets row labels[i] of the table (labels null: row 0).
struct LabelVariant {
  const float* table;  // [n][32], of the panel
  const std::int32_t* labels;
  const float* row_scale;
  void* h;  // of the panel's first column
  float* row_squares;
};

// h = f(row_scale * scale * (x W) + b) for one panel of columns. With variants, h = f(row_scale * (scale * (x W) + table row) + b)
// of each, from one product.
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
  const float* row_scale = nullptr;  // of each row, null: 1
  float* row_squares =
      nullptr;  // of each row: sum of h^2 over the panel (f(0) = 0), null: not wanted
  const LabelVariant* variants = nullptr;
  std::size_t n_variants = 0;
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

// delta of a layer whose loss is a function of its rows' sums of squares, one panel, as the weight product's vector operand:
//   value_i = loss_factor_i h_i, plus `peer` where i < n_positive
//   delta_i = row_factor_i (value_i + value_{i + pair}), the second only where pair > 0: rows that share their input
// column_sums are those of value; label_gradient[labels[i]] += row_factor * value_i.
struct GoodnessDeltaArgs {
  const void* h;  // of the panel's first column, rows of delta and `pair` more
  std::size_t h_stride;
  std::size_t n_rows;  // of delta
  std::size_t pair;
  const float* loss_factor;  // of each row of h
  const float* row_factor;   // of each row of delta
  std::size_t n_positive;
  const float* peer;  // 32 values, or null
  const std::int32_t* labels;
  float* label_gradient;  // [n][32], or null
  void* delta;
  float* column_sums;
};

// The same where the loss is a function of sums over groups of `group_size` columns:
//   delta_i = row_factor_i * factors[i][group of the column] * (h_i, or 1 where h_i > 0)
struct GroupDeltaArgs {
  const void* h;
  std::size_t h_stride;
  std::size_t n_rows;
  std::size_t first_column;  // of the panel
  std::size_t n_columns;
  std::size_t group_size;
  std::size_t n_groups;  // columns beyond them belong to the last
  const float* factors;  // [n_rows][n_groups]
  bool indicator;
  const float* row_factor;
  void* delta;
  float* column_sums;  // without row_factor
};

// Rows in the compute type: h_group /= sqrt(mean h_group^2 + tiny) in place, and the sums from before.
struct GroupNormArgs {
  void* h;
  std::size_t h_stride;
  std::size_t row_begin;
  std::size_t row_end;
  std::size_t n_columns;
  std::size_t group_size;
  std::size_t n_groups;
  float tiny;
  float* sums;     // [rows][n_groups]
  float* squares;  // [rows][n_groups]
};

// Rows of up to 32 samples, each centred by its own mean: the vector operand [n_columns][32] of a product over the columns.
struct CenterArgs {
  const void* rows;
  std::size_t stride;
  std::size_t n_columns;
  std::size_t n_rows;  // 1..32; the operand's other columns become zero
  float tiny;          // a row of at most this norm has no direction
  void* panel;
  float* mean;          // of each row; 32 values, zero beyond n_rows
  float* inverse_norm;  // 1 / the norm of each centred row, likewise; 0 without direction
};

// The same rows as the feedback of a product over samples: 32 columns, float [n_rows][32].
struct CenteredColumnsArgs {
  float* out;
  const void* rows;  // of the panel's first column
  std::size_t stride;
  std::size_t n_rows;
  std::size_t n_columns;  // 1..32; the rest becomes zero
  const float* mean;
};

// What a mean squared error of cosines sends back, for some rows of samples. With R_ij = products_ij / (norm_i norm_j) and
// E = R - targets:  factor_ij = (scale_i weight_j E_ij - [i = j] sum_k scale_i weight_k E_ik R_ik) / (norm_i norm_j).
// All three matrices are panels [batch / 32][panel_stride / 32][32]. Products are read on and above the diagonal's panels, and
// below from the transposed place.
struct SimilarityArgs {
  float* factor;
  const float* products;
  const float* targets;
  std::size_t panel_stride;  // floats between panels
  std::size_t n_rows;        // the whole matrix
  std::size_t row_begin;
  std::size_t row_end;
  const float* inverse_norm;  // zero beyond n_rows, up to whole panels
  const float* weight;        // likewise
  float scale;                // scale_i = scale weight_i
  float* row_loss;            // scale_i / 4 sum_j weight_j E_ij^2
};

// Batch normalization of one panel of units, all rows of the batch: statistics, then the affine map and the activation.
struct MomentsArgs {
  const float* a;  // of the panel's first column
  std::size_t a_stride;
  std::size_t n_rows;
  const float* weight;   // of each row
  float inverse_weight;  // 1 / their sum
  float* mean;           // 32 values
  float* variance;       // biased
};

// a <- (a - mean) * inverse, h = f(gain a + shift).
struct NormalizeArgs {
  float* a;
  std::size_t a_stride;
  std::size_t n_rows;
  const float* mean;
  const float* inverse;
  const float* gain;
  const float* shift;
  formulas::Activation activation;
  void* h;
  std::size_t h_stride;
  float* preactivation;  // gain a + shift, or null
  std::size_t preactivation_stride;
};

// Its derivative: delta of a panel from d loss / d h, where all rows of the batch went into the statistics.
struct NormalizeDeltaArgs {
  float* gradient;  // [n_rows][32], by h; by f's argument afterwards
  std::size_t n_rows;
  formulas::Activation activation;
  const void* h;
  std::size_t h_stride;
  const float* preactivation;
  std::size_t preactivation_stride;
  const float* normalized;  // what NormalizeArgs left in a
  std::size_t normalized_stride;
  const float* factor;  // gain * inverse
  const float* weight;  // of each row in the statistics; the gradient has it already
  float inverse_weight;
  void* delta;
  float* gain_gradient;
  float* shift_gradient;
};

// dst = src * scale where the uniform number is at least `bound`, else 0; 32 columns.
struct DropoutArgs {
  void* dst;
  const void* src;
  std::size_t stride;
  std::size_t n_rows;
  const float* uniform;  // [n_rows][32]
  float bound;
  float scale;
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
  void (*goodness_delta)(const GoodnessDeltaArgs&);
  void (*group_delta)(const GroupDeltaArgs&);
  void (*group_norm)(const GroupNormArgs&);
  void (*center)(const CenterArgs&);
  void (*centered_columns)(const CenteredColumnsArgs&);
  void (*normalize)(const NormalizeArgs&);
  void (*normalize_delta)(const NormalizeDeltaArgs&);
  void (*dropout)(const DropoutArgs&);
  // Of rows in the compute type: sums of squares along each, and sums of 32 columns.
  void (*row_squares)(float* out, const void* rows, std::size_t stride, std::size_t n_columns,
                      std::size_t n_rows);
  void (*column_sums)(float* out, const void* rows, std::size_t stride, std::size_t n_rows);
  // Populations (perturbed.h); of both, h in the compute type and in float32.
  void (*perturbed)(const PerturbedArgs&);
  void (*perturbed_f32)(const PerturbedArgs&);
  void (*low_rank)(const LowRankArgs&);
  void (*low_rank_f32)(const LowRankArgs&);
  EnsembleKernels ensemble;  // ensemble.h
};

struct F64Kernels {
  std::size_t tile_rows;
  void (*pack_columns)(const PackColumnsArgs&);
  void (*pack_panel)(const PackPanelArgs&);
  void (*store)(const StoreArgs&);
  EnsembleKernels ensemble;
};

struct Kernels {
  DtypeKernels f32;
  DtypeKernels bf16;
  F64Kernels f64;
  void (*vector_update)(const VectorUpdateArgs&);
  void (*loss)(const LossArgs&);
  void (*output)(const OutputArgs&);
  void (*row_loss)(const RowLossArgs&);
  void (*factors)(const FactorsArgs&);
  void (*row_dots)(const RowDotsArgs&);
  void (*similarity)(const SimilarityArgs&);
  void (*moments)(const MomentsArgs&);
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
  bool bf16_widens;  // bf16 products run as float32 multiply-adds, not by the CPU's dot product
};

// Of the active instruction set, with its bf16 dot product where that is the faster way. BPFREE_BF16=dot|widened forces one;
// throws Error where it names another, or a dot product that the instruction set lacks.
const Kernels& kernels();

}  // namespace bpfree::product
