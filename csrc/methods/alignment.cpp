// SPDX-License-Identifier: BSD-3-Clause
// Alignment: how far a rule's delta points from backprop's, per hidden layer. A metric, in plain arrays: clear before fast.
// Source: the angle of Lillicrap et al. 2014 (arXiv:1411.0247), taken over all samples of the batch at once.
#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "methods/dense_trainer.h"
#include "product/product.h"

namespace bpfree {

namespace {

using Rows = std::vector<float>;

// out [m, n] = a [m, k] op(b)
Rows multiply(const Rows& a, std::size_t m, std::size_t k, const Rows& b, std::size_t n,
              bool transpose_b) {
  Rows out(m * n);
  const product::Matrix right =
      transpose_b ? product::Matrix{b.data(), n, k, k} : product::Matrix{b.data(), k, n, n};
  product::product(out.data(), n, {a.data(), m, k, k}, false, right, transpose_b,
                   product::Dtype::f32, false, 0);
  return out;
}

double activate(formulas::Activation f, double a) {
  using formulas::Activation;
  switch (f) {
    case Activation::relu:
      return std::max(a, 0.0);
    case Activation::leaky_relu:
      return a < 0 ? static_cast<double>(formulas::kLeakySlope) * a : a;
    case Activation::tanh:
      return std::tanh(a);
    case Activation::logistic:
      return 1 / (1 + std::exp(-a));
    case Activation::gelu:
      return 0.5 * a * (1 + std::erf(a / std::sqrt(2.0)));
    default:
      return a;
  }
}

double derivative(formulas::Activation f, double a) {
  using formulas::Activation;
  const double h = activate(f, a);
  switch (f) {
    case Activation::relu:
      return a > 0 ? 1 : 0;
    case Activation::leaky_relu:
      return a < 0 ? static_cast<double>(formulas::kLeakySlope) : 1;
    case Activation::tanh:
      return 1 - h * h;
    case Activation::logistic:
      return h * (1 - h);
    case Activation::gelu:
      return 0.5 * (1 + std::erf(a / std::sqrt(2.0))) +
             a * std::exp(-0.5 * a * a) / std::sqrt(2 * 3.14159265358979324);
    default:
      return 1;
  }
}

void times_derivative(Rows& delta, formulas::Activation f, const Rows& a) {
  for (std::size_t i = 0; i < delta.size(); ++i)
    delta[i] *= static_cast<float>(derivative(f, static_cast<double>(a[i])));
}

}  // namespace

std::vector<Trainer::Alignment> DenseTrainer::alignment(const TrainingData& data) const {
  check(data);
  const std::size_t batch = data.x.rows;
  const std::vector<std::size_t>& sizes = network_.sizes();
  const formulas::Activation f = network_.activation();

  Rows h(batch * sizes[0]);
  for (std::size_t i = 0; i < batch; ++i)
    for (std::size_t j = 0; j < sizes[0]; ++j) {
      const std::size_t at = i * data.x.row_stride + j;
      const double value = data.x.type == InputType::u8
                               ? static_cast<const std::uint8_t*>(data.x.data)[at]
                           : data.x.type == InputType::f32
                               ? static_cast<double>(static_cast<const float*>(data.x.data)[at])
                               : static_cast<const double*>(data.x.data)[at];
      h[i * sizes[0] + j] = static_cast<float>(value * static_cast<double>(data.x.scale));
    }

  std::vector<Rows> weights(n_layers()), a(n_layers());
  for (std::size_t l = 0; l < n_layers(); ++l) {
    weights[l].resize(sizes[l] * sizes[l + 1]);
    network_.get_weights(l, weights[l].data());
    Rows biases(sizes[l + 1]);
    network_.get_biases(l, biases.data());
    a[l] = multiply(h, batch, sizes[l], weights[l], sizes[l + 1], false);
    for (std::size_t i = 0; i < a[l].size(); ++i) a[l][i] += biases[i % sizes[l + 1]];
    h = a[l];
    for (float& value : h) value = static_cast<float>(activate(f, static_cast<double>(value)));
  }

  // e by the kernel that training uses.
  const std::size_t n_outputs = sizes.back();
  const std::size_t panels = network_.layers().back().n_panels;
  Rows logits(panels * batch * product::kPanel), row_loss(batch), e(batch * n_outputs);
  std::vector<std::uint32_t> order(batch);
  for (std::size_t i = 0; i < batch; ++i) order[i] = static_cast<std::uint32_t>(i);
  const auto in_panels = [&](std::size_t i, std::size_t j) -> float& {
    return logits[(j / product::kPanel * batch + i) * product::kPanel + j % product::kPanel];
  };
  for (std::size_t i = 0; i < batch; ++i)
    for (std::size_t j = 0; j < n_outputs; ++j) in_panels(i, j) = a.back()[i * n_outputs + j];
  product::LossArgs loss{};
  loss.loss = network_.loss();
  loss.logits = logits.data();
  loss.panel_stride = batch * product::kPanel;
  loss.n_outputs = n_outputs;
  loss.labels = data.labels;
  loss.targets = data.targets;
  loss.weights = data.weights;
  loss.order = order.data();
  loss.row_end = batch;
  loss.row_loss = row_loss.data();
  product::kernels().loss(loss);
  for (std::size_t i = 0; i < batch; ++i)
    for (std::size_t j = 0; j < n_outputs; ++j) e[i * n_outputs + j] = in_panels(i, j);

  Rows signal = e;
  plain_signal(signal, data);
  Rows upper = signal;  // delta of the layer above, for the layerwise rules
  Rows upper_backprop = e;
  std::vector<Alignment> result(n_layers() - 1);
  for (std::size_t l = n_layers() - 1; l-- > 0;) {
    const std::size_t n = sizes[l + 1];
    upper_backprop = multiply(upper_backprop, batch, sizes[l + 2], weights[l + 1], n, true);
    times_derivative(upper_backprop, f, a[l]);
    if (feedback_kind() == FeedbackKind::none) {
      upper = upper_backprop;
    } else {
      std::size_t rows = 0, columns = 0;
      feedback_shape(l, rows, columns);
      Rows matrix(rows * columns);
      get_feedback(l, matrix.data());
      upper = feedback_kind() == FeedbackKind::direct
                  ? multiply(signal, batch, n_outputs, matrix, n, false)
                  : multiply(upper, batch, sizes[l + 2], matrix, n, true);
      times_derivative(upper, f, a[l]);
    }
    double dot = 0, norm = 0, norm_backprop = 0;
    for (std::size_t i = 0; i < upper.size(); ++i) {
      const double d = static_cast<double>(upper[i]);
      const double b = static_cast<double>(upper_backprop[i]);
      dot += d * b;
      norm += d * d;
      norm_backprop += b * b;
    }
    const double cosine = dot / std::sqrt(norm * norm_backprop);
    result[l] = {std::acos(std::clamp(cosine, -1.0, 1.0)) * 180 / 3.14159265358979324,
                 std::sqrt(norm / norm_backprop)};
  }
  return result;
}

}  // namespace bpfree
