// SPDX-License-Identifier: BSD-3-Clause
#include "network/optimizer.h"

#include <cmath>

namespace bpfree {

OptimizerState::OptimizerState(formulas::Solver solver, std::size_t n_parameters)
    : n_slots_(formulas::n_states(solver)) {
  for (int i = 0; i < n_slots_; ++i) slots_[i] = Buffer<float>(n_parameters);
}

void OptimizerState::attach(product::Parameters& parameters, std::size_t offset) const {
  parameters.state1 = n_slots_ > 0 ? slots_[0].data() + offset : nullptr;
  parameters.state2 = n_slots_ > 1 ? slots_[1].data() + offset : nullptr;
}

formulas::Step step_constants(const OptimizerOptions& options, double learning_rate,
                              std::uint64_t t, double n_samples, bool is_bias) {
  double rate = learning_rate;
  if (options.solver == formulas::Solver::adam) {
    const double time = static_cast<double>(t);
    rate *= std::sqrt(1 - std::pow(static_cast<double>(options.beta_2), time)) /
            (1 - std::pow(static_cast<double>(options.beta_1), time));
  }
  const double inverse = n_samples > 0 ? 1 / n_samples : 0;
  return {.solver = options.solver,
          .learning_rate = static_cast<float>(rate),
          .momentum = options.momentum,
          .beta_1 = options.beta_1,
          .beta_2 = options.beta_2,
          .epsilon = options.epsilon,
          .gradient_scale = static_cast<float>(inverse),
          .l2 = is_bias ? 0.0f : static_cast<float>(static_cast<double>(options.alpha) * inverse),
          .keep = is_bias ? 1.0f
                          : static_cast<float>(1 - learning_rate *
                                                       static_cast<double>(options.weight_decay))};
}

}  // namespace bpfree
