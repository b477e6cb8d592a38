// SPDX-License-Identifier: BSD-3-Clause
// A dense network in one packed parameter buffer: h_l = f(h_{l-1} W_l + b_l), the last layer without f.
// Layout: of each layer the panels [n_out / 32][n_in][32] of W, then the biases padded to whole panels. With bf16 compute a
// shadow in bf16 pairs lies beside the float32 master and is written by whoever writes W. Unpacked only when asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/buffer.h"
#include "base/view.h"
#include "formulas/kinds.h"
#include "product/kernels.h"

namespace bpfree {

enum class Compute { float32, bfloat16 };
enum class InputType { u8, f32, f64 };
enum class Initializer { uniform, glorot_uniform, he_uniform, he_normal, zeros };

// Rows of a caller's array, read where they lie. row_stride counts elements.
struct InputView {
  const void* data = nullptr;
  InputType type = InputType::f32;
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::size_t row_stride = 0;
  float scale = 1;  // what each value is multiplied by, in the epilogue
};

struct Layer {
  std::size_t n_in;
  std::size_t n_out;
  std::size_t n_panels;
  std::size_t weights;  // offset of the panels in the parameter buffer
  std::size_t biases;
  std::size_t shadow;  // offset in the bf16 pairs

  std::size_t panel_size() const { return n_in * product::kPanel; }
  std::size_t shadow_panel_size() const { return divide_up(n_in, 2) * product::kPanel; }
};

// Blocks that share an input and nothing else: each has a branch for the input and one for the label with noise, whose outputs
// lie side by side [n_input_units + n_label_units] for the layers above, `join` and then the classes.
struct BlockShape {
  std::size_t n_blocks;
  std::size_t n_features;
  std::size_t n_input_units;  // whole panels
  std::size_t n_label;        // inputs of the label branch
  std::size_t n_label_units;  // whole panels
  std::vector<std::size_t> join;
  std::size_t n_classes;

  std::size_t n_joined() const { return n_input_units + n_label_units; }
  std::size_t n_layers() const { return 3 + join.size(); }  // of a block
};

// Heads are small dense layers [n_l, n_outputs] on hidden layers, for methods that give a layer a loss of its own. The output
// layer is the head of the last hidden layer, so only the others are kept apart.
class Network {
 public:
  static constexpr std::size_t kNoHeads = static_cast<std::size_t>(-1);

  // sizes: n_features, hidden layers, n_outputs; each at least 1. first_head: the first hidden layer (from 0) that has a head.
  // Throws Error.
  Network(std::vector<std::size_t> sizes, formulas::Activation activation, formulas::Loss loss,
          Compute compute, std::size_t first_head = kNoHeads);

  // Layers of one block after the other: input branch, label branch, join, classes. Throws Error.
  Network(const BlockShape& blocks, formulas::Activation activation, Compute compute);
  const BlockShape* blocks() const { return blocks_ ? &*blocks_ : nullptr; }

  const std::vector<std::size_t>& sizes() const { return sizes_; }
  const std::vector<Layer>& layers() const { return layers_; }
  const std::vector<Layer>& heads() const {
    return heads_;
  }  // of hidden layers first_head() .. n_layers - 3
  std::size_t first_head() const { return first_head_; }
  bool has_heads() const { return first_head_ != kNoHeads; }
  // The layers, then the heads: what an index of a layer means everywhere below.
  const Layer& layer(std::size_t index) const {
    return index < layers_.size() ? layers_[index] : heads_[index - layers_.size()];
  }
  formulas::Activation activation() const { return activation_; }
  formulas::Loss loss() const { return loss_; }
  Compute compute() const { return compute_; }
  std::size_t n_params() const;  // weights and biases, without padding
  std::size_t n_outputs() const { return sizes_.back(); }
  std::size_t parameter_buffer_size() const { return parameters_.size(); }

  // Weights and biases drawn from (seed, layer): bound or deviation by fan-in and fan-out, as named. Heads, the output layer
  // among them where there are heads, start at zero.
  void initialize(std::uint64_t seed, Initializer scheme);

  void get_weights(std::size_t layer, float* out) const;  // [n_in, n_out] row-major
  void set_weights(std::size_t layer, const float* value);
  void get_biases(std::size_t layer, float* out) const;
  void set_biases(std::size_t layer, const float* value);

  // out [x.rows, n_outputs] row-major: probabilities (softmax, sigmoid) or values; logits when asked. A row's result does
  // not depend on the rows beside it. Memory: two activations of some 100 rows a thread.
  // sum_of_heads: by the sum of all heads' logits, not the output layer's alone.
  void predict(const InputView& x, float* out, bool logits, int n_threads,
               bool sum_of_heads = false) const;

  // Counts changes of what it predicts with: by the setters here, and by who writes into parameters().
  std::uint64_t version() const { return version_; }
  void count_change() { ++version_; }

  // Packed access for the methods.
  float* parameters() const { return parameters_.data(); }
  std::uint32_t* shadow() const { return shadow_.data(); }
  const void* forward_panel(std::size_t layer,
                            std::size_t panel) const;  // of W, in the compute type
  const product::DtypeKernels& kernels() const;
  // Methods that walk W backwards in bf16 need its rows too; made once, then kept by the update.
  void keep_shadow_rows();
  std::uint16_t* shadow_rows(std::size_t layer) const;  // panels [n_in][32] in bf16, or null
  product::Parameters panel_parameters(std::size_t layer, std::size_t panel) const;

 private:
  void refresh_shadows(std::size_t layer);

  void place(std::vector<Layer>& layers, std::size_t n_in, std::size_t n_out);
  void allocate();

  std::vector<std::size_t> sizes_;
  std::optional<BlockShape> blocks_;
  formulas::Activation activation_;
  formulas::Loss loss_;
  Compute compute_;
  std::size_t first_head_;
  std::uint64_t version_ = 0;
  std::size_t n_placed_ = 0, n_shadow_ = 0;  // of the layers so far
  std::vector<Layer> layers_, heads_;
  Buffer<float> parameters_;
  Buffer<std::uint32_t> shadow_;
  Buffer<std::uint16_t> shadow_rows_;
};

// Panels [n_out / 32][n_in][32] from a row-major array and back.
void pack_panels(float* panels, const float* rows, std::size_t n_in, std::size_t n_out);
void unpack_panels(float* rows, const float* panels, std::size_t n_in, std::size_t n_out);

// Elements between two rows of `n`: whole panels, and never a distance at which rows share their cache sets.
std::size_t row_stride(std::size_t n, std::size_t element_size);

}  // namespace bpfree
