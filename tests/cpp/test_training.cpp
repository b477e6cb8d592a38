// SPDX-License-Identifier: BSD-3-Clause
// Prediction and whole training epochs against naive loops, and the same bits for any number of
// threads.

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "methods/backprop.h"
#include "methods/ensemble_kalman.h"
#include "methods/evolution.h"
#include "methods/feedback.h"
#include "methods/forward_forward.h"
#include "methods/local_loss.h"
#include "naive.h"

namespace bpfree::test {

namespace {

using formulas::Activation;

constexpr std::array kThreadCounts = {1, 2, 3, 7};

// Sizes that fill no panel and no tile, and enough work for several threads; the last batch has 47
// samples of 90.
constexpr std::array<std::size_t, 4> kSizes = {99, 131, 85, 5};
constexpr std::size_t kSamples = 137;
constexpr std::size_t kBatch = 90;
constexpr double kLearningRate = 0.5;

struct Samples {
  Samples() : x(kSamples, kSizes.front()), labels(kSamples) {
    Numbers numbers(3);
    rows = numbers.floats(x.values.size());
    x.values.assign(rows.begin(), rows.end());
    for (std::size_t i = 0; i < kSamples; ++i)
      labels[i] = static_cast<std::int32_t>(i * 7 % kSizes.back());
  }

  InputView view() const {
    return {rows.data(), InputType::f32, kSamples, kSizes.front(), kSizes.front(), 1.0f};
  }

  std::vector<float> rows;
  Plain x;
  std::vector<std::int32_t> labels;
};

Network make_network(Activation activation, Compute compute,
                     std::size_t first_head = Network::kNoHeads) {
  Network network({kSizes.begin(), kSizes.end()}, activation, formulas::Loss::softmax_cross_entropy,
                  compute, first_head);
  network.initialize(5, Initializer::uniform);
  return network;
}

std::vector<float> all_parameters(const Network& network) {
  const PlainNetwork plain(network);
  std::vector<float> all;
  for (const auto* part : {&plain.weights, &plain.biases})
    for (const Plain& array : *part)
      for (const double value : array.values) all.push_back(static_cast<float>(value));
  return all;
}

void run_epoch(Trainer& trainer, const Samples& samples) {
  EpochOptions epoch;
  epoch.shuffle = false;
  epoch.schedule.learning_rate = kLearningRate;
  TrainingData data;
  data.x = samples.view();
  data.labels = samples.labels.data();
  trainer.begin_epoch(data, epoch);
  while (trainer.run(0.01)) {
  }
}

TrainerOptions options(formulas::Solver solver, int n_threads) {
  TrainerOptions result;
  result.optimizer.solver = solver;
  result.batch_size = kBatch;
  result.seed = 11;
  result.n_threads = n_threads;
  return result;
}

void check_prediction(Activation activation) {
  const Samples samples;
  const Network network = make_network(activation, Compute::float32);
  std::vector<Plain> a;
  std::vector<Plain> h;
  PlainNetwork(network).forward(samples.x, a, h);
  Plain expected = a.back();
  softmax(expected);
  for (const int n_threads : kThreadCounts) {
    std::vector<float> out(kSamples * kSizes.back());
    network.predict(samples.view(), out.data(), false, n_threads);
    for (std::size_t i = 0; i < out.size(); ++i)
      check(near(out[i], expected.values[i], 1e-5), "a prediction");
  }
}

// Backpropagation, local losses, Forward-Forward, evolution strategies, ensemble Kalman, or a rule of feedback.h.
struct Method {
  std::string name;
  bool is_backprop = false;
  FeedbackOptions feedback;
  std::optional<LocalLossOptions> local_loss;
  std::optional<ForwardForwardOptions> forward_forward{};
  std::optional<EvolutionOptions> evolution{};
  std::optional<EnsembleKalmanOptions> kalman{};

  bool allows(Activation activation) const {
    return !forward_forward || activation == Activation::relu;
  }
  std::size_t first_head() const {
    if (forward_forward) return 1;
    const bool has_heads = local_loss && local_loss->kind != LocalLossKind::sim;
    return has_heads ? 0 : Network::kNoHeads;
  }
};

std::vector<Method> all_methods() {
  std::vector<Method> methods = {{"backprop", true, {}, {}}};
  for (const FeedbackRule rule :
       {FeedbackRule::direct, FeedbackRule::layerwise, FeedbackRule::sign_symmetric,
        FeedbackRule::sign_symmetric_batchwise, FeedbackRule::sign_symmetric_fixed,
        FeedbackRule::kolen_pollack, FeedbackRule::direct_kolen_pollack, FeedbackRule::target}) {
    for (const ErrorSignal signal : {ErrorSignal::exact, ErrorSignal::sign}) {
      FeedbackOptions feedback;
      feedback.rule = rule;
      feedback.error_signal = signal;
      methods.push_back({"feedback rule " + std::to_string(static_cast<int>(rule)) + " signal " +
                             std::to_string(static_cast<int>(signal)),
                         false,
                         feedback,
                         {}});
    }
  }
  for (const LocalLossKind kind :
       {LocalLossKind::pred, LocalLossKind::sim, LocalLossKind::predsim}) {
    const std::string name = "local loss " + std::to_string(static_cast<int>(kind));
    methods.push_back({name, false, {}, LocalLossOptions{.kind = kind}});
    methods.push_back({name + " with all options",
                       false,
                       {},
                       LocalLossOptions{.kind = kind,
                                        .similarity_weight = 0.5f,
                                        .sim_projection = true,
                                        .batch_normalization = true,
                                        .dropout = 0.2f}});
  }
  for (const Negatives negatives : {Negatives::random, Negatives::hard})
    methods.push_back(
        {"Forward-Forward with negatives " + std::to_string(static_cast<int>(negatives)),
         false,
         {},
         {},
         ForwardForwardOptions{.label_position = LabelPosition::overwrite,
                               .negatives = negatives,
                               .threshold = {},
                               .peer_normalization = 0.3f}});
  methods.push_back({"Forward-Forward of groups",
                     false,
                     {},
                     {},
                     ForwardForwardOptions{.goodness = formulas::Goodness::grouped_mean,
                                           .label_position = LabelPosition::none,
                                           .threshold = {}}});
  for (const NoiseKind kind : {NoiseKind::gaussian, NoiseKind::rademacher, NoiseKind::low_rank})
    for (const bool antithetic : {true, false})
      methods.push_back(
          {"evolution strategies with noise " + std::to_string(static_cast<int>(kind)) +
               (antithetic ? " in pairs" : ""),
           false,
           {},
           {},
           {},
           EvolutionOptions{.population_size = 10,
                            .perturbation = kind,
                            .rank = kind == NoiseKind::low_rank && antithetic ? 2u : 1u,
                            .antithetic = antithetic}});
  for (const bool redraw : {true, false})
    for (const bool squared_error : {true, false})
      methods.push_back({std::string("ensemble Kalman") + (redraw ? " redrawn" : " kept") +
                             (squared_error ? " by squared errors" : ""),
                         false,
                         {},
                         {},
                         {},
                         {},
                         EnsembleKalmanOptions{.n_ens = 11,
                                               .squared_error = squared_error,
                                               .gauss_newton = redraw,
                                               .redraw = redraw}});
  return methods;
}

std::unique_ptr<Trainer> make_trainer(const Method& method, Network& network,
                                      const TrainerOptions& trainer_options) {
  if (method.is_backprop) return std::make_unique<Backprop>(network, trainer_options);
  if (method.local_loss)
    return std::make_unique<LocalLoss>(network, trainer_options, *method.local_loss);
  if (method.forward_forward)
    return std::make_unique<ForwardForward>(network, trainer_options, *method.forward_forward);
  if (method.evolution)
    return std::make_unique<Evolution>(network, trainer_options, *method.evolution);
  if (method.kalman)
    return std::make_unique<EnsembleKalman>(network, trainer_options, *method.kalman);
  return make_feedback_trainer(network, trainer_options, method.feedback);
}

std::vector<Plain> feedback_of(const Trainer& trainer, Way way) {
  std::vector<Plain> feedback;
  for (std::size_t l = 0; way != Way::backprop && l + 2 < kSizes.size(); ++l) {
    Plain& b = way == Way::direct ? feedback.emplace_back(kSizes.back(), kSizes[l + 1])
                                  : feedback.emplace_back(kSizes[l + 1], kSizes[l + 2]);
    std::vector<float> copy(b.values.size());
    trainer.get_feedback(l, copy.data());
    b.values.assign(copy.begin(), copy.end());
  }
  return feedback;
}

void check_against_loops(Activation activation, Way way) {
  const Samples samples;
  Network network = make_network(activation, Compute::float32);
  PlainNetwork expected(network);
  Method method;
  method.is_backprop = way == Way::backprop;
  method.feedback.rule = way == Way::direct ? FeedbackRule::direct : FeedbackRule::layerwise;
  const auto trainer = make_trainer(method, network, options(formulas::Solver::sgd, 2));
  const std::vector<Plain> feedback = feedback_of(*trainer, way);

  run_epoch(*trainer, samples);
  for (std::size_t begin = 0; begin < kSamples; begin += kBatch) {
    const std::size_t n = std::min(kBatch, kSamples - begin);
    Plain x(n, samples.x.columns);
    std::copy_n(samples.x.values.begin() + static_cast<std::ptrdiff_t>(begin * x.columns),
                n * x.columns, x.values.begin());
    const auto first = samples.labels.begin() + static_cast<std::ptrdiff_t>(begin);
    const std::vector<int> labels(first, first + static_cast<std::ptrdiff_t>(n));
    sgd_step(expected, way, feedback, x, labels, kLearningRate);
  }
  const PlainNetwork trained(network);
  for (std::size_t l = 0; l < trained.weights.size(); ++l) {
    for (std::size_t i = 0; i < trained.weights[l].values.size(); ++i)
      check(near(trained.weights[l].values[i], expected.weights[l].values[i], 2e-5), "a weight");
    for (std::size_t i = 0; i < trained.biases[l].values.size(); ++i)
      check(near(trained.biases[l].values[i], expected.biases[l].values[i], 2e-5), "a bias");
  }
}

void check_threads(Compute compute, Activation activation, const Method& method) {
  const Samples samples;
  std::vector<float> first;
  for (const int n_threads : kThreadCounts) {
    Network network = make_network(activation, compute, method.first_head());
    const std::vector<float> initial = all_parameters(network);
    const auto trainer = make_trainer(method, network, options(formulas::Solver::adam, n_threads));
    run_epoch(*trainer, samples);
    const std::vector<float> parameters = all_parameters(network);
    if (first.empty()) first = parameters;
    check(std::all_of(parameters.begin(), parameters.end(), [](float v) { return v == v; }),
          method.name + ": a weight is not a number");
    check(parameters != initial, method.name + ": nothing was learned");
    check(parameters == first, method.name + ": the number of threads changed a weight");
  }
}

// Forward-Forward: every layer alone, then the heads, in each phase; both ways to predict.
void check_phases(Compute compute, const Method& method) {
  if (!method.forward_forward) return;
  const Samples samples;
  Network network = make_network(Activation::relu, compute, method.first_head());
  ForwardForward trainer(network, options(formulas::Solver::adam, 2), *method.forward_forward);
  for (const FfPhase phase : {FfPhase::both, FfPhase::positive, FfPhase::negative})
    for (std::size_t stage = 0; stage + 1 < kSizes.size(); ++stage) {
      const bool has_rows = phase != FfPhase::negative || stage + 2 < kSizes.size();
      const bool runs = phase == FfPhase::both || (has_rows && !trainer.is_grouped());
      trainer.set_phase(phase);
      trainer.set_stage(stage);
      bool refused = false;
      try {
        run_epoch(trainer, samples);
      } catch (const Error&) {
        refused = true;
      }
      check(refused != runs, method.name + ": a phase that a stage has no use for");
    }
  std::vector<float> out(kSamples * kSizes.back());
  for (const bool by_heads : {false, true}) {
    if (by_heads)
      trainer.predict_heads(samples.view(), out.data(), false, 2);
    else
      trainer.predict_goodness(samples.view(), out.data(), 2);
    check(std::all_of(out.begin(), out.end(), [](float v) { return v == v; }),
          method.name + ": a prediction is not a number");
  }
}

// One layer after the other, with and without the cache of its inputs.
void check_stages(Compute compute, const Method& method) {
  if (!method.local_loss) return;
  const Samples samples;
  std::vector<float> first;
  for (const bool caches : {false, true}) {
    Network network = make_network(Activation::relu, compute, method.first_head());
    LocalLoss trainer(network, options(formulas::Solver::adam, 2), *method.local_loss);
    trainer.set_cache(caches);
    for (std::size_t stage = 0; stage + 2 < kSizes.size(); ++stage) {
      trainer.set_stage(stage);
      for (int epoch = 0; epoch < 2; ++epoch) run_epoch(trainer, samples);
    }
    std::vector<float> out(kSamples * kSizes.back());
    trainer.predict(samples.view(), out.data(), true, false, 2);
    std::vector<float> result = all_parameters(network);
    result.insert(result.end(), out.begin(), out.end());
    if (first.empty()) first = result;
    check(result == first, method.name + ": the cache changed a number");
  }
}

// A generation at a time, with a fitness from outside, and the cosine beside it.
void check_generations(Compute compute, const Method& method) {
  if (!method.evolution) return;
  const Samples samples;
  std::vector<float> first;
  for (const int n_threads : kThreadCounts) {
    Network network = make_network(Activation::relu, compute);
    Evolution trainer(network, options(formulas::Solver::momentum, n_threads), *method.evolution);
    trainer.set_report_cosine(true);
    TrainingData data;
    data.x = samples.view();
    data.labels = samples.labels.data();
    trainer.begin_epoch(data, {});
    std::vector<double> fitness(trainer.population_size());
    while (true) {
      const std::size_t rows = trainer.next_batch().size();
      if (rows == 0) break;
      std::vector<float> out(3 * rows * kSizes.back());
      for (std::size_t member = 0; member < fitness.size(); member += 3) {
        const std::size_t n = std::min<std::size_t>(3, fitness.size() - member);
        trainer.evaluate(member, n, out.data(), false);
        for (std::size_t i = 0; i < n; ++i)
          fitness[member + i] = static_cast<double>(out[i * rows * kSizes.back()]);
      }
      trainer.update(fitness);
    }
    const std::vector<float> parameters = all_parameters(network);
    if (first.empty()) first = parameters;
    check(parameters == first, method.name + ": the number of threads changed a weight");
    check(trainer.generations().back().cosine == trainer.generations().back().cosine,
          method.name + ": the cosine is not a number");
  }
}

}  // namespace

void test_training() {
  for (const Activation activation : {Activation::identity, Activation::tanh, Activation::logistic,
                                      Activation::gelu, Activation::relu, Activation::leaky_relu}) {
    check_prediction(activation);
    for (const Way way : {Way::backprop, Way::direct, Way::layerwise})
      check_against_loops(activation, way);
  }
  for (const Method& method : all_methods())
    for (const Compute compute : {Compute::float32, Compute::bfloat16})
      for (const Activation activation : {Activation::relu, Activation::gelu})
        if (method.allows(activation)) check_threads(compute, activation, method);
  for (const Method& method : all_methods())
    for (const Compute compute : {Compute::float32, Compute::bfloat16})
      check_stages(compute, method);
  for (const Method& method : all_methods())
    for (const Compute compute : {Compute::float32, Compute::bfloat16})
      check_phases(compute, method);
  for (const Method& method : all_methods())
    for (const Compute compute : {Compute::float32, Compute::bfloat16})
      check_generations(compute, method);
}

}  // namespace bpfree::test
