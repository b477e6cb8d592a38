// SPDX-License-Identifier: BSD-3-Clause
// What every method that trains a dense network by minibatches shares: the batch, its buffers, and the plans of the stages
// (gather, forward, loss, pack, update). A method lists its phases and says where each layer's delta comes from.
//
// One region runs steps until the next event (a callback due, the end of the epoch, cancellation, 100 ms). A step allocates
// nothing: everything is sized for the largest batch beforehand.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/parallel.h"
#include "network/network.h"
#include "network/optimizer.h"
#include "product/row_blocks.h"

namespace bpfree {

struct TrainerOptions {
  OptimizerOptions optimizer;
  std::size_t batch_size = 128;
  std::uint64_t seed = 0;
  int n_threads = 0;
};

// Rows of x with their targets. labels for softmax cross-entropy, targets [n, n_outputs] otherwise; weights may be null.
struct TrainingData {
  InputView x;
  const std::int32_t* labels = nullptr;
  const float* targets = nullptr;
  const float* weights = nullptr;
};

struct EpochOptions {
  std::uint64_t epoch = 0;
  bool shuffle = true;
  formulas::Schedule schedule;
};

class Trainer : private PhaseSource {
 public:
  Trainer(Network& network, const TrainerOptions& options);
  ~Trainer() override;
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // Checks the data (labels within range, shapes) and starts an epoch in the order of permutation (seed, epoch).
  void begin_epoch(const TrainingData& data, const EpochOptions& options);
  // Runs until the next event, at most about `seconds`; returns true while the epoch has steps left.
  bool run(double seconds);
  std::size_t steps_done() const { return step_in_epoch_; }
  std::size_t steps_in_epoch() const { return n_steps_; }
  double mean_loss() const {
    return weight_sum_ > 0 ? loss_sum_ / weight_sum_ : 0;
  }  // of the epoch so far

  std::uint64_t step() const { return step_; }
  void set_step(std::uint64_t step) { step_ = step; }
  Network& network() const { return network_; }
  const TrainerOptions& options() const { return options_; }
  const OptimizerState& state() const { return state_; }

  // What carries the error to hidden layer l: nothing of its own (backprop), a matrix [n_outputs, n_l] (direct), or one in
  // the place of weights layer l + 1 (layerwise). Row-major, as it acts in the next step.
  enum class FeedbackKind { none, direct, layerwise };
  virtual FeedbackKind feedback_kind() const { return FeedbackKind::none; }
  virtual void get_feedback(std::size_t layer, float* out) const;
  virtual void set_feedback(std::size_t layer, const float* value);
  // Shape of that matrix; throws Error when there is none.
  void feedback_shape(std::size_t layer, std::size_t& rows, std::size_t& columns) const;
  // State of feedback that learns, in the feedback's packed layout (layer l's begins at the offset); else null or no slots.
  virtual const OptimizerState* feedback_state() const { return nullptr; }
  virtual std::size_t feedback_offset(std::size_t) const { return 0; }

  // The solver's state as plain arrays, to save and to resume: for each layer and slot that of W [n_in, n_out] and that of b
  // [n_out]; then, where feedback learns, for each hidden layer and slot that of the feedback.
  struct StateArray {
    float* packed;
    std::size_t rows;
    std::size_t columns;  // 0: a vector of `rows`
  };
  std::vector<StateArray> state_arrays() const;
  static void get_state(const StateArray& array, float* out);
  static void set_state(const StateArray& array, const float* value);

  // Per hidden layer: angle in degrees to backprop's delta on these rows, and the ratio of the norms.
  struct Alignment {
    double angle;
    double norm_ratio;
  };
  std::vector<Alignment> alignment(const TrainingData& data) const;

 protected:
  // A stage of one layer, as a plan's self.
  struct Stage {
    const Trainer* trainer;
    std::size_t layer;
  };
  struct Tiling {  // how a layer's blocks are grouped into tiles
    std::size_t n_groups = 1;
    std::size_t blocks_per_group = 1;
  };

  // The plans of phase `index` of a step; phase 0 follows the gather of the batch. Returns false after the last.
  virtual bool build_phase(std::size_t index) = 0;
  // Writes delta of weights layer l, columns of a panel, as the update's vector operand, with its column sums.
  virtual void make_delta(std::size_t layer, std::size_t panel, void* delta,
                          float* column_sums) const = 0;
  virtual void before_step() {}
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
  // What the rule projects to the hidden layers, given e; both [n, n_outputs] row-major.
  virtual void plain_signal(std::vector<float>& signal, const TrainingData& data) const;
  static void to_signs(std::vector<float>& signal,
                       const TrainingData& data);  // times the sample weights

  void add_forward(std::size_t layer);
  void add_pack(std::size_t layer);  // the update's operand: the inputs of `layer`
  void add_update(std::size_t layer);
  void add_gather_next();
  void add(std::size_t n_tiles, void (*run)(const void*, std::size_t, const Worker&),
           std::size_t layer);
  static const Stage& stage(const void* self) { return *static_cast<const Stage*>(self); }

  product::ProjectArgs project_args(std::size_t layer, std::size_t panel, void* delta,
                                    float* column_sums) const;
  formulas::Step step_constants(bool is_bias, bool first_layer) const;
  std::size_t n_layers() const { return network_.layers().size(); }
  std::size_t error_panel_stride() const { return padded_batch_ * product::kPanel; }
  const void* hidden(std::size_t layer) const {
    return hidden_[layer].data();
  }  // output of weights layer `layer`
  std::size_t hidden_stride(std::size_t layer) const {
    return row_stride(network_.layers()[layer].n_out, element_);
  }
  Tiling tiling(std::size_t n_blocks, std::size_t n_panels, std::size_t min_blocks = 1) const;

  Network& network_;
  TrainerOptions options_;
  const product::DtypeKernels& kernels_;
  std::size_t element_;       // bytes of a compute-type element
  std::size_t padded_batch_;  // rows of every buffer: whole batch panels
  std::size_t n_ = 0;         // samples of the current batch
  double batch_weight_ = 0;   // sum of their weights
  int team_ = 1;

  Buffer<char> x_[2];                         // this batch and the next
  std::vector<Buffer<char>> hidden_;          // h of each hidden layer, row-major
  std::vector<Buffer<float>> preactivation_;  // only where the derivative needs it
  Buffer<float> error_;                       // logits, then e: panels [n_outputs / 32][batch][32]
  Buffer<float> error_t_;                     // e^T: [batch / 32][n_outputs][32]
  Buffer<std::uint32_t> error_pairs_t_;
  std::vector<Buffer<char>> packed_;  // the update's broadcast operand per layer
  Buffer<float> row_loss_;
  OptimizerState state_;

  const std::vector<product::RowBlock>& input_blocks(std::size_t layer) const {
    return input_blocks_[layer];
  }
  const std::vector<product::RowBlock>& batch_blocks() const {
    return is_full() ? full_blocks_ : tail_blocks_;
  }
  const std::vector<product::RowBlock>& batch_blocks_f32() const {
    return is_full() ? full_blocks_f32_ : tail_blocks_f32_;
  }
  const TrainingData& data() const { return data_; }
  const std::uint32_t* batch_order() const {
    return order_.data() + step_in_epoch_ * options_.batch_size;
  }

 private:
  bool next(std::span<const Plan>& plans) noexcept override;
  bool flushes_denormals() const noexcept override { return true; }
  void start_step();
  void finish_step();
  bool is_full() const { return n_ == options_.batch_size; }
  std::size_t rows_of_step(std::size_t step) const;
  void gather(std::size_t tile, std::size_t step) const;
  void forward(std::size_t layer, std::size_t tile) const;
  void pack(std::size_t layer, std::size_t tile) const;
  void update(std::size_t layer, std::size_t tile, const Worker& worker) const;
  void finish_rows(std::size_t first_block, std::size_t n_blocks) const;
  void check(const TrainingData& data) const;
  void prepare_tail();

  std::vector<product::RowBlock> full_blocks_, tail_blocks_, full_blocks_f32_, tail_blocks_f32_;
  std::vector<std::vector<product::RowBlock>> input_blocks_;  // rows of W of each layer
  std::vector<Stage> stages_;
  std::vector<Plan> plans_;
  std::vector<Buffer<char>> scratch_memory_;
  std::vector<void*> scratch_;
  std::unique_ptr<std::atomic<std::uint32_t>[]> panels_left_;  // of the output layer, per row group

  TrainingData data_;
  EpochOptions epoch_;
  std::vector<std::uint32_t> order_;
  std::size_t n_steps_ = 0;
  std::size_t step_in_epoch_ = 0;
  std::size_t phase_ = 0;
  bool gathered_ = false;
  std::uint64_t step_ = 0;
  double rate_ = 0;
  double loss_sum_ = 0;
  double weight_sum_ = 0;
  std::chrono::steady_clock::time_point deadline_;
  std::atomic<bool> running_{false};
};

}  // namespace bpfree
