// SPDX-License-Identifier: BSD-3-Clause
// The dense kernels through the C interface, against naive loops, on arrays of exactly their size: a read or write beyond one
// is the address sanitizer's to see. Rows with gaps, which C does not know, through C++.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "bpfree/bpfree.h"
#include "check.h"
#include "naive.h"
#include "network/local_loss.h"

namespace bpfree::test {

namespace {

struct Sizes {
  std::size_t batch, n_in, n_out;
};

constexpr std::array<Sizes, 6> kSizes = {
    {{1, 1, 1}, {2, 7, 9}, {15, 17, 31}, {16, 33, 32}, {47, 65, 33}, {130, 101, 131}}};

Plain plain(const std::vector<float>& values, std::size_t rows, std::size_t columns) {
  Plain out(rows, columns);
  out.values.assign(values.begin(), values.end());
  return out;
}

template <class Expected>
void check_all(const std::vector<float>& values, const Expected& expected, double tolerance,
               const std::string& what) {
  for (std::size_t i = 0; i < values.size(); ++i)
    check(near(values[i], expected(i), tolerance), what);
}

void check_layer(Sizes s) {
  using formulas::Activation;
  Numbers numbers(s.batch * 1000 + s.n_out);
  const std::vector<float> x = numbers.floats(s.batch * s.n_in);
  const std::vector<float> b = numbers.floats(s.n_out);
  std::vector<float> weights = numbers.floats(s.n_in * s.n_out);
  for (float& w : weights) w /= std::sqrt(static_cast<float>(s.n_in));

  Plain a = times(plain(x, s.batch, s.n_in), plain(weights, s.n_in, s.n_out));
  for (std::size_t i = 0; i < a.values.size(); ++i) a.values[i] += b[i % s.n_out];
  std::vector<float> h(s.batch * s.n_out);
  std::vector<float> preactivation(h.size());
  for (const bpfree_activation kind :
       {BPFREE_IDENTITY, BPFREE_LEAKY_RELU, BPFREE_TANH, BPFREE_GELU}) {
    const bool is_gelu = kind == BPFREE_GELU;
    check(bpfree_dense_forward(h.data(), is_gelu ? preactivation.data() : nullptr, x.data(),
                               weights.data(), b.data(), s.batch, s.n_in, s.n_out, kind,
                               3) == BPFREE_OK,
          bpfree_last_error());
    check_all(
        h, [&](std::size_t i) { return activate(static_cast<Activation>(kind), a.values[i]); },
        1e-5, "a dense layer");
  }
  check_all(preactivation, [&](std::size_t i) { return a.values[i]; }, 1e-5, "a pre-activation");

  const std::vector<float> delta = numbers.floats(s.batch * s.n_out);
  const Plain gradient =
      times(transposed(plain(x, s.batch, s.n_in)), plain(delta, s.batch, s.n_out));
  const std::vector<float> before = weights;
  std::vector<float> bias = b;
  bpfree_optimizer optimizer;
  bpfree_optimizer_init(&optimizer, BPFREE_SGD);
  optimizer.momentum = 0;
  optimizer.learning_rate = 0.25;
  check(bpfree_dense_update(weights.data(), bias.data(), nullptr, nullptr, x.data(), delta.data(),
                            s.batch, s.n_in, s.n_out, &optimizer, 3) == BPFREE_OK,
        bpfree_last_error());
  const double scale = 0.25 / static_cast<double>(s.batch);
  check_all(
      weights, [&](std::size_t i) { return before[i] - scale * gradient.values[i]; }, 1e-5,
      "a step of the weights");

  // Adam only has to stay within its arrays: its numbers are checked from Python.
  std::vector<std::vector<float>> memory = {
      std::vector<float>(weights.size()), std::vector<float>(weights.size()),
      std::vector<float>(bias.size()), std::vector<float>(bias.size())};
  std::array<float*, 2> weights_state = {memory[0].data(), memory[1].data()};
  std::array<float*, 2> bias_state = {memory[2].data(), memory[3].data()};
  bpfree_optimizer_init(&optimizer, BPFREE_ADAM);
  check(bpfree_dense_update(weights.data(), bias.data(), weights_state.data(), bias_state.data(),
                            x.data(), delta.data(), s.batch, s.n_in, s.n_out, &optimizer,
                            3) == BPFREE_OK,
        bpfree_last_error());
}

void check_projection(Sizes s) {
  Numbers numbers(s.batch + s.n_out);
  const std::size_t n_outputs = s.n_in % 11 + 1;
  const std::vector<float> e = numbers.floats(s.batch * n_outputs);
  const std::vector<float> h = numbers.floats(s.batch * s.n_out);
  std::vector<float> feedback(n_outputs * s.n_out);
  check(bpfree_feedback_matrix(feedback.data(), n_outputs, s.n_out, 3, 1, BPFREE_NORMAL, 1.0, 2) ==
            BPFREE_OK,
        bpfree_last_error());
  std::vector<float> delta(h.size());
  std::vector<float> generated(h.size());
  check(bpfree_project_feedback(delta.data(), e.data(), feedback.data(), h.data(), s.batch,
                                n_outputs, s.n_out, BPFREE_TANH, 3) == BPFREE_OK,
        bpfree_last_error());
  check(bpfree_project_random_feedback(generated.data(), e.data(), h.data(), s.batch, n_outputs,
                                       s.n_out, 3, 1, BPFREE_NORMAL, 1.0, BPFREE_TANH,
                                       3) == BPFREE_OK,
        bpfree_last_error());
  check(delta == generated, "feedback that is generated differs from the same feedback given");
  const Plain projected = times(plain(e, s.batch, n_outputs), plain(feedback, n_outputs, s.n_out));
  check_all(
      delta,
      [&](std::size_t i) { return projected.values[i] * (1.0 - h[i] * static_cast<double>(h[i])); },
      1e-5, "a projected error");
}

void check_forward_forward(Sizes s) {
  Numbers numbers(s.batch + 7 * s.n_out);
  const std::vector<float> x = numbers.floats(s.batch * s.n_in);
  const std::vector<float> b = numbers.floats(s.n_out);
  std::vector<float> weights = numbers.floats(s.n_in * s.n_out);
  for (float& w : weights) w /= std::sqrt(static_cast<float>(s.n_in));
  const std::size_t n_positive = (s.batch + 1) / 2;
  const auto batch = static_cast<double>(n_positive);

  std::vector<float> mean(s.batch);
  std::vector<float> factor(s.batch);
  check(bpfree_goodness(mean.data(), factor.data(), x.data(), s.batch, s.n_in, BPFREE_GOODNESS_MEAN,
                        3) == BPFREE_OK,
        bpfree_last_error());
  Plain unit = plain(x, s.batch, s.n_in);
  for (std::size_t i = 0; i < s.batch; ++i) {
    double squares = 0;
    for (std::size_t j = 0; j < s.n_in; ++j) squares += unit(i, j) * unit(i, j);
    squares /= static_cast<double>(s.n_in);
    check(near(mean[i], squares, 1e-5), "the mean of a row's squares");
    check(near(factor[i], 1 / std::sqrt(squares + 1e-8), 1e-4 / std::sqrt(squares + 1e-8)),
          "a row factor");
    for (std::size_t j = 0; j < s.n_in; ++j) unit(i, j) /= std::sqrt(squares + 1e-8);
  }
  Plain expected = times(unit, plain(weights, s.n_in, s.n_out));
  Plain delta(s.batch, s.n_out);
  double loss = 0;
  for (std::size_t i = 0; i < s.batch; ++i) {
    double g = 0;
    for (std::size_t j = 0; j < s.n_out; ++j) {
      expected(i, j) = std::max(expected(i, j) + static_cast<double>(b[j]), 0.0);
      g += expected(i, j) * expected(i, j);
    }
    const double sign = i < n_positive ? 1 : -1;
    const double z = sign * (g - static_cast<double>(s.n_out)) / 16;
    loss += std::log1p(std::exp(-z)) / batch;
    const double slope = -sign / 16 / (1 + std::exp(z));
    for (std::size_t j = 0; j < s.n_out; ++j) delta(i, j) = 2 * slope * expected(i, j) / batch;
  }
  const Plain gradient = times(transposed(unit), delta);
  const std::vector<float> before = weights;
  std::vector<float> bias = b;
  std::vector<float> h(s.batch * s.n_out);
  double given = 0;
  bpfree_forward_forward options;
  bpfree_forward_forward_init(&options);
  options.temperature = 16;
  bpfree_optimizer optimizer;
  bpfree_optimizer_init(&optimizer, BPFREE_SGD);
  optimizer.momentum = 0;
  optimizer.learning_rate = 0.25;
  check(bpfree_forward_forward_update(weights.data(), bias.data(), nullptr, nullptr, h.data(),
                                      &given, x.data(), n_positive, s.batch, s.n_in, s.n_out,
                                      &options, &optimizer, 3) == BPFREE_OK,
        bpfree_last_error());
  check(near(given, loss, 1e-4), "the loss of a Forward-Forward step");
  check_all(h, [&](std::size_t i) { return expected.values[i]; }, 1e-4, "its h");
  check_all(
      weights, [&](std::size_t i) { return before[i] - 0.25 * gradient.values[i]; }, 1e-5,
      "its weights");
}

// Rows without their means, and divided by their norms, which are given.
Plain unit_rows(Plain rows, std::vector<double>& norms) {
  norms.assign(rows.rows, 0.0);
  for (std::size_t i = 0; i < rows.rows; ++i) {
    double mean = 0;
    for (std::size_t j = 0; j < rows.columns; ++j) mean += rows(i, j);
    mean /= static_cast<double>(rows.columns);
    for (std::size_t j = 0; j < rows.columns; ++j) {
      rows(i, j) -= mean;
      norms[i] += rows(i, j) * rows(i, j);
    }
    norms[i] = std::max(std::sqrt(norms[i]), 1e-8);
    for (std::size_t j = 0; j < rows.columns; ++j) rows(i, j) /= norms[i];
  }
  return rows;
}

// Squared error of the head and similarity, half of each, as far as they concern h.
double local_loss(const Plain& h, const Plain& e, const Plain& head, const Plain& targets,
                  Plain& slope) {
  const auto batch = static_cast<double>(h.rows);
  std::vector<double> norms, unused;
  const Plain unit = unit_rows(h, norms);
  const Plain wanted = unit_rows(targets, unused);
  Plain off = times(unit, transposed(unit));
  const Plain right = times(wanted, transposed(wanted));
  double loss = 0;
  for (std::size_t i = 0; i < off.values.size(); ++i) {
    off.values[i] -= right.values[i];
    loss += 0.5 * off.values[i] * off.values[i] / (batch * batch);
  }
  for (const double error : e.values) loss += 0.25 * error * error / batch;
  const Plain d = times(off, unit);
  slope = times(e, transposed(head));
  for (std::size_t i = 0; i < h.rows; ++i) {
    double along = 0;
    for (std::size_t j = 0; j < h.columns; ++j) along += unit(i, j) * d(i, j);
    for (std::size_t j = 0; j < h.columns; ++j)
      slope(i, j) = 0.5 * slope(i, j) / batch +
                    2 / (batch * batch) * (d(i, j) - unit(i, j) * along) / norms[i];
  }
  return loss;
}

void check_local_loss(Sizes s) {
  Numbers numbers(3 * s.batch + s.n_out);
  const std::size_t n_outputs = s.n_in % 11 + 2;
  const std::vector<float> x = numbers.floats(s.batch * s.n_in);
  std::vector<float> h = numbers.floats(s.batch * s.n_out);
  for (float& value : h) value = std::tanh(value);
  const std::vector<float> y = numbers.floats(s.batch * n_outputs);
  std::vector<float> weights = numbers.floats(s.n_in * s.n_out);
  std::vector<float> bias = numbers.floats(s.n_out);
  std::vector<float> head = numbers.floats(s.n_out * n_outputs);
  std::vector<float> head_bias = numbers.floats(n_outputs);

  Plain e = times(plain(h, s.batch, s.n_out), plain(head, s.n_out, n_outputs));
  for (std::size_t i = 0; i < e.values.size(); ++i)
    e.values[i] += static_cast<double>(head_bias[i % n_outputs]) - static_cast<double>(y[i]);
  Plain delta;
  const double loss = local_loss(plain(h, s.batch, s.n_out), e, plain(head, s.n_out, n_outputs),
                                 plain(y, s.batch, n_outputs), delta);
  for (std::size_t i = 0; i < h.size(); ++i)
    delta.values[i] *= 1 - static_cast<double>(h[i]) * static_cast<double>(h[i]);
  const Plain gradient = times(transposed(plain(x, s.batch, s.n_in)), delta);
  const Plain of_head = times(transposed(plain(h, s.batch, s.n_out)), e);
  const std::vector<float> before = weights;
  const std::vector<float> head_before = head;

  bpfree_local_loss options;
  bpfree_local_loss_init(&options);
  options.loss = BPFREE_SQUARED_ERROR;
  options.kind = BPFREE_LOCAL_PREDSIM;
  options.similarity_weight = 0.5;
  options.activation = BPFREE_TANH;
  bpfree_optimizer optimizer;
  bpfree_optimizer_init(&optimizer, BPFREE_SGD);
  optimizer.momentum = 0;
  optimizer.learning_rate = 0.25;
  double given = 0;
  check(bpfree_local_loss_update(weights.data(), bias.data(), nullptr, nullptr, head.data(),
                                 head_bias.data(), nullptr, nullptr, &given, x.data(), h.data(),
                                 nullptr, nullptr, y.data(), nullptr, s.batch, s.n_in, s.n_out,
                                 n_outputs, &options, &optimizer, 3) == BPFREE_OK,
        bpfree_last_error());
  check(near(given, loss, 1e-4), "a local loss");
  check_all(
      weights, [&](std::size_t i) { return before[i] - 0.25 * gradient.values[i]; }, 1e-4,
      "weights that learn from a local loss");
  const double scale = 0.125 / static_cast<double>(s.batch);
  check_all(
      head, [&](std::size_t i) { return head_before[i] - scale * of_head.values[i]; }, 1e-4,
      "a head");

  // The other branches only have to stay within their arrays: their numbers are checked from Python.
  const std::vector<std::int32_t> labels(s.batch, 1);
  std::vector<float> velocity(weights.size());
  std::array<float*, 1> state = {velocity.data()};
  options.loss = BPFREE_SOFTMAX_CROSS_ENTROPY;
  options.kind = BPFREE_LOCAL_SIM;
  options.activation = BPFREE_GELU;
  optimizer.momentum = 0.5;
  check(bpfree_local_loss_update(weights.data(), nullptr, state.data(), nullptr, nullptr, nullptr,
                                 nullptr, nullptr, nullptr, x.data(), h.data(), h.data(),
                                 labels.data(), nullptr, nullptr, s.batch, s.n_in, s.n_out,
                                 n_outputs, &options, &optimizer, 3) == BPFREE_OK,
        bpfree_last_error());
}

// A matrix in memory with gaps after its rows, which hold NaN.
struct Gapped {
  Gapped(const std::vector<float>& from, std::size_t n_rows, std::size_t n_columns, std::size_t gap)
      : rows(n_rows),
        columns(n_columns),
        stride(n_columns + gap),
        values(n_rows * stride, std::numeric_limits<float>::quiet_NaN()) {
    for (std::size_t i = 0; i < rows; ++i)
      std::copy_n(from.data() + i * columns, columns, values.data() + i * stride);
  }
  MatrixView<float> view() { return {values.data(), rows, columns, stride}; }
  MatrixView<const float> read() const { return {values.data(), rows, columns, stride}; }
  bool holds(const std::vector<float>& expected) const {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::size_t row = i / stride, column = i % stride;
      if (column >= columns ? !std::isnan(values[i])
                            : values[i] != expected[row * columns + column])
        return false;
    }
    return true;
  }

  std::size_t rows, columns, stride;
  std::vector<float> values;
};

void check_local_loss_of_gapped_rows(Sizes s) {
  Numbers numbers(5 * s.batch + s.n_out);
  constexpr std::size_t kOutputs = 3;
  const std::vector<float> x = numbers.floats(s.batch * s.n_in);
  const std::vector<float> h = numbers.floats(s.batch * s.n_out);
  std::vector<float> weights = numbers.floats(s.n_in * s.n_out);
  std::vector<float> head = numbers.floats(s.n_out * kOutputs);
  const std::vector<std::int32_t> labels(s.batch, 1);
  Gapped wide_x(x, s.batch, s.n_in, 3), wide_h(h, s.batch, s.n_out, 5);
  Gapped wide_weights(weights, s.n_in, s.n_out, 1), wide_head(head, s.n_out, kOutputs, 2);

  const LayerLossOptions options{.kind = LocalLossKind::predsim,
                                 .similarity_weight = 0.5,
                                 .activation = formulas::Activation::gelu};
  const DenseStep step{.optimizer = {.solver = formulas::Solver::sgd}, .learning_rate = 0.25};
  const LocalTargets y{.labels = labels.data(), .n_outputs = kOutputs};
  const auto matrix = [](auto& values, std::size_t rows, std::size_t columns) {
    return MatrixView{values.data(), rows, columns, columns};
  };
  const double loss = local_loss_update({.weights = matrix(weights, s.n_in, s.n_out)},
                                        {.weights = matrix(head, s.n_out, kOutputs)},
                                        matrix(x, s.batch, s.n_in), matrix(h, s.batch, s.n_out),
                                        matrix(h, s.batch, s.n_out), y, options, step, 1);
  const double wide =
      local_loss_update({.weights = wide_weights.view()}, {.weights = wide_head.view()},
                        wide_x.read(), wide_h.read(), wide_h.read(), y, options, step, 3);
  check(wide == loss, "the local loss of rows with gaps");
  check(wide_weights.holds(weights), "weights with gaps");
  check(wide_head.holds(head), "a head with gaps");
}

}  // namespace

void test_capi() {
  for (const Sizes s : kSizes) {
    check_local_loss(s);
    check_local_loss_of_gapped_rows(s);
    check_forward_forward(s);
    check_layer(s);
    check_projection(s);
  }
  check(bpfree_dense_forward(nullptr, nullptr, nullptr, nullptr, nullptr, 2, 2, 2, BPFREE_RELU,
                             0) == BPFREE_INVALID_ARGUMENT,
        "null pointers are refused");
}

}  // namespace bpfree::test
