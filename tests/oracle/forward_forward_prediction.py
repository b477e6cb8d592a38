# SPDX-License-Identifier: BSD-3-Clause
"""The two predictions of Forward-Forward, written plainly: one neutral pass, or one per label."""

import numpy as np
from oracle import softmax_head
from oracle.forward_forward import forward, goodness, with_label


def head_states(x, weights, biases, *, n_classes, position, first_head=1):
    """Normalised states [n, n_l] of the hidden layers that the softmax head reads, neutral rows."""
    states, _ = forward(with_label(x, None, n_classes, position), weights, biases)
    return states[1 + first_head :]


def softmax_logits(x, weights, biases, heads, head_biases, *, n_classes, position, first_head=1):
    """Logits [n, n_classes] of the softmax head; predict is their argmax."""
    states = head_states(
        x, weights, biases, n_classes=n_classes, position=position, first_head=first_head
    )
    return softmax_head.logits(states, heads, head_biases)


def label_goodness(x, weights, biases, *, n_classes, position, kind="sum", first_layer=1):
    """Goodness [n, n_classes] of x under every label; predict is its argmax."""
    result = np.empty((len(x), n_classes))
    for c in range(n_classes):
        label = np.full(len(x), c)
        _, outputs = forward(with_label(x, label, n_classes, position), weights, biases)
        result[:, c] = sum(goodness(h, kind) for h in outputs[first_layer:])
    return result
