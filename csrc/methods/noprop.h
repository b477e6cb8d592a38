// SPDX-License-Identifier: BSD-3-Clause
// NoProp: every block learns by itself to tell a label from a noisy copy of it and the input.
//
// Block:  h_0 = [f(x W_x + b_x), f(z W_z + b_z)],  h_k = f(h_{k-1} W_k + b_k),  o = h_m W_o + b_o.  z is label noise at the
//         block's own level, drawn around the true class: no block reads another one's output, forwards or backwards.
// Loss:   w_t |p W - u_y|^2 with p = softmax(o), W the class embeddings, w_t the step of the signal-to-noise ratio
//         (network/noprop.h). Within a block its gradient is exact; or hidden layers get the logits' error by a fixed random
//         matrix, delta_k = (e B_k) * f'(a_k), and nothing is propagated back at all.
// Learned: as options the embeddings, and with ct the schedule. Then there is a linear head on z at the end, and beside the
//         blocks' losses, of which they get the mean, its cross-entropy with z from q(z_T | y) (fm: at z + (1 - t) o W) and the
//         divergence of q(z_0 | y) from N(0, 1). Their gradient is exact, also through the label in z, except that with
//         feedback nothing goes back to z (noprop_learned.cpp).
// Norm:   as an option every unit of h_0 .. h_m is normalised over the batch before f, with statistics of its block's own.
// dt:     n blocks, each with its noise level. ct: one block for all of t in [0, 1], which it reads as sines and cosines beside
//         z. fm: the same with z_t = t u_y + (1 - t) z_0 and o W as an estimate of the velocity u_y - z_0.
// Noise:  a function of (seed, step, block, row of the batch): blocks trained apart are blocks trained together, bit for bit.
// Work:   the input branches of all blocks are one phase of tiles on one gathered batch, and their weight products read one
//         packed copy of it; label noise is made by the tile that multiplies with it. A branch is so many columns of h_0 and
//         a range of layers: another kind of input branch needs its own forward and update tiles, and nothing else.
// Shapes: x [batch, n_features], z [batch, dim (+ kTimeFeatures)], h_k [batch, n_k].
// Source: Li, Teh & Pascanu 2025, arXiv:2503.24322. Differs: dense blocks; where nothing is learned, classes are read off
//         the weights that the estimates have in z, with no head; the signal-to-noise ratio of a fixed schedule is cut off.
// Cost:   a block 2 B (3 n_features n_x + 2 (d n_z) + 3 (rest)) flops, some 20 % less without what goes back to x and z.
// Result: same bits for any number of threads.
#pragma once

#include <array>
#include <vector>

#include "methods/batch_normalization.h"
#include "methods/trainer.h"
#include "network/learned_schedule.h"
#include "network/noprop.h"
#include "product/row_blocks.h"

namespace bpfree {

struct NoPropOptions {
  NoPropVariant variant = NoPropVariant::dt;
  bool feedback = false;                           // B_k instead of the gradient within a block
  std::vector<double> alpha_bar;                   // dt: at n_blocks + 1 times
  NoiseSchedule schedule = NoiseSchedule::cosine;  // ct
  double eta = 0.1;
  double max_snr_weight = 0;      // ct: cut of the derivative of the signal-to-noise ratio; 0: none
  std::size_t embedding_dim = 0;  // 0: one-hot
  bool learn_embedding = false;
  bool learn_schedule = false;  // ct, without a cut; `schedule` then means nothing
  bool batch_normalization = false;
};

struct NoPropInference {
  std::size_t n_blocks = 0;   // dt: how many are run, 0: all
  std::size_t n_steps = 100;  // ct, fm
  bool heun = false;
  bool noise = false;   // dt: sqrt(c_t) eps, one draw for all rows
  bool staged = false;  // out [n_run][rows][n_classes]
  // Which of these blocks or steps are run. All but a prediction from the first to the last need `state`, [rows][dim +
  // n_classes]: where one left off.
  std::size_t first = 0, n_run = 0;  // 0: all from there on
  float* state = nullptr;
};

class NoProp final : public Trainer {
 public:
  static constexpr std::size_t kTimeFeatures = 64;

  // The network's label branch has as many inputs as an embedding has numbers, for ct and fm kTimeFeatures more.
  NoProp(Network& network, const TrainerOptions& options, const NoPropOptions& noprop);

  // Mean loss of each block in the epoch so far; 0 of those that are not trained.
  std::vector<double> block_losses() const;

  // Only blocks first .. first + n - 1 are trained.
  void set_blocks(std::size_t first, std::size_t n);

  // Of the branches and the joining layers, block after block.
  BatchNormalization* batch_normalization() override { return &norms_; }
  std::vector<StateArray> state_arrays() const override;

  std::size_t embedding_dim() const { return dim_; }
  bool is_one_hot() const { return embedding_.n == 0; }
  void get_embedding(float* out) const;  // [n_classes][dim]
  void set_embedding(const float* value);

  // The head: weights [dim][n_classes] and biases, both 0 at first. Throws Error where there is none.
  bool has_head() const { return noprop_.learn_embedding || noprop_.learn_schedule; }
  void get_head(float* weights, float* biases) const;
  void set_head(const float* weights, const float* biases);
  // Parameters of the learned schedule, n of them: 0 where it is fixed.
  std::size_t n_schedule() const { return schedule_.n; }
  void get_schedule(float* out) const;
  void set_schedule(const float* value);
  double alpha_bar(double t) const;  // ct

  // Class weights of the estimates in z at the end, normalised: [x.rows][n_classes]; with a head, its probabilities at z. fm:
  // softmax of -|z - u_y|^2.
  void predict(const InputView& x, float* out, const NoPropInference& inference,
               int n_threads) const;

 protected:
  bool build_phase(std::size_t index) override;
  void before_step() override;
  void prepare_epoch() override;
  std::size_t scratch_bytes() const override;

 private:
  class Prediction;
  // A block's arrays while its group is trained. Layer 0 of the chain is h_0.
  struct Slot {
    Buffer<char> z, packed_z;
    std::vector<Buffer<char>> h, packed;
    std::vector<Buffer<float>> delta_t;
    std::vector<Buffer<std::uint32_t>> pairs_t;
    Buffer<float> error, error_t;  // logits, then e, in panels; e^T
    Buffer<std::uint32_t> error_pairs_t;
    Buffer<float> probability;            // [batch][n_classes]
    Buffer<float> target;                 // fm: [batch][dim]
    Buffer<float> signal, noise, weight;  // of each row
    Buffer<float> row_loss;
    // With batch normalization, of each h: [batch][n], gain / deviation; of those from h_1 on, what gain and shift get.
    std::vector<Buffer<float>> normalized, factor, gain_gradient, shift_gradient;
    // With a head: d loss / d z, [batch / 32][dim][32]; d loss / d estimate and the label's noise, [batch][dim]; fm: what the
    // head reads [batch][dim], and its error [batch][n_classes]; what the embeddings get.
    Buffer<float> z_gradient_t, estimate_gradient, label_noise, ahead, head_error;
    Buffer<double> embedding_gradient;
  };

  // What all blocks share. Learned where it has a gradient.
  struct Shared {
    std::size_t n = 0;
    Buffer<float> values;  // whole panels
    OptimizerState state;
    Buffer<double> gradient;
  };

  bool reads_z_gradient() const { return has_head() && !noprop_.feedback; }
  bool has_time() const { return noprop_.variant != NoPropVariant::dt; }
  const BlockShape& shape() const { return *network_.blocks(); }
  std::size_t n_hidden() const { return shape().join.size() + 1; }  // h_0 .. h_m
  std::size_t width(std::size_t hidden) const {
    return hidden == 0 ? shape().n_joined() : shape().join[hidden - 1];
  }
  std::size_t hidden_stride(std::size_t hidden) const {
    return row_stride(width(hidden), element_);
  }
  std::size_t z_stride() const { return row_stride(shape().n_label, element_); }
  // Layers of a block: 0 input branch, 1 label branch, 2 .. the chain, whose layer reads h of chain_input().
  static constexpr std::size_t kInput = 0, kLabel = 1;
  static std::size_t chain_input(std::size_t part) { return part - 2; }
  bool is_output(std::size_t part) const { return part + 1 == shape().n_layers(); }
  std::size_t layer_index(std::size_t block, std::size_t part) const {
    return block * shape().n_layers() + part;
  }
  static std::size_t hidden_of(std::size_t part) { return part <= kLabel ? 0 : part - 1; }
  std::size_t first_unit(std::size_t part) const {  // in h, of what this layer makes
    return part == kLabel ? shape().n_input_units : 0;
  }
  bool is_normalized(std::size_t part) const { return !norms_.empty() && !is_output(part); }
  std::size_t norm_index(std::size_t slot, std::size_t part) const {
    return block_of(slot) * (shape().n_layers() - 1) + part;
  }
  std::size_t norm_stride(std::size_t hidden) const {
    return round_up(width(hidden), product::kPanel);
  }
  BatchNormalization::Batch norm_batch() const {
    return {n_, sample_weight_.data(), batch_weight_};
  }
  const Layer& layer(std::size_t part) const {
    return network_.layers()[part];
  }  // all blocks alike
  std::size_t block_of(std::size_t slot) const { return group_first_ + slot; }
  std::size_t batch_stride(std::size_t hidden) const;  // floats from one batch panel of delta^T on
  std::size_t error_panel_stride() const { return padded_batch_ * product::kPanel; }
  std::size_t error_t_stride() const { return round_up(shape().n_classes, 2) * product::kPanel; }
  const std::vector<product::RowBlock>& batch_blocks() const {
    return n_ == options_.batch_size ? full_blocks_ : tail_blocks_;
  }
  DenoisingHead head() const {
    return {embedding_.values.data(), shape().n_classes, dim_,
            noprop_.variant != NoPropVariant::fm};
  }
  Tiling forward_tiling(std::size_t part) const;
  Tiling update_tiling(std::size_t part) const;
  product::ForwardArgs forward_args(std::size_t slot, std::size_t part, std::size_t panel,
                                    std::size_t first_block, std::size_t n_blocks) const;

  void add_forward(std::size_t part);
  void add_pack(std::size_t part);
  void add_backward(std::size_t hidden);
  void add_update(std::size_t part);
  void forward(std::size_t part, std::size_t tile) const;
  Tiling label_tiling() const;
  void add_labels();
  void forward_label(std::size_t tile, const Worker& worker) const;
  void make_noisy_labels(std::size_t slot, std::size_t begin, std::size_t end,
                         float* scratch) const;
  void write_time(float* features, double t) const;
  void forward_output(std::size_t tile, const Worker& worker) const;
  void finish_rows(const Slot& slot, std::size_t begin, std::size_t end, float* scratch) const;
  void pack(std::size_t part, std::size_t tile) const;
  void backward(std::size_t hidden, std::size_t tile) const;
  void make_delta(std::size_t slot, std::size_t part, std::size_t panel, void* delta,
                  float* column_sums) const;
  void normalize(std::size_t slot, std::size_t part, std::size_t panel) const;
  void add_normalize_back(std::size_t hidden);
  void normalize_back(std::size_t hidden, std::size_t tile, const Worker& worker) const;
  void make_normalized_delta(std::size_t slot, std::size_t part, std::size_t panel, void* delta,
                             float* gain_gradient, float* shift_gradient, float* scratch) const;
  product::NormalizeDeltaArgs normalize_delta_args(std::size_t slot, std::size_t hidden,
                                                   std::size_t unit) const;
  void update_norm(std::size_t slot, std::size_t part, std::size_t panel,
                   const float* gain_gradient, const float* shift_gradient) const;
  void update(std::size_t part, std::size_t tile, const Worker& worker) const;
  void add_losses();
  // noprop_learned.cpp
  static Shared shared(std::size_t n, bool learns, formulas::Solver solver);
  void make_learned();
  void prepare_learned();  // before a step
  std::size_t z_gradient_stride() const {
    return round_up(dim_, product::kPanel) * product::kPanel;
  }
  std::size_t n_z_tiles() const;
  void add_z_gradient();
  void z_gradient(std::size_t tile) const;
  void add_learned();
  void learn_head(float* scratch) const;
  void learn_from(std::size_t slot, float* scratch) const;
  void learn_schedule(const Slot& slot, float* scratch) const;
  float class_error(float* error, const float* z, std::size_t sample) const;
  void send_back(float* out, const float* error) const;
  const float* embedding_of(std::size_t label, float* one_hot) const;
  float flow_error(float* error, const Slot& slot, std::size_t row, const float* difference) const;
  void step_learned();
  void step_shared(Shared& shared, bool is_bias);
  void make_feedback();
  std::size_t feedback_at(std::size_t block, std::size_t hidden, std::size_t panel) const;
  std::size_t n_backward_tiles(std::size_t hidden) const;
  static const NoProp& self_of(const void* self) {
    return static_cast<const NoProp&>(*stage(self).trainer);
  }

  NoPropOptions noprop_;
  std::size_t dim_;
  Shared embedding_;  // n 0: one-hot
  Shared head_weights_, head_biases_, schedule_;
  LearnedSchedule learned_;  // of the step that runs
  Buffer<float> head_noise_, head_loss_, gradient_;
  std::vector<product::RowBlock> z_blocks_;
  std::size_t first_block_ = 0, n_trained_;
  std::size_t group_first_ = 0, group_size_ = 0;
  std::vector<Slot> slots_;
  BatchNormalization norms_;
  Buffer<float> sample_weight_;  // of the batch, for these
  Buffer<char> packed_x_;
  Buffer<float> feedback_;
  std::vector<std::vector<product::RowBlock>> input_blocks_;  // rows of W of each part
  std::vector<product::RowBlock> full_blocks_, tail_blocks_;
  Buffer<float> time_;              // of each row
  std::vector<double> snr_weight_;  // of each block
  std::array<double, kTimeFeatures / 2> frequency_;
  std::vector<double> loss_sum_;  // of each block in this epoch
  double seen_weight_ = 0;        // of its samples so far
};

}  // namespace bpfree
