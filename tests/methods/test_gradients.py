# SPDX-License-Identifier: BSD-3-Clause
"""Central differences in float64 judge the oracle, and the oracle judges the core.

A wrong sign in a derivative that both share would pass every comparison of the two; a central
difference needs no derivative.
"""

from itertools import pairwise

import numpy as np
import pytest
from differences import STEP, central_difference
from oracle.activations import ACTIVATIONS, DERIVATIVES
from oracle.losses import SAMPLE_LOSSES, error, mean_loss, one_hot
from reference import Reference
from tolerances import DIFFERENCES, STEP_F32, STEP_PARAMETER

from bpfree_fast import _core as core

SIZES = [7, 6, 5, 4]


def targets(loss, n, n_outputs, rng):
    if loss == "softmax_cross_entropy":
        return rng.integers(0, n_outputs, n).astype(np.int32)
    if loss == "binary_cross_entropy":
        return rng.integers(0, 2, (n, n_outputs)).astype(np.float32)
    return rng.normal(size=(n, n_outputs)).astype(np.float32)


def problem(loss, activation, seed, n=11):
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=s) / np.sqrt(s[0]) for s in pairwise(SIZES)]
    biases = [0.3 * rng.normal(size=s) for s in SIZES[1:]]
    weights = [w.astype(np.float32) for w in weights]
    biases = [b.astype(np.float32) for b in biases]
    x = rng.normal(size=(n, SIZES[0])).astype(np.float32)
    sample_weight = rng.uniform(0.2, 2.0, n).astype(np.float32)
    reference = Reference(
        weights, biases, activation, loss, solver="sgd", momentum=0.0, alpha=0.3, batch_size=n
    )
    return reference, x, targets(loss, n, SIZES[-1], rng), sample_weight


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivative_of_activation(name):
    a = np.concatenate([np.linspace(-8, 8, 161), [0.013, -0.013]]) + 1e-3  # clear of relu's kink
    slope = (ACTIVATIONS[name](a + STEP) - ACTIVATIONS[name](a - STEP)) / (2 * STEP)
    np.testing.assert_allclose(DERIVATIVES[name](a), slope, atol=DIFFERENCES)


@pytest.mark.parametrize("loss", SAMPLE_LOSSES)
def test_output_error_is_the_derivative_of_the_loss(loss):
    rng = np.random.default_rng(3)
    logits = 3 * rng.normal(size=(5, 4))
    y = targets(loss, 5, 4, rng)
    y = one_hot(y, 4) if y.ndim == 1 else y
    numeric = central_difference(lambda: SAMPLE_LOSSES[loss](logits, y).sum(), logits)
    np.testing.assert_allclose(error(loss, logits, y), numeric, atol=DIFFERENCES)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", SAMPLE_LOSSES)
def test_backprop_of_the_oracle_is_the_gradient(loss, activation):
    reference, x, y, sample_weight = problem(loss, activation, seed=1)
    parameters = [*reference.weights, *reference.biases]

    def objective():
        penalty = sum(0.5 * reference.alpha * (w**2).sum() for w in reference.weights)
        target = reference.targets(y)
        mean = mean_loss(loss, reference.logits(x), target, sample_weight)
        return mean + penalty / sample_weight.sum()

    numeric = [central_difference(objective, p) for p in parameters]
    before = [p.copy() for p in parameters]
    reference.train_step(
        x, y, sample_weight, learning_rate=1.0
    )  # a step of 1 subtracts the gradient
    after = [*reference.weights, *reference.biases]
    for p, q, g in zip(before, after, numeric, strict=True):
        np.testing.assert_allclose(p - q, g, atol=DIFFERENCES)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", SAMPLE_LOSSES)
@pytest.mark.parametrize("seed", [1, 2])
def test_backprop_of_the_core_is_the_oracle(loss, activation, seed):
    reference, x, y, sample_weight = problem(loss, activation, seed)
    network = core.Network(SIZES, activation, loss, "float32")
    before = [*reference.weights, *reference.biases]
    for layer, (w, b) in enumerate(zip(reference.weights, reference.biases, strict=True)):
        network.set_weights(layer, w.astype(np.float32))
        network.set_biases(layer, b.astype(np.float32))
    trainer = core.Trainer(
        network, method="backprop", solver="sgd", momentum=0.0, alpha=0.3, batch_size=len(x)
    )
    value = trainer.run_epoch(x, y, sample_weight, epoch=0, shuffle=False, learning_rate=1.0)
    expected = reference.train_step(x, y, sample_weight, learning_rate=1.0)
    assert value == pytest.approx(expected, rel=STEP_F32)
    after = [network.weights(k) for k in range(3)] + [network.biases(k) for k in range(3)]
    for p, q, r in zip(before, after, [*reference.weights, *reference.biases], strict=True):
        bound = STEP_F32 * np.abs(r - p).max() + STEP_PARAMETER * np.abs(p)
        assert (np.abs(q - r) <= bound).all()
