// SPDX-License-Identifier: BSD-3-Clause
// The C face: pointers and sizes to views, one call each.
#include <cstring>
#include <span>

#include "base/buffer.h"
#include "base/cpu_features.h"
#include "base/version.h"
#include "capi/safe_call.h"
#include "network/denoising.h"
#include "network/dense.h"
#include "network/goodness.h"
#include "network/local_loss.h"
#include "network/noprop.h"
#include "product/product.h"
#include "random/random.h"

namespace bpfree::capi {

namespace {

// Fixed size: keeping a sentence must not fail, not even without memory.
constexpr std::size_t kMaxSentence = 1024;
thread_local char last_error[kMaxSentence] = "";

static_assert(static_cast<int>(formulas::Activation::sign) == BPFREE_SIGN_ACTIVATION);
static_assert(static_cast<int>(random::Distribution::sign) == BPFREE_SIGN);
static_assert(static_cast<int>(formulas::Goodness::mean) == BPFREE_GOODNESS_MEAN);
static_assert(static_cast<int>(formulas::GoodnessLoss::symba) == BPFREE_GOODNESS_SYMBA);
static_assert(static_cast<int>(formulas::Loss::squared_error) == BPFREE_SQUARED_ERROR);
static_assert(static_cast<int>(LocalLossKind::predsim) == BPFREE_LOCAL_PREDSIM);
static_assert(static_cast<int>(ErrorCode::kInternal) == BPFREE_INTERNAL);

template <class T>
MatrixView<T> matrix(const char* name, T* data, std::size_t rows, std::size_t columns) {
  return {pointer(name, data, checked_product(rows, columns)), rows, columns, columns};
}

formulas::Activation activation_of(bpfree_activation a) {
  return enumerator<formulas::Activation>("activation", a, BPFREE_SIGN_ACTIVATION);
}

FeedbackSource source_of(std::uint64_t seed, std::uint32_t layer, bpfree_distribution distribution,
                         double scale) {
  return {seed, layer, enumerator<random::Distribution>("distribution", distribution, BPFREE_SIGN),
          static_cast<float>(scale)};
}

template <class T, class Fill>
bpfree_status fill(T* out, std::size_t n, const Fill& make) noexcept {
  return safe_call([&] { make(std::span<T>(pointer("out", out, n), n)); });
}

template <class Out, class In>
bpfree_status multiply(Out* out, const In* a, const In* b, std::size_t m, std::size_t k,
                       std::size_t n, int transpose_a, int transpose_b, product::Dtype dtype,
                       int n_threads) noexcept {
  return safe_call([&] {
    const std::size_t out_size = checked_product(m, n), a_size = checked_product(m, k),
                      b_size = checked_product(k, n);
    pointer("out", out, out_size);
    const auto apart = [&](const char* name, const In* in, std::size_t size) {
      pointer(name, in, size);
      const auto* first = reinterpret_cast<const char*>(out);
      const auto* second = reinterpret_cast<const char*>(in);
      if (first < second + size * sizeof(In) && second < first + out_size * sizeof(Out) &&
          size > 0 && out_size > 0)
        fail(std::string("out overlaps ") + name + ", expected arrays that share no memory");
    };
    apart("a", a, a_size);
    apart("b", b, b_size);
    const std::size_t a_columns = transpose_a != 0 ? m : k;
    const std::size_t b_columns = transpose_b != 0 ? k : n;
    product::product(out, n, {a, transpose_a != 0 ? k : m, a_columns, a_columns}, transpose_a != 0,
                     {b, transpose_b != 0 ? n : k, b_columns, b_columns}, transpose_b != 0, dtype,
                     false, n_threads);
  });
}

DenseStep step_of(const bpfree_optimizer& o) {
  using formulas::Solver;
  DenseStep step;
  switch (enumerator<bpfree_solver>("solver", o.solver, BPFREE_RMSPROP)) {
    case BPFREE_SGD:
      step.optimizer.solver = o.momentum == 0   ? Solver::sgd
                              : o.nesterov != 0 ? Solver::nesterov
                                                : Solver::momentum;
      break;
    case BPFREE_ADAM:
      step.optimizer.solver = Solver::adam;
      break;
    case BPFREE_RMSPROP:
      step.optimizer.solver = Solver::rmsprop;
      break;
  }
  step.optimizer.momentum = static_cast<float>(o.momentum);
  step.optimizer.beta_1 = static_cast<float>(o.beta_1);
  step.optimizer.beta_2 = static_cast<float>(o.beta_2);
  step.optimizer.epsilon = static_cast<float>(o.epsilon);
  step.optimizer.alpha = static_cast<float>(o.alpha);
  step.optimizer.weight_decay = static_cast<float>(o.weight_decay);
  step.learning_rate = o.learning_rate;
  step.t = o.step;
  step.n_samples = o.n_samples;
  return step;
}

DenseState state_of(const DenseStep& step, float* const* W_state, float* const* b_state) {
  DenseState state;
  for (int i = 0; i < formulas::n_states(step.optimizer.solver); ++i) {
    state.weights[i] = W_state != nullptr ? W_state[i] : nullptr;
    state.biases[i] = b_state != nullptr ? b_state[i] : nullptr;
  }
  return state;
}

formulas::Goodness goodness_of(const char* name, bpfree_goodness_kind kind) {
  return enumerator<formulas::Goodness>(name, kind, BPFREE_GOODNESS_MEAN);
}

}  // namespace

bpfree_status remember(bpfree_status status, const char* sentence) noexcept {
  std::strncpy(last_error, sentence, kMaxSentence - 1);
  return status;
}

}  // namespace bpfree::capi

using namespace bpfree;
using namespace bpfree::capi;

const char* bpfree_last_error(void) { return last_error; }

const char* bpfree_version(void) { return version(); }

const char* bpfree_isa(void) {
  const char* name = nullptr;
  safe_call([&] { name = isa_name(active_isa()).data(); });
  return name;
}

bpfree_status bpfree_random_bits(uint32_t* out, size_t n, uint64_t seed, uint64_t stream,
                                 uint64_t offset, int n_threads) {
  return fill(out, n,
              [&](auto span) { random::random_bits(span, seed, stream, offset, n_threads); });
}
bpfree_status bpfree_uniform_f32(float* out, size_t n, uint64_t seed, uint64_t stream,
                                 uint64_t offset, int n_threads) {
  return fill(out, n, [&](auto span) { random::uniform(span, seed, stream, offset, n_threads); });
}
bpfree_status bpfree_uniform_f64(double* out, size_t n, uint64_t seed, uint64_t stream,
                                 uint64_t offset, int n_threads) {
  return fill(out, n, [&](auto span) { random::uniform(span, seed, stream, offset, n_threads); });
}
bpfree_status bpfree_normal_f32(float* out, size_t n, uint64_t seed, uint64_t stream,
                                uint64_t offset, int n_threads) {
  return fill(out, n, [&](auto span) { random::normal(span, seed, stream, offset, n_threads); });
}
bpfree_status bpfree_normal_f64(double* out, size_t n, uint64_t seed, uint64_t stream,
                                uint64_t offset, int n_threads) {
  return fill(out, n, [&](auto span) { random::normal(span, seed, stream, offset, n_threads); });
}
bpfree_status bpfree_sign_f32(float* out, size_t n, uint64_t seed, uint64_t stream, uint64_t offset,
                              int n_threads) {
  return fill(out, n, [&](auto span) { random::sign(span, seed, stream, offset, n_threads); });
}
bpfree_status bpfree_sign_f64(double* out, size_t n, uint64_t seed, uint64_t stream,
                              uint64_t offset, int n_threads) {
  return fill(out, n, [&](auto span) { random::sign(span, seed, stream, offset, n_threads); });
}

bpfree_status bpfree_product_f32(float* out, const float* a, const float* b, size_t m, size_t k,
                                 size_t n, int transpose_a, int transpose_b, int n_threads) {
  return multiply(out, a, b, m, k, n, transpose_a, transpose_b, product::Dtype::f32, n_threads);
}
bpfree_status bpfree_product_f64(double* out, const double* a, const double* b, size_t m, size_t k,
                                 size_t n, int transpose_a, int transpose_b, int n_threads) {
  return multiply(out, a, b, m, k, n, transpose_a, transpose_b, product::Dtype::f64, n_threads);
}
bpfree_status bpfree_product_bf16(float* out, const uint16_t* a, const uint16_t* b, size_t m,
                                  size_t k, size_t n, int transpose_a, int transpose_b,
                                  int n_threads) {
  return multiply(out, a, b, m, k, n, transpose_a, transpose_b, product::Dtype::bf16, n_threads);
}

bpfree_status bpfree_dense_forward(float* h, float* preactivation, const float* x, const float* W,
                                   const float* b, size_t batch, size_t n_in, size_t n_out,
                                   bpfree_activation activation, int n_threads) {
  return safe_call([&] {
    dense_forward(matrix("h", h, batch, n_out),
                  preactivation == nullptr ? MatrixView<float>{}
                                           : matrix("preactivation", preactivation, batch, n_out),
                  matrix("x", x, batch, n_in), matrix("W", W, n_in, n_out), b,
                  activation_of(activation), n_threads);
  });
}

bpfree_status bpfree_optimizer_init(bpfree_optimizer* optimizer, bpfree_solver solver) {
  return safe_call([&] {
    pointer("optimizer", optimizer, 1);
    *optimizer = {.solver = enumerator<bpfree_solver>("solver", solver, BPFREE_RMSPROP),
                  .nesterov = 1,
                  .learning_rate = 1e-3,
                  .step = 1,
                  .momentum = 0.9,
                  .beta_1 = 0.9,
                  .beta_2 = 0.999,
                  .epsilon = 1e-8,
                  .alpha = 0,
                  .weight_decay = 0,
                  .n_samples = 0};
  });
}

bpfree_status bpfree_dense_update(float* W, float* b, float* const* W_state, float* const* b_state,
                                  const float* x, const float* delta, size_t batch, size_t n_in,
                                  size_t n_out, const bpfree_optimizer* optimizer, int n_threads) {
  return safe_call([&] {
    pointer("optimizer", optimizer, 1);
    const DenseStep step = step_of(*optimizer);
    dense_update(matrix("W", W, n_in, n_out), b, state_of(step, W_state, b_state),
                 matrix("x", x, batch, n_in), matrix("delta", delta, batch, n_out), step,
                 n_threads);
  });
}

bpfree_status bpfree_feedback_matrix(float* out, size_t n_outputs, size_t n_hidden, uint64_t seed,
                                     uint32_t layer, bpfree_distribution distribution, double scale,
                                     int n_threads) {
  return safe_call([&] {
    feedback_matrix(matrix("out", out, n_outputs, n_hidden),
                    source_of(seed, layer, distribution, scale), n_threads);
  });
}

bpfree_status bpfree_project_feedback(float* delta, const float* e, const float* feedback,
                                      const float* h, size_t batch, size_t n_outputs,
                                      size_t n_hidden, bpfree_activation activation,
                                      int n_threads) {
  return safe_call([&] {
    // Without outputs there is nothing to give, and nothing to draw either.
    project_feedback(matrix("delta", delta, batch, n_hidden), matrix("e", e, batch, n_outputs),
                     matrix("feedback", feedback, n_outputs, n_hidden), {},
                     {h, batch, n_hidden, n_hidden}, activation_of(activation), n_threads);
  });
}

bpfree_status bpfree_project_random_feedback(float* delta, const float* e, const float* h,
                                             size_t batch, size_t n_outputs, size_t n_hidden,
                                             uint64_t seed, uint32_t layer,
                                             bpfree_distribution distribution, double scale,
                                             bpfree_activation activation, int n_threads) {
  return safe_call([&] {
    project_feedback(matrix("delta", delta, batch, n_hidden), matrix("e", e, batch, n_outputs), {},
                     source_of(seed, layer, distribution, scale), {h, batch, n_hidden, n_hidden},
                     activation_of(activation), n_threads);
  });
}

bpfree_status bpfree_goodness(float* out, float* row_factor, const float* h, size_t batch, size_t n,
                              bpfree_goodness_kind kind, int n_threads) {
  return safe_call([&] {
    goodness(pointer("out", out, batch), row_factor, matrix("h", h, batch, n),
             goodness_of("kind", kind), n_threads);
  });
}

bpfree_status bpfree_forward_forward_init(bpfree_forward_forward* options) {
  return safe_call([&] {
    pointer("options", options, 1);
    *options = {.goodness = BPFREE_GOODNESS_SUM,
                .loss = BPFREE_GOODNESS_LOGISTIC,
                .threshold = -1,
                .temperature = 1,
                .symba_scale = 4};
  });
}

bpfree_status bpfree_forward_forward_update(float* W, float* b, float* const* W_state,
                                            float* const* b_state, float* h, double* loss,
                                            const float* x, size_t n_positive, size_t batch,
                                            size_t n_in, size_t n_out,
                                            const bpfree_forward_forward* options,
                                            const bpfree_optimizer* optimizer, int n_threads) {
  return safe_call([&] {
    pointer("options", options, 1);
    pointer("optimizer", optimizer, 1);
    const DenseStep step = step_of(*optimizer);
    GoodnessOptions goodness_options{
        .goodness = goodness_of("goodness", options->goodness),
        .loss = enumerator<formulas::GoodnessLoss>("loss", options->loss, BPFREE_GOODNESS_SYMBA),
        .threshold = options->threshold,
        .temperature = options->temperature,
        .symba_scale = options->symba_scale};
    if (options->threshold == -1) goodness_options.threshold.reset();
    const double mean = forward_forward_update(
        matrix("W", W, n_in, n_out), b, state_of(step, W_state, b_state),
        h == nullptr ? MatrixView<float>{} : matrix("h", h, batch, n_out),
        matrix("x", x, batch, n_in), n_positive, goodness_options, step, n_threads);
    if (loss != nullptr) *loss = mean;
  });
}

bpfree_status bpfree_local_loss_init(bpfree_local_loss* options) {
  return safe_call([&] {
    pointer("options", options, 1);
    *options = {.loss = BPFREE_SOFTMAX_CROSS_ENTROPY,
                .kind = BPFREE_LOCAL_PRED,
                .activation = BPFREE_RELU,
                .similarity_weight = 0.99};
  });
}

bpfree_status bpfree_local_loss_update(
    float* W, float* b, float* const* W_state, float* const* b_state, float* head_W, float* head_b,
    float* const* head_W_state, float* const* head_b_state, double* loss, const float* x,
    const float* h, const float* preactivation, const int32_t* labels, const float* targets,
    const float* sample_weight, size_t batch, size_t n_in, size_t n_out, size_t n_outputs,
    const bpfree_local_loss* options, const bpfree_optimizer* optimizer, int n_threads) {
  return safe_call([&] {
    pointer("options", options, 1);
    pointer("optimizer", optimizer, 1);
    const DenseStep step = step_of(*optimizer);
    const LayerLossOptions local{
        .loss = enumerator<formulas::Loss>("loss", options->loss, BPFREE_SQUARED_ERROR),
        .kind = enumerator<LocalLossKind>("kind", options->kind, BPFREE_LOCAL_PREDSIM),
        .similarity_weight = options->similarity_weight,
        .activation = activation_of(options->activation)};
    const LayerArrays layer{matrix("W", W, n_in, n_out), b, state_of(step, W_state, b_state)};
    const LayerArrays head{
        {head_W, n_out, n_outputs, n_outputs}, head_b, state_of(step, head_W_state, head_b_state)};
    const LocalTargets y{.labels = labels,
                         .values = {targets, batch, n_outputs, n_outputs},
                         .n_outputs = n_outputs,
                         .sample_weight = sample_weight};
    const double mean =
        local_loss_update(layer, head, matrix("x", x, batch, n_in), matrix("h", h, batch, n_out),
                          {preactivation, batch, n_out, n_out}, y, local, step, n_threads);
    if (loss != nullptr) *loss = mean;
  });
}

bpfree_status bpfree_posterior_coefficients(double* out, const double* alpha_bar, size_t n_blocks) {
  return safe_call([&] {
    const std::size_t n = checked_product(n_blocks, 1) + 1;
    const double* from = pointer("alpha_bar", alpha_bar, n);
    pointer("out", out, checked_product(n_blocks, 3));
    for (const PosteriorCoefficients& row : posterior_coefficients({from, from + n})) {
      *out++ = row.a;
      *out++ = row.b;
      *out++ = row.c;
    }
  });
}

bpfree_status bpfree_denoising_head(float* error, float* row_loss, const float* logits,
                                    const float* embedding, const int32_t* labels,
                                    const float* sample_weight, size_t batch, size_t n_classes,
                                    size_t dim, double weight, int n_threads) {
  return safe_call([&] {
    denoising_head(matrix("error", error, batch, n_classes), row_loss,
                   matrix("logits", logits, batch, n_classes),
                   {labels, {embedding, n_classes, dim, dim}, sample_weight, weight}, n_threads);
  });
}

bpfree_status bpfree_noprop_update(float* W, float* b, float* const* W_state, float* const* b_state,
                                   float* error, double* loss, const float* h,
                                   const float* embedding, const int32_t* labels,
                                   const float* sample_weight, size_t batch, size_t n_in,
                                   size_t n_classes, size_t dim, double weight,
                                   const bpfree_optimizer* optimizer, int n_threads) {
  return safe_call([&] {
    pointer("optimizer", optimizer, 1);
    const DenseStep step = step_of(*optimizer);
    const double mean = noprop_update(
        matrix("W", W, n_in, n_classes), b, state_of(step, W_state, b_state),
        {error, batch, n_classes, n_classes}, matrix("h", h, batch, n_in),
        {labels, {embedding, n_classes, dim, dim}, sample_weight, weight}, step, n_threads);
    if (loss != nullptr) *loss = mean;
  });
}
