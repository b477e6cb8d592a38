# SPDX-License-Identifier: BSD-3-Clause
"""Dense layers: a_l = h_{l-1} W_l + b_l, h_l = f(a_l), h_{-1} = x; the last a is the logits."""

import numpy as np


def forward(x, weights, biases, f):
    """Pre-activations [a_0 .. a_L] and inputs of every layer [x, h_0 .. h_{L-1}].

    x [n, n_features], weights[l] [n_in, n_out], biases[l] [n_out]; f is the hidden activation.
    """
    inputs, preactivations = [np.asarray(x, np.float64)], []
    for w, b in zip(weights, biases, strict=True):
        preactivations.append(inputs[-1] @ w + b)
        inputs.append(f(preactivations[-1]))
    return preactivations, inputs[:-1]


def gradients(inputs, deltas, weights, total_weight, alpha):
    """Gradients of all weights and biases from the layers' deltas [n, n_out].

    total_weight divides: the sum of the batch's sample weights, n without them. So it does with
    the L2 penalty alpha / 2 |W|^2, as in scikit-learn; the penalty spares the biases.
    """
    of_weights = [
        (h.T @ d + alpha * w) / total_weight
        for h, d, w in zip(inputs, deltas, weights, strict=True)
    ]
    return of_weights, [d.sum(axis=0) / total_weight for d in deltas]


# Largest absolute initial weight ('he_normal': the standard deviation) for a layer's shape.
INITIAL_SCALE = {
    "uniform": lambda n_in, n_out: 1.0 / np.sqrt(n_in),  # biases too; the others start at zero
    "glorot_uniform": lambda n_in, n_out: np.sqrt(6.0 / (n_in + n_out)),
    "he_uniform": lambda n_in, n_out: np.sqrt(6.0 / n_in),
    "he_normal": lambda n_in, n_out: np.sqrt(2.0 / n_in),
    "zeros": lambda n_in, n_out: 0.0,
}
