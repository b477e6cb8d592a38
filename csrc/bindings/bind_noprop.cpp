// SPDX-License-Identifier: BSD-3-Clause
// What NoProp has beyond a trainer: which blocks learn, the class embeddings, and predictions block by block.
#include <optional>

#include "bindings/bound_trainer.h"
#include "bindings/layer_arguments.h"
#include "methods/noprop.h"
#include "network/denoising.h"

namespace bpfree::bindings {

namespace {

NoProp& noprop(const BoundTrainer& bound) {
  auto* trainer = dynamic_cast<NoProp*>(bound.trainer.get());
  if (trainer == nullptr) fail("this trainer does not train by NoProp");
  return *trainer;
}

std::size_t at_least(const char* name, std::int64_t value, std::int64_t least) {
  if (value < least)
    fail(std::string(name) + " is " + std::to_string(value) + ", expected at least " +
         std::to_string(least));
  return static_cast<std::size_t>(value);
}

py::array_t<float> embedding(const BoundTrainer& bound) {
  const NoProp& t = noprop(bound);
  py::array_t<float> out({t.network().n_outputs(), t.embedding_dim()});
  t.get_embedding(out.mutable_data());
  return out;
}

py::tuple head(const BoundTrainer& bound) {
  const NoProp& t = noprop(bound);
  py::array_t<float> weights({t.embedding_dim(), t.network().n_outputs()});
  py::array_t<float> biases(t.network().n_outputs());
  t.get_head(weights.mutable_data(), biases.mutable_data());
  return py::make_tuple(weights, biases);
}

void set_head(const BoundTrainer& bound, const py::array& weights, const py::array& biases) {
  NoProp& t = noprop(bound);
  const std::size_t n = t.network().n_outputs();
  t.set_head(checked<float>("weights", weights, t.embedding_dim(), n),
             checked<float>("biases", biases, n, 0));
}

py::array_t<float> schedule_parameters(const BoundTrainer& bound) {
  const NoProp& t = noprop(bound);
  py::array_t<float> out(t.n_schedule());
  t.get_schedule(out.mutable_data());
  return out;
}

void set_schedule_parameters(const BoundTrainer& bound, const py::array& value) {
  NoProp& t = noprop(bound);
  t.set_schedule(checked<float>("value", value, t.n_schedule(), 0));
}

void set_embedding(const BoundTrainer& bound, const py::array& value) {
  NoProp& t = noprop(bound);
  t.set_embedding(checked<float>("value", value, t.network().n_outputs(), t.embedding_dim()));
}

void predict_blocks(const BoundTrainer& bound, const py::array& x, py::array out, bool staged,
                    std::int64_t n_blocks, std::int64_t n_steps, bool heun, bool noise,
                    std::int64_t first, std::int64_t n_run, std::optional<py::array> state,
                    double input_scale, int n_threads) {
  const NoProp& t = noprop(bound);
  const InputView view = input_view(x, input_scale);
  NoPropInference inference;
  inference.n_blocks = at_least("n_blocks", n_blocks, 0);
  inference.n_steps = at_least("n_steps", n_steps, 1);
  inference.heun = heun;
  inference.noise = noise;
  inference.staged = staged;
  const bool has_blocks = t.network().blocks()->n_label == t.embedding_dim();
  const std::size_t all = has_blocks ? t.network().blocks()->n_blocks : inference.n_steps;
  const std::size_t end = has_blocks && n_blocks > 0 ? inference.n_blocks : all;
  inference.first = at_least("first", first, 0);
  inference.n_run = at_least("n_run", n_run, 0);
  const std::size_t rest = end > inference.first ? end - inference.first : 0;
  const std::size_t n = inference.n_run > 0 ? inference.n_run : rest;
  const std::size_t n_classes = t.network().n_outputs();
  float* result = checked_out<float>("out", out, view.rows * (staged ? n : 1), n_classes);
  check_apart("out", out, "x", x);
  if (state) {
    inference.state = checked_out<float>("state", *state, view.rows, t.embedding_dim() + n_classes);
    check_apart("state", *state, "x", x);
    check_apart("state", *state, "out", out);
  }
  py::gil_scoped_release release;
  t.predict(view, result, inference, n_threads);
}

std::vector<double> schedule_values(const std::string& kind, std::int64_t n_blocks) {
  return noise_schedule(named<NoiseSchedule, 2>("noise_schedule", kind,
                                                {{{"cosine", NoiseSchedule::cosine},
                                                  {"linear", NoiseSchedule::linear}}}),
                        at_least("n_blocks", n_blocks, 2));
}

py::array_t<double> coefficients(const std::vector<double>& alpha_bar) {
  const std::vector<PosteriorCoefficients> table = posterior_coefficients(alpha_bar);
  py::array_t<double> out({table.size(), std::size_t{3}});
  double* p = out.mutable_data();
  for (const PosteriorCoefficients& row : table)
    for (const double value : {row.a, row.b, row.c}) *p++ = value;
  return out;
}

DenoisingTargets denoising_targets(const py::array& labels,
                                   const std::optional<py::array>& embedding,
                                   const std::optional<py::array>& sample_weight, double weight,
                                   std::size_t batch, std::size_t n_classes) {
  DenoisingTargets targets;
  targets.labels = checked<std::int32_t>("y", labels, batch, 0);
  if (embedding) targets.embedding = input("embedding", *embedding, n_classes, kAny);
  if (sample_weight)
    targets.sample_weight = checked<float>("sample_weight", *sample_weight, batch, 0);
  targets.weight = weight;
  return targets;
}

void bound_denoising_head(py::array error, const py::array& logits, const py::array& labels,
                          const std::optional<py::array>& embedding,
                          const std::optional<py::array>& sample_weight, double weight,
                          int n_threads) {
  const auto from = input("logits", logits, kAny, kAny);
  const auto to = output("out", error, from.rows, from.columns);
  const DenoisingTargets targets =
      denoising_targets(labels, embedding, sample_weight, weight, from.rows, from.columns);
  const py::gil_scoped_release release;
  denoising_head(to, nullptr, from, targets, n_threads);
}

double bound_noprop_update(py::array weights, std::optional<py::array> bias, const py::array& h,
                           const py::array& labels, std::vector<py::array> state,
                           const std::string& solver, double learning_rate,
                           const std::optional<py::array>& embedding, double weight,
                           const std::optional<py::array>& sample_weight,
                           std::optional<py::array> error, std::uint64_t step, double momentum,
                           bool nesterov, double beta_1, double beta_2, double epsilon,
                           double alpha, double weight_decay, double n_samples, int n_threads) {
  const DenseStep numbers = step_of(solver, learning_rate, step, momentum, nesterov, beta_1, beta_2,
                                    epsilon, alpha, weight_decay, n_samples);
  const auto w = output("W", weights, kAny, kAny);
  float* b = bias ? checked_out<float>("b", *bias, w.columns, 0) : nullptr;
  const DenseState slots = states(state, numbers.optimizer.solver, w, b != nullptr);
  const auto rows = input("h", h, kAny, w.rows);
  MatrixView<float> e;
  if (error) e = output("error", *error, rows.rows, w.columns);
  const DenoisingTargets targets =
      denoising_targets(labels, embedding, sample_weight, weight, rows.rows, w.columns);
  const py::gil_scoped_release release;
  return noprop_update(w, b, slots, e, rows, targets, numbers, n_threads);
}

}  // namespace

void bind_noise(py::module_& m) {
  m.def("denoising_head", &bound_denoising_head, py::arg("out"), py::arg("logits"), py::arg("y"),
        py::arg("embedding").none(true), py::arg("sample_weight").none(true), py::arg("weight"),
        py::arg("n_threads") = 0,
        "Derivative by the logits of the error of an embedding's estimate.");
  m.def("noprop_update", &bound_noprop_update, py::arg("weights"), py::arg("bias").none(true),
        py::arg("h"), py::arg("y"), py::arg("state"), py::arg("solver"), py::arg("learning_rate"),
        py::kw_only(), py::arg("embedding") = py::none(), py::arg("weight") = 1.0,
        py::arg("sample_weight") = py::none(), py::arg("error") = py::none(), py::arg("step") = 1,
        py::arg("momentum") = 0.9, py::arg("nesterov") = true, py::arg("beta_1") = 0.9,
        py::arg("beta_2") = 0.999, py::arg("epsilon") = 1e-8, py::arg("alpha") = 0.0,
        py::arg("weight_decay") = 0.0, py::arg("n_samples") = 0.0, py::arg("n_threads") = 0,
        "The step of a NoProp block's last layer, in place; gives the mean loss.");
  m.def("noise_schedule", &schedule_values, py::arg("kind"), py::arg("n_blocks"));
  m.def("posterior_coefficients", &coefficients, py::arg("alpha_bar"));
  m.def("snr_weights", &snr_weights, py::arg("alpha_bar"), py::arg("eta"));
}

void bind_noprop(py::class_<BoundTrainer>& trainer) {
  trainer
      .def(
          "set_blocks",
          [](BoundTrainer& b, std::int64_t first, std::int64_t n) {
            noprop(b).set_blocks(at_least("first", first, 0), at_least("n", n, 1));
          },
          py::arg("first"), py::arg("n"))
      .def_property_readonly("is_one_hot",
                             [](const BoundTrainer& b) { return noprop(b).is_one_hot(); })
      .def_property_readonly("block_losses",
                             [](const BoundTrainer& b) { return noprop(b).block_losses(); })
      .def("embedding", &embedding)
      .def("set_embedding", &set_embedding, py::arg("value"))
      .def_property_readonly("has_head", [](const BoundTrainer& b) { return noprop(b).has_head(); })
      .def("head", &head)
      .def("set_head", &set_head, py::arg("weights"), py::arg("biases"))
      .def("schedule_parameters", &schedule_parameters)
      .def("set_schedule_parameters", &set_schedule_parameters, py::arg("value"))
      .def(
          "alpha_bar_at", [](const BoundTrainer& b, double t) { return noprop(b).alpha_bar(t); },
          py::arg("t"))
      .def("predict_blocks", &predict_blocks, py::arg("x"), py::arg("out"), py::kw_only(),
           py::arg("staged") = false, py::arg("n_blocks") = 0, py::arg("n_steps") = 100,
           py::arg("heun") = false, py::arg("noise") = false, py::arg("first") = 0,
           py::arg("n_run") = 0, py::arg("state") = py::none(), py::arg("input_scale") = 1.0,
           py::arg("n_threads") = 0);
}

}  // namespace bpfree::bindings
