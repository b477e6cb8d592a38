// SPDX-License-Identifier: BSD-3-Clause
// A dense network and its training step as plain loops in double: the judge of the real ones.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "formulas/kinds.h"
#include "network/network.h"

namespace bpfree::test {

struct Plain {
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::vector<double> values;

  Plain() = default;
  Plain(std::size_t n_rows, std::size_t n_columns)
      : rows(n_rows), columns(n_columns), values(n_rows * n_columns, 0.0) {}
  double& operator()(std::size_t i, std::size_t j) { return values[i * columns + j]; }
  double operator()(std::size_t i, std::size_t j) const { return values[i * columns + j]; }
};

inline Plain transposed(const Plain& a) {
  Plain out(a.columns, a.rows);
  for (std::size_t i = 0; i < a.rows; ++i)
    for (std::size_t j = 0; j < a.columns; ++j) out(j, i) = a(i, j);
  return out;
}

inline Plain times(const Plain& a, const Plain& b) {
  Plain out(a.rows, b.columns);
  for (std::size_t i = 0; i < a.rows; ++i)
    for (std::size_t k = 0; k < a.columns; ++k)
      for (std::size_t j = 0; j < b.columns; ++j) out(i, j) += a(i, k) * b(k, j);
  return out;
}

inline double activate(formulas::Activation kind, double a) {
  using formulas::Activation;
  switch (kind) {
    case Activation::relu:
      return a > 0 ? a : 0;
    case Activation::leaky_relu:
      return a < 0 ? 0.01 * a : a;
    case Activation::tanh:
      return std::tanh(a);
    case Activation::logistic:
      return 1 / (1 + std::exp(-a));
    case Activation::gelu:
      return 0.5 * a * (1 + std::erf(a / std::sqrt(2.0)));
    case Activation::step:
      return a > 0 ? 1 : 0;
    case Activation::sign:
      return a > 0 ? 1 : a < 0 ? -1 : 0;
    default:
      return a;
  }
}

// By differences: nothing that could share a mistake with the formulas. One-sided, so that a kink at zero is not straddled.
inline double derivative(formulas::Activation kind, double a) {
  const double step = a > 0 ? 1e-7 : -1e-7;
  return (activate(kind, a + step) - activate(kind, a)) / step;
}

// W [n_in, n_out] and b [n_out] of each layer.
struct PlainNetwork {
  explicit PlainNetwork(const Network& network) : activation(network.activation()) {
    for (std::size_t l = 0; l < network.layers().size(); ++l) {
      const Layer& layer = network.layers()[l];
      std::vector<float> copy(layer.n_in * layer.n_out);
      network.get_weights(l, copy.data());
      weights.emplace_back(layer.n_in, layer.n_out).values.assign(copy.begin(), copy.end());
      copy.resize(layer.n_out);
      network.get_biases(l, copy.data());
      biases.emplace_back(1, layer.n_out).values.assign(copy.begin(), copy.end());
    }
  }

  // h[0] is x; a[l] and h[l + 1] belong to layer l; the last a is the logits.
  void forward(const Plain& x, std::vector<Plain>& a, std::vector<Plain>& h) const {
    a.clear();
    h.assign(1, x);
    for (std::size_t l = 0; l < weights.size(); ++l) {
      Plain sum = times(h.back(), weights[l]);
      for (std::size_t i = 0; i < sum.rows; ++i)
        for (std::size_t j = 0; j < sum.columns; ++j) sum(i, j) += biases[l](0, j);
      a.push_back(sum);
      for (double& value : sum.values) value = activate(activation, value);
      h.push_back(sum);
    }
  }

  std::vector<Plain> weights;
  std::vector<Plain> biases;
  formulas::Activation activation;
};

// In place, row by row.
inline void softmax(Plain& logits) {
  for (std::size_t i = 0; i < logits.rows; ++i) {
    double sum = 0;
    for (std::size_t j = 0; j < logits.columns; ++j) sum += logits(i, j) = std::exp(logits(i, j));
    for (std::size_t j = 0; j < logits.columns; ++j) logits(i, j) /= sum;
  }
}

// How the error reaches the hidden layers: through W, or through the matrices given instead.
enum class Way { backprop, direct, layerwise };

// One step of plain SGD on softmax cross-entropy. feedback[l] belongs to hidden layer l:
// [n_outputs, n_l] on the direct way, of the shape of the weights above it on the layerwise way.
inline void sgd_step(PlainNetwork& network, Way way, const std::vector<Plain>& feedback,
                     const Plain& x, const std::vector<int>& labels, double lr) {
  std::vector<Plain> a;
  std::vector<Plain> h;
  network.forward(x, a, h);
  Plain e = a.back();
  softmax(e);
  for (std::size_t i = 0; i < e.rows; ++i) e(i, static_cast<std::size_t>(labels[i])) -= 1;

  const std::size_t n_layers = network.weights.size();
  std::vector<Plain> delta(n_layers);
  delta.back() = e;
  for (std::size_t l = n_layers - 1; l-- > 0;) {
    if (way == Way::direct) {
      delta[l] = times(e, feedback[l]);
    } else {
      delta[l] = times(delta[l + 1],
                       transposed(way == Way::backprop ? network.weights[l + 1] : feedback[l]));
    }
    for (std::size_t i = 0; i < delta[l].values.size(); ++i)
      delta[l].values[i] *= derivative(network.activation, a[l].values[i]);
  }
  const double scale = lr / static_cast<double>(x.rows);
  for (std::size_t l = 0; l < n_layers; ++l) {
    const Plain gradient = times(transposed(h[l]), delta[l]);
    for (std::size_t i = 0; i < gradient.values.size(); ++i)
      network.weights[l].values[i] -= scale * gradient.values[i];
    for (std::size_t i = 0; i < x.rows; ++i)
      for (std::size_t j = 0; j < delta[l].columns; ++j)
        network.biases[l](0, j) -= scale * delta[l](i, j);
  }
}

}  // namespace bpfree::test
