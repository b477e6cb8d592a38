// SPDX-License-Identifier: BSD-3-Clause
// What the kernels of a dense layer take from Python: float32 matrices, the solver's state, and one step's numbers.
#pragma once

#include <vector>

#include "bindings/bindings.h"
#include "network/dense.h"

namespace bpfree::bindings {

// Two-dimensional float32 arrays with so many rows and columns; kAny: as many as there are.
MatrixView<const float> input(const char* name, const py::array& a, std::size_t rows,
                              std::size_t columns);
MatrixView<float> output(const char* name, py::array& a, std::size_t rows, std::size_t columns);

// State arrays as Trainer.optimizer_state() lists them: for each slot that of W, then that of b. prefix: "head_" for a head's.
DenseState states(std::vector<py::array>& arrays, formulas::Solver solver,
                  const MatrixView<float>& weights, bool has_bias, const std::string& prefix = "");

DenseStep step_of(const std::string& solver, double learning_rate, std::uint64_t step,
                  double momentum, bool nesterov, double beta_1, double beta_2, double epsilon,
                  double alpha, double weight_decay, double n_samples);

}  // namespace bpfree::bindings
