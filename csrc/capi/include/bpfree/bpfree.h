// SPDX-License-Identifier: BSD-3-Clause
// bpfree: kernels that train neural networks without backpropagation, in plain C (C99).
//
// Arrays are dense and row-major: element (i, j) of a [rows, columns] is at i * columns + j. Outputs come first, then inputs,
// then sizes. Memory is the caller's; a kernel allocates only its own workspace, and frees it. Outputs may not overlap with
// anything else; inputs may overlap each other. Memory need not be aligned beyond its type. An array without elements may
// be a null pointer.
//
// n_threads: 0 takes BPFREE_NUM_THREADS, else OMP_NUM_THREADS, else the cores of the process; small work runs on fewer. The
// result has the same bits for any number of threads. Functions may be called from several threads at a time.
//
// Every function that can fail returns a status; on anything but BPFREE_OK its outputs are unchanged, and bpfree_last_error()
// holds a sentence with the offending value. NaN is no error: it goes where the arithmetic takes it.
#pragma once

#include <stddef.h>
#include <stdint.h>

// NOLINTBEGIN(readability-identifier-naming): names as C writes them
#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

typedef enum bpfree_status {
  BPFREE_OK = 0,
  BPFREE_INVALID_ARGUMENT = 1,  // a size, a number or a pointer that makes no sense
  BPFREE_UNSUPPORTED = 2,       // for example BPFREE_ISA names what this CPU lacks
  BPFREE_OUT_OF_MEMORY = 3,
  BPFREE_INTERNAL = 4
} bpfree_status;

// The sentence of the last failure in this thread; "" before the first. Valid until this thread's next failure.
const char* bpfree_last_error(void);

// "0.1.0".
const char* bpfree_version(void);

// The instruction set in use: "scalar", "avx2", "avx512", "avx512bf16" or "neon". Null when BPFREE_ISA asks for one that this
// CPU lacks; bpfree_last_error() then says so.
const char* bpfree_isa(void);

// Random numbers by position -------------------------------------------------------------------------------------------
//
// Elements offset, offset + 1, ... offset + n - 1 of the stream that (seed, stream) names, into out [n]. There is no state:
// the same call gives the same bits, in any chunks, on any machine. Philox4x32-10; docs/random.md defines every bit.
//   random_bits  32 random bits an element
//   uniform      in [0, 1), multiples of 2^-24
//   normal       standard normal
//   sign         +1 or -1
// The _f64 functions give the values of the _f32 ones.

bpfree_status bpfree_random_bits(uint32_t* out, size_t n, uint64_t seed, uint64_t stream,
                                 uint64_t offset, int n_threads);
bpfree_status bpfree_uniform_f32(float* out, size_t n, uint64_t seed, uint64_t stream,
                                 uint64_t offset, int n_threads);
bpfree_status bpfree_uniform_f64(double* out, size_t n, uint64_t seed, uint64_t stream,
                                 uint64_t offset, int n_threads);
bpfree_status bpfree_normal_f32(float* out, size_t n, uint64_t seed, uint64_t stream,
                                uint64_t offset, int n_threads);
bpfree_status bpfree_normal_f64(double* out, size_t n, uint64_t seed, uint64_t stream,
                                uint64_t offset, int n_threads);
bpfree_status bpfree_sign_f32(float* out, size_t n, uint64_t seed, uint64_t stream, uint64_t offset,
                              int n_threads);
bpfree_status bpfree_sign_f64(double* out, size_t n, uint64_t seed, uint64_t stream,
                              uint64_t offset, int n_threads);

// Product --------------------------------------------------------------------------------------------------------------
//
// out [m, n] = op(a) op(b), with op(a) [m, k] and op(b) [k, n]; op transposes where the flag is not 0: then a lies in memory
// as [k, m], or b as [n, k]. bf16: elements are the upper 16 bits of a float; sums and out are float.
// |error| <= (k + 2) u (|a| |b|), u = 2^-24 (f64: 2^-53).

bpfree_status bpfree_product_f32(float* out, const float* a, const float* b, size_t m, size_t k,
                                 size_t n, int transpose_a, int transpose_b, int n_threads);
bpfree_status bpfree_product_f64(double* out, const double* a, const double* b, size_t m, size_t k,
                                 size_t n, int transpose_a, int transpose_b, int n_threads);
bpfree_status bpfree_product_bf16(float* out, const uint16_t* a, const uint16_t* b, size_t m,
                                  size_t k, size_t n, int transpose_a, int transpose_b,
                                  int n_threads);

// Dense layers ---------------------------------------------------------------------------------------------------------

typedef enum bpfree_activation {
  BPFREE_IDENTITY = 0,
  BPFREE_RELU = 1,
  BPFREE_LEAKY_RELU = 2,  // slope 0.01
  BPFREE_TANH = 3,
  BPFREE_LOGISTIC = 4,
  BPFREE_GELU = 5,             // with erf
  BPFREE_STEP_ACTIVATION = 6,  // 1 above 0, else 0; without a derivative, as the next
  BPFREE_SIGN_ACTIVATION = 7   // -1, 0 or 1
} bpfree_activation;

// h [batch, n_out] = f(x W + b).
//   preactivation  [batch, n_out] or null: gets x W + b; for BPFREE_GELU only, whose derivative is computed from it
//   x [batch, n_in], W [n_in, n_out], b [n_out] or null
bpfree_status bpfree_dense_forward(float* h, float* preactivation, const float* x, const float* W,
                                   const float* b, size_t batch, size_t n_in, size_t n_out,
                                   bpfree_activation activation, int n_threads);

typedef enum bpfree_solver {
  BPFREE_SGD = 0,     // one state array if momentum > 0 (the velocity), else none
  BPFREE_ADAM = 1,    // two: first and second moment. With weight_decay this is AdamW
  BPFREE_RMSPROP = 2  // one: the mean square
} bpfree_solver;

// What one step needs besides the arrays. bpfree_optimizer_init() fills in the defaults; set what differs.
typedef struct bpfree_optimizer {
  bpfree_solver solver;
  int nesterov;          // 1; only where sgd has momentum
  double learning_rate;  // 1e-3
  uint64_t step;    // 1; number of this step, counted from 1: adam corrects its first steps by it
  double momentum;  // 0.9; sgd only
  double beta_1;    // 0.9; adam only
  double beta_2;    // 0.999; adam and rmsprop
  double epsilon;   // 1e-8
  double alpha;     // 0; L2 penalty: adds alpha W / n_samples to the gradient of W
  double weight_decay;  // 0; decoupled: W shrinks by learning_rate * weight_decay
  double n_samples;     // 0; what the sum of gradients is divided by; 0: batch
} bpfree_optimizer;

bpfree_status bpfree_optimizer_init(bpfree_optimizer* optimizer, bpfree_solver solver);

// The optimizer step of a layer, in place: W <- step(W, x^T delta / n), b <- step(b, sum of delta / n). The gradient is never
// stored: the tile of the product is stepped on while it is in registers.
//   W [n_in, n_out], b [n_out] or null
//   W_state, b_state  arrays of as many pointers as the solver has states, to floats of W's and of b's size, zero before the
//                     first step; null where there are none
//   x [batch, n_in], delta [batch, n_out]: inputs of the layer, and the derivative of the loss by its pre-activation (or what
//                     stands in for it)
bpfree_status bpfree_dense_update(float* W, float* b, float* const* W_state, float* const* b_state,
                                  const float* x, const float* delta, size_t batch, size_t n_in,
                                  size_t n_out, const bpfree_optimizer* optimizer, int n_threads);

// Feedback alignment ---------------------------------------------------------------------------------------------------

typedef enum bpfree_distribution {
  BPFREE_UNIFORM = 0,  // within +-scale / sqrt(n_outputs)
  BPFREE_NORMAL = 1,   // with that standard deviation
  BPFREE_SIGN = 2      // one of the two
} bpfree_distribution;

// out [n_outputs, n_hidden]: the random feedback matrix of a hidden layer, as the estimators with this seed draw it.
bpfree_status bpfree_feedback_matrix(float* out, size_t n_outputs, size_t n_hidden, uint64_t seed,
                                     uint32_t layer, bpfree_distribution distribution, double scale,
                                     int n_threads);

// delta [batch, n_hidden] = (e B) * f'(a): the output error projected to a hidden layer (direct feedback alignment).
//   e [batch, n_outputs]
//   h [batch, n_hidden]  output of the hidden layer; for BPFREE_GELU its pre-activation; null for BPFREE_IDENTITY
// The first form takes B [n_outputs, n_hidden]. The second generates that of bpfree_feedback_matrix() where it is used, and
// never stores it: the same bits.
bpfree_status bpfree_project_feedback(float* delta, const float* e, const float* feedback,
                                      const float* h, size_t batch, size_t n_outputs,
                                      size_t n_hidden, bpfree_activation activation, int n_threads);
bpfree_status bpfree_project_random_feedback(float* delta, const float* e, const float* h,
                                             size_t batch, size_t n_outputs, size_t n_hidden,
                                             uint64_t seed, uint32_t layer,
                                             bpfree_distribution distribution, double scale,
                                             bpfree_activation activation, int n_threads);

// Forward-Forward ------------------------------------------------------------------------------------------------------

typedef enum bpfree_goodness_kind {
  BPFREE_GOODNESS_SUM = 0,  // of the squares of a row
  BPFREE_GOODNESS_MEAN = 1
} bpfree_goodness_kind;

typedef enum bpfree_goodness_loss {
  BPFREE_GOODNESS_LOGISTIC =
      0,  // softplus(-z) of data, softplus(z) of wrong data; z = (g - threshold) / temperature
  BPFREE_GOODNESS_SYMBA =
      1  // softplus(-symba_scale (g of data - g of wrong data)), in pairs of rows
} bpfree_goodness_loss;

// out [batch]: the goodness of the rows of h [batch, n].
//   row_factor  [batch] or null: gets 1 / sqrt(mean of the squares + 1e-8), which brings the row to unit mean square;
//               NaN where their sum is beyond float32
bpfree_status bpfree_goodness(float* out, float* row_factor, const float* h, size_t batch, size_t n,
                              bpfree_goodness_kind kind, int n_threads);

// What a step needs besides the arrays and the optimizer. bpfree_forward_forward_init() fills in the defaults.
typedef struct bpfree_forward_forward {
  bpfree_goodness_kind goodness;  // BPFREE_GOODNESS_SUM
  bpfree_goodness_loss loss;      // BPFREE_GOODNESS_LOGISTIC
  double
      threshold;  // -1: the goodness of mean square 1, that is n_out for the sum and 1 for the mean
  double temperature;  // 1
  double symba_scale;  // 4
} bpfree_forward_forward;

bpfree_status bpfree_forward_forward_init(bpfree_forward_forward* options);

// One layer's Forward-Forward step, in place. Rows of x are data (the first n_positive) and wrong data (the rest), raw: each is
// brought to unit mean square on the way. h = relu(x W + b), g the goodness of h, delta = (d loss / d g) (d g / d h), then
// W and b are stepped on along x^T delta / n and sum of delta / n as bpfree_dense_update() does, without storing either.
//   W [n_in, n_out], b [n_out] or null, W_state and b_state as bpfree_dense_update() has them
//   h     [batch, n_out] or null: gets h as it was before the step; the next layer's x
//   loss  null, or gets the sum of the rows' losses, divided by n
//   x     [batch, n_in]
// n is the optimizer's n_samples; where that is 0, it is n_positive, or batch where n_positive is 0.
bpfree_status bpfree_forward_forward_update(float* W, float* b, float* const* W_state,
                                            float* const* b_state, float* h, double* loss,
                                            const float* x, size_t n_positive, size_t batch,
                                            size_t n_in, size_t n_out,
                                            const bpfree_forward_forward* options,
                                            const bpfree_optimizer* optimizer, int n_threads);

// Local losses ---------------------------------------------------------------------------------------------------------

typedef enum bpfree_loss {
  BPFREE_SOFTMAX_CROSS_ENTROPY = 0,
  BPFREE_BINARY_CROSS_ENTROPY = 1,
  BPFREE_SQUARED_ERROR = 2  // half the sum of squares
} bpfree_loss;

typedef enum bpfree_local_loss_kind {
  BPFREE_LOCAL_PRED = 0,  // the loss of the head
  BPFREE_LOCAL_SIM =
      1,  // cosines between rows of h, each without its mean, against those of the targets
  BPFREE_LOCAL_PREDSIM = 2  // 1 - similarity_weight of the one and similarity_weight of the other
} bpfree_local_loss_kind;

// What a step needs besides the arrays and the optimizer. bpfree_local_loss_init() fills in the defaults.
typedef struct bpfree_local_loss {
  bpfree_loss loss;              // BPFREE_SOFTMAX_CROSS_ENTROPY
  bpfree_local_loss_kind kind;   // BPFREE_LOCAL_PRED
  bpfree_activation activation;  // BPFREE_RELU: that of the layer
  double similarity_weight;      // 0.99; in [0, 1]
} bpfree_local_loss;

bpfree_status bpfree_local_loss_init(bpfree_local_loss* options);

// One layer's step on a loss of its own, in place: no error comes from the layers above. The head gives logits h M + c; delta
// is the derivative of the local loss by the layer's pre-activation, made with the head as it was. W and b, and M and c, are
// stepped on as bpfree_dense_update() does, but denormals count as zero. With BPFREE_LOCAL_SIM the head learns from its own
// loss, and teaches no layer.
//   W [n_in, n_out], b [n_out] or null, W_state and b_state as bpfree_dense_update() has them
//   head_W [n_out, n_outputs], head_b [n_outputs] or null, with their states; head_W may be null for BPFREE_LOCAL_SIM
//   loss    null, or gets the rows' local losses before the step, summed and divided by n
//   x [batch, n_in], h [batch, n_out]: input and output of the layer
//   preactivation  [batch, n_out] for BPFREE_GELU, else null
//   labels  [batch] for BPFREE_SOFTMAX_CROSS_ENTROPY, from 0 to n_outputs - 1; else null
//   targets [batch, n_outputs] for the other losses; else null
//   sample_weight  [batch], each at least 0, or null: 1
// n is the optimizer's n_samples; where that is 0, it is the sum of sample weights. The similarity wants n_outputs of at least 2.
bpfree_status bpfree_local_loss_update(
    float* W, float* b, float* const* W_state, float* const* b_state, float* head_W, float* head_b,
    float* const* head_W_state, float* const* head_b_state, double* loss, const float* x,
    const float* h, const float* preactivation, const int32_t* labels, const float* targets,
    const float* sample_weight, size_t batch, size_t n_in, size_t n_out, size_t n_outputs,
    const bpfree_local_loss* options, const bpfree_optimizer* optimizer, int n_threads);

// NoProp ---------------------------------------------------------------------------------------------------------------

// out [n_blocks, 3]: a, b and c of each block's z_t = a u^ + b z_{t-1} + sqrt(c) eps, from alpha_bar [n_blocks + 1], which rises
// from 0 or more to at most 1. There are at least 2 blocks.
bpfree_status bpfree_posterior_coefficients(double* out, const double* alpha_bar, size_t n_blocks);

// With p = softmax(logits), u^ = p E and s = 2 weight E (u^ - u_y):
//   error     [batch, n_classes] sample_weight p * (s - <p, s>), the derivative by the logits; may be logits
//   row_loss  [batch] sample_weight weight |u^ - u_y|^2, or null
//   logits    [batch, n_classes], at least 2 classes
//   embedding E [n_classes, dim], u_y its row y; or null: one-hot, and dim is not read
//   labels    [batch], from 0 to n_classes - 1
//   sample_weight  [batch], each at least 0, or null: 1
bpfree_status bpfree_denoising_head(float* error, float* row_loss, const float* logits,
                                    const float* embedding, const int32_t* labels,
                                    const float* sample_weight, size_t batch, size_t n_classes,
                                    size_t dim, double weight, int n_threads);

// The step of a block's last layer, in place: error = bpfree_denoising_head of h W + b, then as bpfree_dense_update() with that
// as delta. error [batch, n_classes], which layers below need, or null; loss null, or gets the rows' losses before the step,
// summed and divided by n: the optimizer's n_samples, or where that is 0 the sum of sample weights. h [batch, n_in].
bpfree_status bpfree_noprop_update(float* W, float* b, float* const* W_state, float* const* b_state,
                                   float* error, double* loss, const float* h,
                                   const float* embedding, const int32_t* labels,
                                   const float* sample_weight, size_t batch, size_t n_in,
                                   size_t n_classes, size_t dim, double weight,
                                   const bpfree_optimizer* optimizer, int n_threads);

// Evolution strategies -------------------------------------------------------------------------------------------------

typedef enum bpfree_noise_kind {
  BPFREE_GAUSSIAN = 0,    // standard normal
  BPFREE_RADEMACHER = 1,  // +1 or -1
  BPFREE_LOW_RANK =
      2  // of a matrix sum_q a_q b_q^T / sqrt(rank), a and b normal; of a vector standard normal
} bpfree_noise_kind;

// Names the noise of a population: a function of this, the member and the tensor. bpfree_noise_init() fills in the defaults.
typedef struct bpfree_noise {
  bpfree_noise_kind kind;  // BPFREE_GAUSSIAN
  int antithetic;  // 0; else member 2k has the noise of pair k, and member 2k + 1 its negative
  uint64_t seed;
  uint32_t generation;  // 0
  size_t rank;          // 1
} bpfree_noise;

bpfree_status bpfree_noise_init(bpfree_noise* noise, uint64_t seed);

// A vector of size[0] elements (n_dims 1), or a matrix [size[0], size[1]] (n_dims 2).
typedef struct bpfree_shape {
  size_t n_dims;
  size_t size[2];
} bpfree_shape;

// Row i of out [n_members, n_params] = theta + std * noise of members[i]. The tensors of `shapes` lie one after the other in
// theta [n_params], and each has noise of its own; null: one vector. A single member's out may be theta itself. Where both
// of a pair stand side by side in members, their noise is made once.
bpfree_status bpfree_perturb(float* out, const float* theta, const uint32_t* members,
                             size_t n_members, size_t n_params, double std,
                             const bpfree_shape* shapes, size_t n_shapes, const bpfree_noise* noise,
                             int n_threads);

// out [n_params] = sum of utilities[i] * noise of member first_member + i, for utilities [n_members]: without 1 / n_members and
// without 1 / std. The noise is made in registers, where it is added up. With antithetic first_member and n_members are even.
bpfree_status bpfree_perturbation_gradient(float* out, const double* utilities,
                                           uint64_t first_member, size_t n_members, size_t n_params,
                                           const bpfree_shape* shapes, size_t n_shapes,
                                           const bpfree_noise* noise, int n_threads);

// h [n_members, batch, n_out] = f(x W + b) with the noise of each of the members first_member, first_member + 1, ... on W and
// b, times std: what bpfree_dense_forward() gives with the parameters of bpfree_perturb(), without forming them. noise->kind is
// BPFREE_LOW_RANK.
//   x [batch, n_in] for all members where shared_x is not 0, else [n_members, batch, n_in]; W [n_in, n_out], b [n_out] or null
//   tensor  the number of W among the shapes of all parameters; that of b is the next one
bpfree_status bpfree_low_rank_forward(float* h, const float* x, int shared_x, const float* W,
                                      const float* b, uint64_t first_member, size_t n_members,
                                      size_t batch, size_t n_in, size_t n_out, double std,
                                      size_t tensor, bpfree_activation activation,
                                      const bpfree_noise* noise, int n_threads);

// With f the fitness, negated where it is minimised:
typedef enum bpfree_shaping {
  BPFREE_CENTERED_RANK = 0,  // from -1/2 (worst) to 1/2; ties get the mean of their ranks
  BPFREE_NES = 1,            // max(0, log(n / 2 + 1) - log rank) over its sum, less 1 / n
  BPFREE_Z_SCORE = 2,        // (f - mean) / sqrt(variance + 1e-5)
  BPFREE_GROUP = 3,          // the same with the mean of each group_size members, and one variance
  BPFREE_PAIR = 4,  // members 2k and 2k + 1: +-(their difference) / (2 sqrt(mean square + 1e-5))
  BPFREE_TOP_K =
      5  // of the top_k pairs with the best member (f - mean) / deviation * pairs / top_k; 0 of others
} bpfree_shaping;

// utilities [n_members] of fitness [n_members]: what each member's noise counts; a larger one is a better member. NaN and
// infinite fitness is worst; n_lost, where it is not null, gets how many these were. Refused where all are. utilities may be
// fitness itself.
bpfree_status bpfree_fitness_shaping(double* utilities, size_t* n_lost, const double* fitness,
                                     size_t n_members, int maximize, bpfree_shaping kind,
                                     size_t top_k, size_t group_size);

// Ensemble Kalman methods ----------------------------------------------------------------------------------------------
//
// An ensemble is theta [n_ens, n_params], a row for each member, and g [n_ens, n_obs] what each predicts for the data y [n_obs];
// n_ens is at least 2. Covariances divide by n_ens - 1. obs_noise_cov holds variances, not deviations, of the data's noise: one
// value, n_obs, or a covariance matrix [n_obs, n_obs]; n_noise says how many. g, y and score are finite.

typedef enum bpfree_ensemble_method {
  BPFREE_EKI = 0,    // theta_j += C_theta_g (C_gg + noise / dt)^-1 (y - g_j)
  BPFREE_ENKF = 1,   // with y + xi_j, xi_j drawn from N(0, noise / dt)
  BPFREE_ESMDA = 2,  // the same; dt is 1 / alpha
  BPFREE_ETKI = 3,   // the mean by that gain, the anomalies by the symmetric square root
  BPFREE_DENKF = 4   // the mean by that gain, the anomalies by half of it
} bpfree_ensemble_method;

typedef enum bpfree_ensemble_form {
  BPFREE_FORM_AUTO = 0,      // whichever needs fewer operations
  BPFREE_FORM_ENSEMBLE = 1,  // matrices of members
  BPFREE_FORM_DATA = 2       // matrices of outputs; not for BPFREE_ETKI
} bpfree_ensemble_form;

// What a covariance of sample correlation r is multiplied with.
typedef enum bpfree_localization {
  BPFREE_LOCALIZATION_NONE = 0,
  BPFREE_LOCALIZATION_TAPER = 1,  // the caller's number
  BPFREE_LOCALIZATION_SEC = 2,    // |r|
  BPFREE_LOCALIZATION_SEC_FISHER =
      3  // Q^2 / (1 + Q^2), Q = r over its standard error; at least 4 members
} bpfree_localization;

// bpfree_ensemble_init() fills in the defaults; set what differs.
typedef struct bpfree_ensemble {
  bpfree_ensemble_method method;
  bpfree_ensemble_form form;         // BPFREE_FORM_AUTO
  bpfree_localization localization;  // BPFREE_LOCALIZATION_NONE; not with BPFREE_ETKI
  double dt;                         // 1; above 0
  uint64_t seed;                     // 0; of xi
  uint32_t iteration;                // 0; each has a xi of its own
} bpfree_ensemble;

bpfree_status bpfree_ensemble_init(bpfree_ensemble* options, bpfree_ensemble_method method);

// out [p, q] = (a - mean)^T (b - mean) / (n_ens - 1) for a [n_ens, p] and b [n_ens, q], localised. b null: a, and q is p; then
// half is computed. taper [p, q] for BPFREE_LOCALIZATION_TAPER, else null.
bpfree_status bpfree_ensemble_covariance_f32(float* out, const float* a, const float* b,
                                             const float* taper, size_t n_ens, size_t p, size_t q,
                                             bpfree_localization localization, int n_threads);
bpfree_status bpfree_ensemble_covariance_f64(double* out, const double* a, const double* b,
                                             const double* taper, size_t n_ens, size_t p, size_t q,
                                             bpfree_localization localization, int n_threads);

// transform [n_ens, n_ens] of the options' method: row j says how much of each member's anomaly is added to member j. form and
// localization are not looked at.
//   misfit          null, or [n_ens]: gets half of each member's squared distance from y, in deviations of the noise; it wants y
//   effective_rank  null, or gets trace(K)^2 / sum of K^2, K the Gram matrix of the outputs' anomalies
//   score           null, or [n_ens, n_obs] in the place of noise^-1 (y - g_j): minus the derivative of a loss by g_j. Then y may
//                   be null, and the method is not BPFREE_ENKF or BPFREE_ESMDA
//   softmax_classes 0, or with a score the number of logits of a sample: then g are logits, and the Hessian of cross-entropy at
//                   their mean over the members, over the one number of the noise, takes the place of noise^-1
bpfree_status bpfree_ensemble_weights_f32(double* transform, double* misfit, double* effective_rank,
                                          const float* g, const double* y, const float* score,
                                          const double* obs_noise_cov, size_t n_noise, size_t n_ens,
                                          size_t n_obs, size_t softmax_classes,
                                          const bpfree_ensemble* options, int n_threads);
bpfree_status bpfree_ensemble_weights_f64(double* transform, double* misfit, double* effective_rank,
                                          const double* g, const double* y, const double* score,
                                          const double* obs_noise_cov, size_t n_noise, size_t n_ens,
                                          size_t n_obs, size_t softmax_classes,
                                          const bpfree_ensemble* options, int n_threads);

// out = theta + transform (theta - mean); out may be theta itself. bf16: transform and anomalies are rounded to bfloat16, members
// and sums are float.
bpfree_status bpfree_ensemble_transform_f32(float* out, const float* theta, const double* transform,
                                            size_t n_ens, size_t n_params, int n_threads);
bpfree_status bpfree_ensemble_transform_f64(double* out, const double* theta,
                                            const double* transform, size_t n_ens, size_t n_params,
                                            int n_threads);
bpfree_status bpfree_ensemble_transform_bf16(float* out, const float* theta,
                                             const double* transform, size_t n_ens, size_t n_params,
                                             int n_threads);

// out [n_ens, n_params]: the members after one update; out may be theta itself. Nothing of n_params x n_obs is stored.
//   misfit, effective_rank  as above
//   taper      [n_params, n_obs] for BPFREE_LOCALIZATION_TAPER, else null
//   obs_taper  [n_obs, n_obs] beside taper: symmetric, for the covariances of outputs among themselves. null leaves them whole,
//              which is for n_obs below n_ens only. With the other localisations they are multiplied with r^2
bpfree_status bpfree_ensemble_update_f32(float* out, double* misfit, double* effective_rank,
                                         const float* theta, const float* g, const double* y,
                                         const double* obs_noise_cov, size_t n_noise,
                                         const float* taper, const double* obs_taper, size_t n_ens,
                                         size_t n_params, size_t n_obs,
                                         const bpfree_ensemble* options, int n_threads);
bpfree_status bpfree_ensemble_update_f64(double* out, double* misfit, double* effective_rank,
                                         const double* theta, const double* g, const double* y,
                                         const double* obs_noise_cov, size_t n_noise,
                                         const double* taper, const double* obs_taper, size_t n_ens,
                                         size_t n_params, size_t n_obs,
                                         const bpfree_ensemble* options, int n_threads);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
// NOLINTEND(readability-identifier-naming)
