# SPDX-License-Identifier: BSD-3-Clause
"""NoProp's learned schedule, and the losses that teach its embeddings and its head.

parameters of the schedule: gamma_0, rho, log Q_0, log Q_1 .. Q_K, log V_1 .. V_K, c_1 .. c_K.
"""

import numpy as np

UNITS = 32


def initial_schedule():
    """alpha_bar from 0.01 to 0.99, nearly straight in gamma."""
    centres = -8 * (np.arange(UNITS) + 0.5) / UNITS
    start = [-np.log(99), np.log(2 * np.log(99)), 0.0]
    return np.concatenate(
        [start, np.full(UNITS, np.log(0.5 / UNITS)), np.full(UNITS, np.log(8)), centres]
    )


def schedule(parameters, t):
    """alpha_bar and the derivative of the signal-to-noise ratio at times t [n]."""
    gamma_0, rho, log_q0 = parameters[:3]
    q, v = np.exp(parameters[3 : 3 + UNITS]), np.exp(parameters[3 + UNITS : 3 + 2 * UNITS])
    c = parameters[3 + 2 * UNITS :]

    def sigmoids(time):
        return 1 / (1 + np.exp(-(np.multiply.outer(time, v) + c)))

    def curve(time):
        return np.exp(log_q0) * time + sigmoids(time) @ q

    s = sigmoids(np.asarray(t, dtype=float))
    whole = curve(1.0) - curve(0.0)
    g = (curve(np.asarray(t, dtype=float)) - curve(0.0)) / whole
    slope = (np.exp(log_q0) + (s * (1 - s)) @ (q * v)) / whole
    gamma = gamma_0 + np.exp(rho) * (1 - g)
    return 1 / (1 + np.exp(gamma)), np.exp(rho) * slope * np.exp(-gamma)


def cross_entropy(z, weights, biases, labels):
    """Of a linear head on z [n, d], a row each."""
    o = z @ weights + biases
    o = o - o.max(axis=1, keepdims=True)
    return np.log(np.exp(o).sum(axis=1)) - o[np.arange(len(o)), labels]


def divergence(alpha_bar, u):
    """KL of N(sqrt(alpha_bar) u, (1 - alpha_bar) I) from N(0, I), a row of u each."""
    d = u.shape[1]
    squares = np.sum(u**2, axis=1)
    return (alpha_bar * squares - d * alpha_bar - d * np.log1p(-alpha_bar)) / 2
