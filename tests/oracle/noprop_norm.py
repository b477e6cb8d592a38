# SPDX-License-Identifier: BSD-3-Clause
"""A block of NoProp with batch normalization between its products and their activations.

As tests/oracle/noprop; w [n] sample weights, norms gain and shift of each layer but the classes.
"""

import numpy as np

EPSILON = 1e-5


def moments(a, w):
    """Weighted mean and variance of the columns; one row twice is a weight of 2."""
    mean = w @ a / w.sum()
    return mean, w @ (a - mean) ** 2 / w.sum()


def folded(weights, biases, norms):
    """Matrices and biases with gain, shift, mean and variance in them."""
    matrices, vectors = list(weights), list(biases)
    for k, (gain, shift, mean, variance) in enumerate(norms):
        factor = gain / np.sqrt(variance + EPSILON)
        matrices[k], vectors[k] = weights[k] * factor, (biases[k] - mean) * factor + shift
    return matrices, vectors


def forward(x, z, w, weights, biases, norms, f):
    """h_0, h_1, ..., the logits, and of each layer a, normalised, and 1 / deviation."""
    kept = []

    def layer(v, k):
        a = v @ weights[k] + biases[k]
        mean, variance = moments(a, w)
        inverse = 1 / np.sqrt(variance + EPSILON)
        kept.append((a, (a - mean) * inverse, inverse))
        return f(norms[k][0] * kept[k][1] + norms[k][1])

    states = [np.hstack([layer(x, 0), layer(z, 1)])]
    for k in range(2, len(weights) - 1):
        states.append(layer(states[-1], k))
    return states, states[-1] @ weights[-1] + biases[-1], kept


def gradients(x, z, w, e, states, kept, weights, norms, slope, feedback=None):
    """Sums over the rows: of the matrices, of the last bias, and of each gain and shift."""
    delta, n_input, share = e, weights[0].shape[1], w[:, None] / w.sum()
    of_weights, of_norms = [states[-1].T @ e], []
    for k in range(len(weights) - 2, 0, -1):  # layers 0 and 1 lie side by side
        h = states[k - 1]
        delta = (delta @ weights[k + 1].T if feedback is None else e @ feedback[k - 1]) * slope(h)
        sides = [(k, states[k - 2], delta)] if k > 1 else []
        sides = sides or [(1, z, delta[:, n_input:]), (0, x, delta[:, :n_input])]
        for i, v, g in sides:
            normalized, inverse = kept[i][1:]
            of_norms.insert(0, (np.sum(g * normalized, axis=0), g.sum(axis=0)))
            g = g - share * (of_norms[0][1] + normalized * of_norms[0][0])
            delta = norms[i][0] * inverse * g
            of_weights.insert(0, v.T @ delta)
    return of_weights, e.sum(axis=0), of_norms
