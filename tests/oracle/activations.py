# SPDX-License-Identifier: BSD-3-Clause
"""Activations h = f(a) and derivatives f'(a) of those that have one, from the pre-activation."""

import numpy as np

LEAKY_SLOPE = 0.01
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(100)


def erf(x):
    """2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x; 1 in float64 from 6 on."""
    x = np.asarray(x, np.float64)
    y = np.clip(x, -6.0, 6.0)
    t = 0.5 * y[..., None] * (_NODES + 1.0)
    inside = y / np.sqrt(np.pi) * (np.exp(-t * t) @ _NODE_WEIGHTS)
    return np.where(np.abs(x) >= 6.0, np.sign(x), inside)


def sigmoid(a):
    """1 / (1 + exp(-a)), written so that nothing overflows and nothing cancels."""
    return np.exp(-np.logaddexp(0.0, -a))


def _gelu_derivative(a):
    normal_cdf = 0.5 * (1.0 + erf(a / np.sqrt(2.0)))
    normal_pdf = np.exp(-0.5 * a * a) / np.sqrt(2.0 * np.pi)
    return normal_cdf + a * normal_pdf


ACTIVATIONS = {
    "identity": lambda a: a,
    "relu": lambda a: np.where(a <= 0, 0.0, a),  # this way round NaN stays NaN
    "leaky_relu": lambda a: np.where(a < 0, LEAKY_SLOPE * a, a),
    "tanh": np.tanh,
    "logistic": sigmoid,
    "gelu": lambda a: 0.5 * a * (1.0 + erf(a / np.sqrt(2.0))),
}
ALL_ACTIVATIONS = {
    **ACTIVATIONS,
    "step": lambda a: np.where(a > 0, 1.0, np.where(a <= 0, 0.0, a)),
    "sign": np.sign,
}

DERIVATIVES = {
    "identity": np.ones_like,
    "relu": lambda a: np.where(a > 0, 1.0, 0.0),
    "leaky_relu": lambda a: np.where(a < 0, LEAKY_SLOPE, 1.0),
    "tanh": lambda a: 1.0 - np.tanh(a) ** 2,
    "logistic": lambda a: sigmoid(a) * (1.0 - sigmoid(a)),
    "gelu": _gelu_derivative,
}
