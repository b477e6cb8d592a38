# SPDX-License-Identifier: BSD-3-Clause
"""Forward-Forward's oracle against central differences in float64, and what it must not do."""

from itertools import pairwise

import numpy as np
import pytest
from differences import central_difference
from oracle import forward_forward as ff
from oracle import forward_forward_prediction as prediction
from oracle import forward_forward_step as ff_step
from oracle import grouped_goodness as grouped
from oracle import softmax_head
from tolerances import DIFFERENCES

N_CLASSES = 3
POSITIONS = ["append", "overwrite", None]
GROUPED = ["grouped_squares", "grouped_mean"]
LOSSES = {
    "logistic": {"loss": "logistic", "temperature": 1.7},
    "symba": {"loss": "symba", "alpha": 0.8},
}


def network(n_in, sizes, seed=0):
    """Weights, biases and running means of layers whose units are partly silent."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=s) / np.sqrt(s[0]) for s in pairwise([n_in, *sizes])]
    return weights, [0.3 * rng.normal(size=n) for n in sizes], [rng.uniform(size=n) for n in sizes]


def rows(position, n=7, n_features=5, seed=1):
    """Positive and negative inputs, x and its labels."""
    rng = np.random.default_rng(seed)
    x, label = rng.normal(size=(n, n_features)), rng.integers(0, N_CLASSES, n)
    positive = ff.with_label(x, label, N_CLASSES, position)
    wrong = (label + rng.integers(1, N_CLASSES, n)) % N_CLASSES
    other = x[::-1] if position is None else x  # negatives without labels are given by the user
    return positive, ff.with_label(other, wrong, N_CLASSES, position), x, label


def row_loss(g, n_positive, threshold, options):
    """Sum of a layer's losses over rows, from the goodness g [n] alone."""
    positive, negative = g[:n_positive], g[n_positive:]
    if options["loss"] == "symba":
        return np.logaddexp(0, -options["alpha"] * (positive - negative)).sum()
    z = (np.concatenate([positive, 2 * threshold - negative]) - threshold) / options["temperature"]
    return np.logaddexp(0, -z).sum()


@pytest.mark.parametrize("peer", [0.0, 0.2])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["sum", "mean"])
@pytest.mark.parametrize("position", POSITIONS)
def test_layer_gradients(position, kind, loss, peer):
    positive, negative, _, _ = rows(position)
    weights, biases, means = network(positive.shape[1], [8, 6])
    options = {"kind": kind, "peer": peer, **LOSSES[loss]}
    thresholds = [3.0, 2.5] if kind == "sum" else [0.4, 0.5]
    result = ff_step.gradients(
        positive, negative, weights, biases, means, thresholds=thresholds, **options
    )
    both = np.concatenate([positive, negative])
    inputs, _ = ff.forward(both, weights, biases)
    for layer, (loss_value, dw, db, new) in enumerate(result):
        w, b, x, n = weights[layer], biases[layer], inputs[layer], len(positive)
        steepness = options.get("alpha") or 1 / options["temperature"]
        scale = 2 * peer * steepness / (w.shape[1] if kind == "mean" else 1)

        def local_loss(w=w, b=b, x=x, n=n, layer=layer):
            h = np.maximum(x @ w + b, 0.0)
            return row_loss(ff.goodness(h, kind), n, thresholds[layer], options) / n

        def objective(w=w, b=b, x=x, n=n, new=new, scale=scale, local=local_loss):
            # What the peer term ascends: linear in a, so that a silent unit is moved too.
            pull = scale * ((x[:n] @ w + b) * (new.mean() - new)).sum() / n
            return local() - pull

        assert loss_value == pytest.approx(local_loss())
        np.testing.assert_allclose(dw, central_difference(objective, w), atol=DIFFERENCES)
        np.testing.assert_allclose(db, central_difference(objective, b), atol=DIFFERENCES)


def test_peer_mean_moves_before_its_use():
    positive, negative, _, _ = rows("append")
    weights, biases, means = network(positive.shape[1], [8])
    zeros = [np.zeros_like(m) for m in means]
    with_peer, without = (
        ff_step.gradients(positive, negative, weights, biases, zeros, thresholds=[3.0], peer=peer)[
            0
        ]
        for peer in (0.5, 0.0)
    )
    new = with_peer[3]
    h = ff.forward(positive, weights, biases)[1][0]
    np.testing.assert_allclose(new, 0.1 * h.mean(axis=0))
    np.testing.assert_allclose(with_peer[2] - without[2], -2 * 0.5 * (new.mean() - new))


def test_a_phase_alone_is_its_part_of_both():
    positive, negative, _, _ = rows("append")
    weights, biases, means = network(positive.shape[1], [8, 6])
    options = {"thresholds": [3.0, 2.5], "peer": 0.1}
    none = positive[:0]
    both, first, second = (
        ff_step.gradients(a, b, weights, biases, means, **options)
        for a, b in [(positive, negative), (positive, none), (none, negative)]
    )
    for a, b, c, m in zip(both, first, second, means, strict=True):
        for whole, part, rest in zip(a[:3], b[:3], c[:3], strict=True):
            np.testing.assert_allclose(whole, part + rest)
        np.testing.assert_array_equal(a[3], b[3])
        np.testing.assert_array_equal(c[3], m)


@pytest.mark.parametrize("first_head", [0, 1])
def test_head_gradients(first_head):
    _, _, x, label = rows("append")
    weights, biases, _ = network(x.shape[1] + N_CLASSES, [8, 6, 4])
    heads, head_biases, _ = network(0, [N_CLASSES] * (3 - first_head))
    rng = np.random.default_rng(2)
    heads = [rng.normal(size=(n, N_CLASSES)) for n in [8, 6, 4][first_head:]]
    options = {"n_classes": N_CLASSES, "position": "append", "first_head": first_head}
    states = prediction.head_states(x, weights, biases, **options)

    def objective():
        z = prediction.softmax_logits(x, weights, biases, heads, head_biases, **options)
        return np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(x)), label])

    loss, of_heads, of_biases = softmax_head.loss_and_gradients(states, heads, head_biases, label)
    assert loss == pytest.approx(objective())
    for p, g in zip([*heads, *head_biases], [*of_heads, *of_biases], strict=True):
        np.testing.assert_allclose(g, central_difference(objective, p), atol=DIFFERENCES)


@pytest.mark.parametrize("kind", GROUPED)
def test_grouped_gradients(kind):
    _, _, x, label = rows(None)
    weights, biases, _ = network(x.shape[1], [12, 6])
    inputs, _ = grouped.forward(x, weights, biases, N_CLASSES)
    result = grouped.gradients(x, label, weights, biases, N_CLASSES, kind)
    for layer, (loss, dw, db) in enumerate(result):
        w, b = weights[layer], biases[layer]

        def objective(w=w, b=b, inputs=inputs[layer]):
            g = grouped.goodness(np.maximum(inputs @ w + b, 0.0), N_CLASSES, kind)
            return np.mean(np.log(np.exp(g).sum(axis=1)) - g[np.arange(len(g)), label])

        assert loss == pytest.approx(objective())
        np.testing.assert_allclose(dw, central_difference(objective, w), atol=DIFFERENCES)
        np.testing.assert_allclose(db, central_difference(objective, b), atol=DIFFERENCES)


def test_goodness_cannot_leak():
    """The next layer sees the same, however large a row's (or a group's) activity is."""
    h = np.random.default_rng(3).uniform(0.5, 2.0, (6, 12))
    scale = np.arange(1.0, 7.0)[:, None]
    np.testing.assert_allclose(ff.normalized(scale * h), ff.normalized(h), rtol=1e-7)
    np.testing.assert_allclose(ff.goodness(ff.normalized(h), "mean"), 1.0, rtol=1e-7)
    scales = np.repeat(np.random.default_rng(4).uniform(0.5, 2.0, (6, 3)), 4, axis=1)
    expected = grouped.normalized(h, 3)
    np.testing.assert_allclose(grouped.normalized(scales * h, 3), expected, rtol=1e-7)
    np.testing.assert_allclose(grouped.goodness(expected, 3, "grouped_squares"), 1.0, rtol=1e-7)


@pytest.mark.parametrize("position", ["append", "overwrite"])
def test_label_goodness_of_the_true_label_is_that_of_the_positive_rows(position):
    positive, _, x, label = rows(position)
    weights, biases, _ = network(positive.shape[1], [8, 6, 4])
    options = {"n_classes": N_CLASSES, "position": position, "kind": "mean"}
    g = prediction.label_goodness(x, weights, biases, **options)
    _, outputs = ff.forward(positive, weights, biases)
    np.testing.assert_allclose(
        g[np.arange(len(x)), label], sum(ff.goodness(h, "mean") for h in outputs[1:])
    )


@pytest.mark.parametrize("kind", GROUPED)
def test_grouped_prediction_learns(kind):
    """The oracle's own descent finds labels that a linear function makes."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(60, 8))
    label = (x @ rng.normal(size=(8, N_CLASSES))).argmax(axis=1)
    weights, biases, _ = network(8, [12, 12])
    for _ in range(150):
        result = grouped.gradients(x, label, weights, biases, N_CLASSES, kind)
        for w, b, (_, dw, db) in zip(weights, biases, result, strict=True):
            w -= 0.5 * dw
            b -= 0.5 * db
    guess = grouped.label_goodness(x, weights, biases, N_CLASSES, kind).argmax(axis=1)
    assert (guess == label).mean() > 0.8
