// SPDX-License-Identifier: BSD-3-Clause
// The stages of training a dense network, as plans: forward, loss, pack, update, and the buffers between them. A method says
// where each layer's delta comes from.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "methods/trainer.h"
#include "product/row_blocks.h"

namespace bpfree {

class DenseTrainer : public Trainer {
 public:
  std::vector<Alignment> alignment(const TrainingData& data) const override;

 protected:
  DenseTrainer(Network& network, const TrainerOptions& options);
  void prepare_epoch() override;

  // Writes delta of weights layer l, columns of a panel, as the update's vector operand, with its column sums.
  virtual void make_delta(std::size_t layer, std::size_t panel, void* delta,
                          float* column_sums) const = 0;
  virtual bool projects_sign() const { return false; }  // e^T holds sign(e)
  virtual float* signal() const {
    return nullptr;
  }  // where the loss writes what the rule projects, if not e
  virtual std::size_t extra_scratch_bytes() const { return 0; }
  // Scratch of a tile: column sums [32], then the delta panel, then what the method asked for.
  float* extra_scratch(float* column_sums) const {
    return column_sums + (padded_batch_ + 2) * product::kPanel;
  }
  virtual void add_update_targets(std::size_t, std::size_t, product::UpdateArgs&) const {}
  // Heads (network.h) come after the layers: the layer whose inputs weights `index` reads, the rows and their packed transpose.
  virtual std::size_t input_layer(std::size_t index) const { return index; }
  virtual const char* input_rows(std::size_t index) const {
    const std::size_t l = input_layer(index);
    return l == 0 ? x_[0].data() : hidden_[l - 1].data();
  }
  virtual char* packed_inputs(std::size_t index) const {
    return packed_[input_layer(index)].data();
  }
  virtual float* error_of(std::size_t) const { return error_.data(); }  // logits, then e
  virtual float* row_loss_of(std::size_t) const { return row_loss_.data(); }
  virtual Tiling forward_tiling(std::size_t index) const {
    return row_tiling(network_.layer(index).n_in, network_.layer(index).n_panels);
  }
  virtual void forward(std::size_t index, std::size_t tile, const Worker& worker) const;
  virtual void finish_rows(std::size_t index, std::size_t row_begin, std::size_t row_end) const;
  virtual void update_biases(std::size_t index, std::size_t panel, const float* column_sums) const;
  bool is_output(std::size_t index) const { return index + 1 >= n_layers(); }
  // What the rule projects to the hidden layers, given e; both [n, n_outputs] row-major.
  virtual void plain_signal(std::vector<float>& signal, const TrainingData& data) const;
  static void to_signs(std::vector<float>& signal,
                       const TrainingData& data);  // times the sample weights

  void add_forward(std::size_t index);
  void add_pack(std::size_t index);  // the update's operand: the inputs of `index`
  void add_update(std::size_t index);

  // How the rows of a forward product are cut: its broadcast operand stays in L2.
  Tiling row_tiling(std::size_t n_in, std::size_t n_panels) const;
  product::ForwardArgs forward_args(std::size_t index, std::size_t tile) const;
  // Tiles of a weight product with the inputs of `index`: its n_out columns, or those of another array that reads them.
  Tiling update_tiling(std::size_t index, std::size_t n_out) const;
  product::UpdateArgs update_args(std::size_t index, std::size_t n_out, std::size_t tile,
                                  const void* delta, const product::Parameters& parameters) const;
  product::ProjectArgs project_args(std::size_t layer, std::size_t panel, void* delta,
                                    float* column_sums) const;
  std::size_t error_panel_stride() const { return padded_batch_ * product::kPanel; }
  const void* hidden(std::size_t layer) const {
    return hidden_[layer].data();
  }  // output of weights layer `layer`
  std::size_t hidden_stride(std::size_t layer) const {
    return row_stride(network_.layers()[layer].n_out, element_);
  }
  const std::vector<product::RowBlock>& input_blocks(std::size_t index) const {
    return input_blocks_[input_layer(index)];
  }
  // Of products in float32 too: a full block is as high in either type.
  const std::vector<product::RowBlock>& batch_blocks() const {
    return is_full() ? full_blocks_ : tail_blocks_;
  }

  std::vector<Buffer<char>> hidden_;          // h of each hidden layer, row-major
  std::vector<Buffer<float>> preactivation_;  // only where the derivative needs it
  Buffer<float> error_;                       // logits, then e: panels [n_outputs / 32][batch][32]
  Buffer<float> error_t_;                     // e^T: [batch / 32][n_outputs][32]
  Buffer<std::uint32_t> error_pairs_t_;
  std::vector<Buffer<char>> packed_;  // the update's broadcast operand per layer

 private:
  static const DenseTrainer& self_of(const void* self) {
    return static_cast<const DenseTrainer&>(*stage(self).trainer);
  }
  std::size_t scratch_bytes() const override {
    return (padded_batch_ + 2) * product::kPanel * sizeof(float) + extra_scratch_bytes();
  }
  void pack(std::size_t index, std::size_t tile) const;
  void update(std::size_t index, std::size_t tile, const Worker& worker) const;

  std::vector<product::RowBlock> full_blocks_, tail_blocks_;
  std::vector<std::vector<product::RowBlock>> input_blocks_;   // rows of W of each layer
  std::unique_ptr<std::atomic<std::uint32_t>[]> panels_left_;  // of the output layer, per row group
};

}  // namespace bpfree
