// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <optional>

#include "bindings/bindings.h"

namespace bpfree::bindings {

namespace {

const Layer& layer_of(const Network& network, std::size_t layer) {
  const std::size_t n = network.layers().size() + network.heads().size();
  if (layer >= n)
    fail("layer " + std::to_string(layer) + " was asked for, the network has " + std::to_string(n));
  return network.layer(layer);
}

Compute compute_named(const std::string& name) {
  return named<Compute, 2>("dtype", name,
                           {{{"float32", Compute::float32}, {"bfloat16", Compute::bfloat16}}});
}

std::unique_ptr<Network> make(const std::vector<std::int64_t>& sizes, const std::string& activation,
                              const std::string& loss, const std::string& dtype,
                              std::optional<std::size_t> first_head) {
  std::vector<std::size_t> checked_sizes;
  for (const std::int64_t size : sizes) {
    if (size < 1) fail("layer_sizes holds " + std::to_string(size) + ", expected at least 1");
    checked_sizes.push_back(static_cast<std::size_t>(size));
  }
  return std::make_unique<Network>(checked_sizes, activation_named(activation), loss_named(loss),
                                   compute_named(dtype), first_head.value_or(Network::kNoHeads));
}

// Each block's layers in turn: input branch, label branch, join, classes.
std::unique_ptr<Network> make_blocks(std::int64_t n_blocks, std::int64_t n_features,
                                     std::int64_t n_input_units, std::int64_t n_label,
                                     std::int64_t n_label_units,
                                     const std::vector<std::int64_t>& join, std::int64_t n_classes,
                                     const std::string& activation, const std::string& dtype) {
  // Anything below 0 is as bad as 0, and says so with the core's words.
  const auto size = [](std::int64_t n) {
    return static_cast<std::size_t>(std::max<std::int64_t>(n, 0));
  };
  BlockShape shape{size(n_blocks), size(n_features),    size(n_input_units),
                   size(n_label),  size(n_label_units), {},
                   size(n_classes)};
  for (const std::int64_t units : join) shape.join.push_back(size(units));
  return std::make_unique<Network>(shape, activation_named(activation), compute_named(dtype));
}

void initialize(Network& network, std::uint64_t seed, const std::string& scheme) {
  const auto initializer = named<Initializer, 5>("scheme", scheme,
                                                 {{{"uniform", Initializer::uniform},
                                                   {"glorot_uniform", Initializer::glorot_uniform},
                                                   {"he_uniform", Initializer::he_uniform},
                                                   {"he_normal", Initializer::he_normal},
                                                   {"zeros", Initializer::zeros}}});
  py::gil_scoped_release release;
  network.initialize(seed, initializer);
}

void predict(const Network& network, const py::array& x, py::array out, double input_scale,
             int n_threads, bool logits) {
  const InputView view = input_view(x, input_scale);
  float* result = checked_out<float>("out", out, view.rows, network.n_outputs());
  check_apart("out", out, "x", x);
  py::gil_scoped_release release;
  network.predict(view, result, logits, n_threads);
}

}  // namespace

void bind_network(py::module_& m) {
  py::class_<Network>(m, "Network", "A dense network in one packed parameter buffer.")
      .def(py::init(&make), py::arg("layer_sizes"), py::arg("activation"), py::arg("loss"),
           py::arg("dtype"), py::arg("first_head") = py::none())
      .def_static("of_blocks", &make_blocks, py::kw_only(), py::arg("n_blocks"),
                  py::arg("n_features"), py::arg("n_input_units"), py::arg("n_label"),
                  py::arg("n_label_units"), py::arg("join"), py::arg("n_classes"),
                  py::arg("activation"), py::arg("dtype"))
      .def_property_readonly("n_layers", [](const Network& n) { return n.layers().size(); })
      .def_property_readonly("n_heads", [](const Network& n) { return n.heads().size(); })
      .def_property_readonly("layer_sizes", &Network::sizes)
      .def_property_readonly("n_params", &Network::n_params)
      .def("initialize", &initialize, py::arg("seed"), py::arg("scheme") = "uniform")
      .def(
          "weights",
          [](const Network& n, std::size_t layer) {
            const Layer& y = layer_of(n, layer);
            py::array_t<float> out({y.n_in, y.n_out});
            n.get_weights(layer, out.mutable_data());
            return out;
          },
          py::arg("layer"))
      .def(
          "set_weights",
          [](Network& n, std::size_t layer, const py::array& value) {
            const Layer& y = layer_of(n, layer);
            n.set_weights(layer, checked<float>("value", value, y.n_in, y.n_out));
          },
          py::arg("layer"), py::arg("value"))
      .def(
          "biases",
          [](const Network& n, std::size_t layer) {
            py::array_t<float> out(static_cast<py::ssize_t>(layer_of(n, layer).n_out));
            n.get_biases(layer, out.mutable_data());
            return out;
          },
          py::arg("layer"))
      .def(
          "set_biases",
          [](Network& n, std::size_t layer, const py::array& value) {
            n.set_biases(layer, checked<float>("value", value, layer_of(n, layer).n_out, 0));
          },
          py::arg("layer"), py::arg("value"))
      .def("predict", &predict, py::arg("x"), py::arg("out"), py::arg("input_scale") = 1.0,
           py::arg("n_threads") = 0, py::arg("logits") = false);
}

}  // namespace bpfree::bindings
