// SPDX-License-Identifier: BSD-3-Clause
// Forward-Forward: every layer learns to give data a high goodness and wrong data a low one; no error travels between layers.
//
// With r the factor that brings a row to unit mean square, a_l = r_{l-1} (h_{l-1} W_l) + b_l, h_l = relu(a_l) and the goodness
// g_l = sum (or mean) of h_l^2, a positive row's loss is softplus(-(g - threshold) / temperature), a negative row's
// softplus((g - threshold) / temperature); delta_l = (d loss / d g) 2 h_l, W_l <- step(W_l, (r_{l-1} h_{l-1})^T delta_l / n).
// Peer normalisation adds a constant per unit to delta of positive rows: units that are active less than the others get more.
// A softmax head reads the normalised h_l of layers first_head.. for a neutral label, and is trained beside.
// Source: Hinton 2022, arXiv:2212.13345; SymBa: Lee & Song 2023, arXiv:2303.08418; goodness of groups of units, without
//         negatives: Papachristodoulou et al. 2024, arXiv:2312.12668 (squares), Sun et al. 2025, DeeperForward (means).
//         Differs from Hinton's code: the gradient keeps its factor 2, the neutral label is 1 / n_outputs.
// Cost:   2 (3 B + 2 B) n_in n_out flops a layer; the first layer's pixels are multiplied once for positive, negative and
//         neutral rows, and once for the weights: 2 (B + B) n_in n_out.
// Memory: two layers' activations at a time, and the neutral rows that the head reads, transposed.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "methods/trainer.h"
#include "product/row_blocks.h"

namespace bpfree {

enum class LabelPosition {
  append,
  overwrite,
  none
};  // C more inputs, the first C inputs, no label
enum class Negatives {
  random,
  hard,
  given
};  // any wrong label, one that the head believes in, the user's rows
enum class FfPhase { both, positive, negative };

struct ForwardForwardOptions {
  formulas::Goodness goodness = formulas::Goodness::sum;
  formulas::GoodnessLoss loss = formulas::GoodnessLoss::logistic;
  LabelPosition label_position = LabelPosition::append;
  Negatives negatives = Negatives::random;
  std::optional<float> threshold;  // none: mean square 1, which is n for the sum
  float temperature = 1;
  float symba_scale = 4;
  float peer_normalization = 0;
};

class ForwardForward final : public Trainer {
 public:
  // The network's inputs count the label's with LabelPosition::append. Its weights of layer 0 are stored features first, then
  // label inputs: with overwrite that is a rotation of the inputs by n_outputs.
  ForwardForward(Network& network, const TrainerOptions& options,
                 const ForwardForwardOptions& forward_forward);

  void set_phase(FfPhase phase) { phase_kind_ = phase; }
  // Greedy training: layer `stage` alone, or the heads alone (stage = number of hidden layers); none: all at once.
  void set_stage(std::optional<std::size_t> stage) override;
  std::vector<StateArray> state_arrays() const override;

  // out [x.rows, n_outputs]: what the heads say of the neutral pass, or the goodness of every label.
  void predict_heads(const InputView& x, float* out, bool logits, int n_threads) const;
  void predict_goodness(const InputView& x, float* out, int n_threads) const;

  bool is_grouped() const {
    return ff_.goodness == formulas::Goodness::grouped_squares ||
           ff_.goodness == formulas::Goodness::grouped_mean;
  }
  bool has_labels() const { return !is_grouped() && ff_.label_position != LabelPosition::none; }
  std::size_t n_features() const override;

 protected:
  void prepare_epoch() override;
  bool build_phase(std::size_t index) override;
  void check_target(const TrainingData& data) const override;
  std::size_t scratch_bytes() const override;

 private:
  enum class Do {
    rows,  // which rows the next stages have: a sum of kTrained and kNeutral
    forward,
    finish,
    normalize,
    pack,
    pack_head,
    head,
    heads_finish,
    draw_negatives,
    update,
    head_update,
    gather_next
  };
  static constexpr std::size_t kTrained = 1, kNeutral = 2;
  static constexpr std::size_t kPackBlocks = 8;  // row blocks of a pack tile
  static constexpr std::size_t kNormRows = 8;    // rows of a tile that normalises groups
  struct Action {
    Do what;
    std::size_t layer = 0;
  };
  struct RowSets {  // in this order in every buffer of rows
    std::size_t n_positive = 0, n_negative = 0, n_neutral = 0;
    std::size_t total() const { return n_positive + n_negative + n_neutral; }
    std::size_t trained() const { return n_positive + n_negative; }
  };
  struct LayerState {
    Buffer<float> row_factor;                               // r of each row
    Buffer<float> loss_factor;                              // of h in delta
    Buffer<float> peer_mean;                                // running mean of each unit's activity
    Buffer<float> peer;                                     // what delta of a positive row gets
    Buffer<float> group_factor, group_sums, group_squares;  // [rows][n_outputs]
  };
  class Prediction;
  void predict(const InputView& x, std::size_t n_labels, bool by_groups, float* out, bool logits,
               int n_threads) const;

  bool heads_alone() const { return only_ && *only_ == n_hidden(); }
  std::size_t n_hidden() const { return n_layers() - 1; }
  std::size_t n_pixels() const;  // inputs of layer 0 that are not the label's
  bool has_head(std::size_t layer) const {
    return layer + 1 == n_hidden() || layer >= network_.first_head();
  }
  std::size_t head_of(std::size_t layer) const;
  std::size_t hidden_of(std::size_t head) const;
  bool shares_pixels(std::size_t layer) const { return layer == 0 && has_labels(); }
  std::size_t stride(std::size_t layer) const {
    return row_stride(network_.layers()[layer].n_out, element_);
  }
  std::size_t depth_rows(std::size_t layer) const {  // of the weight product
    return shares_pixels(layer) ? n_ : sets_.trained();
  }
  std::size_t head_row() const;  // the first row that the heads read
  const std::vector<product::RowBlock>& blocks(std::size_t rows) const { return blocks_.at(rows); }
  const std::vector<product::RowBlock>& forward_blocks(std::size_t layer) const {
    return blocks(shares_pixels(layer) ? n_ : sets_.total());
  }
  Tiling forward_tiling(std::size_t layer) const;
  double slope_scale(std::size_t layer) const;  // d g / d h = slope_scale * h
  double threshold(std::size_t layer) const;
  float sample_weight(std::size_t row) const;

  void build_schedule();
  void add_action(const Action& action);
  void start_rows();
  void draw();
  void draw_negatives();
  void finish(std::size_t layer);
  void update_peers(std::size_t layer);
  void finish_heads();
  void forward(std::size_t layer, std::size_t tile) const;
  void normalize(std::size_t layer, std::size_t tile) const;
  void pack(std::size_t layer, std::size_t tile) const;
  void pack_head(std::size_t layer, std::size_t tile) const;
  void head(std::size_t index, std::size_t tile) const;
  void update(std::size_t layer, std::size_t tile, const Worker& worker) const;
  void neutral_row(float* out, const float* label_rows) const;
  void head_update(std::size_t index, std::size_t tile, const Worker& worker) const;
  static const ForwardForward& self_of(const void* self) {
    return static_cast<const ForwardForward&>(*stage(self).trainer);
  }

  ForwardForwardOptions ff_;
  FfPhase phase_kind_ = FfPhase::both;
  std::optional<std::size_t> only_;
  std::vector<std::vector<Action>> schedule_;
  std::map<std::size_t, std::vector<product::RowBlock>> blocks_;  // by number of rows
  std::vector<std::vector<product::RowBlock>> input_blocks_;  // rows of W that a product updates
  RowSets sets_;
  std::vector<std::int32_t> positive_, negative_;  // labels of the batch
  std::vector<std::int32_t> labels_;               // of the trained rows
  std::vector<float> head_loss_, draws_;
  std::vector<double> goodness_;
  Buffer<float> input_squares_, input_factor_, neutral_factor_;
  Buffer<char> hidden_[2];  // [3 batch][stride] of two layers in turn
  Buffer<char> packed_[2];
  std::vector<Buffer<char>> head_packed_;  // of each hidden layer that has a head
  std::vector<Buffer<float>> logits_;
  std::vector<LayerState> layer_;
  Buffer<float> partial_squares_;  // [panels][rows]
  Buffer<float> partial_sums_;     // [row blocks][units], of positive rows
  std::size_t partial_stride_ = 0, unit_stride_ = 0;
};

}  // namespace bpfree
