# SPDX-License-Identifier: BSD-3-Clause
"""Losses, from the logits [n, n_outputs] and the targets [n, n_outputs] (one-hot for softmax)."""

import numpy as np


def _log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


# What predict() returns.
OUTPUTS = {
    "softmax_cross_entropy": lambda logits: np.exp(_log_softmax(logits)),
    "binary_cross_entropy": lambda logits: np.exp(-np.logaddexp(0.0, -logits)),
    "squared_error": lambda logits: logits,
}

# Loss of each sample: summed over outputs.
SAMPLE_LOSSES = {
    "softmax_cross_entropy": lambda logits, y: -(y * _log_softmax(logits)).sum(axis=1),
    "binary_cross_entropy": lambda logits, y: (np.logaddexp(0.0, logits) - y * logits).sum(axis=1),
    "squared_error": lambda logits, y: 0.5 * ((logits - y) ** 2).sum(axis=1),
}


def mean_loss(loss, logits, y, sample_weight):
    """Mean over samples, weighted: what is minimised, and what run_epoch returns."""
    return np.average(SAMPLE_LOSSES[loss](logits, y), weights=sample_weight)


def error(loss, logits, y):
    """e = prediction - target [n, n_outputs]: the derivative of a sample's loss by its logits."""
    return OUTPUTS[loss](logits) - y


def one_hot(labels, n_outputs):
    """Class indices [n] as targets [n, n_outputs]."""
    return np.eye(n_outputs)[labels]
