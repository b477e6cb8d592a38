# SPDX-License-Identifier: BSD-3-Clause
"""One step of Forward-Forward: every layer's gradients from positive and negative rows."""

import numpy as np
from oracle.forward_forward import forward, goodness, logistic, peer_mean, symba

DEFAULTS = {"kind": "sum", "temperature": 1.0, "alpha": 4.0, "loss": "logistic", "peer": 0.0}


def layer_deltas(h, n_positive, m, *, threshold, kind, loss, temperature, alpha, peer):
    """Losses and -(ascent signals) [n, n_out] of rows h [n, n_out], positive ones first.

    m [n_out] is the running mean, moved already. Its term is not gated by ReLU.
    """
    g = goodness(h, kind)
    if loss == "symba":
        losses, slope = symba(g[:n_positive], g[n_positive:], alpha)
        slope = np.concatenate([slope, -slope])
    else:
        sign = np.where(np.arange(len(g)) < n_positive, 1.0, -1.0)
        losses, slope = logistic(g, sign, threshold, temperature)
    factor = 2.0 / (h.shape[1] if kind == "mean" else 1)  # dg/dh = factor * h
    delta = slope[:, None] * factor * h
    steepness = alpha if loss == "symba" else 1.0 / temperature
    delta[:n_positive] -= peer * steepness * factor * (m.mean() - m)
    return losses, delta


def gradients(positive, negative, weights, biases, means, *, thresholds, **options):
    """Of every layer: loss, dW [n_in, n_out], db [n_out], and the running mean [n_out] after it.

    positive and negative [n, n_in] are what with_label made; thresholds has one number a layer.
    Sums over rows are divided by the number of positive rows, or of negative ones without those.
    """
    options = DEFAULTS | options
    n_positive = len(positive)
    n = n_positive or len(negative)
    states, outputs = forward(np.concatenate([positive, negative]), weights, biases)
    result = []
    for x, h, m, threshold in zip(states, outputs, means, thresholds, strict=False):
        new = peer_mean(m, h[:n_positive]) if n_positive else m
        losses, delta = layer_deltas(h, n_positive, new, threshold=threshold, **options)
        result.append((losses.sum() / n, x.T @ delta / n, delta.sum(axis=0) / n, new))
    return result
