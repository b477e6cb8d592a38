// SPDX-License-Identifier: BSD-3-Clause
#include "methods/ensemble_kalman.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "base/error.h"

namespace bpfree {

using product::kPanel;

namespace {

constexpr std::size_t kTileRows = 64;  // of W in a tile of the mean's step: 8 KB
// A Hessian below it says nothing of a saturated output, and its inverse stays a number.
constexpr double kLeastHessian = 1e-30;
constexpr double kSoftmaxBound = 0.5, kLogisticBound = 0.25;

void check_options(const EnsembleKalmanOptions& kalman, const Network& network) {
  const std::string size = std::to_string(kalman.n_ens);
  if (kalman.n_ens < 2) fail("n_ens is " + size + ", expected at least 2");
  if (kalman.n_ens > std::numeric_limits<std::uint32_t>::max())
    fail("n_ens is " + size + ", expected fewer than 2^32");
  const auto positive = [](const char* name, double value) {
    if (!(value > 0) || !std::isfinite(value))
      fail(std::string(name) + " is " + std::to_string(value) +
           ", expected a finite number above 0");
  };
  positive("obs_noise_var", kalman.obs_noise_var);
  positive("spread", kalman.spread);
  if (kalman.redraw && kalman.method != EnsembleMethod::eki)
    fail(
        "members are redrawn, expected the update eki: only the mean is kept, and all that do not "
        "perturb observations move it alike");
  const bool squared = kalman.squared_error || network.loss() == formulas::Loss::squared_error;
  if (is_perturbed(kalman.method) && !squared)
    fail("observations are perturbed, expected a squared error: classes have no noise to add");
  if (network.has_heads()) fail("ensemble Kalman methods train a network without heads");
}

}  // namespace

EnsembleKalman::EnsembleKalman(Network& network, const TrainerOptions& options,
                               const EnsembleKalmanOptions& kalman)
    : Trainer(network, options), kalman_(kalman) {
  check_options(kalman_, network);
  if (network.loss() == formulas::Loss::squared_error) kalman_.squared_error = true;
  team_ = threads_for(options.n_threads, static_cast<double>(network.n_params()) *
                                             static_cast<double>(options.batch_size) *
                                             static_cast<double>(kalman_.n_ens));
  const std::size_t most = checked_product(options.batch_size, network.n_outputs());
  g_ = Buffer<float>(checked_product(kalman_.n_ens, most));
  if (!kalman_.squared_error) score_ = Buffer<float>(g_.size());
  y_ = Buffer<double>(most);
  noise_ = Buffer<double>(most);
  misfit_ = Buffer<double>(kalman_.n_ens);
  if (by_anomalies()) base_ = Buffer<float>(checked_product(padded_batch_, base_stride()));
  plan_memory();
  member_index_.reserve(kalman_.n_ens);
  if (kalman_.redraw) return;
  transform_.resize(checked_product(kalman_.n_ens, kalman_.n_ens));
  members_ = Buffer<float>(checked_product(kalman_.n_ens, size()));
  mean_ = Buffer<float>(size());
  parallel_for(kalman_.n_ens, team_,
               [&](std::size_t j, const Worker&) { draw_member(member(j), j, 0); });
}

void EnsembleKalman::plan_memory() {
  const std::vector<Layer>& layers = network_.layers();
  std::size_t widest = 0, deepest = 0;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    if (!is_output(l)) widest = std::max(widest, h_stride(l));
    deepest = std::max(deepest, layers[l].n_in);
    for (std::size_t p = 0; kalman_.redraw && p < layers[l].n_panels; ++p)
      for (std::size_t row = 0; row < layers[l].n_in; row += kTileRows)
        tiles_.push_back({l, p, row, std::min(kTileRows, layers[l].n_in - row)});
    if (kalman_.redraw) tiles_.push_back({l, 0, 0, 0});
  }
  std::size_t size = 0;
  const auto place = [&](std::size_t n, std::size_t element) {
    const std::size_t offset = size;
    size += round_up(checked_product(n, element), 64);
    return offset;
  };
  for (std::size_t& h : layout_.h) h = place(checked_product(padded_batch_, widest), element_);
  layout_.logits = place(checked_product(padded_batch_, layers.back().n_panels * kPanel), 4);
  layout_.row_loss = place(padded_batch_, 4);
  layout_.panel = place(by_anomalies() ? checked_product(deepest, kPanel) : 0, 4);
  layout_.pairs = place(bf16() ? checked_product(divide_up(deepest, 2), kPanel) : 0, 4);
  layout_.product = place(bf16() ? checked_product(padded_batch_, kPanel) : 0, 4);
  layout_.bias = place(kPanel, 4);
  std::size_t widest_layer = 0;
  for (const Layer& y : layers) widest_layer = std::max(widest_layer, y.n_panels * kPanel);
  scratch_size_ = std::max({size, kTileRows * kPanel * 4, widest_layer * 4});
}

float EnsembleKalman::spread_of(std::size_t layer) const {
  return static_cast<float>(kalman_.spread /
                            std::sqrt(static_cast<double>(network_.layers()[layer].n_in)));
}

std::size_t EnsembleKalman::columns_of(std::size_t layer, std::size_t panel) const {
  return std::min(kPanel, network_.layers()[layer].n_out - panel * kPanel);
}

std::vector<Trainer::StateArray> EnsembleKalman::state_arrays() const {
  if (kalman_.redraw) return {};
  return {{members_.data(), members_.size(), 0}};
}

void EnsembleKalman::prepare_epoch() {
  iterations_.clear();
  iterations_.reserve(steps_in_epoch());
  has_outputs_ = false;
  blocks_ = product::row_blocks(options_.batch_size, kernels_.tile_rows);
  if (tail_rows() > 0) tail_blocks_ = product::row_blocks(tail_rows(), kernels_.tile_rows);
  if (kalman_.redraw || take_mean()) return;
  // Somebody has set the network's parameters: the members move along.
  const float* now = network_.parameters();
  parallel_for(kalman_.n_ens, team_, [&](std::size_t j, const Worker&) {
    float* theta = member(j);
    for (std::size_t i = 0; i < size(); ++i) theta[i] += now[i] - mean_[i];
  });
  take_mean();
  write_mean();
}

// A step is one region: the members run in its phases, and what follows has regions of its own.
bool EnsembleKalman::build_phase(std::size_t index) {
  switch (index) {
    case 0:
      rows_ = n_;
      iteration_ = step();
      observe();
      if (by_anomalies())
        add({network_.layers()[0].n_panels,
             [](const void* self, std::size_t panel, const Worker&) { self_of(self).base(panel); },
             &self_stage_});
      return true;
    case 1:
      add({kalman_.n_ens,
           [](const void* self, std::size_t j, const Worker& worker) {
             self_of(self).run_member(j, worker);
           },
           &self_stage_});
      add_gather_next();
      return true;
    default:
      leave_out_failed();
      row_loss_[0] = 0;
      for (std::size_t k = 0; k < member_index_.size(); ++k)
        row_loss_[0] += static_cast<float>(misfit_[k] * batch_weight_ /
                                           static_cast<double>(member_index_.size()));
      has_outputs_ = stop_ = true;
      return false;
  }
}

// Targets and noise of the batch.
void EnsembleKalman::observe() {
  const std::size_t n = network_.n_outputs();
  for (std::size_t i = 0; i < rows_; ++i) {
    const std::size_t sample = batch_order()[i];
    const double weight =
        data().weights != nullptr ? static_cast<double>(data().weights[sample]) : 1;
    for (std::size_t c = 0; c < n; ++c) {
      y_[i * n + c] =
          data().labels != nullptr
              ? static_cast<double>(static_cast<std::size_t>(data().labels[sample]) == c)
              : static_cast<double>(data().targets[sample * n + c]);
      // Of a sample without weight: as good as no observation.
      noise_[i * n + c] =
          std::min(kalman_.obs_noise_var / weight, std::numeric_limits<double>::max());
    }
  }
}

EnsembleOutputs EnsembleKalman::outputs() {
  EnsembleOutputs o;
  const std::size_t n_members = member_index_.size();
  o.g = {g_.data(), n_members, n_obs(), false};
  o.noise = {noise_.data(), n_obs(), false};
  o.mean_only = kalman_.redraw;
  if (kalman_.squared_error) {
    o.y = y_.data();
    o.perturbed = is_perturbed(kalman_.method);
    o.seed = options_.seed;
    o.iteration = static_cast<std::uint32_t>(iteration_);
    return o;
  }
  o.score = {score_.data(), n_members, n_obs(), false};
  const bool softmax = network_.loss() == formulas::Loss::softmax_cross_entropy;
  if (!kalman_.gauss_newton) {
    for (std::size_t m = 0; m < n_obs(); ++m)
      noise_[m] = std::min(noise_[m] / (softmax ? kSoftmaxBound : kLogisticBound),
                           std::numeric_limits<double>::max());
    return o;
  }
  if (softmax) {
    o.softmax_classes = network_.n_outputs();
    return o;
  }
  // p (1 - p) of each output at the mean of its logits.
  for (std::size_t m = 0; m < n_obs(); ++m) {
    double mean = 0;
    for (std::size_t j = 0; j < n_members; ++j) mean += static_cast<double>(g_[j * n_obs() + m]);
    const double p = 1 / (1 + std::exp(-mean / static_cast<double>(n_members)));
    noise_[m] = std::min(noise_[m] / std::max(p * (1 - p), kLeastHessian),
                         std::numeric_limits<double>::max());
  }
  return o;
}

// Brings those that did not fail to the front, where members are redrawn; where fewer than two are left, all stay as they are.
void EnsembleKalman::leave_out_failed() {
  const auto n = static_cast<std::uint32_t>(kalman_.n_ens);
  member_index_.clear();
  for (std::uint32_t j = 0; j < n; ++j)
    if (std::isfinite(misfit_[j])) member_index_.push_back(j);
  if (member_index_.size() == n) return;
  if (!kalman_.redraw || member_index_.size() < 2) {
    member_index_.resize(n);
    std::iota(member_index_.begin(), member_index_.end(), 0);
    return;
  }
  for (std::size_t k = 0; k < member_index_.size(); ++k) {
    const std::size_t j = member_index_[k];
    misfit_[k] = misfit_[j];
    if (k == j) continue;
    std::copy_n(g_.data() + j * n_obs(), n_obs(), g_.data() + k * n_obs());
    if (!kalman_.squared_error)
      std::copy_n(score_.data() + j * n_obs(), n_obs(), score_.data() + k * n_obs());
  }
}

void EnsembleKalman::report(double rank) {
  double sum = 0, squares = 0;
  const std::size_t n_members = member_index_.size();
  const auto end = misfit_.begin() + static_cast<std::ptrdiff_t>(n_members);
  for (auto misfit = misfit_.begin(); misfit != end; ++misfit) sum += *misfit;
  std::vector<double> mean(n_obs()), own(n_obs());
  const double n = static_cast<double>(n_members);
  for (std::size_t j = 0; j < n_members; ++j)
    for (std::size_t m = 0; m < n_obs(); ++m) mean[m] += static_cast<double>(g_[j * n_obs() + m]);
  for (double& value : mean) value /= n;
  for (std::size_t j = 0; j < n_members; ++j)
    for (std::size_t m = 0; m < n_obs(); ++m) {
      const double off = static_cast<double>(g_[j * n_obs() + m]) - mean[m];
      own[m] += off * off;
    }
  for (const double value : own) squares += value;
  const auto [low, high] = std::minmax_element(misfit_.begin(), end);
  iterations_.push_back({sum / n, *low, *high,
                         std::sqrt(squares / (n * static_cast<double>(n_obs()))), rate(), rank,
                         static_cast<double>(kalman_.n_ens - n_members)});
}

void EnsembleKalman::after_run() {
  if (!has_outputs_) return;
  has_outputs_ = false;
  const auto end = misfit_.begin() + static_cast<std::ptrdiff_t>(member_index_.size());
  const auto bad =
      std::find_if(misfit_.begin(), end, [](double misfit) { return !std::isfinite(misfit); });
  if (bad != end) {
    const auto n_failed =
        std::count_if(misfit_.begin(), end, [](double misfit) { return !std::isfinite(misfit); });
    const double nan = std::numeric_limits<double>::quiet_NaN();
    iterations_.push_back({nan, nan, nan, nan, rate(), nan, static_cast<double>(n_failed)});
    fail("member " + std::to_string(bad - misfit_.begin()) + " of iteration " +
         std::to_string(iteration_) + " has the loss " + std::to_string(*bad) +
         ", expected a finite number: a smaller dt or spread keeps members from diverging");
  }
  const EnsembleMoments moments = ensemble_moments(outputs(), team_);
  report(effective_rank(moments));
  if (rate() == 0) return;  // the end of a schedule
  if (kalman_.redraw)
    move_mean(moments);
  else
    transform(moments);
}

}  // namespace bpfree
