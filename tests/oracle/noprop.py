# SPDX-License-Identifier: BSD-3-Clause
"""NoProp (Li, Teh & Pascanu 2025, arXiv:2503.24322): one block's loss and gradients, and inference.

Shapes: x [n, n_features], z [n, d], W_embed [n_classes, d]. A block is its matrices and biases in
the order input branch, label branch, join, classes; all activations are relu unless given.
"""

import numpy as np

CUT = 0.99


def schedule(kind, n):
    """alpha_bar_0 .. alpha_bar_n, cut at CUT (n at most 15)."""
    t = np.arange(n + 1) / n
    return np.minimum(np.sin(np.pi * t / 2) ** 2 if kind == "cosine" else t, CUT)


def coefficients(before, after):
    """a, b, c of z_t = a u_hat + b z_{t-1} + sqrt(c) eps, from alpha_bar before and after."""
    alpha = before / after
    a = np.sqrt(after) * (1 - alpha) / (1 - before)
    return a, np.sqrt(alpha) * (1 - after) / (1 - before), (1 - after) * (1 - alpha) / (1 - before)


def snr(alpha_bar):
    """Signal-to-noise ratio, cut off."""
    cut = np.minimum(alpha_bar, CUT)
    return cut / (1 - cut)


def softmax(o):
    p = np.exp(o - o.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def forward(x, z, weights, biases, f):
    """h_0, h_1, ..., and the logits."""
    branches = [f(v @ w + b) for v, w, b in zip((x, z), weights[:2], biases[:2], strict=True)]
    states = [np.hstack(branches)]
    for w, b in zip(weights[2:-1], biases[2:-1], strict=True):
        states.append(f(states[-1] @ w + b))
    return states, states[-1] @ weights[-1] + biases[-1]


def loss(o, target, weight, embedding, flow=False):
    """Losses [n], w |u_hat - target|^2, and their derivative by the logits."""
    p = o if flow else softmax(o)
    difference = p @ embedding - target
    s = 2 * weight[:, None] * difference @ embedding.T
    e = s if flow else p * (s - np.sum(p * s, axis=1, keepdims=True))
    return weight * np.sum(difference**2, axis=1), e


def gradients(x, z, e, states, weights, slope, feedback=None):
    """Sums over the rows: the gradient of every matrix and bias. slope(h) is f' by its value."""
    delta, deltas = e, [e]
    for k in range(len(states) - 1, -1, -1):
        back = e @ feedback[k] if feedback is not None else delta @ weights[k + 2].T
        delta = back * slope(states[k])
        deltas.insert(0, delta)
    n_input = weights[0].shape[1]
    split = [deltas[0][:, :n_input], deltas[0][:, n_input:], *deltas[1:]]
    inputs = [x, z, *states]
    return [v.T @ d for v, d in zip(inputs, split, strict=True)], [d.sum(axis=0) for d in split]
