// SPDX-License-Identifier: BSD-3-Clause
// Forward-Forward's kernels on plain arrays.
#include <optional>
#include <vector>

#include "bindings/layer_arguments.h"
#include "network/goodness.h"

namespace bpfree::bindings {

namespace {

formulas::Goodness goodness_named(const char* what, const std::string& name) {
  using formulas::Goodness;
  return named<Goodness, 2>(what, name, {{{"sum", Goodness::sum}, {"mean", Goodness::mean}}});
}

formulas::GoodnessLoss goodness_loss_named(const std::string& name) {
  using formulas::GoodnessLoss;
  return named<GoodnessLoss, 2>(
      "goodness_loss", name,
      {{{"logistic", GoodnessLoss::logistic}, {"symba", GoodnessLoss::symba}}});
}

void bound_goodness(const py::array& h, py::array out, const std::string& kind,
                    std::optional<py::array> row_factor, int n_threads) {
  const auto goodness_kind = goodness_named("kind", kind);
  const auto rows = input("h", h, kAny, kAny);
  float* result = checked_out<float>("out", out, rows.rows, 0);
  float* factors =
      row_factor ? checked_out<float>("row_factor", *row_factor, rows.rows, 0) : nullptr;
  const py::gil_scoped_release release;
  goodness(result, factors, rows, goodness_kind, n_threads);
}

double bound_forward_forward_update(
    py::array weights, std::optional<py::array> bias, const py::array& x, std::size_t n_positive,
    std::vector<py::array> state, const std::string& solver, double learning_rate,
    const std::string& goodness, const std::string& goodness_loss, std::optional<double> threshold,
    double temperature, double symba_scale, std::optional<py::array> h, std::uint64_t step,
    double momentum, bool nesterov, double beta_1, double beta_2, double epsilon, double alpha,
    double weight_decay, double n_samples, int n_threads) {
  const GoodnessOptions options{goodness_named("goodness", goodness),
                                goodness_loss_named(goodness_loss), threshold, temperature,
                                symba_scale};
  const DenseStep numbers = step_of(solver, learning_rate, step, momentum, nesterov, beta_1, beta_2,
                                    epsilon, alpha, weight_decay, n_samples);
  const auto matrix = output("W", weights, kAny, kAny);
  float* b = bias ? checked_out<float>("b", *bias, matrix.columns, 0) : nullptr;
  const auto rows = input("x", x, kAny, matrix.rows);
  MatrixView<float> outputs;
  if (h) outputs = output("h_out", *h, rows.rows, matrix.columns);
  const DenseState slots = states(state, numbers.optimizer.solver, matrix, b != nullptr);
  const py::gil_scoped_release release;
  return forward_forward_update(matrix, b, slots, outputs, rows, n_positive, options, numbers,
                                n_threads);
}

}  // namespace

void bind_goodness(py::module_& m) {
  m.def("goodness", &bound_goodness, py::arg("h"), py::arg("out"), py::arg("kind") = "sum",
        py::arg("row_factor") = py::none(), py::arg("n_threads") = 0,
        "out = sum or mean of squares of each row.");
  m.def("forward_forward_update", &bound_forward_forward_update, py::arg("weights"),
        py::arg("bias").none(true), py::arg("x"), py::arg("n_positive"), py::arg("state"),
        py::arg("solver"), py::arg("learning_rate"), py::kw_only(), py::arg("goodness") = "sum",
        py::arg("goodness_loss") = "logistic", py::arg("threshold") = py::none(),
        py::arg("temperature") = 1.0, py::arg("symba_scale") = 4.0, py::arg("h") = py::none(),
        py::arg("step") = 1, py::arg("momentum") = 0.9, py::arg("nesterov") = true,
        py::arg("beta_1") = 0.9, py::arg("beta_2") = 0.999, py::arg("epsilon") = 1e-8,
        py::arg("alpha") = 0.0, py::arg("weight_decay") = 0.0, py::arg("n_samples") = 0.0,
        py::arg("n_threads") = 0,
        "One layer's Forward-Forward step in place; gives the mean loss.");
}

}  // namespace bpfree::bindings
