# SPDX-License-Identifier: BSD-3-Clause
"""Forward-Forward steps and predictions of the core against tests/oracle."""

from itertools import pairwise

import numpy as np
import pytest
from oracle import forward_forward as oracle
from oracle import forward_forward_prediction as prediction
from oracle import forward_forward_step as step
from oracle import grouped_goodness as grouped
from oracle import softmax_head
from problems import assert_changes_close_in_norm
from tolerances import STEP_BF16_NORM

from bpfree_fast import _core as core

N_CLASSES = 5
HIDDEN = (33, 70, 40)
RATE = 0.5  # of one SGD step: the gradient is the change divided by it
NEGATIVES = 9  # random::Purpose::negatives


def negative_labels(label, seed, at_step=0, n_classes=N_CLASSES):
    """Wrong labels, as the stream of (seed, step) draws them."""
    words = [
        w
        for block in range(-(-len(label) // 4))
        for w in core.philox([block, 0, at_step, NEGATIVES << 24], [seed, 0])
    ]
    u = (np.array(words[: len(label)], np.uint64) >> 8) * 2.0**-24
    pick = np.minimum((u * (n_classes - 1)).astype(int), n_classes - 2)
    return (pick + (pick >= label)).astype(np.int32)


class Problem:
    """A network with heads, its parameters as plain arrays, and a batch."""

    def __init__(self, n=23, n_features=19, position="append", hidden=HIDDEN, dtype="float32"):
        rng = np.random.default_rng(3)
        self.position = position
        n_in = n_features + (N_CLASSES if position == "append" else 0)
        self.sizes = [n_in, *hidden, N_CLASSES]
        self.network = core.Network(
            self.sizes, "relu", "softmax_cross_entropy", dtype, first_head=1
        )
        n_heads = self.network.n_heads
        shapes = list(pairwise(self.sizes)) + [(n, N_CLASSES) for n in hidden[1:-1]]
        assert n_heads == len(hidden[1:-1])
        self.weights = [
            (rng.normal(size=s) * 1.5 / np.sqrt(s[0])).astype(np.float32) for s in shapes
        ]
        self.biases = [(0.3 * rng.normal(size=s[1])).astype(np.float32) for s in shapes]
        for k, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            self.network.set_weights(k, self.to_core(k, w))
            self.network.set_biases(k, b)
        self.x = rng.normal(size=(n, n_features)).astype(np.float32)
        self.x_negative = rng.normal(size=(n, n_features)).astype(np.float32)
        self.label = rng.integers(0, N_CLASSES, n).astype(np.int32)

    def to_core(self, layer, w):
        """The first layer's rows are stored features first, then the label's."""
        rotate = layer == 0 and self.position == "overwrite"
        return np.ascontiguousarray(np.roll(w, -N_CLASSES, axis=0)) if rotate else w

    def from_core(self, layer):
        w = self.network.weights(layer)
        rotate = layer == 0 and self.position == "overwrite"
        return np.roll(w, N_CLASSES, axis=0) if rotate else w

    def trainer(self, **options):
        return core.Trainer(
            self.network, method="forward_forward", solver="sgd", momentum=0.0, seed=7,
            batch_size=options.pop("batch_size", len(self.x)), label_position=self.position,
            **options,
        )  # fmt: skip

    def run(self, trainer, **options):
        return trainer.run_epoch(
            self.x, self.label, epoch=0, shuffle=False, learning_rate=RATE, **options
        )

    @property
    def hidden_arguments(self):
        n = len(self.sizes) - 2
        return self.weights[:n], self.biases[:n]

    def heads(self):
        """Heads of hidden layers 1.., in their order; the output layer is the last one's."""
        n = len(self.sizes) - 2
        order = [*range(n + 1, len(self.weights)), n]
        return [self.weights[k] for k in order], [self.biases[k] for k in order], order

    def changes(self):
        """What the step did to every array, as gradients."""
        layers = range(len(self.weights))
        of_weights = [(self.weights[k] - self.from_core(k)) / RATE for k in layers]
        return of_weights, [(self.biases[k] - self.network.biases(k)) / RATE for k in layers]

    def check(self, of_weights, of_biases, norm=2e-5):
        changes = self.changes()
        for ours, expected in zip(changes, (of_weights, of_biases), strict=True):
            for k, (p, q) in enumerate(zip(ours, expected, strict=True)):
                error = np.linalg.norm(p - q)
                assert error <= norm * max(np.linalg.norm(q), 0.1), (k, error, np.linalg.norm(q))


def expected_step(problem, positive, negative, head_rows, *, loss_options, thresholds):
    """Gradients of all arrays, as the oracle has them."""
    weights, biases = problem.hidden_arguments
    means = [np.zeros(n) for n in problem.sizes[1:-1]]
    result = step.gradients(
        positive, negative, weights, biases, means, thresholds=thresholds, **loss_options
    )
    of_weights, of_biases = [r[1] for r in result], [r[2] for r in result]
    of_weights += [np.zeros_like(w) for w in problem.weights[len(weights) :]]
    of_biases += [np.zeros_like(b) for b in problem.biases[len(biases) :]]
    if head_rows is not None:
        states, _ = oracle.forward(head_rows, weights, biases)
        heads, head_biases, order = problem.heads()
        _, of_heads, of_c = softmax_head.loss_and_gradients(
            states[2:], heads, head_biases, problem.label
        )
        for k, w, b in zip(order, of_heads, of_c, strict=True):
            of_weights[k], of_biases[k] = w, b
    return sum(r[0] for r in result), of_weights, of_biases


LOSS_OPTIONS = {
    "sum": ({"goodness": "sum"}, {"kind": "sum"}),
    "mean": ({"goodness": "mean", "threshold": 0.7}, {"kind": "mean"}),
    "temperature": ({"temperature": 3.0, "threshold": 20.0}, {"temperature": 3.0}),
    "peer": ({"peer_normalization": 0.3}, {"peer": 0.3}),
    "symba": (
        {"goodness": "mean", "goodness_loss": "symba", "symba_scale": 2.5},
        {"kind": "mean", "loss": "symba", "alpha": 2.5},
    ),
}


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("position", ["append", "overwrite"])
@pytest.mark.parametrize("loss", LOSS_OPTIONS)
def test_step(loss, position, n_threads):
    problem = Problem(position=position)
    core_options, options = LOSS_OPTIONS[loss]
    trainer = problem.trainer(**core_options, n_threads=n_threads)
    value = problem.run(trainer)
    sizes = problem.sizes[1:-1]
    thresholds = [core_options.get("threshold", 1 if loss == "symba" else n) for n in sizes]
    label, wrong = problem.label, negative_labels(problem.label, seed=7)
    assert (label != wrong).all()
    rows = [oracle.with_label(problem.x, y, N_CLASSES, position) for y in (label, wrong, None)]
    expected, of_weights, of_biases = expected_step(
        problem, *rows, loss_options=options, thresholds=thresholds
    )
    problem.check(of_weights, of_biases)
    assert value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("phase", ["positive", "negative"])
@pytest.mark.parametrize("position", ["append", "overwrite"])
def test_phases(phase, position):
    """Apart in time; the heads learn in the positive phase."""
    problem = Problem(position=position)
    trainer = problem.trainer(peer_normalization=0.1)
    trainer.set_phase(phase)
    problem.run(trainer)
    y = problem.label if phase == "positive" else negative_labels(problem.label, seed=7)
    rows = oracle.with_label(problem.x, y, N_CLASSES, position)
    neutral = oracle.with_label(problem.x, None, N_CLASSES, position)
    empty = np.empty((0, rows.shape[1]))
    both = (rows, empty, neutral) if phase == "positive" else (empty, rows, None)
    _, of_weights, of_biases = expected_step(
        problem, *both, loss_options={"peer": 0.1}, thresholds=problem.sizes[1:-1]
    )
    problem.check(of_weights, of_biases)


def test_given_negatives():
    problem = Problem(position="none")
    trainer = problem.trainer(negatives="given")
    problem.run(trainer, x_negative=problem.x_negative)
    _, of_weights, of_biases = expected_step(
        problem, problem.x, problem.x_negative, problem.x, loss_options={},
        thresholds=problem.sizes[1:-1],
    )  # fmt: skip
    problem.check(of_weights, of_biases)


def test_hard_negatives():
    """Drawn from the heads' probabilities of wrong labels: one uniform number a row."""
    problem = Problem()
    weights, biases = problem.hidden_arguments
    heads, head_biases, _ = problem.heads()
    logits = prediction.softmax_logits(
        problem.x, weights, biases, heads, head_biases, n_classes=N_CLASSES, position="append"
    )
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p[np.arange(len(p)), problem.label] = 0
    p /= p.sum(axis=1, keepdims=True)
    words = [w for k in range(6) for w in core.philox([k, 0, 0, NEGATIVES << 24], [7, 0])]
    u = (np.array(words[: len(p)], np.uint64) >> 8) * 2.0**-24
    wrong = np.array(
        [np.searchsorted(np.cumsum(q), v, side="right") for q, v in zip(p, u, strict=True)]
    )
    assert (wrong != problem.label).all()
    problem.run(problem.trainer(negatives="hard"))
    rows = [
        oracle.with_label(problem.x, y, N_CLASSES, "append") for y in (problem.label, wrong, None)
    ]
    _, of_weights, of_biases = expected_step(
        problem, *rows, loss_options={}, thresholds=problem.sizes[1:-1]
    )
    problem.check(of_weights, of_biases)


@pytest.mark.parametrize("kind", ["grouped_squares", "grouped_mean"])
def test_grouped(kind):
    problem = Problem(position="none", hidden=(35, 70, 40))
    value = problem.run(problem.trainer(goodness=kind))
    weights, biases = problem.hidden_arguments
    result = grouped.gradients(problem.x, problem.label, weights, biases, N_CLASSES, kind)
    states, _ = grouped.forward(problem.x, weights, biases, N_CLASSES)
    heads, head_biases, order = problem.heads()
    _, of_heads, of_c = softmax_head.loss_and_gradients(
        states[2:], heads, head_biases, problem.label
    )
    of_weights = [r[1] for r in result] + [None] * len(order)
    of_biases = [r[2] for r in result] + [None] * len(order)
    for k, w, b in zip(order, of_heads, of_c, strict=True):
        of_weights[k], of_biases[k] = w, b
    problem.check(of_weights, of_biases)
    assert value == pytest.approx(sum(r[0] for r in result), rel=1e-5)


@pytest.mark.parametrize("position", ["append", "overwrite"])
def test_predictions(position):
    problem = Problem(n=150, position=position)
    weights, biases = problem.hidden_arguments
    heads, head_biases, _ = problem.heads()
    trainer = problem.trainer()
    out = np.empty((150, N_CLASSES), np.float32)
    trainer.predict_by(problem.x, out, goodness=False, logits=True)
    expected = prediction.softmax_logits(
        problem.x, weights, biases, heads, head_biases, n_classes=N_CLASSES, position=position
    )
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)
    trainer.predict_by(problem.x, out, goodness=True)
    expected = prediction.label_goodness(
        problem.x, weights, biases, n_classes=N_CLASSES, position=position
    )
    np.testing.assert_allclose(out, expected, rtol=2e-5)


def test_grouped_predictions():
    problem = Problem(n=50, position="none", hidden=(35, 70, 40))
    weights, biases = problem.hidden_arguments
    trainer = problem.trainer(goodness="grouped_squares")
    out = np.empty((50, N_CLASSES), np.float32)
    trainer.predict_by(problem.x, out, goodness=True)
    expected = grouped.label_goodness(problem.x, weights, biases, N_CLASSES, "grouped_squares")
    np.testing.assert_allclose(out, expected, rtol=2e-5)


@pytest.mark.parametrize("negatives", ["random", "hard"])
def test_bfloat16(negatives):
    """The step in bfloat16 is the step in float32, within what rounding the operands does."""
    changes = []
    for dtype in ("float32", "bfloat16"):
        problem = Problem(dtype=dtype)
        problem.run(problem.trainer(negatives="random", peer_normalization=0.1))
        changes.append([problem.from_core(k) for k in range(len(problem.weights))])
    assert_changes_close_in_norm(changes[1], changes[0], problem.weights, STEP_BF16_NORM)
