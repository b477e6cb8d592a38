# SPDX-License-Identifier: BSD-3-Clause
"""Ensemble Kalman training of a network: one iteration of csrc/methods/ensemble_kalman.h."""

import numpy as np

from . import losses, random
from .ensemble import perturbations

ENSEMBLE = 8  # purpose of the stream


def noise(shapes, j, *, seed, iteration):
    """eps_j of W_0, b_0, ... over the root of its layer's inputs, flat."""
    parts = []
    for t, shape in enumerate(shapes):
        of_rows = shape if len(shape) == 2 else (1, shape[0])
        word = random.matrix_words(seed, of_rows, ENSEMBLE, t, iteration, j, 4)
        eps = random.normal(word)[:, : of_rows[1]]
        parts.append(eps.ravel() / np.sqrt(shapes[t - t % 2][0]))
    return np.concatenate(parts)


def observed(loss, logits, target, weight, squared_error, gauss_newton):
    """Outputs, residuals, the metric as a function of anomalies, and each member's mean loss."""
    v, outputs = weight[:, None], losses.OUTPUTS[loss]
    p = np.stack([outputs(a) for a in logits])
    if squared_error or loss == "squared_error":
        sums = (((p - target) ** 2).sum(2) / 2 * weight).sum(1)
        return p, v * (target - p), lambda d: v * d, sums / weight.sum()
    of_members = np.array([losses.mean_loss(loss, a, target, weight) for a in logits])
    q, scale = outputs(logits.mean(0)), v / 2
    if loss == "binary_cross_entropy":
        scale, q = v * (q * (1 - q) if gauss_newton else 1 / 4), 0 * q
    elif gauss_newton:
        scale = v * q
    else:
        q = np.full(q.shape, 1 / q.shape[1])
    metric = lambda d: scale * (d - (q * d).sum(-1, keepdims=True))  # noqa: E731
    return logits, v * (target - p), metric, of_members


def transform(g, residual, metric, *, noise_var, dt, update, seed=0, iteration=0):
    """T [n_ens, n_ens], and the effective rank of the outputs' anomalies."""
    n = len(g)
    Y = (g - g.mean(0)) / np.sqrt(n - 1)
    MY, step = np.stack([metric(d) for d in Y]) / noise_var, dt / np.sqrt(n - 1)
    gram = np.einsum("jbc,kbc->jk", Y, MY)
    rank = np.trace(gram) ** 2 / (gram**2).sum()
    cross = np.einsum("kbc,jbc->kj", Y, residual) / noise_var
    omega = np.linalg.inv(np.eye(n) + dt * gram)
    if update == "etki":
        values, vectors = np.linalg.eigh(omega)
        root = (vectors * np.sqrt(values)) @ vectors.T
        return step * omega @ cross.mean(1) + root - np.eye(n), rank
    if update == "denkf":
        cross = (cross + cross.mean(1, keepdims=True)) / 2
    if update == "enkf":
        gamma = np.diag(noise_var / metric(np.ones(g.shape[1:])).ravel())
        cross = cross + MY.reshape(n, -1) @ perturbations(n, gamma, dt, seed, iteration).T
    return step * (omega @ cross).T, rank
