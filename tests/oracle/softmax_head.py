# SPDX-License-Identifier: BSD-3-Clause
"""The linear softmax classifier that reads the normalised states of layers trained locally.

states[l] [n, n_l], heads[l] (M) [n_l, n_classes], biases[l] (c) [n_classes]; all of one length.
"""

import numpy as np


def logits(states, heads, biases):
    """[n, n_classes]: the sum of the layers' heads."""
    return sum(h @ m + c for h, m, c in zip(states, heads, biases, strict=True))


def loss_and_gradients(states, heads, biases, label):
    """Mean cross-entropy, and the gradients of all M and c. States get none."""
    z = logits(states, heads, biases)
    log_p = z - z.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    y = np.eye(z.shape[1])[label]
    e = (np.exp(log_p) - y) / len(y)
    of_heads = [h.T @ e for h in states]
    return -np.sum(y * log_p) / len(y), of_heads, [e.sum(axis=0) for _ in biases]
