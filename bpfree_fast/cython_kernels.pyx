# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
# distutils: language = c++
"""The C functions of libbpfree as function pointers that other Cython modules can cimport."""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t

cdef extern from "bpfree/bpfree.h" nogil:
    ctypedef enum bpfree_status:
        pass
    ctypedef enum bpfree_activation:
        pass
    ctypedef enum bpfree_solver:
        pass
    ctypedef enum bpfree_distribution:
        pass
    ctypedef enum bpfree_goodness_kind:
        pass
    ctypedef struct bpfree_optimizer:
        pass
    ctypedef struct bpfree_forward_forward:
        pass
    ctypedef struct bpfree_local_loss:
        pass
    ctypedef enum bpfree_shaping:
        pass
    ctypedef struct bpfree_noise:
        pass
    ctypedef enum bpfree_ensemble_method:
        pass
    ctypedef enum bpfree_localization:
        pass
    ctypedef struct bpfree_ensemble:
        pass
    ctypedef struct bpfree_shape:
        pass
    const char* bpfree_last_error()
    bpfree_status bpfree_random_bits(uint32_t* out, size_t n, uint64_t seed, uint64_t stream,
        uint64_t offset, int n_threads)
    bpfree_status bpfree_uniform_f32(float* out, size_t n, uint64_t seed, uint64_t stream,
        uint64_t offset, int n_threads)
    bpfree_status bpfree_uniform_f64(double* out, size_t n, uint64_t seed, uint64_t stream,
        uint64_t offset, int n_threads)
    bpfree_status bpfree_normal_f32(float* out, size_t n, uint64_t seed, uint64_t stream,
        uint64_t offset, int n_threads)
    bpfree_status bpfree_normal_f64(double* out, size_t n, uint64_t seed, uint64_t stream,
        uint64_t offset, int n_threads)
    bpfree_status bpfree_sign_f32(float* out, size_t n, uint64_t seed, uint64_t stream,
        uint64_t offset, int n_threads)
    bpfree_status bpfree_sign_f64(double* out, size_t n, uint64_t seed, uint64_t stream,
        uint64_t offset, int n_threads)
    bpfree_status bpfree_product_f32(float* out, const float* a, const float* b, size_t m, size_t k,
        size_t n, int transpose_a, int transpose_b, int n_threads)
    bpfree_status bpfree_product_f64(double* out, const double* a, const double* b, size_t m,
        size_t k, size_t n, int transpose_a, int transpose_b, int n_threads)
    bpfree_status bpfree_product_bf16(float* out, const uint16_t* a, const uint16_t* b, size_t m,
        size_t k, size_t n, int transpose_a, int transpose_b, int n_threads)
    bpfree_status bpfree_dense_forward(float* h, float* preactivation, const float* x,
        const float* W, const float* b, size_t batch, size_t n_in, size_t n_out,
        bpfree_activation activation, int n_threads)
    bpfree_status bpfree_optimizer_init(bpfree_optimizer* optimizer, bpfree_solver solver)
    bpfree_status bpfree_dense_update(float* W, float* b, float* const* W_state,
        float* const* b_state, const float* x, const float* delta, size_t batch, size_t n_in,
        size_t n_out, const bpfree_optimizer* optimizer, int n_threads)
    bpfree_status bpfree_feedback_matrix(float* out, size_t n_outputs, size_t n_hidden,
        uint64_t seed, uint32_t layer, bpfree_distribution distribution, double scale,
        int n_threads)
    bpfree_status bpfree_project_feedback(float* delta, const float* e, const float* feedback,
        const float* h, size_t batch, size_t n_outputs, size_t n_hidden,
        bpfree_activation activation, int n_threads)
    bpfree_status bpfree_project_random_feedback(float* delta, const float* e, const float* h,
        size_t batch, size_t n_outputs, size_t n_hidden, uint64_t seed, uint32_t layer,
        bpfree_distribution distribution, double scale, bpfree_activation activation, int n_threads)
    bpfree_status bpfree_goodness(float* out, float* row_factor, const float* h, size_t batch,
        size_t n, bpfree_goodness_kind kind, int n_threads)
    bpfree_status bpfree_forward_forward_init(bpfree_forward_forward* options)
    bpfree_status bpfree_forward_forward_update(float* W, float* b, float* const* W_state,
        float* const* b_state, float* h, double* loss, const float* x, size_t n_positive,
        size_t batch, size_t n_in, size_t n_out, const bpfree_forward_forward* options,
        const bpfree_optimizer* optimizer, int n_threads)
    bpfree_status bpfree_local_loss_init(bpfree_local_loss* options)
    bpfree_status bpfree_local_loss_update(float* W, float* b, float* const* W_state,
        float* const* b_state, float* head_W, float* head_b, float* const* head_W_state,
        float* const* head_b_state, double* loss, const float* x, const float* h,
        const float* preactivation, const int32_t* labels, const float* targets,
        const float* sample_weight, size_t batch, size_t n_in, size_t n_out, size_t n_outputs,
        const bpfree_local_loss* options, const bpfree_optimizer* optimizer, int n_threads)
    bpfree_status bpfree_posterior_coefficients(double* out, const double* alpha_bar,
        size_t n_blocks)
    bpfree_status bpfree_denoising_head(float* error, float* row_loss, const float* logits,
        const float* embedding, const int32_t* labels, const float* sample_weight, size_t batch,
        size_t n_classes, size_t dim, double weight, int n_threads)
    bpfree_status bpfree_noprop_update(float* W, float* b, float* const* W_state,
        float* const* b_state, float* error, double* loss, const float* h, const float* embedding,
        const int32_t* labels, const float* sample_weight, size_t batch, size_t n_in,
        size_t n_classes, size_t dim, double weight, const bpfree_optimizer* optimizer,
        int n_threads)
    bpfree_status bpfree_noise_init(bpfree_noise* noise, uint64_t seed)
    bpfree_status bpfree_perturb(float* out, const float* theta, const uint32_t* members,
        size_t n_members, size_t n_params, double std, const bpfree_shape* shapes, size_t n_shapes,
        const bpfree_noise* noise, int n_threads)
    bpfree_status bpfree_perturbation_gradient(float* out, const double* utilities,
        uint64_t first_member, size_t n_members, size_t n_params, const bpfree_shape* shapes,
        size_t n_shapes, const bpfree_noise* noise, int n_threads)
    bpfree_status bpfree_low_rank_forward(float* h, const float* x, int shared_x, const float* W,
        const float* b, uint64_t first_member, size_t n_members, size_t batch, size_t n_in,
        size_t n_out, double std, size_t tensor, bpfree_activation activation,
        const bpfree_noise* noise, int n_threads)
    bpfree_status bpfree_fitness_shaping(double* utilities, size_t* n_lost, const double* fitness,
        size_t n_members, int maximize, bpfree_shaping kind, size_t top_k, size_t group_size)
    bpfree_status bpfree_ensemble_init(bpfree_ensemble* options, bpfree_ensemble_method method)
    bpfree_status bpfree_ensemble_covariance_f32(float* out, const float* a, const float* b,
        const float* taper, size_t n_ens, size_t p, size_t q, bpfree_localization localization,
        int n_threads)
    bpfree_status bpfree_ensemble_covariance_f64(double* out, const double* a, const double* b,
        const double* taper, size_t n_ens, size_t p, size_t q, bpfree_localization localization,
        int n_threads)
    bpfree_status bpfree_ensemble_weights_f32(double* transform, double* misfit,
        double* effective_rank, const float* g, const double* y, const float* score,
        const double* obs_noise_cov, size_t n_noise, size_t n_ens, size_t n_obs,
        size_t softmax_classes, const bpfree_ensemble* options, int n_threads)
    bpfree_status bpfree_ensemble_weights_f64(double* transform, double* misfit,
        double* effective_rank, const double* g, const double* y, const double* score,
        const double* obs_noise_cov, size_t n_noise, size_t n_ens, size_t n_obs,
        size_t softmax_classes, const bpfree_ensemble* options, int n_threads)
    bpfree_status bpfree_ensemble_transform_f32(float* out, const float* theta,
        const double* transform, size_t n_ens, size_t n_params, int n_threads)
    bpfree_status bpfree_ensemble_transform_f64(double* out, const double* theta,
        const double* transform, size_t n_ens, size_t n_params, int n_threads)
    bpfree_status bpfree_ensemble_transform_bf16(float* out, const float* theta,
        const double* transform, size_t n_ens, size_t n_params, int n_threads)
    bpfree_status bpfree_ensemble_update_f32(float* out, double* misfit, double* effective_rank,
        const float* theta, const float* g, const double* y, const double* obs_noise_cov,
        size_t n_noise, const float* taper, const double* obs_taper, size_t n_ens, size_t n_params,
        size_t n_obs, const bpfree_ensemble* options, int n_threads)
    bpfree_status bpfree_ensemble_update_f64(double* out, double* misfit, double* effective_rank,
        const double* theta, const double* g, const double* y, const double* obs_noise_cov,
        size_t n_noise, const double* taper, const double* obs_taper, size_t n_ens, size_t n_params,
        size_t n_obs, const bpfree_ensemble* options, int n_threads)


cdef int check(int status) except -1 nogil:
    if status == OK:
        return 0
    with gil:
        message = bpfree_last_error().decode("utf-8", "replace")
        if status == INVALID_ARGUMENT:
            raise ValueError(message)
        if status == OUT_OF_MEMORY:
            raise MemoryError(message)
        raise RuntimeError(message)


cdef const char* last_error() noexcept nogil:
    return bpfree_last_error()


cdef int random_bits(uint32_t* out, size_t n, uint64_t seed, uint64_t stream, uint64_t offset,
        int n_threads) noexcept nogil:
    return bpfree_random_bits(out, n, seed, stream, offset, n_threads)


cdef int uniform_f32(float* out, size_t n, uint64_t seed, uint64_t stream, uint64_t offset,
        int n_threads) noexcept nogil:
    return bpfree_uniform_f32(out, n, seed, stream, offset, n_threads)


cdef int uniform_f64(double* out, size_t n, uint64_t seed, uint64_t stream, uint64_t offset,
        int n_threads) noexcept nogil:
    return bpfree_uniform_f64(out, n, seed, stream, offset, n_threads)


cdef int normal_f32(float* out, size_t n, uint64_t seed, uint64_t stream, uint64_t offset,
        int n_threads) noexcept nogil:
    return bpfree_normal_f32(out, n, seed, stream, offset, n_threads)


cdef int normal_f64(double* out, size_t n, uint64_t seed, uint64_t stream, uint64_t offset,
        int n_threads) noexcept nogil:
    return bpfree_normal_f64(out, n, seed, stream, offset, n_threads)


cdef int sign_f32(float* out, size_t n, uint64_t seed, uint64_t stream, uint64_t offset,
        int n_threads) noexcept nogil:
    return bpfree_sign_f32(out, n, seed, stream, offset, n_threads)


cdef int sign_f64(double* out, size_t n, uint64_t seed, uint64_t stream, uint64_t offset,
        int n_threads) noexcept nogil:
    return bpfree_sign_f64(out, n, seed, stream, offset, n_threads)


cdef int product_f32(float* out, const float* a, const float* b, size_t m, size_t k, size_t n,
        int transpose_a, int transpose_b, int n_threads) noexcept nogil:
    return bpfree_product_f32(out, a, b, m, k, n, transpose_a, transpose_b, n_threads)


cdef int product_f64(double* out, const double* a, const double* b, size_t m, size_t k, size_t n,
        int transpose_a, int transpose_b, int n_threads) noexcept nogil:
    return bpfree_product_f64(out, a, b, m, k, n, transpose_a, transpose_b, n_threads)


cdef int product_bf16(float* out, const uint16_t* a, const uint16_t* b, size_t m, size_t k,
        size_t n, int transpose_a, int transpose_b, int n_threads) noexcept nogil:
    return bpfree_product_bf16(out, a, b, m, k, n, transpose_a, transpose_b, n_threads)


cdef int dense_forward(float* h, float* preactivation, const float* x, const float* W,
        const float* b, size_t batch, size_t n_in, size_t n_out, int activation,
        int n_threads) noexcept nogil:
    return bpfree_dense_forward(h, preactivation, x, W, b, batch, n_in, n_out,
        <bpfree_activation>activation, n_threads)


cdef int optimizer_init(Optimizer* optimizer, int solver) noexcept nogil:
    return bpfree_optimizer_init(<bpfree_optimizer*>optimizer, <bpfree_solver>solver)


cdef int dense_update(float* W, float* b, float** W_state, float** b_state, const float* x,
        const float* delta, size_t batch, size_t n_in, size_t n_out, const Optimizer* optimizer,
        int n_threads) noexcept nogil:
    return bpfree_dense_update(W, b, W_state, b_state, x, delta, batch, n_in, n_out,
        <const bpfree_optimizer*>optimizer, n_threads)


cdef int feedback_matrix(float* out, size_t n_outputs, size_t n_hidden, uint64_t seed,
        uint32_t layer, int distribution, double scale, int n_threads) noexcept nogil:
    return bpfree_feedback_matrix(out, n_outputs, n_hidden, seed, layer,
        <bpfree_distribution>distribution, scale, n_threads)


cdef int project_feedback(float* delta, const float* e, const float* feedback, const float* h,
        size_t batch, size_t n_outputs, size_t n_hidden, int activation,
        int n_threads) noexcept nogil:
    return bpfree_project_feedback(delta, e, feedback, h, batch, n_outputs, n_hidden,
        <bpfree_activation>activation, n_threads)


cdef int project_random_feedback(float* delta, const float* e, const float* h, size_t batch,
        size_t n_outputs, size_t n_hidden, uint64_t seed, uint32_t layer, int distribution,
        double scale, int activation, int n_threads) noexcept nogil:
    return bpfree_project_random_feedback(delta, e, h, batch, n_outputs, n_hidden, seed, layer,
        <bpfree_distribution>distribution, scale, <bpfree_activation>activation, n_threads)


cdef int goodness(float* out, float* row_factor, const float* h, size_t batch, size_t n, int kind,
        int n_threads) noexcept nogil:
    return bpfree_goodness(out, row_factor, h, batch, n, <bpfree_goodness_kind>kind, n_threads)


cdef int forward_forward_init(ForwardForward* options) noexcept nogil:
    return bpfree_forward_forward_init(<bpfree_forward_forward*>options)


cdef int forward_forward_update(float* W, float* b, float** W_state, float** b_state, float* h,
        double* loss, const float* x, size_t n_positive, size_t batch, size_t n_in, size_t n_out,
        const ForwardForward* options, const Optimizer* optimizer, int n_threads) noexcept nogil:
    return bpfree_forward_forward_update(W, b, W_state, b_state, h, loss, x, n_positive, batch,
        n_in, n_out, <const bpfree_forward_forward*>options, <const bpfree_optimizer*>optimizer,
        n_threads)


cdef int local_loss_init(LocalLoss* options) noexcept nogil:
    return bpfree_local_loss_init(<bpfree_local_loss*>options)


cdef int local_loss_update(float* W, float* b, float** W_state, float** b_state, float* head_W,
        float* head_b, float** head_W_state, float** head_b_state, double* loss, const float* x,
        const float* h, const float* preactivation, const int32_t* labels, const float* targets,
        const float* sample_weight, size_t batch, size_t n_in, size_t n_out, size_t n_outputs,
        const LocalLoss* options, const Optimizer* optimizer, int n_threads) noexcept nogil:
    return bpfree_local_loss_update(W, b, W_state, b_state, head_W, head_b, head_W_state,
        head_b_state, loss, x, h, preactivation, labels, targets, sample_weight, batch, n_in, n_out,
        n_outputs, <const bpfree_local_loss*>options, <const bpfree_optimizer*>optimizer,
        n_threads)


cdef int posterior_coefficients(double* out, const double* alpha_bar,
        size_t n_blocks) noexcept nogil:
    return bpfree_posterior_coefficients(out, alpha_bar, n_blocks)


cdef int denoising_head(float* error, float* row_loss, const float* logits, const float* embedding,
        const int32_t* labels, const float* sample_weight, size_t batch, size_t n_classes,
        size_t dim, double weight, int n_threads) noexcept nogil:
    return bpfree_denoising_head(error, row_loss, logits, embedding, labels, sample_weight, batch,
        n_classes, dim, weight, n_threads)


cdef int noprop_update(float* W, float* b, float** W_state, float** b_state, float* error,
        double* loss, const float* h, const float* embedding, const int32_t* labels,
        const float* sample_weight, size_t batch, size_t n_in, size_t n_classes, size_t dim,
        double weight, const Optimizer* optimizer, int n_threads) noexcept nogil:
    return bpfree_noprop_update(W, b, W_state, b_state, error, loss, h, embedding, labels,
        sample_weight, batch, n_in, n_classes, dim, weight, <const bpfree_optimizer*>optimizer,
        n_threads)


cdef int noise_init(Noise* noise, uint64_t seed) noexcept nogil:
    return bpfree_noise_init(<bpfree_noise*>noise, seed)


cdef int perturb(float* out, const float* theta, const uint32_t* members, size_t n_members,
        size_t n_params, double std, const Shape* shapes, size_t n_shapes, const Noise* noise,
        int n_threads) noexcept nogil:
    return bpfree_perturb(out, theta, members, n_members, n_params, std,
        <const bpfree_shape*>shapes, n_shapes, <const bpfree_noise*>noise, n_threads)


cdef int perturbation_gradient(float* out, const double* utilities, uint64_t first_member,
        size_t n_members, size_t n_params, const Shape* shapes, size_t n_shapes,
        const Noise* noise, int n_threads) noexcept nogil:
    return bpfree_perturbation_gradient(out, utilities, first_member, n_members, n_params,
        <const bpfree_shape*>shapes, n_shapes, <const bpfree_noise*>noise, n_threads)


cdef int low_rank_forward(float* h, const float* x, int shared_x, const float* W, const float* b,
        uint64_t first_member, size_t n_members, size_t batch, size_t n_in, size_t n_out,
        double std, size_t tensor, int activation, const Noise* noise,
        int n_threads) noexcept nogil:
    return bpfree_low_rank_forward(h, x, shared_x, W, b, first_member, n_members, batch, n_in,
        n_out, std, tensor, <bpfree_activation>activation, <const bpfree_noise*>noise, n_threads)


cdef int fitness_shaping(double* utilities, size_t* n_lost, const double* fitness,
        size_t n_members, int maximize, int kind, size_t top_k, size_t group_size) noexcept nogil:
    return bpfree_fitness_shaping(utilities, n_lost, fitness, n_members, maximize,
        <bpfree_shaping>kind, top_k, group_size)


cdef int ensemble_init(Ensemble* options, int method) noexcept nogil:
    return bpfree_ensemble_init(<bpfree_ensemble*>options, <bpfree_ensemble_method>method)


cdef int ensemble_covariance_f32(float* out, const float* a, const float* b, const float* taper,
        size_t n_ens, size_t p, size_t q, int localization, int n_threads) noexcept nogil:
    return bpfree_ensemble_covariance_f32(out, a, b, taper, n_ens, p, q,
        <bpfree_localization>localization, n_threads)


cdef int ensemble_covariance_f64(double* out, const double* a, const double* b, const double* taper,
        size_t n_ens, size_t p, size_t q, int localization, int n_threads) noexcept nogil:
    return bpfree_ensemble_covariance_f64(out, a, b, taper, n_ens, p, q,
        <bpfree_localization>localization, n_threads)


cdef int ensemble_weights_f32(double* transform, double* misfit, double* effective_rank,
        const float* g, const double* y, const float* score, const double* obs_noise_cov,
        size_t n_noise, size_t n_ens, size_t n_obs, size_t softmax_classes, const Ensemble* options,
        int n_threads) noexcept nogil:
    return bpfree_ensemble_weights_f32(transform, misfit, effective_rank, g, y, score,
        obs_noise_cov, n_noise, n_ens, n_obs, softmax_classes, <const bpfree_ensemble*>options,
        n_threads)


cdef int ensemble_weights_f64(double* transform, double* misfit, double* effective_rank,
        const double* g, const double* y, const double* score, const double* obs_noise_cov,
        size_t n_noise, size_t n_ens, size_t n_obs, size_t softmax_classes, const Ensemble* options,
        int n_threads) noexcept nogil:
    return bpfree_ensemble_weights_f64(transform, misfit, effective_rank, g, y, score,
        obs_noise_cov, n_noise, n_ens, n_obs, softmax_classes, <const bpfree_ensemble*>options,
        n_threads)


cdef int ensemble_transform_f32(float* out, const float* theta, const double* transform,
        size_t n_ens, size_t n_params, int n_threads) noexcept nogil:
    return bpfree_ensemble_transform_f32(out, theta, transform, n_ens, n_params, n_threads)


cdef int ensemble_transform_f64(double* out, const double* theta, const double* transform,
        size_t n_ens, size_t n_params, int n_threads) noexcept nogil:
    return bpfree_ensemble_transform_f64(out, theta, transform, n_ens, n_params, n_threads)


cdef int ensemble_transform_bf16(float* out, const float* theta, const double* transform,
        size_t n_ens, size_t n_params, int n_threads) noexcept nogil:
    return bpfree_ensemble_transform_bf16(out, theta, transform, n_ens, n_params, n_threads)


cdef int ensemble_update_f32(float* out, double* misfit, double* effective_rank, const float* theta,
        const float* g, const double* y, const double* obs_noise_cov, size_t n_noise,
        const float* taper, const double* obs_taper, size_t n_ens, size_t n_params, size_t n_obs,
        const Ensemble* options, int n_threads) noexcept nogil:
    return bpfree_ensemble_update_f32(out, misfit, effective_rank, theta, g, y, obs_noise_cov,
        n_noise, taper, obs_taper, n_ens, n_params, n_obs, <const bpfree_ensemble*>options,
        n_threads)


cdef int ensemble_update_f64(double* out, double* misfit, double* effective_rank,
        const double* theta, const double* g, const double* y, const double* obs_noise_cov,
        size_t n_noise, const double* taper, const double* obs_taper, size_t n_ens, size_t n_params,
        size_t n_obs, const Ensemble* options, int n_threads) noexcept nogil:
    return bpfree_ensemble_update_f64(out, misfit, effective_rank, theta, g, y, obs_noise_cov,
        n_noise, taper, obs_taper, n_ens, n_params, n_obs, <const bpfree_ensemble*>options,
        n_threads)
