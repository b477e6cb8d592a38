// SPDX-License-Identifier: BSD-3-Clause
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

std::unique_ptr<Network> make(const std::vector<std::int64_t>& sizes, const std::string& activation,
                              const std::string& loss, const std::string& dtype,
                              std::optional<std::size_t> first_head) {
  std::vector<std::size_t> checked_sizes;
  for (const std::int64_t size : sizes) {
    if (size < 1) fail("layer_sizes holds " + std::to_string(size) + ", expected at least 1");
    checked_sizes.push_back(static_cast<std::size_t>(size));
  }
  return std::make_unique<Network>(
      checked_sizes, activation_named(activation), loss_named(loss),
      named<Compute, 2>("dtype", dtype,
                        {{{"float32", Compute::float32}, {"bfloat16", Compute::bfloat16}}}),
      first_head.value_or(Network::kNoHeads));
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
