// SPDX-License-Identifier: BSD-3-Clause
// What NoProp's blocks share and may learn: class embeddings, the head that tells classes from z, and the noise schedule.
//
// Of a row, with u = u_y, q = d CE / d (what the head reads) and D = d loss / d estimate:
//   block   d p W:  row c of W gets p_c D, row y -D and, by z = s u + n eps, s d loss / d z   (fm: and q, by z + (1 - t) v)
//   head    z = s u + n eps at the end: W_out gets z^T e, b_out e, row y s q; by the divergence row y alpha_bar(0) u
//   ct      gamma(t) gets -L by its weight and d loss / d z . (n s^2 eps - s n^2 u) / 2; the slope in the weight L / slope;
//           gamma(1) q . (n s^2 eps - s n^2 u) / 2, gamma(0) what the divergence says.
// Sums run over the rows in their order, in float64; blocks are added in theirs.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"
#include "methods/noprop.h"
#include "random/random.h"

namespace bpfree {

using product::kPanel;

namespace {

constexpr std::uint32_t kHeadTensor =
    0xfffffd;                        // of the stream that the head's noise is drawn from
constexpr std::size_t kZBlocks = 4;  // row blocks of a tile that goes back to z

double wide(float value) { return static_cast<double>(value); }

}  // namespace

NoProp::Shared NoProp::shared(std::size_t n, bool learns, formulas::Solver solver) {
  Shared own;
  own.n = n;
  own.values = Buffer<float>(round_up(n, kPanel));
  if (!learns) return own;
  own.state = OptimizerState(solver, own.values.size());
  own.gradient = Buffer<double>(own.values.size());
  return own;
}

void NoProp::make_learned() {
  const formulas::Solver solver = options_.optimizer.solver;
  const std::size_t n_classes = shape().n_classes;
  if (noprop_.learn_embedding && noprop_.embedding_dim == 0)
    fail("embedding_dim is 0, expected at least 1 where embeddings are learned");
  if (noprop_.learn_schedule && noprop_.variant != NoPropVariant::ct)
    fail("a learned noise_schedule is for variant 'ct', expected a fixed one");
  if (noprop_.learn_schedule && noprop_.feedback)
    fail(
        "block_feedback is 'direct', expected 'exact' with a learned noise_schedule: its gradient "
        "goes back to z");
  if (noprop_.learn_schedule && noprop_.max_snr_weight > 0)
    fail("max_snr_weight is " + std::to_string(noprop_.max_snr_weight) +
         ", expected 0 with a learned noise_schedule: beyond a cut a cleaner label costs nothing");
  if (noprop_.embedding_dim > 0)
    embedding_ = shared(checked_product(n_classes, dim_), noprop_.learn_embedding, solver);
  if (!has_head()) return;
  head_weights_ = shared(checked_product(n_classes, dim_), true, solver);
  head_biases_ = shared(n_classes, true, solver);
  if (noprop_.learn_schedule) {
    schedule_ = shared(LearnedSchedule::kSize, true, solver);
    LearnedSchedule::initialize(schedule_.values.data());
  }
  head_noise_ = Buffer<float>(checked_product(padded_batch_, dim_));
  head_loss_ = Buffer<float>(padded_batch_);
  gradient_ = Buffer<float>(
      std::max({embedding_.values.size(), head_weights_.values.size(), schedule_.values.size()}));
  z_blocks_ = product::row_blocks(dim_, kernels_.tile_rows);
}

void NoProp::get_head(float* weights, float* biases) const {
  if (!has_head())
    fail("this trainer has no head: neither embeddings nor the schedule are learned");
  std::copy_n(head_weights_.values.data(), head_weights_.n, weights);
  std::copy_n(head_biases_.values.data(), head_biases_.n, biases);
}

void NoProp::set_head(const float* weights, const float* biases) {
  if (!has_head())
    fail("this trainer has no head: neither embeddings nor the schedule are learned");
  const RunGuard guard(*this);
  std::copy_n(weights, head_weights_.n, head_weights_.values.data());
  std::copy_n(biases, head_biases_.n, head_biases_.values.data());
}

void NoProp::get_schedule(float* out) const {
  std::copy_n(schedule_.values.data(), schedule_.n, out);
}

void NoProp::set_schedule(const float* value) {
  if (schedule_.n == 0) fail("the noise schedule of this trainer is fixed, and stays so");
  const RunGuard guard(*this);
  std::copy_n(value, schedule_.n, schedule_.values.data());
}

double NoProp::alpha_bar(double t) const {
  if (noprop_.variant != NoPropVariant::ct)
    fail("alpha_bar is a function of time with variant 'ct' alone");
  if (!(t >= 0 && t <= 1)) fail("t is " + std::to_string(t) + ", expected a number from 0 to 1");
  if (schedule_.n > 0) return LearnedSchedule(schedule_.values.data()).at(t).alpha_bar;
  return alpha_bar_at(noprop_.schedule, t);
}

void NoProp::prepare_learned() {
  for (const Shared* own : {&embedding_, &head_weights_, &head_biases_, &schedule_})
    std::fill(own->gradient.begin(), own->gradient.end(), 0.0);
  if (schedule_.n > 0) learned_ = LearnedSchedule(schedule_.values.data());
}

// one_hot [n_classes], written where there is no embedding.
const float* NoProp::embedding_of(std::size_t label, float* one_hot) const {
  if (!is_one_hot()) return embedding_.values.data() + label * dim_;
  std::fill_n(one_hot, shape().n_classes, 0.0f);
  one_hot[label] = 1;
  return one_hot;
}

std::size_t NoProp::n_z_tiles() const { return divide_up(z_blocks_.size(), kZBlocks); }

void NoProp::add_z_gradient() {
  add(
      n_z_tiles() * group_size_,
      [](const void* self, std::size_t tile, const Worker&) { self_of(self).z_gradient(tile); },
      kLabel);
}

// (d loss / d z)^T = W_z delta^T for some of z's numbers.
void NoProp::z_gradient(std::size_t tile) const {
  const std::size_t slot = tile / n_z_tiles(), first = tile % n_z_tiles() * kZBlocks;
  const Slot& s = slots_[slot];
  const std::size_t index = layer_index(block_of(slot), kLabel);
  const Layer& y = network_.layers()[index];
  const bool bf16 = kernels_.depth_per_word == 2;
  const std::size_t panel = y.panel_size(), unit = first_unit(kLabel) * kPanel;
  product::BackwardArgs args{
      .weights =
          bf16
              ? product::RowsOperand{network_.shadow_rows(index), kPanel / 2, kPanel / 2, panel / 2}
              : product::RowsOperand{network_.parameters() + y.weights, kPanel, kPanel, panel},
      .panel = nullptr,
      .depth = divide_up(y.n_out, kernels_.depth_per_word),
      .blocks = z_blocks_.data() + first,
      .n_blocks = std::min(kZBlocks, z_blocks_.size() - first),
      .activation = formulas::Activation::identity,
      .h = nullptr,
      .h_stride = 0,
      .preactivation = nullptr,
      .preactivation_stride = 0,
      .delta_t = nullptr,
      .pairs_t = nullptr};
  for (std::size_t b = 0; b * kPanel < n_; ++b) {
    const std::size_t at = b * batch_stride(0) + unit;
    args.panel =
        bf16 ? static_cast<const void*>(s.pairs_t[0].data() + at / 2) : s.delta_t[0].data() + at;
    args.delta_t = s.z_gradient_t.data() + b * z_gradient_stride();
    kernels_.backward(args);
  }
}

// The head is one tile, and what a block teaches another.
void NoProp::add_learned() {
  const bool with_head = block_of(group_size_) == first_block_ + n_trained_;
  add(
      group_size_ + (with_head ? 1 : 0),
      [](const void* self, std::size_t tile, const Worker& worker) {
        const NoProp& t = self_of(self);
        auto* scratch = static_cast<float*>(worker.scratch);
        if (tile < t.group_size_)
          t.learn_from(tile, scratch);
        else
          t.learn_head(scratch);
      },
      kLabel);
}

// error [n_classes] = d CE / d logits of the head on z; returns CE.
float NoProp::class_error(float* error, const float* z, std::size_t sample) const {
  const std::size_t n_classes = shape().n_classes;
  std::copy_n(head_biases_.values.data(), n_classes, error);
  for (std::size_t j = 0; j < dim_; ++j) {
    const float* row = head_weights_.values.data() + j * n_classes;
    const float value = z[j];
    for (std::size_t c = 0; c < n_classes; ++c) error[c] += value * row[c];
  }
  const auto label = static_cast<std::size_t>(data().labels[sample]);
  const float weight = data().weights != nullptr ? data().weights[sample] : 1.0f;
  const float high = *std::max_element(error, error + n_classes), own = error[label] - high;
  float sum = 0;
  for (std::size_t c = 0; c < n_classes; ++c) sum += error[c] = std::exp(error[c] - high);
  for (std::size_t c = 0; c < n_classes; ++c) error[c] *= weight / sum;
  error[label] -= weight;
  return weight * (std::log(sum) - own);
}

// out [dim] = W_out error
void NoProp::send_back(float* out, const float* error) const {
  const std::size_t n_classes = shape().n_classes;
  for (std::size_t j = 0; j < dim_; ++j) {
    const float* row = head_weights_.values.data() + j * n_classes;
    float sum = 0;
    for (std::size_t c = 0; c < n_classes; ++c) sum += row[c] * error[c];
    out[j] = sum;
  }
}

// fm: what a row's velocity leads to by t = 1 is u + (1 - t) (v - target), which the head must tell. Adds to D what it says of
// v, and makes the logits' error of all of D; returns CE.
float NoProp::flow_error(float* error, const Slot& slot, std::size_t row,
                         const float* difference) const {
  const std::size_t n_classes = shape().n_classes, sample = batch_order()[row];
  const float rest = 1 - time_[row];
  const float* u = embedding_of(static_cast<std::size_t>(data().labels[sample]), nullptr);
  float* ahead = slot.ahead.data() + row * dim_;
  float* of_head = slot.head_error.data() + row * n_classes;
  float* gradient = slot.estimate_gradient.data() + row * dim_;
  for (std::size_t j = 0; j < dim_; ++j) ahead[j] = u[j] + rest * difference[j];
  const float loss = class_error(of_head, ahead, sample);
  for (std::size_t j = 0; j < dim_; ++j) {
    const float* weights = head_weights_.values.data() + j * n_classes;
    float back = 0;
    for (std::size_t c = 0; c < n_classes; ++c) back += weights[c] * of_head[c];
    gradient[j] += rest * back;
  }
  for (std::size_t c = 0; c < n_classes; ++c) {
    const float* of_class = embedding_.values.data() + c * dim_;
    float sum = 0;
    for (std::size_t j = 0; j < dim_; ++j) sum += of_class[j] * gradient[j];
    error[c] = sum;
  }
  return loss;
}

void NoProp::learn_from(std::size_t index, float* scratch) const {
  const Slot& s = slots_[index];
  if (schedule_.n > 0) learn_schedule(s, scratch);
  if (!noprop_.learn_embedding) return;
  const std::size_t n_classes = shape().n_classes;
  std::fill(s.embedding_gradient.begin(), s.embedding_gradient.end(), 0.0);
  for (std::size_t i = 0; i < n_; ++i) {
    const float* d = s.estimate_gradient.data() + i * dim_;
    const float* p = s.probability.data() + i * n_classes;
    for (std::size_t c = 0; c < n_classes; ++c) {
      double* row = s.embedding_gradient.data() + c * dim_;
      const double share = wide(p[c]);
      for (std::size_t j = 0; j < dim_; ++j) row[j] += share * wide(d[j]);
    }
    const auto label = static_cast<std::size_t>(data().labels[batch_order()[i]]);
    double* own = s.embedding_gradient.data() + label * dim_;
    for (std::size_t j = 0; j < dim_; ++j) own[j] -= wide(d[j]);
    if (!reads_z_gradient()) continue;
    const float* by_z = s.z_gradient_t.data() + i / kPanel * z_gradient_stride() + i % kPanel;
    const double signal = wide(s.signal[i]);
    for (std::size_t j = 0; j < dim_; ++j) own[j] += signal * wide(by_z[j * kPanel]);
  }
}

// ct: what the weight and the noise of each row say of the schedule.
void NoProp::learn_schedule(const Slot& s, float* scratch) const {
  for (std::size_t i = 0; i < n_; ++i) {
    const double loss = wide(s.row_loss[i]), signal = wide(s.signal[i]), noise = wide(s.noise[i]);
    const float* u =
        embedding_of(static_cast<std::size_t>(data().labels[batch_order()[i]]), scratch);
    const float* eps = s.label_noise.data() + i * dim_;
    const float* by_z = s.z_gradient_t.data() + i / kPanel * z_gradient_stride() + i % kPanel;
    double by_gamma = -loss;
    for (std::size_t j = 0; j < dim_; ++j)
      by_gamma += wide(by_z[j * kPanel]) * 0.5 * signal * noise *
                  (signal * wide(eps[j]) - noise * wide(u[j]));
    learned_.add_gradient(schedule_.gradient.data(), wide(time_[i]), by_gamma, loss);
  }
}

void NoProp::learn_head(float* scratch) const {
  const std::size_t n_classes = shape().n_classes;
  const bool flow = noprop_.variant == NoPropVariant::fm;
  const bool discrete = noprop_.variant == NoPropVariant::dt;
  double start = 0, end = 1;
  if (!flow) {
    start = discrete ? noprop_.alpha_bar.front() : alpha_bar(0);
    end = discrete ? noprop_.alpha_bar.back() : alpha_bar(1);
    random::matrix_block(
        head_noise_.data(), dim_, random::Distribution::normal, 1.0f, options_.seed,
        {random::Purpose::noisy_label, kHeadTensor, static_cast<std::uint32_t>(step()), 0}, dim_, 0,
        n_, 0, dim_);
  }
  const double signal = std::sqrt(end), noise = std::sqrt(1 - end);
  const auto dim = static_cast<double>(dim_);
  float* z = scratch;
  float* back = z + dim_;
  float* error = back + dim_;
  float* one_hot = error + n_classes;
  double at_end = 0, at_start = 0;  // by gamma(1) and gamma(0)
  for (std::size_t i = 0; i < n_; ++i) {
    const std::size_t sample = batch_order()[i];
    const auto label = static_cast<std::size_t>(data().labels[sample]);
    const double weight = data().weights != nullptr ? wide(data().weights[sample]) : 1.0;
    const float* u = embedding_of(label, one_hot);
    const float* eps = head_noise_.data() + i * dim_;
    double squares = 0;
    if (flow) {  // made with the logits' error
      std::copy_n(slots_[0].ahead.data() + i * dim_, dim_, z);
      std::copy_n(slots_[0].head_error.data() + i * n_classes, n_classes, error);
    } else {
      for (std::size_t j = 0; j < dim_; ++j) {
        z[j] = static_cast<float>(signal * wide(u[j]) + noise * wide(eps[j]));
        squares += wide(u[j]) * wide(u[j]);
      }
      const double divergence = (start * squares - dim * start - dim * std::log1p(-start)) / 2;
      head_loss_[i] = class_error(error, z, sample) + static_cast<float>(weight * divergence);
    }
    send_back(back, error);
    for (std::size_t c = 0; c < n_classes; ++c) head_biases_.gradient[c] += wide(error[c]);
    for (std::size_t j = 0; j < dim_; ++j) {
      double* row = head_weights_.gradient.data() + j * n_classes;
      for (std::size_t c = 0; c < n_classes; ++c) row[c] += wide(z[j]) * wide(error[c]);
    }
    if (noprop_.learn_embedding) {
      double* own = embedding_.gradient.data() + label * dim_;
      for (std::size_t j = 0; j < dim_; ++j)
        own[j] += signal * wide(back[j]) + (flow ? 0 : weight * start * wide(u[j]));
    }
    if (schedule_.n == 0) continue;
    for (std::size_t j = 0; j < dim_; ++j)
      at_end += wide(back[j]) * 0.5 * signal * noise * (signal * wide(eps[j]) - noise * wide(u[j]));
    at_start -= weight * 0.5 * (squares - dim + dim / (1 - start)) * start * (1 - start);
  }
  if (schedule_.n == 0) return;
  // A block's tile may be adding to the schedule's gradient: these wait in its padding.
  schedule_.gradient[schedule_.n] = at_end;
  schedule_.gradient[schedule_.n + 1] = at_start;
}

// After all blocks: their losses are added, and with them what they teach.
void NoProp::step_learned() {
  for (std::size_t i = 0; i < n_; ++i) row_loss_[i] += head_loss_[i];
  if (schedule_.n > 0) {
    learned_.add_gradient(schedule_.gradient.data(), 1, schedule_.gradient[schedule_.n], 0);
    learned_.add_gradient(schedule_.gradient.data(), 0, schedule_.gradient[schedule_.n + 1], 0);
    std::fill(schedule_.gradient.begin() + schedule_.n, schedule_.gradient.end(), 0.0);
  }
  step_shared(embedding_, false);
  step_shared(head_weights_, false);
  step_shared(head_biases_, true);
  step_shared(schedule_, true);
}

void NoProp::step_shared(Shared& own, bool is_bias) {
  if (own.gradient.size() == 0) return;
  for (std::size_t k = 0; k < own.gradient.size(); ++k)
    gradient_[k] = static_cast<float>(own.gradient[k]);
  product::Parameters parameters{.value = own.values.data()};
  own.state.attach(parameters, 0);
  product::kernels().vector_update({.parameters = parameters,
                                    .gradient = gradient_.data(),
                                    .n = own.values.size(),
                                    .step = step_constants(is_bias, false)});
}

}  // namespace bpfree
