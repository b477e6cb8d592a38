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
constexpr std::size_t kTilesPerThread = 4;

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

}  // namespace

Trainer::Trainer(Network& network, const TrainerOptions& options, std::size_t n_sets)
    : network_(network),
      options_(checked(options)),
      kernels_(network.kernels()),
      element_(network.compute() == Compute::bfloat16 ? 2 : 4),
      padded_batch_(round_up(options.batch_size, kPanel)),
      n_sets_(n_sets),
      state_(options.optimizer.solver, network.parameter_buffer_size()) {
  for (Buffer<char>& x : x_)
    x = Buffer<char>(checked_product(n_sets * padded_batch_,
                                     row_stride(network.sizes()[0], element_), element_));
  row_loss_ = Buffer<float>(padded_batch_);
  // A step is some four phases; each must be worth its threads.
  team_ = threads_for(options.n_threads, static_cast<double>(network.n_params()) *
                                             static_cast<double>(options.batch_size));
  const std::size_t n = 2 * network.layers().size();  // a head each, at most
  for (std::size_t l = 0; l < n; ++l) stages_.push_back({this, l});
  plans_.reserve(2 * n + 8);
}

Trainer::~Trainer() = default;

Trainer::RunGuard::RunGuard(Trainer& trainer) : running_(trainer.running_) {
  if (running_.exchange(true))
    throw Error(ErrorCode::kUnsupported, "this trainer is already running");
}

void Trainer::get_feedback(std::size_t, float*) const {
  fail("this method has no feedback matrices");
}
void Trainer::set_feedback(std::size_t, const float*) {
  fail("this method has no feedback that can be set");
}
void Trainer::set_stage(std::optional<std::size_t>) {
  fail("this method trains all layers at once: it has no stages");
}
void Trainer::refuse_alignment() {
  fail("this method has no alignment with backprop: its layers do not see the output's error");
}
std::vector<Trainer::Alignment> Trainer::alignment(const TrainingData&) const {
  refuse_alignment();
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
  for (std::size_t l = 0; l < n_layers() + network_.heads().size(); ++l) {
    const Layer& layer = network_.layer(l);
    for (int i = 0; i < state_.n_slots(); ++i) {
      arrays.push_back({state_.slot(i) + layer.weights, layer.n_in, layer.n_out});
      arrays.push_back({state_.slot(i) + layer.biases, layer.n_out, 0});
    }
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
  if (x.columns != n_features())
    fail("x has " + std::to_string(x.columns) + " columns, the network was made for " +
         std::to_string(n_features()));
  if (x.rows == 0) fail("x has 0 rows, expected at least 1");
  if (x.rows > std::numeric_limits<std::uint32_t>::max())
    fail("x has " + std::to_string(x.rows) + " rows, expected fewer than 2^32");
  check_range("input_scale", static_cast<double>(x.scale), 0);
  for (std::size_t i = 0; data.weights != nullptr && i < x.rows; ++i)
    if (!(data.weights[i] >= 0) || !std::isfinite(data.weights[i]))
      fail("sample_weight[" + std::to_string(i) + "] is " + std::to_string(data.weights[i]) +
           ", expected a finite number of at least 0");
  check_target(data);
}

void Trainer::check_target(const TrainingData& data) const {
  const bool needs_labels = network_.loss() == formulas::Loss::softmax_cross_entropy;
  if (needs_labels && data.labels == nullptr)
    fail("softmax cross-entropy needs class indices as y");
  if (!needs_labels && data.targets == nullptr)
    fail("this loss needs targets of shape [n, n_outputs] as y");
  if (!needs_labels) return;
  for (std::size_t i = 0; i < data.x.rows; ++i)
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
  const RunGuard guard(*this);
  data_ = data;
  epoch_ = options;
  order_.resize(data.x.rows);
  if (options.shuffle)
    random::permutation(order_.data(), order_.size(), options_.seed, options.epoch);
  else
    std::iota(order_.begin(), order_.end(), 0u);
  n_steps_ = divide_up(order_.size(), options_.batch_size);
  step_in_epoch_ = 0;
  loss_sum_ = weight_sum_ = 0;
  phase_ = 0;
  n_ = 0;
  gathered_ = false;
  prepare_epoch();
  if (static_cast<int>(scratch_.size()) == team_) return;
  scratch_memory_.clear();
  scratch_.clear();
  for (int t = 0; t < team_; ++t) {
    scratch_memory_.emplace_back(scratch_bytes());
    scratch_.push_back(scratch_memory_.back().data());
  }
}

bool Trainer::run(double seconds) {
  const RunGuard guard(*this);
  if (step_in_epoch_ == n_steps_) return false;
  stop_ = false;
  deadline_ = std::chrono::steady_clock::now() +
              std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                  std::chrono::duration<double>(seconds));
  run_phases(team_, *this, scratch_);
  after_run();
  return step_in_epoch_ < n_steps_;
}

bool Trainer::start_batch() {
  if (n_ > 0) return true;
  if (step_in_epoch_ == n_steps_) return false;
  start_step();
  if (!gathered_)
    parallel_for(n_sets_ * divide_up(n_, kGatherRows), team_,
                 [&](std::size_t tile, const Worker&) { gather(tile, step_in_epoch_); });
  return gathered_ = true;
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
          n_sets_ * divide_up(n_, kGatherRows),
          [](const void* self, std::size_t tile, const Worker&) {
            stage(self).trainer->gather(tile, stage(self).trainer->step_in_epoch_);
          },
          0);
  }
  if (plans_.empty() && !build_phase(phase_++)) {
    finish_step();
    if (step_in_epoch_ == n_steps_ || stop_ || std::chrono::steady_clock::now() >= deadline_)
      return false;
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
  network_.count_change();
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
  if (n_blocks == 0) return {0, 1};
  const std::size_t groups = std::clamp(
      std::max(team_ == 1 ? 1 : wanted, divide_up(n_blocks, max_blocks)), std::size_t{1}, n_blocks);
  const std::size_t per_group = divide_up(n_blocks, groups);
  return {divide_up(n_blocks, per_group), per_group};
}

void Trainer::add_gather_next() {
  if (step_in_epoch_ + 1 == n_steps_) return;
  add(
      n_sets_ * divide_up(rows_of_step(step_in_epoch_ + 1), kGatherRows),
      [](const void* self, std::size_t tile, const Worker&) {
        stage(self).trainer->gather(tile, stage(self).trainer->step_in_epoch_ + 1);
      },
      0);
}

void Trainer::gather(std::size_t tile, std::size_t step) const {
  const std::size_t rows = rows_of_step(step);
  const std::size_t set = tile / divide_up(rows, kGatherRows);
  const InputView& x = set == 0 ? data_.x : data_.x_negative;
  const std::size_t size = x.type == InputType::u8 ? 1 : x.type == InputType::f32 ? 4 : 8;
  const std::size_t n = x.columns - first_feature_;
  const std::size_t stride = row_stride(n, element_);
  const product::GatherArgs args{
      .dst = x_[step == step_in_epoch_ ? 0 : 1].data() + set * rows * stride * element_,
      .dst_stride = stride,
      .src = static_cast<const char*>(x.data) + first_feature_ * size,
      .src_stride = x.row_stride,
      .order = order_.data() + step * options_.batch_size,
      .first_row = 0,
      .n_features = n};
  const std::size_t begin = tile % divide_up(rows, kGatherRows) * kGatherRows;
  const std::size_t end = std::min(begin + kGatherRows, rows);
  (x.type == InputType::u8    ? kernels_.gather_u8
   : x.type == InputType::f32 ? kernels_.gather_f32
                              : kernels_.gather_f64)(args, begin, end);
}

formulas::Step Trainer::step_constants(bool is_bias, bool first_layer) const {
  formulas::Step step =
      bpfree::step_constants(options_.optimizer, rate_, step_ + 1, batch_weight_, is_bias);
  if (first_layer && !is_bias) step.gradient_scale *= data_.x.scale;
  return step;
}

void Trainer::update_vector(std::size_t at, const float* gradient, std::size_t n,
                            const formulas::Step& step) const {
  product::Parameters parameters{.value = network_.parameters() + at};
  state_.attach(parameters, at);
  product::kernels().vector_update(
      {.parameters = parameters, .gradient = gradient, .n = n, .step = step});
}

}  // namespace bpfree
