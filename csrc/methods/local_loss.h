// SPDX-License-Identifier: BSD-3-Clause
// Local losses: every hidden layer has a loss of its own, and no error travels between layers.
//
// pred:    a head of each layer predicts the target. e_l = d loss(h_l M_l + c_l) / d logits, delta_l = (e_l M_l^T) * f'(a_l).
// sim:     rows of h_l shall be as similar to each other as their targets are. With H the rows minus their means mu_i, R their
//          cosines, T those of the centred targets (one-hot: 1 and -1 / (C - 1)), E = R - T, w the sample weights:
//          loss = sum_ij w_i w_j E_ij^2 / (sum w)^2,   d loss / d h = A H,
//          A_ij = (s_ij E_ij - [i = j] sum_k s_ik E_ik R_ik) / (|H_i| |H_j|),   s_ij = 4 w_i w_j / (sum w)^2.
//          A row of equal numbers has no direction: its 1 / |H_i| counts as 0, so R_i = 0 and nothing is sent back to it.
//          Row means of A H vanish by themselves. The output layer is trained beside as the last layer's head.
// predsim: (1 - w) pred + w sim.
// With projections the similarity is that of h_l V_l, V_l [n_l, n_l] learned: dV = h^T (A Z), d loss / d h = (A Z) V^T.
// So delta is one small product of `signal` [batch, k] (e beside A, or beside A Z) with a feedback panel [k, 32], made while a
// layer above is still on its way forward: nothing waits for the output.
// Shapes: h [batch, n_l], M_l [n_l, n_outputs], A, R, T [batch, batch]; all in panels of 32 columns but h.
// Source: Nøkland & Eidnes 2019, arXiv:1901.06656; pred alone: Mono-Forward, Gong et al. 2025, arXiv:2501.09238. Differs: the
//         convolutions' pooling does not apply; the closed form of the derivative is ours.
// Cost:   4 B n_in n_out flops a layer; pred 6 B n C more, sim some 3 B^2 n, projections 6 B n^2.
// Result: same bits for any number of threads.
#pragma once

#include <optional>
#include <vector>

#include "methods/batch_normalization.h"
#include "methods/dense_trainer.h"
#include "network/local_loss.h"

namespace bpfree {

struct LocalLossOptions {
  LocalLossKind kind = LocalLossKind::pred;
  float similarity_weight = 0.99f;  // w of predsim
  bool sim_projection = false;
  bool batch_normalization = false;  // between a layer's product and its activation
  float dropout = 0;  // of a layer's outputs, after its loss: what the next one reads
};

class LocalLoss final : public DenseTrainer {
 public:
  // pred and predsim need a network with first_head = 0, sim one without heads but the output layer.
  LocalLoss(Network& network, const TrainerOptions& options, const LocalLossOptions& local_loss);

  // Layers below the stage's run as in prediction; what its layer reads is still subject to dropout.
  void set_stage(std::optional<std::size_t> stage) override;
  // Whether a stage's inputs are kept for all rows of x from its first epoch on: [n_rows][stride], in the compute type. They
  // are dropped when x moves or the stage changes.
  void set_cache(bool on) { caches_ = on; }
  void drop_cache() { cache_ = {}; }

  // out [x.rows, n_outputs] by the last head or the sum of all; with batch normalization by its running statistics.
  void predict(const InputView& x, float* out, bool sum_of_heads, bool logits, int n_threads) const;

  std::size_t n_projections() const { return projections_.size(); }
  std::size_t projection_size(std::size_t layer) const;  // throws Error when there is none
  void get_projection(std::size_t layer, float* out) const;
  void set_projection(std::size_t layer, const float* value);

  BatchNormalization* batch_normalization() override { return &norms_; }  // of the hidden layers
  std::vector<StateArray> state_arrays() const override;
  std::vector<Alignment> alignment(const TrainingData&) const override { refuse_alignment(); }

 protected:
  void prepare_epoch() override;
  void before_step() override;
  bool build_phase(std::size_t index) override;
  void check_target(const TrainingData& data) const override;
  std::size_t extra_scratch_bytes() const override;
  void make_delta(std::size_t index, std::size_t panel, void* delta,
                  float* column_sums) const override;
  std::size_t input_layer(std::size_t index) const override {
    return is_output(index) ? hidden_of(index) + 1 : index;
  }
  const char* input_rows(std::size_t index) const override;
  char* packed_inputs(std::size_t index) const override;
  float* error_of(std::size_t index) const override {
    return layer_[hidden_of(index)].signal.data();
  }
  float* row_loss_of(std::size_t index) const override {
    return layer_[hidden_of(index)].head_loss.data();
  }
  Tiling forward_tiling(std::size_t index) const override;
  void forward(std::size_t index, std::size_t tile, const Worker& worker) const override;
  void finish_rows(std::size_t index, std::size_t row_begin, std::size_t row_end) const override;
  void update_biases(std::size_t index, std::size_t panel, const float* column_sums) const override;

 private:
  enum class Do {
    read_cache,
    fill_cache,
    center_targets,
    targets,  // cosines of the batch's targets
    forward,  // of a layer or of a head
    pack,
    keep_head,  // M^T as the feedback, before M is updated
    project,
    gram,
    similarity,
    project_back,
    keep_delta,
    update,
    update_projection,
    gather_next
  };
  struct Action {
    Do what;
    std::size_t index;
  };
  struct LayerState {
    Buffer<float> signal;         // panels [batch][32]: of e, then of A or A Z
    Buffer<float> head_feedback;  // M^T as panels [n_l / 32][head_depth][32]
    Buffer<float> head_loss, similarity_loss, mean, inverse_norm;
    Buffer<float> z;               // h V, [batch][n]
    Buffer<char> dropped, packed;  // what the next layer reads where there is dropout
    Buffer<float> normalized;      // [batch][n]
    Buffer<float> delta;           // of each panel, as scratch has it; empty: made where it is used
    Buffer<float> factor;          // gain / deviation, as this step has them
    std::vector<product::RowBlock> blocks;  // rows of a panel of 32 units
  };
  struct SimilarityRows {  // h, or z where there are projections
    const char* data;
    std::size_t stride, element;
    const product::DtypeKernels* kernels;
  };
  struct Cache {
    const void* data = nullptr;  // of x
    std::size_t rows = 0;
    std::size_t stage = 0;
    std::size_t n_done = 0;
    Buffer<char> values;
  };

  std::size_t n_hidden() const { return n_layers() - 1; }
  bool has_pred() const { return local_.kind != LocalLossKind::sim; }
  bool has_sim() const { return local_.kind != LocalLossKind::pred; }
  bool has_head(std::size_t layer) const { return has_pred() || layer + 1 == n_hidden(); }
  bool trains(std::size_t layer) const { return !only_ || *only_ == layer; }
  bool is_dropped(std::size_t layer) const {  // whether the layer above reads a part of it only
    return local_.dropout > 0 && layer + 1 < n_hidden() && trains(layer + 1);
  }
  std::size_t head_of(std::size_t layer) const;
  std::size_t hidden_of(std::size_t head) const;
  float weight_of_sim() const;
  // Panels of e in a layer's signal, and what of them its delta reads.
  std::size_t error_panels(std::size_t layer) const {
    return has_head(layer) ? network_.layers().back().n_panels : 0;
  }
  std::size_t head_depth() const;
  std::size_t batch_panels() const { return divide_up(n_, product::kPanel); }
  float* factors(std::size_t layer) const;
  SimilarityRows similarity_rows(std::size_t layer) const;

  void build_schedule();
  void add_action(const Action& action);
  void start_cache();
  void read_cache(std::size_t layer, std::size_t first_row, const Worker& worker) const;
  void fill_cache(std::size_t layer, std::size_t first_row) const;
  void center_targets(std::size_t panel) const;
  void target_cosines(std::size_t panel) const;
  void keep_head(std::size_t layer, std::size_t panel) const;
  void project(std::size_t layer, std::size_t tile) const;
  void gram(std::size_t layer, std::size_t tile, const Worker& worker) const;
  void similarity(std::size_t layer, std::size_t first_row) const;
  void project_back(std::size_t layer, std::size_t panel, const Worker& worker) const;
  void update_projection(std::size_t layer, std::size_t tile, const Worker& worker) const;
  BatchNormalization::Batch norm_batch() const { return {n_, weight_.data(), batch_weight_}; }
  void normalize(std::size_t layer, std::size_t panel) const;
  void drop(std::size_t layer, std::size_t panel, std::size_t first_row, std::size_t n_rows,
            const Worker& worker) const;
  void centered_columns(float* out, std::size_t layer, std::size_t panel) const;
  std::size_t delta_size() const { return (padded_batch_ + 2) * product::kPanel; }
  void compute_delta(std::size_t layer, std::size_t panel, void* delta, float* column_sums,
                     float* gain_gradient, float* scratch) const;
  void keep_delta(std::size_t layer, std::size_t panel, const Worker& worker) const;
  const float* feedback_panel(std::size_t layer, std::size_t panel, float* scratch) const;
  void sum_losses();
  product::Parameters projection_parameters(std::size_t layer, std::size_t panel) const;
  void make_projections();
  float sample_weight(std::size_t row) const {
    return data().weights != nullptr ? data().weights[batch_order()[row]] : 1.0f;
  }
  static const LocalLoss& self_of(const void* self) {
    return static_cast<const LocalLoss&>(*stage(self).trainer);
  }

  static constexpr std::size_t kCacheRows = 16;  // rows of a tile that copies from or to the cache
  static constexpr std::size_t kSimilarityRows = 8;  // rows of a tile that finishes a similarity

  LocalLossOptions local_;
  std::optional<std::size_t> only_;
  std::vector<std::vector<Action>> schedule_;
  std::vector<LayerState> layer_;
  std::vector<std::vector<product::RowBlock>> gram_blocks_;  // rows up to the end of a batch panel
  Buffer<float> target_cosines_;                             // panels [batch][32]
  // The batch's labels; or its targets as unit rows [batch][stride], and as panels [n_outputs][32].
  Buffer<std::int32_t> labels_;
  Buffer<float> target_rows_, target_panels_;
  Buffer<float> products_[2], factors_[2];  // of two layers in turn
  Buffer<float> weight_;                    // of the batch's samples, then zeros

  std::vector<Layer> projections_;  // V, placed as a network's layers
  Buffer<float> projection_values_;
  Buffer<std::uint32_t> projection_shadow_;
  OptimizerState projection_state_;
  BatchNormalization norms_;

  bool caches_ = false, reads_cache_ = false, fills_cache_ = false;
  Cache cache_;
};

}  // namespace bpfree
