// SPDX-License-Identifier: BSD-3-Clause
// Solver, learning-rate schedule and the solver's state, packed like the parameters it belongs to.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/buffer.h"
#include "formulas/kinds.h"
#include "formulas/schedule.h"
#include "product/kernels.h"

namespace bpfree {

struct OptimizerOptions {
  formulas::Solver solver = formulas::Solver::adam;
  float momentum = 0.9f;
  float beta_1 = 0.9f;
  float beta_2 = 0.999f;
  float epsilon = 1e-8f;
  float alpha = 0;         // L2 penalty, divided by the batch
  float weight_decay = 0;  // decoupled, times the learning rate
};

// State slots for a buffer of parameters: slot i of parameter j is state(i)[j].
class OptimizerState {
 public:
  OptimizerState() = default;
  OptimizerState(formulas::Solver solver, std::size_t n_parameters);

  int n_slots() const { return n_slots_; }
  float* slot(int i) const { return i < n_slots_ ? slots_[i].data() : nullptr; }
  // Fills in the state of a parameter view that starts at `offset` of the buffer.
  void attach(product::Parameters& parameters, std::size_t offset) const;

 private:
  int n_slots_ = 0;
  Buffer<float> slots_[2];
};

// The constants of step t (from 1) with n samples' weight in the batch. Biases: no penalty and no decay.
formulas::Step step_constants(const OptimizerOptions& options, double learning_rate,
                              std::uint64_t t, double n_samples, bool is_bias);

}  // namespace bpfree
