// SPDX-License-Identifier: BSD-3-Clause
// Kernels on plain arrays: check the arrays, release the GIL, one call.
#include <optional>
#include <vector>

#include "bindings/layer_arguments.h"
#include "network/dense.h"
#include "product/product.h"

namespace bpfree::bindings {

namespace {

// A matrix of one of the product's types (bf16 comes as uint16), and whether it is used transposed: an array in Fortran's order
// is the transpose of one in C's.
product::Matrix matrix(const char* name, const py::array& a, product::Dtype dtype,
                       bool& transpose) {
  const bool fits = dtype == product::Dtype::f32   ? py::isinstance<py::array_t<float>>(a)
                    : dtype == product::Dtype::f64 ? py::isinstance<py::array_t<double>>(a)
                                                   : py::isinstance<py::array_t<std::uint16_t>>(a);
  const bool is_c = (a.flags() & py::array::c_style) != 0;
  if (!fits || a.ndim() != 2 || (!is_c && (a.flags() & py::array::f_style) == 0))
    fail(std::string(name) + " is " + describe(a) +
         ", expected a C-contiguous matrix of float32, float64 or bfloat16 (as uint16), of the "
         "same type as the other");
  const auto rows = static_cast<std::size_t>(a.shape(is_c ? 0 : 1));
  const auto columns = static_cast<std::size_t>(a.shape(is_c ? 1 : 0));
  if (!is_c) transpose = !transpose;
  return {a.data(), rows, columns, columns};
}

void bound_product(const py::array& a, const py::array& b, py::array out, bool transpose_a,
                   bool transpose_b, int n_threads) {
  using product::Dtype;
  const Dtype dtype = py::isinstance<py::array_t<float>>(a)           ? Dtype::f32
                      : py::isinstance<py::array_t<double>>(a)        ? Dtype::f64
                      : py::isinstance<py::array_t<std::uint16_t>>(a) ? Dtype::bf16
                                                                      : Dtype::f32;
  const product::Matrix left = matrix("a", a, dtype, transpose_a);
  const product::Matrix right = matrix("b", b, dtype, transpose_b);
  const std::size_t m = transpose_a ? left.columns : left.rows;
  const std::size_t n = transpose_b ? right.rows : right.columns;
  void* result = nullptr;
  if (dtype == Dtype::f64)
    result = checked_out<double>("out", out, m, n == 0 ? kAny : n);
  else
    result = checked_out<float>("out", out, m, n == 0 ? kAny : n);
  check_apart("out", out, "a", a);
  check_apart("out", out, "b", b);
  py::gil_scoped_release release;
  product::product(result, n, left, transpose_a, right, transpose_b, dtype, false, n_threads);
}

void bound_dense_forward(const py::array& x, const py::array& weights,
                         const std::optional<py::array>& bias, const std::string& activation,
                         py::array out, std::optional<py::array> preactivation, int n_threads) {
  const auto kind = activation_named(activation);
  const auto rows = input("x", x, kAny, kAny);
  const auto matrix = input("W", weights, rows.columns, kAny);
  const float* b = bias ? checked<float>("b", *bias, matrix.columns, 0) : nullptr;
  const auto h = output("out", out, rows.rows, matrix.columns);
  MatrixView<float> a;
  if (preactivation) a = output("preactivation", *preactivation, rows.rows, matrix.columns);
  const py::gil_scoped_release release;
  dense_forward(h, a, rows, matrix, b, kind, n_threads);
}

void bound_dense_update(py::array weights, std::optional<py::array> bias, const py::array& x,
                        const py::array& delta, std::vector<py::array> state,
                        const std::string& solver, double learning_rate, std::uint64_t step,
                        double momentum, bool nesterov, double beta_1, double beta_2,
                        double epsilon, double alpha, double weight_decay, double n_samples,
                        int n_threads) {
  const DenseStep options = step_of(solver, learning_rate, step, momentum, nesterov, beta_1, beta_2,
                                    epsilon, alpha, weight_decay, n_samples);
  const auto matrix = output("W", weights, kAny, kAny);
  float* b = bias ? checked_out<float>("b", *bias, matrix.columns, 0) : nullptr;
  const auto rows = input("x", x, kAny, matrix.rows);
  const auto deltas = input("delta", delta, rows.rows, matrix.columns);
  const DenseState slots = states(state, options.optimizer.solver, matrix, b != nullptr);
  const py::gil_scoped_release release;
  dense_update(matrix, b, slots, rows, deltas, options, n_threads);
}

FeedbackSource source_of(std::uint64_t seed, std::uint32_t layer, const std::string& distribution,
                         double scale) {
  return {seed, layer, distribution_named("distribution", distribution), static_cast<float>(scale)};
}

void bound_feedback_matrix(py::array out, std::uint64_t seed, std::uint32_t layer,
                           const std::string& distribution, double scale, int n_threads) {
  const FeedbackSource source = source_of(seed, layer, distribution, scale);
  const auto matrix = output("out", out, kAny, kAny);
  const py::gil_scoped_release release;
  feedback_matrix(matrix, source, n_threads);
}

void bound_project_feedback(const py::array& e, py::array out,
                            const std::optional<py::array>& feedback, std::uint64_t seed,
                            std::uint32_t layer, const std::string& distribution, double scale,
                            const std::optional<py::array>& h, const std::string& activation,
                            int n_threads) {
  const auto kind = activation_named(activation);
  const FeedbackSource source = source_of(seed, layer, distribution, scale);
  const auto error = input("e", e, kAny, kAny);
  const auto delta = output("out", out, error.rows, kAny);
  MatrixView<const float> matrix, outputs;
  if (feedback) matrix = input("feedback", *feedback, error.columns, delta.columns);
  if (h) outputs = input("h", *h, error.rows, delta.columns);
  const py::gil_scoped_release release;
  project_feedback(delta, error, matrix, source, outputs, kind, n_threads);
}

}  // namespace

void bind_kernels(py::module_& m) {
  m.def("product", &bound_product, py::arg("a"), py::arg("b"), py::arg("out"),
        py::arg("transpose_a"), py::arg("transpose_b"), py::arg("n_threads") = 0,
        "out = op(a) op(b) on plain arrays.");
  m.def("dense_forward", &bound_dense_forward, py::arg("x"), py::arg("weights"),
        py::arg("bias").none(true), py::arg("activation"), py::arg("out"),
        py::arg("preactivation") = py::none(), py::arg("n_threads") = 0,
        "out = f(x W + b) on plain arrays.");
  m.def("dense_update", &bound_dense_update, py::arg("weights"), py::arg("bias").none(true),
        py::arg("x"), py::arg("delta"), py::arg("state"), py::arg("solver"),
        py::arg("learning_rate"), py::kw_only(), py::arg("step") = 1, py::arg("momentum") = 0.9,
        py::arg("nesterov") = true, py::arg("beta_1") = 0.9, py::arg("beta_2") = 0.999,
        py::arg("epsilon") = 1e-8, py::arg("alpha") = 0.0, py::arg("weight_decay") = 0.0,
        py::arg("n_samples") = 0.0, py::arg("n_threads") = 0,
        "W <- step(W, x^T delta / n) in place, and b.");
  m.def("feedback_matrix", &bound_feedback_matrix, py::arg("out"), py::arg("seed"),
        py::arg("layer") = 0, py::arg("distribution") = "uniform", py::arg("scale") = 1.0,
        py::arg("n_threads") = 0,
        "The feedback that a Trainer with this seed draws for a hidden layer.");
  m.def("project_feedback", &bound_project_feedback, py::arg("e"), py::arg("out"),
        py::arg("feedback") = py::none(), py::arg("seed") = 0, py::arg("layer") = 0,
        py::arg("distribution") = "uniform", py::arg("scale") = 1.0, py::arg("h") = py::none(),
        py::arg("activation") = "identity", py::arg("n_threads") = 0, "out = (e B) * f'(a).");
}

}  // namespace bpfree::bindings
