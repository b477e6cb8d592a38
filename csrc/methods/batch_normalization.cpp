// SPDX-License-Identifier: BSD-3-Clause
#include "methods/batch_normalization.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"

namespace bpfree {

using product::kPanel;

namespace {

constexpr float kMomentum = 0.1f;  // of the running statistics
constexpr float kEpsilon = 1e-5f;  // beside the variance

float inverse_deviation(float variance) { return 1 / std::sqrt(variance + kEpsilon); }

// Its arrays are those of a new one.
Network of_same_shape(const Network& from) {
  if (from.blocks() != nullptr) return {*from.blocks(), from.activation(), from.compute()};
  return {from.sizes(), from.activation(), from.loss(), from.compute(), from.first_head()};
}

}  // namespace

BatchNormalization::BatchNormalization(const Network& network,
                                       const std::vector<std::size_t>& layers,
                                       formulas::Solver solver)
    : network_(network) {
  std::size_t offset = 0;
  for (const std::size_t layer : layers) {
    const std::size_t padded = network.layer(layer).n_panels * kPanel;
    layers_.push_back({layer, offset, offset + padded, offset, offset + padded});
    offset += 2 * padded;
  }
  values_ = Buffer<float>(offset);
  running_ = Buffer<float>(offset);
  state_ = OptimizerState(solver, offset);
  for (const Place& at : layers_) {
    std::fill_n(values_.data() + at.gain, network.layer(at.layer).n_out, 1.0f);
    std::fill_n(running_.data() + at.variance, network.layer(at.layer).n_out, 1.0f);
  }
}

const BatchNormalization::Place& BatchNormalization::place(std::size_t index) const {
  if (index >= size())
    fail("batch normalization " + std::to_string(index) + " was asked for, this trainer has " +
         std::to_string(size()));
  return layers_[index];
}

BatchNormalization::Arrays BatchNormalization::get(std::size_t index) const {
  const Place& at = place(index);
  return {values_.data() + at.gain, values_.data() + at.shift, running_.data() + at.mean,
          running_.data() + at.variance, network_.layer(at.layer).n_out};
}

void BatchNormalization::set(std::size_t index, const Arrays& value) {
  const Place& at = place(index);
  const std::size_t n = network_.layer(at.layer).n_out;
  std::copy_n(value.gain, n, values_.data() + at.gain);
  std::copy_n(value.shift, n, values_.data() + at.shift);
  std::copy_n(value.mean, n, running_.data() + at.mean);
  std::copy_n(value.variance, n, running_.data() + at.variance);
  drop_folded();
}

void BatchNormalization::normalize(const product::DtypeKernels& kernels, std::size_t index,
                                   std::size_t panel, const Batch& batch, bool trains,
                                   const Panel& at) const {
  const Place& own = layers_[index];
  const std::size_t column = panel * kPanel, n_out = network_.layer(own.layer).n_out;
  float* running_mean = running_.data() + own.mean + column;
  float* running_variance = running_.data() + own.variance + column;
  const float* gain = values_.data() + own.gain + column;
  alignas(64) float mean[kPanel];
  alignas(64) float variance[kPanel];
  alignas(64) float inverse[kPanel];
  if (trains) {
    product::kernels().moments({.a = at.a,
                                .a_stride = at.a_stride,
                                .n_rows = batch.n_rows,
                                .weight = batch.weight,
                                .inverse_weight = batch.inverse_weight(),
                                .mean = mean,
                                .variance = variance});
    // A weight of 2 is two rows. Weights that are shares of a whole say nothing about what the variance lacks.
    const auto n = static_cast<float>(batch.sum);
    const float unbiased = n >= 2 ? n / (n - 1) : 1;
    for (std::size_t j = 0; n > 0 && j < kPanel && column + j < n_out; ++j) {
      running_mean[j] += kMomentum * (mean[j] - running_mean[j]);
      // One row has no spread that could be estimated.
      if (batch.n_rows > 1 || n >= 2)
        running_variance[j] += kMomentum * (unbiased * variance[j] - running_variance[j]);
    }
  } else {
    std::copy_n(running_mean, kPanel, mean);
    std::copy_n(running_variance, kPanel, variance);
  }
  for (std::size_t j = 0; j < kPanel; ++j) {
    inverse[j] = inverse_deviation(variance[j]);
    at.factor[j] = gain[j] * inverse[j];
  }
  kernels.normalize({.a = at.a,
                     .a_stride = at.a_stride,
                     .n_rows = batch.n_rows,
                     .mean = mean,
                     .inverse = inverse,
                     .gain = gain,
                     .shift = values_.data() + own.shift + column,
                     .activation = network_.activation(),
                     .h = at.h,
                     .h_stride = at.h_stride,
                     .preactivation = at.preactivation,
                     .preactivation_stride = at.a_stride});
}

void BatchNormalization::update(std::size_t index, std::size_t panel, const float* gain_gradient,
                                const float* shift_gradient, const formulas::Step& step) const {
  const Place& own = layers_[index];
  const auto one = [&](std::size_t at, const float* gradient) {
    product::Parameters parameters{.value = values_.data() + at};
    state_.attach(parameters, at);
    product::kernels().vector_update(
        {.parameters = parameters, .gradient = gradient, .n = kPanel, .step = step});
  };
  one(own.gain + panel * kPanel, gain_gradient);
  one(own.shift + panel * kPanel, shift_gradient);
}

void BatchNormalization::append_state(std::vector<Trainer::StateArray>& arrays) const {
  for (const Place& at : layers_)
    for (int i = 0; i < state_.n_slots(); ++i) {
      const std::size_t n = network_.layer(at.layer).n_out;
      arrays.push_back({state_.slot(i) + at.gain, n, 0});
      arrays.push_back({state_.slot(i) + at.shift, n, 0});
    }
}

// W and b with the running statistics in them.
Network BatchNormalization::fold() const {
  Network result = of_same_shape(network_);
  std::vector<float> weights, biases;
  auto own = layers_.begin();
  for (std::size_t k = 0; k < network_.layers().size() + network_.heads().size(); ++k) {
    const Layer& y = network_.layer(k);
    weights.resize(y.n_in * y.n_out);
    biases.resize(y.n_out);
    network_.get_weights(k, weights.data());
    network_.get_biases(k, biases.data());
    if (own != layers_.end() && own->layer == k) {
      const Arrays n = get(static_cast<std::size_t>(own - layers_.begin()));
      std::vector<float> factor(y.n_out);
      for (std::size_t j = 0; j < y.n_out; ++j) {
        factor[j] = n.gain[j] * inverse_deviation(n.variance[j]);
        biases[j] = (biases[j] - n.mean[j]) * factor[j] + n.shift[j];
      }
      for (std::size_t i = 0; i < y.n_in; ++i)
        for (std::size_t j = 0; j < y.n_out; ++j) weights[i * y.n_out + j] *= factor[j];
      ++own;
    }
    result.set_weights(k, weights.data());
    result.set_biases(k, biases.data());
  }
  return result;
}

std::shared_ptr<const Network> BatchNormalization::folded() const {
  const std::lock_guard lock(folding_);
  if (folded_ == nullptr || folded_version_ != network_.version()) {
    folded_ = nullptr;
    folded_ = std::make_shared<const Network>(fold());
    folded_version_ = network_.version();
  }
  return folded_;
}

void BatchNormalization::drop_folded() {
  const std::lock_guard lock(folding_);
  folded_ = nullptr;
}

}  // namespace bpfree
