// SPDX-License-Identifier: BSD-3-Clause
// One optimizer step for a vector of parameters, in registers.
// Source: SGD with (Nesterov) momentum in scikit-learn's form (Sutskever et al. 2013); Adam, Kingma & Ba 2014
//         (arXiv:1412.6980), epsilon outside the corrected root; decoupled decay, Loshchilov & Hutter 2017
//         (arXiv:1711.05101); RMSprop, Hinton's lecture 6e.
#pragma once

#include "formulas/kinds.h"

namespace bpfree::formulas {

// The constants of a step as vectors.
template <class V>
struct StepConstants {
  V lr, momentum, beta_1, beta_2, one_minus_beta_1, one_minus_beta_2, epsilon, gradient_scale, l2,
      keep;

  [[gnu::always_inline]] explicit StepConstants(const Step& s)
      : lr(V::set(s.learning_rate)),
        momentum(V::set(s.momentum)),
        beta_1(V::set(s.beta_1)),
        beta_2(V::set(s.beta_2)),
        one_minus_beta_1(V::set(1.0f - s.beta_1)),
        one_minus_beta_2(V::set(1.0f - s.beta_2)),
        epsilon(V::set(s.epsilon)),
        gradient_scale(V::set(s.gradient_scale)),
        l2(V::set(s.l2)),
        keep(V::set(s.keep)) {}
};

// Returns the new parameter; `state1` and `state2` are updated. `sum` is the sum of gradients over samples.
template <Solver kSolver, class V>
[[gnu::always_inline]] inline V update(V parameter, V sum, V& state1, V& state2,
                                       const StepConstants<V>& s) {
  const V g = V::mul_add(s.l2, parameter, s.gradient_scale * sum);
  const V kept = s.keep * parameter;
  if constexpr (kSolver == Solver::sgd) return V::mul_add(V::zero() - s.lr, g, kept);
  if constexpr (kSolver == Solver::momentum || kSolver == Solver::nesterov) {
    const V move = V::zero() - s.lr * g;
    state1 = V::mul_add(s.momentum, state1, move);
    if constexpr (kSolver == Solver::nesterov) return kept + V::mul_add(s.momentum, state1, move);
    return kept + state1;
  }
  if constexpr (kSolver == Solver::adam) {
    state1 = V::mul_add(s.beta_1, state1, s.one_minus_beta_1 * g);
    state2 = V::mul_add(s.beta_2, state2, s.one_minus_beta_2 * g * g);
    return kept - V::divide_fast(s.lr * state1, V::sqrt_fast(state2) + s.epsilon);
  }
  if constexpr (kSolver == Solver::rmsprop) {
    state1 = V::mul_add(s.beta_2, state1, s.one_minus_beta_2 * g * g);
    return kept - V::divide_fast(s.lr * g, V::sqrt_fast(state1) + s.epsilon);
  }
  return kept;
}

}  // namespace bpfree::formulas
