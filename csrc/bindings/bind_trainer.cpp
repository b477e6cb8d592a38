// SPDX-License-Identifier: BSD-3-Clause
#include <chrono>
#include <optional>

#include "bindings/bindings.h"
#include "bindings/bound_trainer.h"
#include "bindings/trainer_options.h"
#include "methods/backprop.h"

namespace bpfree::bindings {

TrainingData training_data(const Trainer& t, const py::array& x, const py::array& y,
                           const py::object& sample_weight, double input_scale) {
  TrainingData data;
  data.x = input_view(x, input_scale);
  if (t.network().loss() == formulas::Loss::softmax_cross_entropy)
    data.labels = checked<std::int32_t>("y", y, data.x.rows, 0);
  else
    data.targets = checked<float>("y", y, data.x.rows, t.network().n_outputs());
  if (!sample_weight.is_none())
    data.weights = checked<float>("sample_weight", sample_weight.cast<py::array>(), data.x.rows, 0);
  return data;
}

formulas::Schedule schedule_of(const std::string& name, double learning_rate,
                               std::uint64_t total_steps, std::uint64_t step_size, double gamma,
                               double power_t) {
  using formulas::ScheduleKind;
  return {named<ScheduleKind, 5>("schedule", name,
                                 {{{"constant", ScheduleKind::constant},
                                   {"adaptive", ScheduleKind::constant},
                                   {"cosine", ScheduleKind::cosine},
                                   {"step", ScheduleKind::step},
                                   {"invscaling", ScheduleKind::invscaling}}}),
          learning_rate,
          total_steps,
          step_size,
          gamma,
          power_t};
}

namespace {

constexpr double kEventSeconds = 0.1;

// No solver: its state would take memory.
std::unique_ptr<Trainer> make_ensemble_kalman(Network& network, TrainerOptions options,
                                              const EnsembleKalmanOptions& kalman) {
  options.optimizer = {.solver = formulas::Solver::sgd};
  return std::make_unique<EnsembleKalman>(network, options, kalman);
}

std::unique_ptr<BoundTrainer> make(
    const py::object& network, const std::string& method, const std::string& feedback,
    const std::string& error_signal, const std::string& distribution, double scale,
    const std::string& solver, double momentum, bool nesterov, double beta_1, double beta_2,
    double epsilon, double alpha, double weight_decay, std::int64_t batch_size, std::uint64_t seed,
    int n_threads, const std::string& goodness, const std::string& goodness_loss,
    const std::string& label_position, const std::string& negatives,
    std::optional<double> threshold, double temperature, double symba_scale,
    double peer_normalization, const std::string& local_loss, double similarity_weight,
    bool sim_projection, bool batch_normalization, double dropout, std::int64_t population_size,
    double std, double std_decay, const std::string& perturbation, std::int64_t rank,
    bool antithetic, const std::string& fitness_shaping, std::int64_t top_k,
    std::int64_t group_size, const std::string& fitness, const std::string& variant,
    const std::string& block_feedback, const std::vector<double>& alpha_bar,
    const std::string& noise_schedule, double eta, double max_snr_weight,
    std::int64_t embedding_dim, bool learn_embedding, std::int64_t n_ens, const std::string& update,
    bool squared_error, bool gauss_newton, double obs_noise_var, double spread, bool redraw) {
  if (batch_size < 1) fail("batch_size is " + std::to_string(batch_size) + ", expected at least 1");
  TrainerOptions options;
  options.optimizer = {solver_named(solver, momentum, nesterov),
                       static_cast<float>(momentum),
                       static_cast<float>(beta_1),
                       static_cast<float>(beta_2),
                       static_cast<float>(epsilon),
                       static_cast<float>(alpha),
                       static_cast<float>(weight_decay)};
  options.batch_size = static_cast<std::size_t>(batch_size);
  options.seed = seed;
  options.n_threads = n_threads;
  auto& net = network.cast<Network&>();
  enum class Method {
    backprop,
    feedback,
    forward_forward,
    local_loss,
    evolution,
    noprop,
    ensemble_kalman
  };
  const Method kind = named<Method, 7>("method", method,
                                       {{{"backprop", Method::backprop},
                                         {"feedback", Method::feedback},
                                         {"forward_forward", Method::forward_forward},
                                         {"local_loss", Method::local_loss},
                                         {"evolution", Method::evolution},
                                         {"noprop", Method::noprop},
                                         {"ensemble_kalman", Method::ensemble_kalman}}});
  if (net.blocks() != nullptr && kind != Method::noprop)
    fail("method is '" + method + "', a network of blocks trains by 'noprop'");
  const FeedbackOptions rule = feedback_options(feedback, error_signal, distribution, scale);
  auto bound = std::make_unique<BoundTrainer>();
  bound->network = network;
  if (kind == Method::backprop)
    bound->trainer = std::make_unique<Backprop>(net, options);
  else if (kind == Method::feedback)
    bound->trainer = make_feedback_trainer(net, options, rule);
  else if (kind == Method::local_loss)
    bound->trainer = std::make_unique<LocalLoss>(
        net, options,
        local_loss_options(local_loss, similarity_weight, sim_projection, batch_normalization,
                           dropout));
  else if (kind == Method::evolution)
    bound->trainer = std::make_unique<Evolution>(
        net, options,
        evolution_options(population_size, std, std_decay, perturbation, rank, antithetic,
                          fitness_shaping, top_k, group_size, fitness));
  else if (kind == Method::noprop)
    bound->trainer = std::make_unique<NoProp>(
        net, options,
        noprop_options(variant, block_feedback, alpha_bar, noise_schedule, eta, max_snr_weight,
                       embedding_dim, learn_embedding, batch_normalization));
  else if (kind == Method::ensemble_kalman)
    bound->trainer = make_ensemble_kalman(
        net, options,
        kalman_options(n_ens, update, squared_error, gauss_newton, obs_noise_var, spread, redraw));
  else
    bound->trainer = std::make_unique<ForwardForward>(
        net, options,
        forward_forward_options(goodness, goodness_loss, label_position, negatives, threshold,
                                temperature, symba_scale, peer_normalization));
  return bound;
}

double run_epoch(BoundTrainer& bound, const py::array& x, const py::array& y,
                 const py::object& sample_weight, std::uint64_t epoch, bool shuffle,
                 double input_scale, double learning_rate, const std::string& schedule,
                 std::uint64_t total_steps, std::uint64_t step_size, double gamma, double power_t,
                 const py::object& on_event, const py::object& x_negative) {
  Trainer& t = *bound.trainer;
  if (!on_event.is_none() && PyCallable_Check(on_event.ptr()) == 0)
    throw py::type_error("on_event is " + std::string(py::repr(on_event)) +
                         ", expected a function or None");
  const Running running(bound);
  TrainingData data = training_data(t, x, y, sample_weight, input_scale);
  if (!x_negative.is_none())
    data.x_negative = input_view(x_negative.cast<py::array>(), input_scale);
  t.begin_epoch(data,
                {epoch, shuffle,
                 schedule_of(schedule, learning_rate, total_steps, step_size, gamma, power_t)});
  bound.data = py::object();
  bound.stopped = false;
  using Clock = std::chrono::steady_clock;
  constexpr auto kEventPeriod =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(kEventSeconds));
  try {
    auto due = Clock::now() + kEventPeriod;
    for (bool more = true; more && !bound.stopped;) {
      {
        py::gil_scoped_release release;
        more = t.run(kEventSeconds);
      }
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      // A method may end a run before its time.
      if (on_event.is_none() || (more && Clock::now() < due)) continue;
      t.settle();
      bound.stopped = py::bool_(on_event(t.steps_done(), t.steps_in_epoch(), t.mean_loss()));
      due = Clock::now() + kEventPeriod;
    }
  } catch (...) {
    t.settle();
    throw;
  }
  t.settle();
  return t.mean_loss();
}

py::array_t<float> plain(std::size_t rows, std::size_t columns) {
  if (columns == 0) return py::array_t<float>(static_cast<py::ssize_t>(rows));
  return py::array_t<float>({rows, columns});
}

py::list optimizer_state(const BoundTrainer& bound) {
  py::list result;
  for (const Trainer::StateArray& array : bound.trainer->state_arrays()) {
    py::array_t<float> out = plain(array.rows, array.columns);
    Trainer::get_state(array, out.mutable_data());
    result.append(out);
  }
  return result;
}

void set_optimizer_state(BoundTrainer& bound, const std::vector<py::array>& state) {
  const std::vector<Trainer::StateArray> arrays = bound.trainer->state_arrays();
  if (state.size() != arrays.size())
    fail("state has " + std::to_string(state.size()) + " arrays, this trainer has " +
         std::to_string(arrays.size()));
  for (std::size_t i = 0; i < arrays.size(); ++i)
    checked<float>(("state[" + std::to_string(i) + "]").c_str(), state[i], arrays[i].rows,
                   arrays[i].columns);
  for (std::size_t i = 0; i < arrays.size(); ++i)
    Trainer::set_state(arrays[i], static_cast<const float*>(state[i].data()));
}

py::array_t<float> feedback(const BoundTrainer& bound, std::size_t layer) {
  std::size_t rows = 0, columns = 0;
  bound.trainer->feedback_shape(layer, rows, columns);
  py::array_t<float> out = plain(rows, columns);
  bound.trainer->get_feedback(layer, out.mutable_data());
  return out;
}

void set_feedback(BoundTrainer& bound, std::size_t layer, const py::array& value) {
  std::size_t rows = 0, columns = 0;
  bound.trainer->feedback_shape(layer, rows, columns);
  bound.trainer->set_feedback(layer, checked<float>("value", value, rows, columns));
}

py::tuple alignment(const BoundTrainer& bound, const py::array& x, const py::array& y,
                    const py::object& sample_weight, double input_scale) {
  const TrainingData data = training_data(*bound.trainer, x, y, sample_weight, input_scale);
  std::vector<Trainer::Alignment> result;
  {
    py::gil_scoped_release release;
    result = bound.trainer->alignment(data);
  }
  py::list angles, ratios;
  for (const Trainer::Alignment& a : result) {
    angles.append(a.angle);
    ratios.append(a.norm_ratio);
  }
  return py::make_tuple(angles, ratios);
}

ForwardForward& forward_forward(const BoundTrainer& bound) {
  auto* trainer = dynamic_cast<ForwardForward*>(bound.trainer.get());
  if (trainer == nullptr) fail("this trainer does not train by Forward-Forward");
  return *trainer;
}

void set_phase(BoundTrainer& bound, const std::string& phase) {
  forward_forward(bound).set_phase(named<FfPhase, 3>("phase", phase,
                                                     {{{"both", FfPhase::both},
                                                       {"positive", FfPhase::positive},
                                                       {"negative", FfPhase::negative}}}));
}

LocalLoss& local_loss(const BoundTrainer& bound) {
  auto* trainer = dynamic_cast<LocalLoss*>(bound.trainer.get());
  if (trainer == nullptr) fail("this trainer does not train by local losses");
  return *trainer;
}

void predict_by(const BoundTrainer& bound, const py::array& x, py::array out, bool goodness,
                bool sum_of_heads, double input_scale, int n_threads, bool logits) {
  const auto* by_losses = dynamic_cast<const LocalLoss*>(bound.trainer.get());
  if (by_losses != nullptr && goodness) fail("local losses have no goodness to predict by");
  const ForwardForward* by_goodness = by_losses == nullptr ? &forward_forward(bound) : nullptr;
  if (by_goodness != nullptr && sum_of_heads)
    fail("sum_of_heads is for local losses: Forward-Forward always adds up its heads");
  const InputView view = input_view(x, input_scale);
  float* result = checked_out<float>("out", out, view.rows, bound.trainer->network().n_outputs());
  check_apart("out", out, "x", x);
  py::gil_scoped_release release;
  if (by_losses != nullptr)
    by_losses->predict(view, result, sum_of_heads, logits, n_threads);
  else if (goodness)
    by_goodness->predict_goodness(view, result, n_threads);
  else
    by_goodness->predict_heads(view, result, logits, n_threads);
}

py::array_t<float> projection(const BoundTrainer& bound, std::size_t layer) {
  const std::size_t n = local_loss(bound).projection_size(layer);
  py::array_t<float> out = plain(n, n);
  local_loss(bound).get_projection(layer, out.mutable_data());
  return out;
}

void set_projection(const BoundTrainer& bound, std::size_t layer, const py::array& value) {
  const std::size_t n = local_loss(bound).projection_size(layer);
  local_loss(bound).set_projection(layer, checked<float>("value", value, n, n));
}

std::size_t n_norms(const BoundTrainer& bound) {
  const BatchNormalization* norms = bound.trainer->batch_normalization();
  return norms == nullptr ? 0 : norms->size();
}

BatchNormalization& batch_normalization(const BoundTrainer& bound) {
  if (n_norms(bound) == 0) fail("this trainer has no batch normalization");
  return *bound.trainer->batch_normalization();
}

py::tuple norm(const BoundTrainer& bound, std::size_t index) {
  const BatchNormalization::Arrays n = batch_normalization(bound).get(index);
  const auto copy = [&](const float* values) {
    py::array_t<float> out = plain(n.n, 0);
    std::copy_n(values, n.n, out.mutable_data());
    return out;
  };
  return py::make_tuple(copy(n.gain), copy(n.shift), copy(n.mean), copy(n.variance));
}

void set_norm(const BoundTrainer& bound, std::size_t index, const py::array& gain,
              const py::array& shift, const py::array& mean, const py::array& variance) {
  const std::size_t n = batch_normalization(bound).get(index).n;
  const BatchNormalization::Arrays value{
      checked<float>("gain", gain, n, 0), checked<float>("shift", shift, n, 0),
      checked<float>("mean", mean, n, 0), checked<float>("variance", variance, n, 0), n};
  for (std::size_t i = 0; i < n; ++i)
    if (!(value.variance[i] >= 0))
      fail("variance[" + std::to_string(i) + "] is " + std::to_string(value.variance[i]) +
           ", expected at least 0");
  batch_normalization(bound).set(index, value);
}

}  // namespace

void bind_trainer(py::module_& m) {
  py::class_<BoundTrainer> trainer(m, "Trainer",
                                   "Trains a network by minibatches, whole epochs at a time.");
  trainer
      .def(py::init(&make), py::arg("network"), py::kw_only(), py::arg("method"),
           py::arg("feedback") = "direct", py::arg("error_signal") = "exact",
           py::arg("feedback_distribution") = "uniform", py::arg("feedback_scale") = 1.0,
           py::arg("solver") = "adam", py::arg("momentum") = 0.9, py::arg("nesterov") = true,
           py::arg("beta_1") = 0.9, py::arg("beta_2") = 0.999, py::arg("epsilon") = 1e-8,
           py::arg("alpha") = 0.0, py::arg("weight_decay") = 0.0, py::arg("batch_size") = 128,
           py::arg("seed") = 0, py::arg("n_threads") = 0, py::arg("goodness") = "sum",
           py::arg("goodness_loss") = "logistic", py::arg("label_position") = "append",
           py::arg("negatives") = "random", py::arg("threshold") = py::none(),
           py::arg("temperature") = 1.0, py::arg("symba_scale") = 4.0,
           py::arg("peer_normalization") = 0.0, py::arg("local_loss") = "pred",
           py::arg("similarity_weight") = 0.99, py::arg("sim_projection") = false,
           py::arg("batch_normalization") = false, py::arg("dropout") = 0.0,
           py::arg("population_size") = 256, py::arg("std") = 0.02, py::arg("std_decay") = 1.0,
           py::arg("perturbation") = "gaussian", py::arg("rank") = 1, py::arg("antithetic") = true,
           py::arg("fitness_shaping") = "centered_rank", py::arg("top_k") = 0,
           py::arg("group_size") = 0, py::arg("fitness") = "loss", py::arg("variant") = "dt",
           py::arg("block_feedback") = "exact", py::arg("alpha_bar") = std::vector<double>(),
           py::arg("noise_schedule") = "cosine", py::arg("eta") = 0.1,
           py::arg("max_snr_weight") = 0.0, py::arg("embedding_dim") = 0,
           py::arg("learn_embedding") = false, py::arg("n_ens") = 256, py::arg("update") = "eki",
           py::arg("squared_error") = false, py::arg("gauss_newton") = false,
           py::arg("obs_noise_var") = 1.0, py::arg("spread") = 0.5, py::arg("redraw") = true)
      .def_property(
          "step", [](const BoundTrainer& b) { return b.trainer->step(); },
          [](BoundTrainer& b, std::uint64_t step) { b.trainer->set_step(step); })
      .def("run_epoch", &run_epoch, py::arg("x"), py::arg("y"),
           py::arg("sample_weight") = py::none(), py::kw_only(), py::arg("epoch"),
           py::arg("shuffle") = true, py::arg("input_scale") = 1.0, py::arg("learning_rate"),
           py::arg("schedule") = "constant", py::arg("total_steps") = 0, py::arg("step_size") = 10,
           py::arg("gamma") = 0.1, py::arg("power_t") = 0.5, py::arg("on_event") = py::none(),
           py::arg("x_negative") = py::none())
      .def("set_phase", &set_phase, py::arg("phase"))
      .def(
          "set_stage",
          [](BoundTrainer& b, std::optional<std::size_t> stage) { b.trainer->set_stage(stage); },
          py::arg("stage"))
      .def("predict_by", &predict_by, py::arg("x"), py::arg("out"), py::kw_only(),
           py::arg("goodness") = false, py::arg("sum_of_heads") = false,
           py::arg("input_scale") = 1.0, py::arg("n_threads") = 0, py::arg("logits") = false)
      .def(
          "set_cache", [](BoundTrainer& b, bool on) { local_loss(b).set_cache(on); }, py::arg("on"))
      .def("drop_cache", [](BoundTrainer& b) { local_loss(b).drop_cache(); })
      .def_property_readonly("n_projections",
                             [](const BoundTrainer& b) {
                               const auto* t = dynamic_cast<LocalLoss*>(b.trainer.get());
                               return t == nullptr ? 0 : t->n_projections();
                             })
      .def("projection", &projection, py::arg("layer"))
      .def("set_projection", &set_projection, py::arg("layer"), py::arg("value"))
      .def_property_readonly("n_norms", &n_norms)
      .def("norm", &norm, py::arg("layer"))
      .def("set_norm", &set_norm, py::arg("layer"), py::arg("gain"), py::arg("shift"),
           py::arg("mean"), py::arg("variance"))
      .def_readonly("stopped", &BoundTrainer::stopped)
      .def("optimizer_state", &optimizer_state)
      .def("set_optimizer_state", &set_optimizer_state, py::arg("state"))
      .def_property_readonly("n_feedback",
                             [](const BoundTrainer& b) {
                               const bool none =
                                   b.trainer->feedback_kind() == Trainer::FeedbackKind::none;
                               return none ? 0 : b.trainer->network().layers().size() - 1;
                             })
      .def("feedback", &feedback, py::arg("layer"))
      .def("set_feedback", &set_feedback, py::arg("layer"), py::arg("value"))
      .def("alignment", &alignment, py::arg("x"), py::arg("y"),
           py::arg("sample_weight") = py::none(), py::kw_only(), py::arg("input_scale") = 1.0);
  bind_evolution(trainer);
  bind_noprop(trainer);
  bind_ensemble_kalman(trainer);
}

}  // namespace bpfree::bindings
