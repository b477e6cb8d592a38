# SPDX-License-Identifier: BSD-3-Clause
"""Forward-Forward (Hinton 2022, arXiv:2212.13345): losses and exact gradients of one step.

Shapes: x [n, n_features], W [n_in, n_out], h [n, n_out], g [n]. Differs from Hinton's code: the
factor 2 of d(h^2) is kept, and the label may be appended. No gradient reaches a lower layer.
"""

import numpy as np

TINY = 1e-8


def with_label(x, label, n_classes, position):
    """Inputs of layer 0: position 'append', 'overwrite' or None; label [n], or None for neutral."""
    if position is None:
        return np.asarray(x, np.float64)
    neutral = np.full((len(x), n_classes), 1.0 / n_classes)
    strength = neutral if label is None else np.eye(n_classes)[label]
    return np.hstack([x, strength] if position == "append" else [strength, x[:, n_classes:]])


def normalized(x):
    """Rows of unit mean square, over all columns: only the direction passes on."""
    return x / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + TINY)


def forward(x, weights, biases):
    """Normalised inputs of all layers, the last h's normalised rows after them; outputs h."""
    states, outputs = [normalized(x)], []
    for w, b in zip(weights, biases, strict=True):
        outputs.append(np.maximum(states[-1] @ w + b, 0.0))
        states.append(normalized(outputs[-1]))
    return states, outputs


def goodness(h, kind):
    """g [n]: 'sum' or 'mean' of the squares."""
    return np.sum(h**2, axis=1) / (h.shape[1] if kind == "mean" else 1)


def logistic(g, sign, threshold, temperature):
    """Losses [n] of rows with sign +1 (positive) or -1 (negative), and their derivatives by g."""
    z = sign * (g - threshold) / temperature
    return np.logaddexp(0.0, -z), -sign / temperature * np.exp(-np.logaddexp(0.0, z))


def symba(g_positive, g_negative, alpha):
    """Losses [n] of pairs of rows (arXiv:2303.08418), and their derivatives by g_positive."""
    z = alpha * (g_positive - g_negative)
    return np.logaddexp(0.0, -z), -alpha * np.exp(-np.logaddexp(0.0, z))


def peer_mean(m, h_positive):
    """Running mean [n_out] of the units' activity; it starts at zero and moves before its use."""
    return 0.9 * m + 0.1 * h_positive.mean(axis=0)
