// SPDX-License-Identifier: BSD-3-Clause
// A layer's step on a loss of its own, on plain arrays.
#include <optional>
#include <vector>

#include "bindings/layer_arguments.h"
#include "network/local_loss.h"

namespace bpfree::bindings {

namespace {

LocalLossKind local_loss_named(const std::string& name) {
  return named<LocalLossKind, 3>("local_loss", name,
                                 {{{"pred", LocalLossKind::pred},
                                   {"sim", LocalLossKind::sim},
                                   {"predsim", LocalLossKind::predsim}}});
}

// Without a head the targets' columns say how many outputs there are, or for labels the caller; 0 where nobody does.
std::size_t outputs_of(std::optional<std::size_t> n_outputs, const MatrixView<float>& head,
                       const py::array& y) {
  if (head.data != nullptr || head.columns > 0) {
    if (n_outputs && *n_outputs != head.columns)
      fail("n_outputs is " + std::to_string(*n_outputs) + ", expected the " +
           std::to_string(head.columns) + " columns of head_W");
    return head.columns;
  }
  if (n_outputs) return *n_outputs;
  return y.ndim() == 2 ? static_cast<std::size_t>(y.shape(1)) : 0;
}

double bound_local_loss_update(
    py::array weights, std::optional<py::array> bias, std::optional<py::array> head_weights,
    std::optional<py::array> head_bias, const py::array& x, const py::array& h, const py::array& y,
    std::vector<py::array> state, std::vector<py::array> head_state, const std::string& solver,
    double learning_rate, const std::string& loss, const std::string& local_loss,
    double similarity_weight, const std::string& activation,
    const std::optional<py::array>& preactivation, const std::optional<py::array>& sample_weight,
    std::optional<std::size_t> n_outputs, std::uint64_t step, double momentum, bool nesterov,
    double beta_1, double beta_2, double epsilon, double alpha, double weight_decay,
    double n_samples, int n_threads) {
  const LayerLossOptions options{loss_named(loss), local_loss_named(local_loss), similarity_weight,
                                 activation_named(activation)};
  const DenseStep numbers = step_of(solver, learning_rate, step, momentum, nesterov, beta_1, beta_2,
                                    epsilon, alpha, weight_decay, n_samples);
  LayerArrays layer, head;
  layer.weights = output("W", weights, kAny, kAny);
  const std::size_t n_out = layer.weights.columns;
  if (bias) layer.bias = checked_out<float>("b", *bias, n_out, 0);
  layer.state = states(state, numbers.optimizer.solver, layer.weights, layer.bias != nullptr);
  const auto rows = input("x", x, kAny, layer.weights.rows);
  const auto outputs = input("h", h, rows.rows, n_out);
  if (head_weights) {
    head.weights = output("head_W", *head_weights, n_out, kAny);
    if (head_bias) head.bias = checked_out<float>("head_b", *head_bias, head.weights.columns, 0);
    head.state =
        states(head_state, numbers.optimizer.solver, head.weights, head.bias != nullptr, "head_");
  } else if (head_bias || !head_state.empty()) {
    fail(std::string(head_bias ? "head_b" : "head_state") +
         " was given without head_W, expected both or none");
  }
  MatrixView<const float> before;
  if (preactivation) before = input("preactivation", *preactivation, rows.rows, n_out);
  LocalTargets targets;
  if (options.loss == formulas::Loss::softmax_cross_entropy)
    targets.labels = checked<std::int32_t>("y", y, rows.rows, 0);
  targets.n_outputs = outputs_of(n_outputs, head.weights, y);
  if (options.loss != formulas::Loss::softmax_cross_entropy)
    targets.values = input("y", y, rows.rows, targets.n_outputs);
  if (sample_weight)
    targets.sample_weight = checked<float>("sample_weight", *sample_weight, rows.rows, 0);
  const py::gil_scoped_release release;
  return local_loss_update(layer, head, rows, outputs, before, targets, options, numbers,
                           n_threads);
}

}  // namespace

void bind_local_loss(py::module_& m) {
  m.def("local_loss_update", &bound_local_loss_update, py::arg("weights"),
        py::arg("bias").none(true), py::arg("head_weights").none(true),
        py::arg("head_bias").none(true), py::arg("x"), py::arg("h"), py::arg("y"), py::arg("state"),
        py::arg("head_state"), py::arg("solver"), py::arg("learning_rate"), py::kw_only(),
        py::arg("loss") = "softmax_cross_entropy", py::arg("local_loss") = "pred",
        py::arg("similarity_weight") = 0.99, py::arg("activation") = "relu",
        py::arg("preactivation") = py::none(), py::arg("sample_weight") = py::none(),
        py::arg("n_outputs") = py::none(), py::arg("step") = 1, py::arg("momentum") = 0.9,
        py::arg("nesterov") = true, py::arg("beta_1") = 0.9, py::arg("beta_2") = 0.999,
        py::arg("epsilon") = 1e-8, py::arg("alpha") = 0.0, py::arg("weight_decay") = 0.0,
        py::arg("n_samples") = 0.0, py::arg("n_threads") = 0,
        "One layer's step on a loss of its own, in place; gives the mean loss.");
}

}  // namespace bpfree::bindings
