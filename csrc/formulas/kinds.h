// SPDX-License-Identifier: BSD-3-Clause
// The vocabulary of the formulas: which activation, loss, solver; and one optimizer step's constants.
#pragma once

namespace bpfree::formulas {

enum class Activation { identity, relu, leaky_relu, tanh, logistic, gelu, step, sign };
enum class Loss { softmax_cross_entropy, binary_cross_entropy, squared_error };
enum class Goodness { sum, mean, grouped_squares, grouped_mean };
enum class GoodnessLoss { logistic, symba };
enum class Solver {
  sgd,
  momentum,
  nesterov,
  adam,
  rmsprop
};  // sgd: without momentum; adamw is adam with decay

inline constexpr float kLeakySlope = 0.01f;

// gelu's derivative needs the pre-activation; the others are cheaper from the output.
constexpr bool derivative_from_preactivation(Activation a) { return a == Activation::gelu; }

// step and sign are for methods that need no derivative.
constexpr bool has_derivative(Activation a) {
  return a != Activation::step && a != Activation::sign;
}

// What one step of a solver needs, the same for every parameter of the step.
struct Step {
  Solver solver = Solver::sgd;
  float learning_rate =
      0;  // adam: with the bias corrections, lr * sqrt(1 - beta_2^t) / (1 - beta_1^t)
  float momentum = 0;
  float beta_1 = 0;
  float beta_2 = 0;
  float epsilon = 0;
  float gradient_scale = 1;  // 1 / (number of samples), and the input's scale in the first layer
  float l2 = 0;              // alpha / (number of samples)
  float keep = 1;            // 1 - lr * weight_decay
};

constexpr int n_states(Solver solver) {
  return solver == Solver::sgd ? 0 : solver == Solver::adam ? 2 : 1;
}

}  // namespace bpfree::formulas
