# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3
"""A user's module: kernels by cimport, with no header and no library."""
from libc.stdint cimport int32_t, uint16_t, uint32_t

from bpfree_fast cimport cython_kernels as kernels
from bpfree_fast.cython_kernels cimport check, normal_f32


def bits(uint32_t[::1] out):
    check(kernels.random_bits(&out[0], out.shape[0], 1, 2, 3, 0))


def floats(float[::1] uniform, float[::1] normal, float[::1] sign):
    with nogil:
        check(kernels.uniform_f32(&uniform[0], uniform.shape[0], 1, 2, 3, 0))
        check(normal_f32(&normal[0], normal.shape[0], 1, 2, 3, 0))
        check(kernels.sign_f32(&sign[0], sign.shape[0], 1, 2, 3, 0))


def doubles(double[::1] uniform, double[::1] normal, double[::1] sign):
    with nogil:
        check(kernels.uniform_f64(&uniform[0], uniform.shape[0], 1, 2, 3, 0))
        check(kernels.normal_f64(&normal[0], normal.shape[0], 1, 2, 3, 0))
        check(kernels.sign_f64(&sign[0], sign.shape[0], 1, 2, 3, 0))


def products(
    float[:, ::1] a, float[:, ::1] out, double[:, ::1] a64, double[:, ::1] out64,
    uint16_t[:, ::1] a16, float[:, ::1] out16,
):
    """out = a a^T in three types."""
    cdef size_t m = a.shape[0], k = a.shape[1]
    with nogil:
        check(kernels.product_f32(&out[0, 0], &a[0, 0], &a[0, 0], m, k, m, 0, 1, 0))
        check(kernels.product_f64(&out64[0, 0], &a64[0, 0], &a64[0, 0], m, k, m, 0, 1, 0))
        check(kernels.product_bf16(&out16[0, 0], &a16[0, 0], &a16[0, 0], m, k, m, 0, 1, 0))


def train(
    float[:, ::1] W, float[::1] b, list state, const float[:, ::1] x, const float[:, ::1] e,
    float[:, ::1] h, float[:, ::1] delta, float[:, ::1] feedback,
):
    """One step of a hidden layer, by direct feedback alignment with Adam."""
    cdef size_t batch = x.shape[0], n_in = W.shape[0], n_out = W.shape[1], n_outputs = e.shape[1]
    cdef float[:, ::1] m = state[0], v = state[2]
    cdef float[::1] mb = state[1], vb = state[3]
    cdef float* of_W[2]
    cdef float* of_b[2]
    cdef kernels.Optimizer optimizer
    of_W[0], of_W[1] = &m[0, 0], &v[0, 0]
    of_b[0], of_b[1] = &mb[0], &vb[0]
    with nogil:
        check(kernels.dense_forward(
            &h[0, 0], NULL, &x[0, 0], &W[0, 0], &b[0], batch, n_in, n_out, kernels.TANH, 0))
        check(kernels.project_random_feedback(
            &delta[0, 0], &e[0, 0], &h[0, 0], batch, n_outputs, n_out, 9, 1, kernels.UNIFORM, 1.0,
            kernels.TANH, 0))
        check(kernels.feedback_matrix(
            &feedback[0, 0], n_outputs, n_out, 9, 1, kernels.UNIFORM, 1.0, 0))
        check(kernels.project_feedback(
            &delta[0, 0], &e[0, 0], &feedback[0, 0], &h[0, 0], batch, n_outputs, n_out,
            kernels.TANH, 0))
        check(kernels.optimizer_init(&optimizer, kernels.ADAM))
        optimizer.learning_rate = 0.125
        optimizer.step = 3
        check(kernels.dense_update(
            &W[0, 0], &b[0], of_W, of_b, &x[0, 0], &delta[0, 0], batch, n_in, n_out, &optimizer, 0))


def forward_forward(
    float[:, ::1] W, float[::1] b, const float[:, ::1] x, float[:, ::1] h, float[::1] g,
    float[::1] r,
):
    """One step of a layer, the first half of x data; then the goodness of what it gave."""
    cdef size_t batch = x.shape[0], n_in = W.shape[0], n_out = W.shape[1]
    cdef kernels.Optimizer optimizer
    cdef kernels.ForwardForward options
    cdef double loss
    with nogil:
        check(kernels.optimizer_init(&optimizer, kernels.SGD))
        optimizer.momentum = 0
        optimizer.learning_rate = 0.125
        check(kernels.forward_forward_init(&options))
        options.goodness = kernels.GOODNESS_MEAN
        options.loss = kernels.GOODNESS_SYMBA
        check(kernels.forward_forward_update(
            &W[0, 0], &b[0], NULL, NULL, &h[0, 0], &loss, &x[0, 0], batch // 2, batch, n_in, n_out,
            &options, &optimizer, 0))
        check(kernels.goodness(&g[0], &r[0], &h[0, 0], batch, n_out, kernels.GOODNESS_SUM, 0))
    return loss


def local_loss(
    float[:, ::1] W, float[::1] b, float[:, ::1] M, float[::1] c, const float[:, ::1] x,
    const float[:, ::1] h, const int32_t[::1] labels, const float[::1] sample_weight,
):
    """One step of a layer and its head on both local losses."""
    cdef size_t batch = x.shape[0], n_in = W.shape[0], n_out = W.shape[1], n_outputs = M.shape[1]
    cdef kernels.Optimizer optimizer
    cdef kernels.LocalLoss options
    cdef double loss
    with nogil:
        check(kernels.optimizer_init(&optimizer, kernels.SGD))
        optimizer.momentum = 0
        optimizer.learning_rate = 0.125
        check(kernels.local_loss_init(&options))
        options.kind = kernels.LOCAL_PREDSIM
        options.activation = kernels.TANH
        check(kernels.local_loss_update(
            &W[0, 0], &b[0], NULL, NULL, &M[0, 0], &c[0], NULL, NULL, &loss, &x[0, 0], &h[0, 0],
            NULL, &labels[0], NULL, &sample_weight[0], batch, n_in, n_out, n_outputs, &options,
            &optimizer, 0))
    return loss


def noprop(
    float[:, ::1] W, float[::1] b, float[:, ::1] error, const float[:, ::1] h,
    const float[:, ::1] embedding, const int32_t[::1] labels, double[:, ::1] table,
    const double[::1] alpha_bar,
):
    """A block's last layer, its head alone on the error, and the table of coefficients."""
    cdef size_t batch = h.shape[0], n_in = W.shape[0], n_classes = W.shape[1]
    cdef size_t dim = embedding.shape[1]
    cdef kernels.Optimizer optimizer
    cdef double loss
    with nogil:
        check(kernels.optimizer_init(&optimizer, kernels.SGD))
        optimizer.momentum = 0
        optimizer.learning_rate = 0.125
        check(kernels.noprop_update(
            &W[0, 0], &b[0], NULL, NULL, &error[0, 0], &loss, &h[0, 0], &embedding[0, 0],
            &labels[0], NULL, batch, n_in, n_classes, dim, 0.5, &optimizer, 0))
        check(kernels.denoising_head(
            &error[0, 0], NULL, &error[0, 0], NULL, &labels[0], NULL, batch, n_classes, 0, 2.0, 0))
        check(kernels.posterior_coefficients(&table[0, 0], &alpha_bar[0], table.shape[0]))
    return loss


def evolution(
    float[:, ::1] pair, float[::1] gradient, double[::1] utilities, const float[::1] theta,
    const double[::1] loss,
):
    """Both members of pair 3, and the gradient of a generation of low rank."""
    cdef size_t n_params = theta.shape[0], n = loss.shape[0], lost
    cdef uint32_t[2] members
    cdef kernels.Noise noise
    cdef kernels.Shape[2] shapes
    members[0], members[1] = 6, 7
    shapes[0].n_dims, shapes[0].size[0], shapes[0].size[1] = 2, 5, 7
    shapes[1].n_dims, shapes[1].size[0] = 1, n_params - 35
    with nogil:
        check(kernels.noise_init(&noise, 9))
        noise.kind = kernels.LOW_RANK
        noise.antithetic = 1
        noise.generation = 2
        check(kernels.perturb(
            &pair[0, 0], &theta[0], members, 2, n_params, 0.5, shapes, 2, &noise, 0))
        check(kernels.fitness_shaping(
            &utilities[0], &lost, &loss[0], n, 0, kernels.TOP_K, 2, 0))
        check(kernels.perturbation_gradient(
            &gradient[0], &utilities[0], 0, n, n_params, shapes, 2, &noise, 0))
    return lost


def population(
    float[:, :, ::1] h, const float[:, :, ::1] x, const float[:, ::1] W, const float[::1] b,
):
    """A layer of members 2, 3, ..., each with rows of its own."""
    cdef size_t n_members = h.shape[0], batch = x.shape[1], n_in = W.shape[0], n_out = W.shape[1]
    cdef kernels.Noise noise
    with nogil:
        check(kernels.noise_init(&noise, 9))
        noise.kind = kernels.LOW_RANK
        noise.antithetic = 1
        check(kernels.low_rank_forward(
            &h[0, 0, 0], &x[0, 0, 0], 0, &W[0, 0], &b[0], 2, n_members, batch, n_in, n_out, 0.5, 0,
            kernels.RELU, &noise, 0))


def ensemble(
    double[:, ::1] theta, double[:, ::1] covariance, double[::1] misfit, const double[:, ::1] g,
    const double[::1] y, const double[:, ::1] noise,
):
    """Covariances of members and outputs, then a localised update in place; gives the rank."""
    cdef size_t n_ens = theta.shape[0], n_params = theta.shape[1], n_obs = g.shape[1]
    cdef double rank = 0
    cdef kernels.Ensemble options
    with nogil:
        check(kernels.ensemble_covariance_f64(
            &covariance[0, 0], &theta[0, 0], &g[0, 0], NULL, n_ens, n_params, n_obs,
            kernels.LOCALIZATION_NONE, 0))
        check(kernels.ensemble_init(&options, kernels.DENKF))
        options.localization = kernels.LOCALIZATION_SEC
        check(kernels.ensemble_update_f64(
            &theta[0, 0], &misfit[0], &rank, &theta[0, 0], &g[0, 0], &y[0], &noise[0, 0],
            n_obs * n_obs, NULL, NULL, n_ens, n_params, n_obs, &options, 0))
    return rank


def refuse():
    cdef float x = 1
    cdef int status = normal_f32(&x, 1, 0, 0, 0, -3)
    assert status == kernels.INVALID_ARGUMENT
    assert b"-3" in kernels.last_error()
    check(status)
