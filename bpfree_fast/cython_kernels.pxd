# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
"""Kernels for Cython: ``from bpfree_fast.cython_kernels cimport normal_f32``.

These are function pointers, found when your module is imported: there is nothing to include and
nothing to link. Arrays are dense and row-major, outputs come first, then inputs, then sizes; what
each function does and which shapes it takes stands in bpfree/bpfree.h. All run without the GIL.

Every function that can fail returns 0 (``Status.OK``) or the kind of failure; last_error() then
holds a sentence with the offending value. check() makes an exception of it.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t

cdef enum Status:
    OK = 0
    INVALID_ARGUMENT = 1
    UNSUPPORTED = 2
    OUT_OF_MEMORY = 3
    INTERNAL = 4

cdef enum Activation:
    IDENTITY = 0
    RELU = 1
    LEAKY_RELU = 2
    TANH = 3
    LOGISTIC = 4
    GELU = 5
    STEP_ACTIVATION = 6
    SIGN_ACTIVATION = 7

cdef enum Solver:
    SGD = 0
    ADAM = 1
    RMSPROP = 2

cdef enum Distribution:
    UNIFORM = 0
    NORMAL = 1
    SIGN = 2

cdef enum GoodnessKind:
    GOODNESS_SUM = 0
    GOODNESS_MEAN = 1

cdef enum GoodnessLoss:
    GOODNESS_LOGISTIC = 0
    GOODNESS_SYMBA = 1

cdef enum Loss:
    SOFTMAX_CROSS_ENTROPY = 0
    BINARY_CROSS_ENTROPY = 1
    SQUARED_ERROR = 2

cdef enum LocalLossKind:
    LOCAL_PRED = 0
    LOCAL_SIM = 1
    LOCAL_PREDSIM = 2

cdef enum NoiseKind:
    GAUSSIAN = 0
    RADEMACHER = 1
    LOW_RANK = 2

cdef enum Shaping:
    CENTERED_RANK = 0
    NES = 1
    Z_SCORE = 2
    GROUP = 3
    PAIR = 4
    TOP_K = 5

cdef enum EnsembleMethod:
    EKI = 0
    ENKF = 1
    ESMDA = 2
    ETKI = 3
    DENKF = 4

cdef enum EnsembleForm:
    FORM_AUTO = 0
    FORM_ENSEMBLE = 1
    FORM_DATA = 2

cdef enum Localization:
    LOCALIZATION_NONE = 0
    LOCALIZATION_TAPER = 1
    LOCALIZATION_SEC = 2
    LOCALIZATION_SEC_FISHER = 3

# The fields of bpfree_ensemble; ensemble_init() fills in the defaults.
cdef struct Ensemble:
    int method
    int form
    int localization
    double dt
    uint64_t seed
    uint32_t iteration

# The fields of bpfree_noise; noise_init() fills in the defaults.
cdef struct Noise:
    int kind
    int antithetic
    uint64_t seed
    uint32_t generation
    size_t rank

# The fields of bpfree_shape.
cdef struct Shape:
    size_t n_dims
    size_t size[2]

# The fields of bpfree_local_loss; local_loss_init() fills in the defaults.
cdef struct LocalLoss:
    int loss
    int kind
    int activation
    double similarity_weight

# The fields of bpfree_forward_forward; forward_forward_init() fills in the defaults.
cdef struct ForwardForward:
    int goodness
    int loss
    double threshold
    double temperature
    double symba_scale

# The fields of bpfree_optimizer; optimizer_init() fills in the defaults.
cdef struct Optimizer:
    int solver
    int nesterov
    double learning_rate
    uint64_t step
    double momentum
    double beta_1
    double beta_2
    double epsilon
    double alpha
    double weight_decay
    double n_samples

cdef const char* last_error() noexcept nogil
cdef int check(int status) except -1 nogil

cdef int random_bits(uint32_t* out, size_t n, uint64_t seed, uint64_t stream, uint64_t offset,
        int n_threads) noexcept nogil
cdef int uniform_f32(float* out, size_t n, uint64_t seed, uint64_t stream, uint64_t offset,
        int n_threads) noexcept nogil
cdef int uniform_f64(double* out, size_t n, uint64_t seed, uint64_t stream, uint64_t offset,
        int n_threads) noexcept nogil
cdef int normal_f32(float* out, size_t n, uint64_t seed, uint64_t stream, uint64_t offset,
        int n_threads) noexcept nogil
cdef int normal_f64(double* out, size_t n, uint64_t seed, uint64_t stream, uint64_t offset,
        int n_threads) noexcept nogil
cdef int sign_f32(float* out, size_t n, uint64_t seed, uint64_t stream, uint64_t offset,
        int n_threads) noexcept nogil
cdef int sign_f64(double* out, size_t n, uint64_t seed, uint64_t stream, uint64_t offset,
        int n_threads) noexcept nogil

cdef int product_f32(float* out, const float* a, const float* b, size_t m, size_t k, size_t n,
        int transpose_a, int transpose_b, int n_threads) noexcept nogil
cdef int product_f64(double* out, const double* a, const double* b, size_t m, size_t k, size_t n,
        int transpose_a, int transpose_b, int n_threads) noexcept nogil
cdef int product_bf16(float* out, const uint16_t* a, const uint16_t* b, size_t m, size_t k,
        size_t n, int transpose_a, int transpose_b, int n_threads) noexcept nogil

cdef int dense_forward(float* h, float* preactivation, const float* x, const float* W,
        const float* b, size_t batch, size_t n_in, size_t n_out, int activation,
        int n_threads) noexcept nogil
cdef int optimizer_init(Optimizer* optimizer, int solver) noexcept nogil
cdef int dense_update(float* W, float* b, float** W_state, float** b_state, const float* x,
        const float* delta, size_t batch, size_t n_in, size_t n_out, const Optimizer* optimizer,
        int n_threads) noexcept nogil

cdef int feedback_matrix(float* out, size_t n_outputs, size_t n_hidden, uint64_t seed,
        uint32_t layer, int distribution, double scale, int n_threads) noexcept nogil
cdef int project_feedback(float* delta, const float* e, const float* feedback, const float* h,
        size_t batch, size_t n_outputs, size_t n_hidden, int activation,
        int n_threads) noexcept nogil
cdef int project_random_feedback(float* delta, const float* e, const float* h, size_t batch,
        size_t n_outputs, size_t n_hidden, uint64_t seed, uint32_t layer, int distribution,
        double scale, int activation, int n_threads) noexcept nogil

cdef int goodness(float* out, float* row_factor, const float* h, size_t batch, size_t n, int kind,
        int n_threads) noexcept nogil
cdef int forward_forward_init(ForwardForward* options) noexcept nogil
cdef int forward_forward_update(float* W, float* b, float** W_state, float** b_state, float* h,
        double* loss, const float* x, size_t n_positive, size_t batch, size_t n_in, size_t n_out,
        const ForwardForward* options, const Optimizer* optimizer, int n_threads) noexcept nogil

cdef int local_loss_init(LocalLoss* options) noexcept nogil
cdef int local_loss_update(float* W, float* b, float** W_state, float** b_state, float* head_W,
        float* head_b, float** head_W_state, float** head_b_state, double* loss, const float* x,
        const float* h, const float* preactivation, const int32_t* labels, const float* targets,
        const float* sample_weight, size_t batch, size_t n_in, size_t n_out, size_t n_outputs,
        const LocalLoss* options, const Optimizer* optimizer, int n_threads) noexcept nogil

cdef int posterior_coefficients(double* out, const double* alpha_bar,
        size_t n_blocks) noexcept nogil
cdef int denoising_head(float* error, float* row_loss, const float* logits, const float* embedding,
        const int32_t* labels, const float* sample_weight, size_t batch, size_t n_classes,
        size_t dim, double weight, int n_threads) noexcept nogil
cdef int noprop_update(float* W, float* b, float** W_state, float** b_state, float* error,
        double* loss, const float* h, const float* embedding, const int32_t* labels,
        const float* sample_weight, size_t batch, size_t n_in, size_t n_classes, size_t dim,
        double weight, const Optimizer* optimizer, int n_threads) noexcept nogil

cdef int noise_init(Noise* noise, uint64_t seed) noexcept nogil
cdef int perturb(float* out, const float* theta, const uint32_t* members, size_t n_members,
        size_t n_params, double std, const Shape* shapes, size_t n_shapes, const Noise* noise,
        int n_threads) noexcept nogil
cdef int perturbation_gradient(float* out, const double* utilities, uint64_t first_member,
        size_t n_members, size_t n_params, const Shape* shapes, size_t n_shapes,
        const Noise* noise, int n_threads) noexcept nogil
cdef int low_rank_forward(float* h, const float* x, int shared_x, const float* W, const float* b,
        uint64_t first_member, size_t n_members, size_t batch, size_t n_in, size_t n_out,
        double std, size_t tensor, int activation, const Noise* noise, int n_threads) noexcept nogil
cdef int fitness_shaping(double* utilities, size_t* n_lost, const double* fitness,
        size_t n_members, int maximize, int kind, size_t top_k, size_t group_size) noexcept nogil

cdef int ensemble_init(Ensemble* options, int method) noexcept nogil
cdef int ensemble_covariance_f32(float* out, const float* a, const float* b, const float* taper,
        size_t n_ens, size_t p, size_t q, int localization, int n_threads) noexcept nogil
cdef int ensemble_covariance_f64(double* out, const double* a, const double* b, const double* taper,
        size_t n_ens, size_t p, size_t q, int localization, int n_threads) noexcept nogil
cdef int ensemble_weights_f32(double* transform, double* misfit, double* effective_rank,
        const float* g, const double* y, const float* score, const double* obs_noise_cov,
        size_t n_noise, size_t n_ens, size_t n_obs, size_t softmax_classes, const Ensemble* options,
        int n_threads) noexcept nogil
cdef int ensemble_weights_f64(double* transform, double* misfit, double* effective_rank,
        const double* g, const double* y, const double* score, const double* obs_noise_cov,
        size_t n_noise, size_t n_ens, size_t n_obs, size_t softmax_classes, const Ensemble* options,
        int n_threads) noexcept nogil
cdef int ensemble_transform_f32(float* out, const float* theta, const double* transform,
        size_t n_ens, size_t n_params, int n_threads) noexcept nogil
cdef int ensemble_transform_f64(double* out, const double* theta, const double* transform,
        size_t n_ens, size_t n_params, int n_threads) noexcept nogil
cdef int ensemble_transform_bf16(float* out, const float* theta, const double* transform,
        size_t n_ens, size_t n_params, int n_threads) noexcept nogil
cdef int ensemble_update_f32(float* out, double* misfit, double* effective_rank, const float* theta,
        const float* g, const double* y, const double* obs_noise_cov, size_t n_noise,
        const float* taper, const double* obs_taper, size_t n_ens, size_t n_params, size_t n_obs,
        const Ensemble* options, int n_threads) noexcept nogil
cdef int ensemble_update_f64(double* out, double* misfit, double* effective_rank,
        const double* theta, const double* g, const double* y, const double* obs_noise_cov,
        size_t n_noise, const double* taper, const double* obs_taper, size_t n_ens, size_t n_params,
        size_t n_obs, const Ensemble* options, int n_threads) noexcept nogil
