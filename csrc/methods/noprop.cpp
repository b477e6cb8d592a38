// SPDX-License-Identifier: BSD-3-Clause
#include "methods/noprop.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "network/array_checks.h"
#include "random/random.h"

namespace bpfree {

using product::kPanel;

namespace {

constexpr std::size_t kGroupBlocks =
    16;  // at most so many blocks have arrays of their own at the same time
constexpr std::uint32_t kTimeTensor = 0xfffffe;  // of the stream that times are drawn from

std::vector<std::size_t> hidden_layers(const Network& network) {
  std::vector<std::size_t> layers;
  const std::size_t n = network.blocks() == nullptr ? 1 : network.blocks()->n_layers();
  for (std::size_t k = 0; k < network.layers().size(); ++k)
    if ((k + 1) % n != 0) layers.push_back(k);
  return layers;
}

}  // namespace

NoProp::NoProp(Network& network, const TrainerOptions& options, const NoPropOptions& noprop)
    : Trainer(network, options),
      noprop_(noprop),
      norms_(network,
             noprop.batch_normalization ? hidden_layers(network) : std::vector<std::size_t>{},
             options.optimizer.solver) {
  if (network.blocks() == nullptr) fail("NoProp needs a network of blocks");
  check_has_derivative(network.activation());
  if (formulas::derivative_from_preactivation(network.activation()))
    fail("activation is 'gelu', expected one whose derivative is a function of its value");
  check_range("eta", noprop.eta, 0, 1e9);
  check_range("max_snr_weight", noprop.max_snr_weight, 0, 1e9);
  const BlockShape& s = shape();
  if (s.n_classes < 2)
    fail("NoProp tells classes apart: expected at least 2, got " + std::to_string(s.n_classes));
  const std::size_t time = has_time() ? kTimeFeatures : 0;
  dim_ = noprop.embedding_dim > 0 ? noprop.embedding_dim : s.n_classes;
  if (s.n_label != dim_ + time)
    fail("the label branch has " + std::to_string(s.n_label) + " inputs, expected " +
         std::to_string(dim_ + time));
  if (noprop.variant == NoPropVariant::dt) {
    if (noprop.alpha_bar.size() != s.n_blocks + 1)
      fail("noise_schedule has " + std::to_string(noprop.alpha_bar.size()) + " values, expected " +
           std::to_string(s.n_blocks + 1) + " for " + std::to_string(s.n_blocks) + " blocks");
    snr_weight_ = snr_weights(noprop.alpha_bar, noprop.eta);
  } else if (s.n_blocks != 1) {
    fail("n_blocks is " + std::to_string(s.n_blocks) + ", expected the 1 that is run at all times");
  }
  n_trained_ = s.n_blocks;
  loss_sum_.resize(s.n_blocks);
  make_learned();
  if (!noprop.feedback) network.keep_shadow_rows();
  const std::size_t batch = padded_batch_;
  const bool bf16 = element_ == 2;
  for (std::size_t part = 0; part < s.n_layers(); ++part)
    input_blocks_.push_back(product::row_blocks(layer(part).n_in, kernels_.tile_rows));
  full_blocks_ = product::row_blocks(options.batch_size, kernels_.tile_rows);
  packed_x_ = Buffer<char>(checked_product(batch, s.n_features, element_));
  const std::size_t n_slots = divide_up(s.n_blocks, divide_up(s.n_blocks, kGroupBlocks));
  for (std::size_t i = 0; i < n_slots; ++i) {
    Slot slot;
    slot.z = Buffer<char>(checked_product(batch, z_stride(), element_));
    slot.packed_z = Buffer<char>(checked_product(batch, s.n_label, element_));
    for (std::size_t k = 0; k < n_hidden(); ++k) {
      slot.h.emplace_back(checked_product(batch, hidden_stride(k), element_));
      slot.packed.emplace_back(checked_product(batch, width(k), element_));
      if (noprop.batch_normalization) {
        slot.normalized.emplace_back(checked_product(batch, norm_stride(k)));
        for (auto* of_unit : {&slot.factor, &slot.gain_gradient, &slot.shift_gradient})
          of_unit->emplace_back(norm_stride(k));
      }
      if (noprop.feedback) continue;
      slot.delta_t.emplace_back(checked_product(batch / kPanel, batch_stride(k)));
      slot.pairs_t.emplace_back(bf16 && (k > 0 || has_head()) ? slot.delta_t.back().size() / 2 : 0);
    }
    const std::size_t n_panels = divide_up(s.n_classes, kPanel);
    slot.error = Buffer<float>(checked_product(n_panels, error_panel_stride()));
    slot.error_t = Buffer<float>(checked_product(batch / kPanel, error_t_stride()));
    if (bf16) slot.error_pairs_t = Buffer<std::uint32_t>(slot.error_t.size() / 2);
    slot.probability = Buffer<float>(checked_product(batch, s.n_classes));
    if (noprop.variant == NoPropVariant::fm)
      slot.target = Buffer<float>(checked_product(batch, dim_));
    slot.signal = Buffer<float>(batch);
    slot.noise = Buffer<float>(batch);
    slot.weight = Buffer<float>(batch);
    slot.row_loss = Buffer<float>(batch);
    if (has_head()) {
      slot.estimate_gradient = Buffer<float>(checked_product(batch, dim_));
      if (reads_z_gradient())
        slot.z_gradient_t = Buffer<float>(checked_product(batch / kPanel, z_gradient_stride()));
      if (noprop.learn_embedding) slot.embedding_gradient = Buffer<double>(embedding_.n);
      if (noprop.learn_schedule) slot.label_noise = Buffer<float>(checked_product(batch, dim_));
      if (noprop.variant == NoPropVariant::fm) {
        slot.ahead = Buffer<float>(checked_product(batch, dim_));
        slot.head_error = Buffer<float>(checked_product(batch, s.n_classes));
      }
    }
    slots_.push_back(std::move(slot));
  }
  time_ = Buffer<float>(batch);
  if (noprop.batch_normalization) sample_weight_ = Buffer<float>(batch);
  // From 1 to 100 radians per unit of time.
  for (std::size_t k = 0; k < frequency_.size(); ++k)
    frequency_[k] =
        std::pow(100.0, static_cast<double>(k) / static_cast<double>(frequency_.size() - 1));
  if (noprop.feedback) make_feedback();
}

std::size_t NoProp::batch_stride(std::size_t hidden) const {
  return round_up(width(hidden), kPanel) * kPanel;
}

void NoProp::set_blocks(std::size_t first, std::size_t n) {
  if (n == 0 || first >= shape().n_blocks || n > shape().n_blocks - first)
    fail("blocks " + std::to_string(first) + " to " + std::to_string(first + n) +
         " were asked for, expected at least 1 of the " + std::to_string(shape().n_blocks));
  if (noprop_.learn_embedding && n < shape().n_blocks)
    fail(std::to_string(n) + " blocks were asked for, expected all " +
         std::to_string(shape().n_blocks) + ": they share embeddings that are learned");
  const RunGuard guard(*this);
  first_block_ = first;
  n_trained_ = n;
}

void NoProp::get_embedding(float* out) const {
  for (std::size_t c = 0; is_one_hot() && c < shape().n_classes; ++c)
    for (std::size_t j = 0; j < dim_; ++j) out[c * dim_ + j] = c == j ? 1.0f : 0.0f;
  std::copy_n(embedding_.values.data(), embedding_.n, out);
}

void NoProp::set_embedding(const float* value) {
  if (is_one_hot()) fail("the class embeddings of this trainer are one-hot, and stay so");
  const RunGuard guard(*this);
  std::copy_n(value, embedding_.n, embedding_.values.data());
}

std::size_t NoProp::feedback_at(std::size_t block, std::size_t hidden, std::size_t panel) const {
  std::size_t panels = 0, of_block = 0;
  for (std::size_t k = 0; k < n_hidden(); ++k) {
    const std::size_t n = divide_up(width(k), kPanel);
    if (k < hidden) panels += n;
    of_block += n;
  }
  return (block * of_block + panels + panel) * shape().n_classes * kPanel;
}

// B_k of each block: uniform within 1 / sqrt(n_classes), as direct feedback alignment has it.
void NoProp::make_feedback() {
  const std::size_t n_classes = shape().n_classes;
  feedback_ = Buffer<float>(feedback_at(shape().n_blocks, 0, 0));
  const float bound = 1 / std::sqrt(static_cast<float>(n_classes));
  for (std::size_t t = 0; t < shape().n_blocks; ++t)
    for (std::size_t k = 0; k < n_hidden(); ++k)
      for (std::size_t p = 0; p * kPanel < width(k); ++p)
        random::matrix_block(
            feedback_.data() + feedback_at(t, k, p), kPanel, random::Distribution::uniform, bound,
            options_.seed,
            {random::Purpose::feedback, static_cast<std::uint32_t>(t * n_hidden() + k), 0, 0},
            width(k), 0, n_classes, p * kPanel, std::min(kPanel, width(k) - p * kPanel));
}

void NoProp::prepare_epoch() {
  norms_.drop_folded();  // its memory: the first step makes it useless
  tail_blocks_ = product::row_blocks(tail_rows(), kernels_.tile_rows);
  std::fill(loss_sum_.begin(), loss_sum_.end(), 0.0);
  seen_weight_ = 0;
}

// How much label and how much noise every row has, and what its loss weighs.
void NoProp::before_step() {
  group_first_ = first_block_;
  group_size_ = 0;
  seen_weight_ += batch_weight_;
  std::fill(row_loss_.begin(), row_loss_.end(), 0.0f);
  for (std::size_t i = 0; i < n_ && sample_weight_.size() > 0; ++i)
    sample_weight_[i] = data().weights != nullptr ? data().weights[batch_order()[i]] : 1.0f;
  if (has_head()) prepare_learned();
  if (!has_time()) return;
  const Slot& slot = slots_[0];
  random::matrix_block(
      time_.data(), n_, random::Distribution::uniform, 0.5f, options_.seed,
      {random::Purpose::noisy_label, kTimeTensor, static_cast<std::uint32_t>(step()), 0}, n_, 0, 1,
      0, n_);
  for (std::size_t i = 0; i < n_; ++i) {
    time_[i] += 0.5f;
    const auto t = static_cast<double>(time_[i]);
    const bool flow = noprop_.variant == NoPropVariant::fm;
    LearnedSchedule::Point at{};
    if (schedule_.n > 0)
      at = learned_.at(t);
    else if (!flow)
      at = {alpha_bar_at(noprop_.schedule, t), snr_derivative(noprop_.schedule, t)};
    const double alpha_bar = at.alpha_bar, slope = at.snr_slope;
    const double cut = noprop_.max_snr_weight > 0 ? std::min(slope, noprop_.max_snr_weight) : slope;
    slot.signal[i] = flow ? time_[i] : static_cast<float>(std::sqrt(alpha_bar));
    slot.noise[i] = flow ? 1 - time_[i] : static_cast<float>(std::sqrt(1 - alpha_bar));
    slot.weight[i] = static_cast<float>(flow ? noprop_.eta : noprop_.eta / 2 * cut);
  }
}

// Groups of blocks, each from its branches to its update; the weight products of the input branches read one packed x. With
// batch normalization a unit's rows are one tile: the label branch waits for all of z, and each delta for all rows of it.
bool NoProp::build_phase(std::size_t index) {
  const std::size_t n_parts = shape().n_layers(), hidden = n_hidden();
  const std::size_t waits = norms_.empty() ? 0 : 1;
  const std::size_t n_forward = hidden + 1 + waits;
  // Where the gradient by z is wanted, h_0's delta goes back through its normalization too, and a phase follows.
  const std::size_t to_z = reads_z_gradient() ? 1 : 0;
  const std::size_t n_backward = noprop_.feedback ? 0 : hidden + waits * (hidden - 1 + to_z);
  const std::size_t n_phases = n_forward + n_backward + to_z + 1;
  const std::size_t group = index / n_phases, phase = index % n_phases;
  const std::size_t n_groups = divide_up(n_trained_, slots_.size());
  const std::size_t of_group = divide_up(n_trained_, n_groups);
  if (phase == 0) {
    add_losses();
    if (group == n_groups) {
      if (has_head()) step_learned();
      return false;
    }
    group_first_ = first_block_ + group * of_group;
    group_size_ = std::min(of_group, first_block_ + n_trained_ - group_first_);
    for (std::size_t i = 0; !has_time() && i < group_size_; ++i) {
      const double alpha_bar = noprop_.alpha_bar[block_of(i)];
      std::fill_n(slots_[i].signal.data(), n_, static_cast<float>(std::sqrt(alpha_bar)));
      std::fill_n(slots_[i].noise.data(), n_, static_cast<float>(std::sqrt(1 - alpha_bar)));
      std::fill_n(slots_[i].weight.data(), n_, static_cast<float>(snr_weight_[block_of(i)]));
    }
    add_labels();
    add_forward(kInput);
    if (group == 0) add_pack(kInput);
  } else if (phase < n_forward) {
    const std::size_t part = kLabel + phase - waits;
    add_forward(part);
    if (phase == 1) add_pack(kLabel);
    if (part > kLabel) add_pack(part);
  } else if (phase < n_forward + n_backward) {
    const std::size_t back = phase - n_forward, k = hidden - 1 - back / (1 + waits);
    if (back % (1 + waits) == 0)
      add_backward(k);
    else
      add_normalize_back(k);
  } else if (phase < n_forward + n_backward + to_z) {
    add_z_gradient();
  } else {
    if (has_head()) add_learned();
    for (std::size_t part = 0; part < n_parts; ++part) add_update(part);
    if (group + 1 == n_groups) add_gather_next();
  }
  return true;
}

// The mean over the trained blocks, which are added in their order.
void NoProp::add_losses() {
  const float share = 1 / static_cast<float>(n_trained_);
  for (std::size_t t = 0; t < group_size_; ++t) {
    double sum = 0;
    for (std::size_t i = 0; i < n_; ++i) {
      row_loss_[i] += share * slots_[t].row_loss[i];
      sum += static_cast<double>(slots_[t].row_loss[i]);
    }
    loss_sum_[block_of(t)] += sum;
    for (std::size_t k = 0; k < slots_[t].embedding_gradient.size(); ++k)
      embedding_.gradient[k] += static_cast<double>(share) * slots_[t].embedding_gradient[k];
  }
}

std::vector<double> NoProp::block_losses() const {
  std::vector<double> losses = loss_sum_;
  for (double& loss : losses) loss = seen_weight_ > 0 ? loss / seen_weight_ : 0;
  return losses;
}

std::vector<Trainer::StateArray> NoProp::state_arrays() const {
  std::vector<StateArray> arrays = Trainer::state_arrays();
  norms_.append_state(arrays);
  for (const Shared* own : {&embedding_, &head_weights_, &head_biases_, &schedule_})
    for (int i = 0; i < own->state.n_slots(); ++i)
      arrays.push_back({own->state.slot(i), own->n, 0});
  return arrays;
}

// A delta with its column sums, and with batch normalization what it is made of; or rows of noisy labels in float32 and an embedding; or what a row's error is made of.
std::size_t NoProp::scratch_bytes() const {
  const std::size_t delta = (padded_batch_ + 2) * kPanel * (norms_.empty() ? 1 : 2);
  const std::size_t noise = checked_product(kPanel, z_stride()) + dim_;
  const std::size_t row = 2 * dim_ + 2 * shape().n_classes;
  return std::max({delta, noise, row}) * sizeof(float);
}

}  // namespace bpfree
