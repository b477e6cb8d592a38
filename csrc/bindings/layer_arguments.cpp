// SPDX-License-Identifier: BSD-3-Clause
#include "bindings/layer_arguments.h"

namespace bpfree::bindings {

MatrixView<const float> input(const char* name, const py::array& a, std::size_t rows,
                              std::size_t columns) {
  if (a.ndim() != 2 || columns == 0)
    columns = kAny;  // the kernel tells about columns where there should be none
  const float* data = checked<float>(name, a, rows, columns);
  return {data, static_cast<std::size_t>(a.shape(0)), static_cast<std::size_t>(a.shape(1)),
          static_cast<std::size_t>(a.shape(1))};
}

MatrixView<float> output(const char* name, py::array& a, std::size_t rows, std::size_t columns) {
  const MatrixView<const float> view = input(name, a, rows, columns);
  checked<float>(name, a, view.rows, kAny, true);
  return {static_cast<float*>(a.mutable_data()), view.rows, view.columns, view.stride};
}

DenseState states(std::vector<py::array>& arrays, formulas::Solver solver,
                  const MatrixView<float>& weights, bool has_bias, const std::string& prefix) {
  const int n_slots = formulas::n_states(solver);
  const std::size_t per_slot = has_bias ? 2 : 1;
  const std::size_t expected = static_cast<std::size_t>(n_slots) * per_slot;
  if (arrays.size() != expected)
    fail(prefix + "state has " + std::to_string(arrays.size()) + " arrays, expected " +
         std::to_string(expected) + ": for each of the solver's " + std::to_string(n_slots) +
         " slots one for " + prefix + "W" + (has_bias ? " and one for " + prefix + "b" : ""));
  DenseState result;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const std::string name = prefix + "state[" + std::to_string(i) + "]";
    if (i % per_slot == 0)
      result.weights[i / per_slot] =
          output(name.c_str(), arrays[i], weights.rows, weights.columns).data;
    else
      result.biases[i / per_slot] = checked_out<float>(name.c_str(), arrays[i], weights.columns, 0);
  }
  return result;
}

DenseStep step_of(const std::string& solver, double learning_rate, std::uint64_t step,
                  double momentum, bool nesterov, double beta_1, double beta_2, double epsilon,
                  double alpha, double weight_decay, double n_samples) {
  DenseStep result;
  result.optimizer = {solver_named(solver, momentum, nesterov),
                      static_cast<float>(momentum),
                      static_cast<float>(beta_1),
                      static_cast<float>(beta_2),
                      static_cast<float>(epsilon),
                      static_cast<float>(alpha),
                      static_cast<float>(weight_decay)};
  result.learning_rate = learning_rate;
  result.t = step;
  result.n_samples = n_samples;
  return result;
}

}  // namespace bpfree::bindings
