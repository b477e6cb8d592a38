// SPDX-License-Identifier: BSD-3-Clause
#include "methods/trainer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "base/error.h"
#include "random/random.h"

namespace bpfree {

using product::kPanel;

namespace {

constexpr std::size_t kGatherRows = 16;  // rows of a gather tile
constexpr std::size_t kPackBlocks =
    8;  // row blocks of a pack tile: neighbours share cache lines of the rows they read
constexpr std::size_t kTilesPerThread = 4;
constexpr std::size_t kOperandBytes =
    std::size_t{1} << 20;  // of the broadcast operand that a tile walks: stays in L2

// At least `low`, below `high` where there is one, and finite.
void check_range(const char* name, double value, double low,
                 double high = std::numeric_limits<double>::infinity()) {
  if (value >= low && value < high) return;
  std::string text = std::string(name) + " is " + std::to_string(value) +
                     ", expected a finite number of at least " + std::to_string(low);
  if (std::isfinite(high)) text += " and below " + std::to_string(high);
  fail(text);
}

TrainerOptions checked(const TrainerOptions& options) {
  const OptimizerOptions& o = options.optimizer;
  check_range("momentum", static_cast<double>(o.momentum), 0, 1);
  check_range("beta_1", static_cast<double>(o.beta_1), 0, 1);
  check_range("beta_2", static_cast<double>(o.beta_2), 0, 1);
  check_range("epsilon", static_cast<double>(o.epsilon), 0);
  check_range("alpha", static_cast<double>(o.alpha), 0);
  check_range("weight_decay", static_cast<double>(o.weight_decay), 0);
  if (options.batch_size == 0) fail("batch_size is 0, expected at least 1");
  if (options.n_threads < 0)
    fail("n_threads is " + std::to_string(options.n_threads) + ", expected at least 0");
  return options;
}

// Marks the trainer as running for as long as it lives.
class RunGuard {
 public:
  explicit RunGuard(std::atomic<bool>& running) : running_(running) {
    if (running_.exchange(true))
      throw Error(ErrorCode::kUnsupported, "this trainer is already running");
  }
  ~RunGuard() { running_.store(false); }
  RunGuard(const RunGuard&) = delete;
  RunGuard& operator=(const RunGuard&) = delete;

 private:
  std::atomic<bool>& running_;
};

}  // namespace

Trainer::Trainer(Network& network, const TrainerOptions& options)
    : network_(network),
      options_(checked(options)),
      kernels_(network.kernels()),
      element_(network.compute() == Compute::bfloat16 ? 2 : 4),
      padded_batch_(round_up(options.batch_size, kPanel)),
      state_(options.optimizer.solver, network.parameter_buffer_size()) {
  const std::size_t n = network.layers().size();
  for (Buffer<char>& x : x_)
    x = Buffer<char>(
        checked_product(padded_batch_, row_stride(network.sizes()[0], element_), element_));
  std::size_t flops = 0;
  for (std::size_t l = 0; l < n; ++l) {
    const Layer& layer = network.layers()[l];
    packed_.emplace_back(checked_product(padded_batch_, layer.n_in, element_));
    input_blocks_.push_back(product::row_blocks(layer.n_in, kernels_.tile_rows));
    flops += layer.n_in * layer.n_out;
    if (l + 1 == n) break;
    hidden_.emplace_back(checked_product(padded_batch_, hidden_stride(l), element_));
    preactivation_.emplace_back(formulas::derivative_from_preactivation(network.activation())
                                    ? checked_product(padded_batch_, layer.n_panels * kPanel)
                                    : 0);
  }
  error_ = Buffer<float>(checked_product(padded_batch_, network.layers().back().n_panels * kPanel));
  row_loss_ = Buffer<float>(padded_batch_);
  full_blocks_ = product::row_blocks(options.batch_size, kernels_.tile_rows);
  full_blocks_f32_ = product::row_blocks(options.batch_size, product::kernels().f32.tile_rows);
  // A step is some four phases; each must be worth its threads.
  team_ = threads_for(options.n_threads,
                      static_cast<double>(flops) * static_cast<double>(options.batch_size));
  for (std::size_t l = 0; l < n; ++l) stages_.push_back({this, l});
  plans_.reserve(4 * n + 8);
  panels_left_ = std::make_unique<std::atomic<std::uint32_t>[]>(full_blocks_.size() + 1);
}

Trainer::~Trainer() = default;

void Trainer::get_feedback(std::size_t, float*) const {
  fail("this method has no feedback matrices");
}
void Trainer::set_feedback(std::size_t, const float*) {
  fail("this method has no feedback that can be set");
}
void Trainer::plain_signal(std::vector<float>&, const TrainingData&) const {}

void Trainer::to_signs(std::vector<float>& signal, const TrainingData& data) {
  for (std::size_t i = 0; i < signal.size(); ++i) {
    const float weight =
        data.weights != nullptr ? data.weights[i * data.x.rows / signal.size()] : 1.0f;
    signal[i] = signal[i] > 0 ? weight : signal[i] < 0 ? -weight : 0.0f;
  }
}

void Trainer::feedback_shape(std::size_t layer, std::size_t& rows, std::size_t& columns) const {
  if (feedback_kind() == FeedbackKind::none) fail("this method has no feedback matrices");
  if (layer + 1 >= n_layers())
    fail("feedback layer " + std::to_string(layer) + " was asked for, the network has " +
         std::to_string(n_layers() - 1) + " hidden layers");
  const bool direct = feedback_kind() == FeedbackKind::direct;
  rows = direct ? network_.n_outputs() : network_.sizes()[layer + 1];
  columns = direct ? network_.sizes()[layer + 1] : network_.sizes()[layer + 2];
}

std::vector<Trainer::StateArray> Trainer::state_arrays() const {
  std::vector<StateArray> arrays;
  for (const Layer& layer : network_.layers())
    for (int i = 0; i < state_.n_slots(); ++i) {
      arrays.push_back({state_.slot(i) + layer.weights, layer.n_in, layer.n_out});
      arrays.push_back({state_.slot(i) + layer.biases, layer.n_out, 0});
    }
  const OptimizerState* learned = feedback_state();
  for (std::size_t l = 0; learned != nullptr && l + 1 < n_layers(); ++l)
    for (int i = 0; i < learned->n_slots(); ++i) {
      StateArray array{learned->slot(i) + feedback_offset(l), 0, 0};
      feedback_shape(l, array.rows, array.columns);
      arrays.push_back(array);
    }
  return arrays;
}

void Trainer::get_state(const StateArray& array, float* out) {
  if (array.columns == 0)
    std::copy_n(array.packed, array.rows, out);
  else
    unpack_panels(out, array.packed, array.rows, array.columns);
}

void Trainer::set_state(const StateArray& array, const float* value) {
  if (array.columns == 0)
    std::copy_n(value, array.rows, array.packed);
  else
    pack_panels(array.packed, value, array.rows, array.columns);
}

void Trainer::check(const TrainingData& data) const {
  const InputView& x = data.x;
  if (x.columns != network_.sizes()[0])
    fail("x has " + std::to_string(x.columns) + " columns, the network was made for " +
         std::to_string(network_.sizes()[0]));
  if (x.rows == 0) fail("x has 0 rows, expected at least 1");
  if (x.rows > std::numeric_limits<std::uint32_t>::max())
    fail("x has " + std::to_string(x.rows) + " rows, expected fewer than 2^32");
  check_range("input_scale", static_cast<double>(x.scale), 0);
  for (std::size_t i = 0; data.weights != nullptr && i < x.rows; ++i)
    if (!(data.weights[i] >= 0) || !std::isfinite(data.weights[i]))
      fail("sample_weight[" + std::to_string(i) + "] is " + std::to_string(data.weights[i]) +
           ", expected a finite number of at least 0");
  const bool needs_labels = network_.loss() == formulas::Loss::softmax_cross_entropy;
  if (needs_labels && data.labels == nullptr)
    fail("softmax cross-entropy needs class indices as y");
  if (!needs_labels && data.targets == nullptr)
    fail("this loss needs targets of shape [n, n_outputs] as y");
  if (!needs_labels) return;
  for (std::size_t i = 0; i < x.rows; ++i)
    if (data.labels[i] < 0 || static_cast<std::size_t>(data.labels[i]) >= network_.n_outputs())
      fail("y[" + std::to_string(i) + "] is " + std::to_string(data.labels[i]) +
           ", expected a class index in [0, " + std::to_string(network_.n_outputs()) + ")");
}

void Trainer::begin_epoch(const TrainingData& data, const EpochOptions& options) {
  check(data);
  const formulas::Schedule& schedule = options.schedule;
  check_range("learning_rate", schedule.learning_rate, 0);
  check_range("gamma", schedule.gamma, 0);
  check_range("power_t", schedule.power_t, 0);
  if (schedule.kind == formulas::ScheduleKind::cosine && schedule.total_steps == 0)
    fail("total_steps is 0, the cosine schedule expects the number of steps of the whole training");
  if (schedule.kind == formulas::ScheduleKind::step && schedule.step_size == 0)
    fail("step_size is 0, the step schedule expects at least 1 epoch between two cuts");
  const RunGuard guard(running_);
  data_ = data;
  epoch_ = options;
  order_.resize(data.x.rows);
  if (options.shuffle)
    random::permutation(order_.data(), order_.size(), options_.seed, options.epoch);
  else
    std::iota(order_.begin(), order_.end(), 0u);
  n_steps_ = divide_up(order_.size(), options_.batch_size);
  const std::size_t tail = order_.size() % options_.batch_size;
  tail_blocks_ = product::row_blocks(tail, kernels_.tile_rows);
  tail_blocks_f32_ = product::row_blocks(tail, product::kernels().f32.tile_rows);
  step_in_epoch_ = 0;
  loss_sum_ = weight_sum_ = 0;
  phase_ = 0;
  n_ = 0;
  gathered_ = false;
  if (static_cast<int>(scratch_.size()) == team_) return;
  const std::size_t delta = (padded_batch_ + 2) * kPanel * sizeof(float);
  scratch_memory_.clear();
  scratch_.clear();
  for (int t = 0; t < team_; ++t) {
    scratch_memory_.emplace_back(delta + extra_scratch_bytes());
    scratch_.push_back(scratch_memory_.back().data());
  }
}

bool Trainer::run(double seconds) {
  const RunGuard guard(running_);
  if (step_in_epoch_ == n_steps_) return false;
  deadline_ = std::chrono::steady_clock::now() +
              std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                  std::chrono::duration<double>(seconds));
  run_phases(team_, *this, scratch_);
  return step_in_epoch_ < n_steps_;
}

std::size_t Trainer::rows_of_step(std::size_t step) const {
  return std::min(options_.batch_size, order_.size() - step * options_.batch_size);
}

bool Trainer::next(std::span<const Plan>& plans) noexcept {
  plans_.clear();
  if (n_ == 0) {
    start_step();
    if (!gathered_)
      add(
          divide_up(n_, kGatherRows),
          [](const void* self, std::size_t tile, const Worker&) {
            stage(self).trainer->gather(tile, stage(self).trainer->step_in_epoch_);
          },
          0);
  }
  if (plans_.empty() && !build_phase(phase_++)) {
    finish_step();
    if (step_in_epoch_ == n_steps_ || std::chrono::steady_clock::now() >= deadline_) return false;
  }
  plans = plans_;
  return true;
}

void Trainer::start_step() {
  n_ = rows_of_step(step_in_epoch_);
  phase_ = 0;
  batch_weight_ = static_cast<double>(n_);
  if (data_.weights != nullptr) {
    batch_weight_ = 0;
    for (std::size_t i = 0; i < n_; ++i)
      batch_weight_ += static_cast<double>(data_.weights[batch_order()[i]]);
  }
  rate_ = formulas::learning_rate(epoch_.schedule, step_, epoch_.epoch);
  before_step();
}

void Trainer::finish_step() {
  for (std::size_t i = 0; i < n_; ++i) loss_sum_ += static_cast<double>(row_loss_[i]);
  weight_sum_ += batch_weight_;
  ++step_;
  ++step_in_epoch_;
  std::swap(x_[0], x_[1]);
  gathered_ = step_in_epoch_ < n_steps_;  // add_gather_next() is part of every method's last phase
  n_ = 0;
}

void Trainer::add(std::size_t n_tiles, void (*run)(const void*, std::size_t, const Worker&),
                  std::size_t layer) {
  if (n_tiles > 0) plans_.push_back({n_tiles, run, &stages_[layer]});
}

Trainer::Tiling Trainer::tiling(std::size_t n_blocks, std::size_t n_panels,
                                std::size_t max_blocks) const {
  const std::size_t wanted = divide_up(kTilesPerThread * static_cast<std::size_t>(team_), n_panels);
  const std::size_t groups = std::clamp(
      std::max(team_ == 1 ? 1 : wanted, divide_up(n_blocks, max_blocks)), std::size_t{1}, n_blocks);
  const std::size_t per_group = divide_up(n_blocks, groups);
  return {divide_up(n_blocks, per_group), per_group};
}

void Trainer::add_gather_next() {
  if (step_in_epoch_ + 1 == n_steps_) return;
  add(
      divide_up(rows_of_step(step_in_epoch_ + 1), kGatherRows),
      [](const void* self, std::size_t tile, const Worker&) {
        stage(self).trainer->gather(tile, stage(self).trainer->step_in_epoch_ + 1);
      },
      0);
}

void Trainer::gather(std::size_t tile, std::size_t step) const {
  const InputView& x = data_.x;
  const std::size_t rows = rows_of_step(step);
  const product::GatherArgs args{.dst = x_[step == step_in_epoch_ ? 0 : 1].data(),
                                 .dst_stride = row_stride(x.columns, element_),
                                 .src = x.data,
                                 .src_stride = x.row_stride,
                                 .order = order_.data() + step * options_.batch_size,
                                 .first_row = 0,
                                 .n_features = x.columns};
  const std::size_t begin = tile * kGatherRows;
  const std::size_t end = std::min(begin + kGatherRows, rows);
  (x.type == InputType::u8    ? kernels_.gather_u8
   : x.type == InputType::f32 ? kernels_.gather_f32
                              : kernels_.gather_f64)(args, begin, end);
}

void Trainer::add_forward(std::size_t layer) {
  const Layer& y = network_.layers()[layer];
  const std::size_t row_bytes = row_stride(y.n_in, element_) * element_ * kernels_.tile_rows;
  const Tiling t = tiling(batch_blocks().size(), y.n_panels,
                          std::max<std::size_t>(kOperandBytes / row_bytes, 1));
  if (layer + 1 == n_layers())
    for (std::size_t g = 0; g < t.n_groups; ++g)
      panels_left_[g].store(static_cast<std::uint32_t>(y.n_panels), std::memory_order_relaxed);
  add(
      t.n_groups * y.n_panels,
      [](const void* self, std::size_t tile, const Worker&) {
        stage(self).trainer->forward(stage(self).layer, tile);
      },
      layer);
}

void Trainer::forward(std::size_t layer, std::size_t tile) const {
  const Layer& y = network_.layers()[layer];
  const bool last = layer + 1 == n_layers();
  const std::size_t in_stride = row_stride(y.n_in, element_);
  const std::size_t row_bytes = in_stride * element_ * kernels_.tile_rows;
  const std::vector<product::RowBlock>& blocks = batch_blocks();
  const Tiling t =
      tiling(blocks.size(), y.n_panels, std::max<std::size_t>(kOperandBytes / row_bytes, 1));
  const std::size_t panel = tile % y.n_panels;  // panels pass, a group of rows stays
  const std::size_t group = tile / y.n_panels;
  const std::size_t first = group * t.blocks_per_group;
  const std::size_t n_blocks = std::min(t.blocks_per_group, blocks.size() - first);
  const std::size_t depth = divide_up(y.n_in, kernels_.depth_per_word);
  const bool keep_a = !last && preactivation_[layer].size() > 0;
  const std::size_t next =
      panel + static_cast<std::size_t>(team_);  // the one this thread is likely to take next
  product::ForwardArgs args{
      .x = {layer == 0 ? x_[0].data() : hidden_[layer - 1].data(),
            in_stride / kernels_.depth_per_word, depth, 0},
      .panel = network_.forward_panel(layer, panel),
      .next_panel = next < y.n_panels ? network_.forward_panel(layer, next) : nullptr,
      .depth = depth,
      .blocks = blocks.data() + first,
      .n_blocks = n_blocks,
      .n_columns = std::min(kPanel, y.n_out - panel * kPanel),
      .bias = network_.parameters() + y.biases + panel * kPanel,
      .scale = layer == 0 ? data_.x.scale : 1.0f,
      .activation = last ? formulas::Activation::identity : network_.activation(),
      .h = last ? static_cast<void*>(error_.data() + panel * error_panel_stride())
                : hidden_[layer].data() + panel * kPanel * element_,
      .h_stride = last ? kPanel : hidden_stride(layer),
      .preactivation = keep_a ? preactivation_[layer].data() + panel * kPanel : nullptr,
      .preactivation_stride = y.n_panels * kPanel};
  (last ? kernels_.forward_f32 : kernels_.forward)(args);
  // The thread that finishes a row group's last panel turns its logits into e.
  if (last && panels_left_[group].fetch_sub(1, std::memory_order_acq_rel) == 1)
    finish_rows(first, n_blocks);
}

void Trainer::finish_rows(std::size_t first_block, std::size_t n_blocks) const {
  const std::vector<product::RowBlock>& blocks = batch_blocks();
  const product::RowBlock end = blocks[first_block + n_blocks - 1];
  product::kernels().loss({.loss = network_.loss(),
                           .logits = error_.data(),
                           .panel_stride = error_panel_stride(),
                           .n_outputs = network_.n_outputs(),
                           .labels = data_.labels,
                           .targets = data_.targets,
                           .weights = data_.weights,
                           .order = batch_order(),
                           .row_begin = blocks[first_block].row,
                           .row_end = std::size_t{end.row} + end.height,
                           .row_loss = row_loss_.data(),
                           .error_t = error_t_.data(),
                           .error_t_stride = round_up(network_.n_outputs(), 2) * kPanel,
                           .error_pairs_t = error_pairs_t_.data(),
                           .sign_of_error_t = projects_sign(),
                           .signal = signal()});
}

void Trainer::add_pack(std::size_t layer) {
  add(
      divide_up(input_blocks_[layer].size(), kPackBlocks),
      [](const void* self, std::size_t tile, const Worker&) {
        stage(self).trainer->pack(stage(self).layer, tile);
      },
      layer);
}

void Trainer::pack(std::size_t layer, std::size_t tile) const {
  const std::vector<product::RowBlock>& blocks = input_blocks_[layer];
  const std::size_t first = tile * kPackBlocks;
  kernels_.pack_columns({.dst = packed_[layer].data(),
                         .src = layer == 0 ? x_[0].data() : hidden_[layer - 1].data(),
                         .src_stride = row_stride(network_.layers()[layer].n_in, element_),
                         .depth = n_,
                         .blocks = blocks.data() + first,
                         .n_blocks = std::min(kPackBlocks, blocks.size() - first)});
}

void Trainer::add_update(std::size_t layer) {
  const Tiling t = tiling(input_blocks_[layer].size(), network_.layers()[layer].n_panels,
                          std::numeric_limits<std::size_t>::max());
  add(
      t.n_groups * network_.layers()[layer].n_panels,
      [](const void* self, std::size_t tile, const Worker& worker) {
        stage(self).trainer->update(stage(self).layer, tile, worker);
      },
      layer);
}

formulas::Step Trainer::step_constants(bool is_bias, bool first_layer) const {
  formulas::Step step =
      bpfree::step_constants(options_.optimizer, rate_, step_ + 1, batch_weight_, is_bias);
  if (first_layer && !is_bias) step.gradient_scale *= data_.x.scale;
  return step;
}

void Trainer::update(std::size_t layer, std::size_t tile, const Worker& worker) const {
  const Layer& y = network_.layers()[layer];
  const std::vector<product::RowBlock>& blocks = input_blocks_[layer];
  const Tiling t = tiling(blocks.size(), y.n_panels, std::numeric_limits<std::size_t>::max());
  const std::size_t panel = tile % y.n_panels;
  const std::size_t group = tile / y.n_panels;
  const std::size_t first = group * t.blocks_per_group;
  float* column_sums = static_cast<float*>(worker.scratch);
  void* delta = column_sums + kPanel;
  make_delta(layer, panel, delta, column_sums);
  product::UpdateArgs args{.x_packed = packed_[layer].data(),
                           .delta = delta,
                           .depth = divide_up(n_, kernels_.depth_per_word),
                           .blocks = blocks.data() + first,
                           .n_blocks = std::min(t.blocks_per_group, blocks.size() - first),
                           .n_columns = std::min(kPanel, y.n_out - panel * kPanel),
                           .parameters = {network_.panel_parameters(layer, panel), {}},
                           .n_parameters = 1,
                           .step = step_constants(false, layer == 0)};
  state_.attach(args.parameters[0], y.weights + panel * y.panel_size());
  add_update_targets(layer, panel, args);
  kernels_.update(args);
  if (group != 0) return;
  const std::size_t at = y.biases + panel * kPanel;
  product::Parameters biases{.value = network_.parameters() + at};
  state_.attach(biases, at);
  product::kernels().vector_update({.parameters = biases,
                                    .gradient = column_sums,
                                    .n = kPanel,
                                    .step = step_constants(true, layer == 0)});
}

product::ProjectArgs Trainer::project_args(std::size_t layer, std::size_t panel, void* delta,
                                           float* column_sums) const {
  const Layer& y = network_.layers()[layer];
  const std::vector<product::RowBlock>& blocks = batch_blocks_f32();
  product::ProjectArgs args{.signal = {error_.data(), kPanel, kPanel, error_panel_stride()},
                            .feedback = nullptr,
                            .depth = network_.n_outputs(),
                            .blocks = blocks.data(),
                            .n_blocks = blocks.size(),
                            .n_columns = std::min(kPanel, y.n_out - panel * kPanel),
                            .activation = formulas::Activation::identity,
                            .h = nullptr,
                            .h_stride = 0,
                            .preactivation = nullptr,
                            .preactivation_stride = 0,
                            .delta = delta,
                            .column_sums = column_sums};
  if (layer + 1 == n_layers()) {
    args.signal.data = error_.data() + panel * error_panel_stride();
    return args;
  }
  args.activation = network_.activation();
  args.h = hidden_[layer].data() + panel * kPanel * element_;
  args.h_stride = hidden_stride(layer);
  if (preactivation_[layer].size() > 0)
    args.preactivation = preactivation_[layer].data() + panel * kPanel;
  args.preactivation_stride = y.n_panels * kPanel;
  return args;
}

}  // namespace bpfree
