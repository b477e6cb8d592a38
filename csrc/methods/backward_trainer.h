// SPDX-License-Identifier: BSD-3-Clause
// Methods that carry the error down layer by layer: delta_l = (delta_{l+1} M_{l+1}^T) * f'(a_l), where M is W (backprop) or
// what stands in its place. Shapes: delta_l [batch, n_l], M_{l+1} [n_l, n_{l+1}].
//
// Delta is kept transposed, [batch / 32][n_l][32]: the product's broadcast operand is M where it lies, its panels read as
// rows, and the tile that comes out is a vector operand of the next product as it is. Nothing of M's size is transposed.
#pragma once

#include "methods/dense_trainer.h"

namespace bpfree {

class BackwardTrainer : public DenseTrainer {
 protected:
  BackwardTrainer(Network& network, const TrainerOptions& options);

  // M of weights layer `layer` for some of its rows, as the compute type; `scratch` may hold them.
  virtual product::RowsOperand backward_operand(std::size_t layer, std::size_t first_row,
                                                std::size_t n_rows, void* scratch) const;
  // The operand that panels in W's layout are: the float32 array, or its rows in bf16.
  product::RowsOperand panels_as_rows(const float* f32, const std::uint16_t* bf16,
                                      std::size_t layer) const;

  bool build_phase(std::size_t index) override;
  void make_delta(std::size_t layer, std::size_t panel, void* delta,
                  float* column_sums) const override;
  std::size_t extra_scratch_bytes() const override;

  // Rows of M that one tile walks, and the bytes they may need in scratch.
  std::size_t rows_per_tile() const { return kBlocksPerTile * kernels_.tile_rows; }

 private:
  static constexpr std::size_t kBlocksPerTile = 4;

  void backward(std::size_t layer, std::size_t tile, const Worker& worker) const;
  std::size_t batch_stride(
      std::size_t hidden) const;  // floats from one batch panel of delta^T to the next

  std::vector<Buffer<float>> delta_t_;  // of each hidden layer
  std::vector<Buffer<std::uint32_t>>
      pairs_t_;  // the same in bf16 pairs, where a product below reads it
};

}  // namespace bpfree
