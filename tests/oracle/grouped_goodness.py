# SPDX-License-Identifier: BSD-3-Clause
"""Channel-grouped goodness with cross-entropy: no negatives, no label in the input.

Units are split into C contiguous groups of n_out / C, one a class. Sources: CwComp (AAAI 2024) for
'grouped_squares', DeeperForward (ICLR 2025) for 'grouped_mean'. Differs from the latter: groups are
scaled to unit mean square and not centred, so their mean over their norm does reach the next layer.
"""

import numpy as np
from oracle.forward_forward import TINY
from oracle.forward_forward import normalized as normalized_rows


def groups(h, n_classes):
    """h [n, n_out] as [n, C, n_out / C]."""
    return h.reshape(len(h), n_classes, -1)


def goodness(h, n_classes, kind):
    """g [n, C]: the mean over each group of h^2 ('grouped_squares') or h ('grouped_mean')."""
    return np.mean(groups(h, n_classes) ** (2 if kind == "grouped_squares" else 1), axis=2)


def normalized(h, n_classes):
    """h with unit mean square in every row's group; a silent group stays silent."""
    x = groups(h, n_classes)
    return (x / np.sqrt(np.mean(x**2, axis=2, keepdims=True) + TINY)).reshape(h.shape)


def forward(x, weights, biases, n_classes):
    """As forward_forward.forward: rows of x are normalised whole, later layers by group."""
    states, outputs = [normalized_rows(np.asarray(x, np.float64))], []
    for w, b in zip(weights, biases, strict=True):
        outputs.append(np.maximum(states[-1] @ w + b, 0.0))
        states.append(normalized(outputs[-1], n_classes))
    return states, outputs


def gradients(x, label, weights, biases, n_classes, kind):
    """Of every layer: mean cross-entropy of g with the label, dW [n_in, n_out], db [n_out]."""
    states, outputs = forward(x, weights, biases, n_classes)
    y = np.eye(n_classes)[label]
    result = []
    for x_l, h in zip(states, outputs, strict=False):
        g = goodness(h, n_classes, kind)
        log_p = g - g.max(axis=1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        size = h.shape[1] // n_classes
        e = np.repeat((np.exp(log_p) - y) / (len(y) * size), size, axis=1)
        delta = e * (2.0 * h if kind == "grouped_squares" else h > 0)
        result.append((-np.sum(y * log_p) / len(y), x_l.T @ delta, delta.sum(axis=0)))
    return result


def label_goodness(x, weights, biases, n_classes, kind):
    """Sum over all layers of g [n, C]; predict is its argmax."""
    _, outputs = forward(x, weights, biases, n_classes)
    return sum(goodness(h, n_classes, kind) for h in outputs)
