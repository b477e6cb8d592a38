// SPDX-License-Identifier: BSD-3-Clause
// What evolution strategies have beyond a trainer: reports of generations, and generations whose fitness Python works out.
#include <vector>

#include "bindings/bound_trainer.h"
#include "methods/evolution.h"

namespace bpfree::bindings {

namespace {

Evolution& evolution(const BoundTrainer& bound) {
  auto* trainer = dynamic_cast<Evolution*>(bound.trainer.get());
  if (trainer == nullptr) fail("this trainer does not train by evolution strategies");
  return *trainer;
}

void begin_epoch(BoundTrainer& bound, const py::array& x, const py::array& y,
                 const py::object& sample_weight, std::uint64_t epoch, bool shuffle,
                 double input_scale, double learning_rate, const std::string& schedule,
                 std::uint64_t total_steps, std::uint64_t step_size, double gamma, double power_t) {
  Evolution& t = evolution(bound);
  const Running running(bound);
  const TrainingData data = training_data(t, x, y, sample_weight, input_scale);
  t.begin_epoch(data,
                {epoch, shuffle,
                 schedule_of(schedule, learning_rate, total_steps, step_size, gamma, power_t)});
  bound.data = py::make_tuple(x, y, sample_weight);  // as long as the epoch reads them
}

py::object next_batch(BoundTrainer& bound) {
  Evolution& t = evolution(bound);
  const Running running(bound);
  std::span<const std::uint32_t> batch;
  {
    py::gil_scoped_release release;
    batch = t.next_batch();
  }
  if (batch.empty()) {
    bound.data = py::object();
    return py::none();
  }
  py::array_t<std::uint32_t> out(static_cast<py::ssize_t>(batch.size()));
  std::copy(batch.begin(), batch.end(), out.mutable_data());
  return out;
}

void evaluate(BoundTrainer& bound, std::int64_t first_member, py::array out, bool logits) {
  Evolution& t = evolution(bound);
  const Running running(bound);
  const std::size_t rows = t.next_batch().size(), n_outputs = t.network().n_outputs();
  const bool fits = py::isinstance<py::array_t<float>>(out) && out.ndim() == 3 &&
                    (out.flags() & py::array::c_style) != 0 && out.writeable() &&
                    static_cast<std::size_t>(out.shape(1)) == rows &&
                    static_cast<std::size_t>(out.shape(2)) == n_outputs;
  if (!fits)
    fail("out is " + describe(out) +
         ", expected a writable C-contiguous float32 array of shape (n, " + std::to_string(rows) +
         ", " + std::to_string(n_outputs) + ")");
  if (first_member < 0)
    fail("first_member is " + std::to_string(first_member) + ", expected at least 0");
  auto* data = static_cast<float*>(out.mutable_data());
  py::gil_scoped_release release;
  t.evaluate(static_cast<std::size_t>(first_member), static_cast<std::size_t>(out.shape(0)), data,
             logits);
}

void update(BoundTrainer& bound, const py::array& fitness) {
  Evolution& t = evolution(bound);
  const Running running(bound);
  const double* data = checked<double>("fitness", fitness, kAny, 0);
  const auto n = static_cast<std::size_t>(fitness.shape(0));
  py::gil_scoped_release release;
  t.update({data, n});
}

py::array_t<double> reports(const BoundTrainer& bound) {
  const std::vector<Evolution::Generation>& generations = evolution(bound).generations();
  constexpr std::size_t kColumns = 7;
  py::array_t<double> out({generations.size(), kColumns});
  double* p = out.mutable_data();
  for (const Evolution::Generation& g : generations)
    for (const double value : {g.mean, g.min, g.max, g.std, g.gradient_norm, g.n_bad, g.cosine})
      *p++ = value;
  return out;
}

}  // namespace

void bind_evolution(py::class_<BoundTrainer>& trainer) {
  trainer
      .def("begin_epoch", &begin_epoch, py::arg("x"), py::arg("y"),
           py::arg("sample_weight") = py::none(), py::kw_only(), py::arg("epoch"),
           py::arg("shuffle") = true, py::arg("input_scale") = 1.0, py::arg("learning_rate"),
           py::arg("schedule") = "constant", py::arg("total_steps") = 0, py::arg("step_size") = 10,
           py::arg("gamma") = 0.1, py::arg("power_t") = 0.5)
      .def("next_batch", &next_batch)
      .def("evaluate", &evaluate, py::arg("first_member"), py::arg("out"), py::kw_only(),
           py::arg("logits") = false)
      .def("update", &update, py::arg("fitness"))
      .def(
          "set_report_cosine", [](BoundTrainer& b, bool on) { evolution(b).set_report_cosine(on); },
          py::arg("on"))
      .def("evolution_reports", &reports);
}

}  // namespace bpfree::bindings
