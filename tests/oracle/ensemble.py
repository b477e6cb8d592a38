# SPDX-License-Identifier: BSD-3-Clause
"""Ensemble Kalman updates from their definition: covariances in full, one gain for all members."""

import numpy as np

from . import random

OBSERVATION_NOISE = 11


def covariance(a, b):
    return (a - a.mean(0)).T @ (b - b.mean(0)) / (len(a) - 1)


def noise_matrix(noise, n_obs):
    noise = np.asarray(noise, np.float64)
    return noise if noise.ndim == 2 else np.diag(np.broadcast_to(noise, n_obs))


def perturbations(n_ens, gamma, dt, seed, iteration):
    """xi [n_ens, n_obs] ~ N(0, gamma / dt)."""
    n_obs = len(gamma)
    rows = [
        random.normal(random.matrix_words(seed, (1, n_obs), OBSERVATION_NOISE, 0, iteration, j))
        for j in range(n_ens)
    ]
    return np.concatenate(rows)[:, :n_obs] @ np.linalg.cholesky(gamma / dt).T


def shrink(c, r, localization, n_ens):
    """Of covariances c and correlations r."""
    if not isinstance(localization, str):
        return c * localization
    if localization == "sec":
        return c * np.abs(r)
    h, z = 1 / np.sqrt(n_ens - 3), np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15))
    Q = r / ((np.tanh(z + h) - np.tanh(z - h)) / 2)
    return c * Q**2 / (1 + Q**2)


def shrink_outputs(s, localization, obs_localization):
    if not isinstance(localization, str):
        return s if obs_localization is None else s * obs_localization
    deviations = np.sqrt(np.outer(np.diag(s), np.diag(s)))
    return s * np.divide(s, deviations, where=deviations > 0, out=s * 0) ** 2


def update(
    theta,
    g,
    y,
    noise,
    method="eki",
    dt=1.0,
    seed=0,
    iteration=0,
    localization=None,
    obs_localization=None,
):
    n = len(theta)
    theta, g, gamma = theta.astype(np.float64), g.astype(np.float64), noise_matrix(noise, len(y))
    c, s = covariance(theta, g), covariance(g, g)
    if localization is not None:
        deviations = np.outer(theta.std(0, ddof=1), g.std(0, ddof=1))
        c = shrink(c, np.divide(c, deviations, where=deviations > 0, out=c * 0), localization, n)
        s = shrink_outputs(s, localization, obs_localization)
    s += gamma / dt
    gain = np.linalg.solve(s, c.T)  # transposed
    mean, anomalies = theta.mean(0), theta - theta.mean(0)
    if method == "etki":
        Y = np.linalg.solve(np.linalg.cholesky(gamma / dt), (g - g.mean(0)).T) / np.sqrt(n - 1)
        values, vectors = np.linalg.eigh(np.eye(n) + Y.T @ Y)
        return mean + (y - g.mean(0)) @ gain + (vectors / np.sqrt(values)) @ vectors.T @ anomalies
    if method == "denkf":
        return mean + (y - g.mean(0)) @ gain + anomalies - (g - g.mean(0)) @ gain / 2
    xi = perturbations(n, gamma, dt, seed, iteration) if method in ("enkf", "esmda") else 0
    return theta + (y + xi - g) @ gain
