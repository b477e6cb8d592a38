// SPDX-License-Identifier: BSD-3-Clause
// What every method that trains by minibatches shares: the order of the samples, the gathered batch, the optimizer's state and
// the loop over steps and phases. A method lists its phases. dense_trainer.h adds the stages of an ordinary dense network.
//
// One region runs steps until the next event (a callback due, the end of the epoch, cancellation, 100 ms). A step allocates
// nothing: everything is sized for the largest batch beforehand.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/parallel.h"
#include "network/network.h"
#include "network/optimizer.h"

namespace bpfree {

class BatchNormalization;

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
  InputView
      x_negative{};  // a second set of rows in step with x, for methods that contrast two; else without data
};

struct EpochOptions {
  std::uint64_t epoch = 0;
  bool shuffle = true;
  formulas::Schedule schedule;
};

class Trainer : private PhaseSource {
 public:
  Trainer(Network& network, const TrainerOptions& options, std::size_t n_sets = 1);
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

  // Brings to the network what was learned, where a method keeps it elsewhere: before anybody looks, and after the last run().
  virtual void settle() {}

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

  // Null, or empty: none.
  virtual BatchNormalization* batch_normalization() { return nullptr; }

  // The solver's state as plain arrays, to save and to resume: for each layer and slot that of W [n_in, n_out] and that of b
  // [n_out]; then, where feedback learns, for each hidden layer and slot that of the feedback.
  struct StateArray {
    float* packed;
    std::size_t rows;
    std::size_t columns;  // 0: a vector of `rows`
  };
  virtual std::vector<StateArray> state_arrays() const;
  static void get_state(const StateArray& array, float* out);
  static void set_state(const StateArray& array, const float* value);

  // Greedy training: hidden layer `stage` alone with its head; none: all at once. Throws Error where the method has no stages.
  virtual void set_stage(std::optional<std::size_t> stage);

  // Per hidden layer: angle in degrees to backprop's delta on these rows, and the ratio of the norms. Throws Error where the
  // method has no such delta.
  struct Alignment {
    double angle;
    double norm_ratio;
  };
  virtual std::vector<Alignment> alignment(const TrainingData& data) const;

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

  // Marks a trainer as running for as long as it lives; fails where it already is.
  class RunGuard {
   public:
    explicit RunGuard(Trainer& trainer);
    ~RunGuard() { running_.store(false); }
    RunGuard(const RunGuard&) = delete;
    RunGuard& operator=(const RunGuard&) = delete;

   private:
    std::atomic<bool>& running_;
  };

  // Called by begin_epoch when the sizes of this epoch's batches are known.
  virtual void prepare_epoch() {}
  // The plans of phase `index` of a step; phase 0 follows the gather of the batch. Returns false after the last.
  virtual bool build_phase(std::size_t index) = 0;
  virtual void before_step() {}
  // Called after a region of run(); may throw what a phase could not.
  virtual void after_run() {}
  // Begins the step of the coming run() ahead of it: its batch is gathered, n_ is set. False: the epoch is over.
  bool start_batch();
  bool has_batch() const { return n_ > 0; }
  std::span<void* const> scratch() const { return scratch_; }
  [[noreturn]] static void refuse_alignment();
  virtual void check_target(const TrainingData& data) const;
  virtual std::size_t scratch_bytes() const = 0;                          // of a thread
  virtual std::size_t n_features() const { return network_.sizes()[0]; }  // columns of x

  void add_gather_next();
  void add(std::size_t n_tiles, void (*run)(const void*, std::size_t, const Worker&),
           std::size_t layer);
  void add(const Plan& plan) {
    if (plan.n_tiles > 0) plans_.push_back(plan);
  }
  static const Stage& stage(const void* self) { return *static_cast<const Stage*>(self); }

  formulas::Step step_constants(bool is_bias, bool first_layer) const;
  // Steps n parameters at an offset of the parameter buffer whose gradient is already there.
  void update_vector(std::size_t at, const float* gradient, std::size_t n,
                     const formulas::Step& step) const;
  std::size_t n_layers() const { return network_.layers().size(); }
  void check(const TrainingData& data) const;
  Tiling tiling(std::size_t n_blocks, std::size_t n_panels, std::size_t min_blocks = 1) const;

  Network& network_;
  TrainerOptions options_;
  const product::DtypeKernels& kernels_;
  std::size_t element_;       // bytes of a compute-type element
  std::size_t padded_batch_;  // rows of every buffer: whole batch panels
  std::size_t n_ = 0;         // samples of the current batch
  double batch_weight_ = 0;   // sum of their weights
  int team_ = 1;
  std::size_t first_feature_ = 0;  // columns of x before it are not gathered
  std::size_t n_sets_ = 1;         // 2: the rows of x_negative follow those of x
  bool stop_ = false;              // the region ends with this step

  Buffer<char> x_[2];  // this batch and the next
  Buffer<float> row_loss_;
  OptimizerState state_;

  const TrainingData& data() const { return data_; }
  const EpochOptions& epoch() const { return epoch_; }
  double rate() const { return rate_; }  // of the step that runs, or ran last
  bool is_full() const { return n_ == options_.batch_size; }
  std::size_t tail_rows() const {
    return order_.size() % options_.batch_size;
  }  // of the last step, 0: it is full
  const std::uint32_t* batch_order() const {
    return order_.data() + step_in_epoch_ * options_.batch_size;
  }

 private:
  bool next(std::span<const Plan>& plans) noexcept override;
  bool flushes_denormals() const noexcept override { return true; }
  void start_step();
  void finish_step();
  std::size_t rows_of_step(std::size_t step) const;
  void gather(std::size_t tile, std::size_t step) const;

  std::vector<Stage> stages_;
  std::vector<Plan> plans_;
  std::vector<Buffer<char>> scratch_memory_;
  std::vector<void*> scratch_;

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
