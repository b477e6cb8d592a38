// SPDX-License-Identifier: BSD-3-Clause
// The second half of an evolution strategy's generation: from fitness to the optimizer's step. A tile of the gradient is summed
// over the members in a thread's memory and stepped on there.
#include <algorithm>
#include <cmath>
#include <limits>

#include "methods/evolution.h"

namespace bpfree {

using product::kPanel;
using random::Purpose;

namespace {

constexpr std::size_t kFullRows = 64;      // of W in a tile of full noise: 8 KB
constexpr std::size_t kLowRankRows = 224;  // of W in a tile of low rank, all columns
constexpr std::size_t kFactorRows = 64;    // left and right factors that a tile draws at a time
constexpr double kProbeRate = 1024;        // of the probe's step: its gradient is not lost in theta

}  // namespace

void Evolution::plan_update() {
  std::size_t widest = 0;
  for (std::size_t l = 0; l < n_layers(); ++l) {
    const Layer& y = network_.layers()[l];
    widest = std::max(widest, y.n_panels);
    const std::size_t rows = low_rank() ? kLowRankRows : kFullRows;
    for (std::size_t p = 0; p < (low_rank() ? 1 : y.n_panels); ++p)
      for (std::size_t row = 0; row < y.n_in; row += rows)
        update_tiles_.push_back({l, p, row, std::min(rows, y.n_in - row)});
    update_tiles_.push_back({l, 0, 0, 0});
    if (low_rank())
      for (const std::size_t n : {std::min(kLowRankRows, y.n_in), y.n_in % kLowRankRows})
        add_blocks(n);
  }
  tile_sums_ = Buffer<TileSums>(update_tiles_.size());
  const std::size_t depth = std::max(kFactorRows, es_.rank);
  gradient_floats_ = std::max((low_rank() ? kLowRankRows : kFullRows), std::size_t{1}) * kPanel;
  if (low_rank()) gradient_floats_ = checked_product(gradient_floats_, widest);
  gradient_floats_ = std::max(gradient_floats_, widest * kPanel);
  const std::size_t factors = low_rank() ? depth * (2 * kLowRankRows + (widest + 1) * kPanel) : 0;
  scratch_size_ = std::max(scratch_size_, checked_product(gradient_floats_ + factors, 4));
}

// Weights of the noises out of the members' fitness; what is known of the generation so far.
void Evolution::shape() {
  double sum = 0, low = std::numeric_limits<double>::infinity(), high = -low;
  std::size_t n_good = 0;
  for (const double f : fitness_)
    if (std::isfinite(f)) {
      sum += f;
      low = std::min(low, f);
      high = std::max(high, f);
      ++n_good;
    }
  const double nan = std::numeric_limits<double>::quiet_NaN();
  all_bad_ = n_good == 0;
  const double mean = all_bad_ ? nan : sum / static_cast<double>(n_good);
  double squares = 0;
  for (const double f : fitness_)
    if (std::isfinite(f)) squares += (f - mean) * (f - mean);
  generations_.push_back({mean, all_bad_ ? nan : low, all_bad_ ? nan : high,
                          all_bad_ ? nan : std::sqrt(squares / static_cast<double>(n_good)), nan,
                          static_cast<double>(fitness_.size() - n_good), nan});
  const double loss = es_.fitness == Fitness::accuracy && !is_given_ ? 1 - mean : -mean;
  row_loss_[0] = static_cast<float>(loss * batch_weight_);
  stop_ = all_bad_;
  if (all_bad_) return;
  fitness_shaping(utilities_, {fitness_.data(), fitness_.size()}, es_.shaping);
  for (std::size_t k = 0; k < n_noises_; ++k)
    weights_[k] = static_cast<float>(es_.antithetic ? utilities_[2 * k] - utilities_[2 * k + 1]
                                                    : utilities_[k]);
}

// What the tiles left behind, in their order.
void Evolution::report() {
  if (all_bad_) return;
  double squares = 0, dot = 0;
  for (const TileSums& sums : tile_sums_) {
    squares += sums.squares;
    dot += sums.dot;
  }
  Generation& generation = generations_.back();
  generation.gradient_norm = std::sqrt(squares);
  if (probe_ != nullptr) generation.cosine = dot / std::sqrt(squares * probe_squares_);
}

// The tile's sum over members becomes the gradient by this step's scale.
formulas::Step Evolution::evolution_step(bool is_bias) const {
  formulas::Step step = step_constants(is_bias, false);
  const double rank = low_rank() && !is_bias ? std::sqrt(static_cast<double>(es_.rank)) : 1;
  step.gradient_scale = static_cast<float>(
      -1 / (static_cast<double>(es_.population_size) * static_cast<double>(std_) * rank));
  return step;
}

void Evolution::update_tile(std::size_t index, const Worker& worker) const {
  const UpdateTile& tile = update_tiles_[index];
  const Layer& y = network_.layers()[tile.layer];
  float* gradient = at<float>(worker, 0);
  TileSums& sums = tile_sums_[index] = {};
  if (tile.n_rows == 0) {
    random::NoiseWindow all = window(2 * tile.layer + 1, 0, y.n_out, 0);
    all.n_columns = y.n_out;
    std::fill_n(gradient, padded(tile.layer), 0.0f);
    random::accumulate_noise(gradient, padded(tile.layer), all, noise_index_, weights_);
    const formulas::Step step = evolution_step(true);
    add_sums(sums, gradient, y.n_panels, y.biases, step);
    return update_vector(y.biases, gradient, padded(tile.layer), step);
  }
  if (low_rank()) {
    low_rank_gradient(tile, gradient, worker);
    for (std::size_t p = 0; p < y.n_panels; ++p)
      step_rows(tile, p, gradient + p * tile.n_rows * kPanel, sums);
  } else {
    random::NoiseWindow rows = window(2 * tile.layer, 0, y.n_out, tile.panel);
    rows.first_row = tile.first_row;
    rows.n_rows = tile.n_rows;
    if (rows.n_columns < kPanel) std::fill_n(gradient, tile.n_rows * kPanel, 0.0f);
    random::accumulate_noise(gradient, kPanel, rows, noise_index_, weights_);
    step_rows(tile, tile.panel, gradient, sums);
  }
}

// Sum over noises of weight a b^T for some rows, as panels [n_out / 32][rows][32]: products of a few factors each.
void Evolution::low_rank_gradient(const UpdateTile& tile, float* gradient,
                                  const Worker& worker) const {
  const Layer& y = network_.layers()[tile.layer];
  const product::DtypeKernels& f32 = product::kernels().f32;
  const std::size_t rank = es_.rank, at_once = std::max<std::size_t>(kFactorRows / rank, 1);
  const std::size_t factor_rows = std::max(kFactorRows, rank);
  float* left = at<float>(worker, 4 * gradient_floats_);
  float* packed = left + factor_rows * kLowRankRows;
  float* right = packed + factor_rows * kLowRankRows;
  float* right_panels = right + factor_rows * padded(tile.layer);
  const std::vector<product::RowBlock>& rows = blocks(tile.n_rows);
  for (std::size_t first = 0; first < n_noises_; first += at_once) {
    const std::size_t n = std::min(at_once, n_noises_ - first);
    for (std::size_t i = 0; i < n; ++i)
      random::matrix_block(left + i * rank * tile.n_rows, tile.n_rows, random::Distribution::normal,
                           1, options_.seed, counter(Purpose::noise, 2 * tile.layer, first + i),
                           y.n_in, 0, rank, tile.first_row, tile.n_rows);
    f32.pack_columns({.dst = packed,
                      .src = left,
                      .src_stride = tile.n_rows,
                      .depth = n * rank,
                      .blocks = rows.data(),
                      .n_blocks = rows.size()});
    for (std::size_t i = 0; i < n; ++i)
      random::matrix_block(right + i * rank * y.n_out, y.n_out, random::Distribution::normal,
                           weights_[first + i], options_.seed,
                           counter(Purpose::noise_right, 2 * tile.layer, first + i), y.n_out, 0,
                           rank, 0, y.n_out);
    for (std::size_t p = 0; p < y.n_panels; ++p) {
      f32.pack_panel({.dst = right_panels,
                      .src = right + p * kPanel,
                      .depth_stride = y.n_out,
                      .column_stride = 1,
                      .depth = n * rank,
                      .n_columns = columns_of(tile.layer, p)});
      f32.store({.a = {},
                 .packed = packed,
                 .panel = right_panels,
                 .depth = n * rank,
                 .blocks = rows.data(),
                 .n_blocks = rows.size(),
                 .out = gradient + p * tile.n_rows * kPanel,
                 .out_stride = kPanel,
                 .n_columns = kPanel,
                 .accumulate = first > 0});
    }
  }
}

void Evolution::step_rows(const UpdateTile& tile, std::size_t panel, const float* gradient,
                          TileSums& sums) const {
  const Layer& y = network_.layers()[tile.layer];
  const std::size_t first = tile.first_row * kPanel;
  const std::size_t offset = y.weights + panel * y.panel_size() + first;
  const formulas::Step step = evolution_step(false);
  add_sums(sums, gradient, tile.n_rows, offset, step);
  update_vector(offset, gradient, tile.n_rows * kPanel, step);
  product::Parameters parameters = network_.panel_parameters(tile.layer, panel);
  if (parameters.shadow == nullptr) return;
  parameters.value += first;
  parameters.shadow += first / 2;  // rows come in pairs
  if (parameters.shadow_rows != nullptr) parameters.shadow_rows += first;
  product::kernels().make_shadows(parameters, tile.n_rows);
}

// Squares of the gradient's rows of 32 at an offset of the parameters, and its product with backprop's.
void Evolution::add_sums(TileSums& sums, const float* gradient, std::size_t n_rows, std::size_t at,
                         const formulas::Step& step) const {
  const double scale = static_cast<double>(step.gradient_scale);
  for (std::size_t row = 0; row < n_rows; ++row) {
    float squares = 0;
    product::kernels().f32.row_squares(&squares, gradient + row * kPanel, kPanel, kPanel, 1);
    sums.squares += scale * scale * static_cast<double>(squares);
  }
  if (probe_ == nullptr) return;
  for (std::size_t i = 0; i < n_rows * kPanel; ++i)
    sums.dot +=
        scale * static_cast<double>(gradient[i]) * static_cast<double>(probe_gradient_[at + i]);
}

void Evolution::set_report_cosine(bool on) {
  const RunGuard guard(*this);
  if (on == (probe_ != nullptr)) return;
  probe_ = nullptr;
  probe_network_ = nullptr;
  if (!on) return;
  probe_network_ = std::make_unique<Network>(network_.sizes(), network_.activation(),
                                             network_.loss(), Compute::float32);
  TrainerOptions options = options_;
  options.optimizer = {.solver = formulas::Solver::sgd};
  options.n_threads = 1;  // it runs inside of a region
  probe_ = std::make_unique<Backprop>(*probe_network_, options);
  probe_gradient_ = Buffer<float>(network_.parameter_buffer_size());
  probe_x_ = Buffer<float>(checked_product(padded_batch_, row_stride(n_features(), 4)));
  probe_labels_.resize(padded_batch_);
  probe_weights_.resize(padded_batch_);
  probe_targets_.resize(checked_product(padded_batch_, network_.n_outputs()));
}

// Of the batch at theta: what one plain step of a copy of the network changes.
void Evolution::backprop_gradient() {
  const TrainingData& from = data();
  const std::size_t n_outputs = network_.n_outputs();
  const std::size_t stride = row_stride(n_features(), 4);
  const product::DtypeKernels& f32 = product::kernels().f32;
  const product::GatherArgs gather{probe_x_.data(), stride,         from.x.data, from.x.row_stride,
                                   batch_order(),   std::size_t{0}, n_features()};
  (from.x.type == InputType::u8    ? f32.gather_u8
   : from.x.type == InputType::f32 ? f32.gather_f32
                                   : f32.gather_f64)(gather, 0, n_);
  for (std::size_t i = 0; i < n_; ++i) {
    const std::size_t sample = batch_order()[i];
    if (from.labels != nullptr) probe_labels_[i] = from.labels[sample];
    if (from.targets != nullptr)
      std::copy_n(from.targets + sample * n_outputs, n_outputs,
                  probe_targets_.data() + i * n_outputs);
    if (from.weights != nullptr) probe_weights_[i] = from.weights[sample];
  }
  std::copy_n(network_.parameters(), network_.parameter_buffer_size(),
              probe_network_->parameters());
  TrainingData batch;
  batch.x = {probe_x_.data(), InputType::f32, n_, n_features(), stride, from.x.scale};
  if (from.labels != nullptr) batch.labels = probe_labels_.data();
  if (from.targets != nullptr) batch.targets = probe_targets_.data();
  if (from.weights != nullptr) batch.weights = probe_weights_.data();
  EpochOptions options;
  options.shuffle = false;
  options.schedule.learning_rate = kProbeRate;
  probe_->begin_epoch(batch, options);
  while (probe_->run(1)) {
  }
  probe_squares_ = 0;
  for (std::size_t i = 0; i < probe_gradient_.size(); ++i) {
    const double g = (static_cast<double>(network_.parameters()[i]) -
                      static_cast<double>(probe_network_->parameters()[i])) /
                     kProbeRate;
    probe_gradient_[i] = static_cast<float>(g);
    probe_squares_ += g * g;
  }
}

}  // namespace bpfree
