// SPDX-License-Identifier: BSD-3-Clause
// NoProp's blocks on sizes that fill no panel and no tile: the same bits for any number of threads and for blocks apart, and
// predictions by rows, by stages and from where others left off.

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "methods/noprop.h"

namespace bpfree::test {

namespace {

constexpr std::array kThreadCounts = {1, 2, 5};
constexpr std::size_t kFeatures = 45, kClasses = 5, kDim = 7, kSamples = 137;
// Two batches: the second has 47 rows, or a single one.
constexpr std::array<std::size_t, 2> kBatches = {90, 136};

struct Kind {
  NoPropVariant variant;
  std::size_t n_blocks;
  bool feedback, normalized, one_hot;

  std::string name() const {
    constexpr std::array names = {"dt", "ct", "fm"};
    return std::string(names[static_cast<std::size_t>(variant)]) + (feedback ? " direct" : "") +
           (normalized ? " normalized" : "") + (one_hot ? " one-hot" : "");
  }
  bool has_time() const { return variant != NoPropVariant::dt; }
  std::size_t dim() const { return one_hot ? kClasses : kDim; }
};

struct Samples {
  Samples() : rows(Numbers(3).floats(kSamples * kFeatures)), labels(kSamples), weights(kSamples) {
    for (std::size_t i = 0; i < kSamples; ++i) {
      labels[i] = static_cast<std::int32_t>(i * 7 % kClasses);
      weights[i] = 0.5f + static_cast<float>(i % 3);
    }
  }
  InputView view(std::size_t first = 0, std::size_t n = kSamples) const {
    return {rows.data() + first * kFeatures, InputType::f32, n, kFeatures, kFeatures, 1.0f};
  }

  std::vector<float> rows;
  std::vector<std::int32_t> labels;
  std::vector<float> weights;
};

struct Trained {
  Trained(const Kind& kind, Compute compute, std::size_t batch, int n_threads)
      : kind_(kind),
        network({.n_blocks = kind.n_blocks,
                 .n_features = kFeatures,
                 .n_input_units = 64,
                 .n_label = kind.dim() + (kind.has_time() ? NoProp::kTimeFeatures : 0),
                 .n_label_units = 32,
                 .join = {33, 20},
                 .n_classes = kClasses},
                formulas::Activation::relu, compute) {
    network.initialize(5, Initializer::uniform);
    TrainerOptions options;
    options.batch_size = batch;
    options.seed = 11;
    options.n_threads = n_threads;
    NoPropOptions noprop;
    noprop.variant = kind.variant;
    noprop.feedback = kind.feedback;
    if (!kind.has_time()) noprop.alpha_bar = noise_schedule(NoiseSchedule::linear, kind.n_blocks);
    noprop.embedding_dim = kind.one_hot ? 0 : kDim;
    noprop.batch_normalization = kind.normalized;
    trainer = std::make_unique<NoProp>(network, options, noprop);
    if (!kind.one_hot) trainer->set_embedding(Numbers(4).floats(kClasses * kDim).data());
  }

  void run(const Samples& samples) {
    EpochOptions epoch;
    epoch.schedule.learning_rate = 1e-2;
    TrainingData data;
    data.x = samples.view();
    data.labels = samples.labels.data();
    data.weights = samples.weights.data();
    for (epoch.epoch = 0; epoch.epoch < 2; ++epoch.epoch) {
      trainer->begin_epoch(data, epoch);
      while (trainer->run(0.01)) {
      }
    }
  }

  // What these blocks have learned.
  std::vector<float> parameters(std::size_t first, std::size_t n) const {
    std::vector<float> all;
    const std::size_t per_block = network.blocks()->n_layers();
    for (std::size_t k = first * per_block; k < (first + n) * per_block; ++k) {
      const Layer& y = network.layer(k);
      std::vector<float> part(y.n_in * y.n_out + y.n_out);
      network.get_weights(k, part.data());
      network.get_biases(k, part.data() + y.n_in * y.n_out);
      all.insert(all.end(), part.begin(), part.end());
    }
    const BatchNormalization& norms = *trainer->batch_normalization();
    for (std::size_t i = first * (per_block - 1);
         i < (first + n) * (per_block - 1) && !norms.empty(); ++i) {
      const BatchNormalization::Arrays a = norms.get(i);
      for (const float* values : {a.gain, a.shift, a.mean, a.variance})
        all.insert(all.end(), values, values + a.n);
    }
    return all;
  }
  std::vector<float> parameters() const { return parameters(0, kind_.n_blocks); }

  std::vector<float> predict(const InputView& x, NoPropInference inference, int n_threads) const {
    inference.n_steps = 5;
    inference.heun = kind_.has_time();
    const std::size_t all = kind_.has_time() ? inference.n_steps : kind_.n_blocks;
    const std::size_t stages = inference.n_run > 0 ? inference.n_run : all - inference.first;
    std::vector<float> out((inference.staged ? stages : 1) * x.rows * kClasses);
    trainer->predict(x, out.data(), inference, n_threads);
    return out;
  }

 private:
  Kind kind_;

 public:
  Network network;
  std::unique_ptr<NoProp> trainer;
};

bool are_numbers(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return v == v; });
}

void check_threads(const Kind& kind, Compute compute, std::size_t batch) {
  const Samples samples;
  std::vector<float> first, first_out;
  for (const int n_threads : kThreadCounts) {
    Trained t(kind, compute, batch, n_threads);
    const std::vector<float> initial = t.parameters();
    t.run(samples);
    const std::vector<float> parameters = t.parameters();
    const std::vector<float> out = t.predict(samples.view(), {}, n_threads);
    if (first.empty()) first = parameters, first_out = out;
    check(are_numbers(parameters) && are_numbers(out), kind.name() + ": not a number");
    check(parameters != initial, kind.name() + ": nothing was learned");
    check(parameters == first, kind.name() + ": the number of threads changed a weight");
    check(out == first_out, kind.name() + ": the number of threads changed a prediction");
  }
}

void check_predictions(const Kind& kind, Compute compute) {
  const Samples samples;
  Trained t(kind, compute, kBatches[0], 2);
  t.run(samples);
  const std::vector<float> whole = t.predict(samples.view(), {}, 2);
  const std::vector<float> stages = t.predict(samples.view(), {.staged = true}, 2);
  check(std::equal(whole.begin(), whole.end(),
                   stages.end() - static_cast<std::ptrdiff_t>(whole.size())),
        kind.name() + ": the last stage is the prediction");
  for (const std::size_t row : {std::size_t{0}, std::size_t{77}, kSamples - 1}) {
    const std::vector<float> alone = t.predict(samples.view(row, 1), {}, 2);
    check(std::equal(alone.begin(), alone.end(),
                     whole.begin() + static_cast<std::ptrdiff_t>(row * kClasses)),
          kind.name() + ": a row depends on others");
  }
  std::vector<float> state(kSamples * (kind.dim() + kClasses));
  std::vector<float> parts;
  for (const std::size_t first : {std::size_t{0}, std::size_t{2}}) {
    const std::vector<float> part = t.predict(
        samples.view(),
        {.staged = true, .first = first, .n_run = first == 0 ? 2u : 0u, .state = state.data()}, 2);
    parts.insert(parts.end(), part.begin(), part.end());
  }
  check(parts == stages, kind.name() + ": stages that go on from a state");
}

void check_blocks_apart(const Kind& kind, Compute compute) {
  const Samples samples;
  Trained together(kind, compute, kBatches[0], 2);
  together.run(samples);
  for (const std::size_t first : {std::size_t{0}, std::size_t{1}}) {
    const std::size_t n = first == 0 ? 1 : kind.n_blocks - 1;
    Trained apart(kind, compute, kBatches[0], 2);
    apart.trainer->set_blocks(first, n);
    apart.run(samples);
    check(apart.parameters(first, n) == together.parameters(first, n),
          kind.name() + ": blocks apart are other blocks");
  }
}

}  // namespace

void test_noprop() {
  for (const NoPropVariant variant : {NoPropVariant::dt, NoPropVariant::ct, NoPropVariant::fm})
    for (const Compute compute : {Compute::float32, Compute::bfloat16})
      for (const bool feedback : {false, true})
        for (const bool normalized : {false, true}) {
          const bool discrete = variant == NoPropVariant::dt;
          const Kind kind{variant, discrete ? 3u : 1u, feedback, normalized, normalized};
          for (const std::size_t batch : kBatches) check_threads(kind, compute, batch);
          check_predictions(kind, compute);
          if (discrete) check_blocks_apart(kind, compute);
        }
  // More blocks than have arrays of their own.
  check_threads({NoPropVariant::dt, 17, false, true, true}, Compute::float32, kBatches[0]);
}

}  // namespace bpfree::test
