# SPDX-License-Identifier: BSD-3-Clause
"""Steps of every rule, solver, activation and loss against the oracle."""

from itertools import product

import numpy as np
import pytest
from oracle.activations import ACTIVATIONS
from oracle.feedback import LAYERWISE, RULES, SIGN_SYMMETRIC
from oracle.schedules import learning_rate as oracle_rate
from problems import (
    LOSSES,
    SOLVERS,
    all_feedback,
    all_parameters,
    assert_changes_close_in_norm,
    assert_parameters_close,
    data,
    method_options,
    pair,
)
from tolerances import (
    ANGLE_DEGREES,
    FORWARD_F32,
    STEP_BF16_KINK_NORM,
    STEP_BF16_NORM,
    STEP_F32,
    STEP_PARAMETER,
    STEPS_F32,
)

from bpfree_fast import _core as core

SIZES = [19, 40, 33, 7]
METHODS = ("backprop", *RULES)
SIGNALS = [("backprop", "exact"), *product(RULES, ("exact", "sign"))]
# Its magnitudes are drawn anew inside an epoch: test_batchwise_steps looks at every one.
READ_ONCE = [rule for rule in METHODS if rule != "sign_symmetric_batchwise"]


def sync_feedback(trainer, reference):
    """Magnitudes that are drawn in every step: feedback(l) shows what the next step will use."""
    reference.matrices = [b.astype(np.float64) for b in all_feedback(trainer)]


def one_step(sizes, activation, loss, rule, dtype="float32", n=25, weighted=False, **options):
    """The core's and the oracle's parameters after one step, and both losses."""
    network, trainer, reference = pair(
        sizes, activation, loss, dtype=dtype, batch_size=n, **method_options(rule), **options
    )
    before = [*reference.weights, *reference.biases]
    x, y, sample_weight = data(loss, n, sizes[0], sizes[-1], seed=1)
    w = sample_weight if weighted else None
    value = trainer.run_epoch(x, y, w, epoch=0, shuffle=False, learning_rate=0.05)
    expected = reference.train_step(x, y, w, learning_rate=0.05)
    after = [*reference.weights, *reference.biases]
    return network, trainer, reference, (all_parameters(network), after, before), (value, expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rule", METHODS)
def test_one_step(rule, solver, activation):
    _, trainer, reference, changes, (value, expected) = one_step(
        SIZES, activation, "softmax_cross_entropy", rule, **SOLVERS[solver]
    )
    assert_parameters_close(*changes, STEP_F32, STEP_PARAMETER)
    assert value == pytest.approx(expected, rel=FORWARD_F32)
    assert trainer.step == 1
    if "kolen_pollack" in rule:
        before = pair(SIZES, activation, "softmax_cross_entropy", **method_options(rule))[1]
        assert_parameters_close(
            all_feedback(trainer),
            reference.matrices,
            all_feedback(before),
            STEP_F32,
            STEP_PARAMETER,
        )


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("rule", "error_signal"), SIGNALS)
def test_one_step_of_every_loss(rule, error_signal, loss, weighted):
    _, _, _, changes, (value, expected) = one_step(
        SIZES, "tanh", loss, rule, error_signal=error_signal, weighted=weighted, **SOLVERS["sgd"]
    )
    assert_parameters_close(*changes, STEP_F32, STEP_PARAMETER)
    assert value == pytest.approx(expected, rel=FORWARD_F32)


@pytest.mark.parametrize(
    "sizes", [[5, 3], [1, 1, 1], [3, 64, 2], [7, 5, 6, 4, 3], [70, 31, 65, 40]]
)
@pytest.mark.parametrize("rule", METHODS)
def test_one_step_of_other_networks(rule, sizes):
    _, _, _, changes, _ = one_step(sizes, "tanh", "squared_error", rule, **SOLVERS["sgd"])
    assert_parameters_close(*changes, STEP_F32, STEP_PARAMETER)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rule", ["direct", "target", "layerwise"])
def test_one_step_with_thousands_of_outputs(rule, loss):
    """Feedback of so many outputs may be generated where it is used: the same numbers."""
    sizes = [6, 34, 33, 1030]
    _, _, _, changes, _ = one_step(sizes, "tanh", loss, rule, n=20, **SOLVERS["sgd"])
    assert_parameters_close(*changes, STEP_F32, STEP_PARAMETER)


@pytest.mark.parametrize("n", [1, 2, 13, 14, 15, 31, 32, 33, 64, 65])
@pytest.mark.parametrize("rule", ["backprop", "direct", "kolen_pollack", "sign_symmetric"])
def test_one_step_of_other_batches(rule, n):
    loss = "softmax_cross_entropy"
    _, _, _, changes, _ = one_step(SIZES, "gelu", loss, rule, n=n, **SOLVERS["sgd"])
    assert_parameters_close(*changes, STEP_F32, STEP_PARAMETER)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rule", METHODS)
def test_one_step_in_bfloat16(rule, activation):
    _, _, _, changes, (value, expected) = one_step(
        [64, 96, 80, 10], activation, "softmax_cross_entropy", rule, "bfloat16", n=64,
        **SOLVERS["sgd"],
    )  # fmt: skip
    kink = activation in ("relu", "leaky_relu")
    assert_changes_close_in_norm(*changes, STEP_BF16_KINK_NORM if kink else STEP_BF16_NORM)
    assert value == pytest.approx(expected, rel=STEP_BF16_NORM)


@pytest.mark.parametrize("solver", ["momentum", "adam"])
@pytest.mark.parametrize("rule", READ_ONCE)
def test_several_steps_in_bfloat16(rule, solver):
    """What the update writes in bfloat16 beside the parameters is what the next step reads."""
    sizes = [64, 96, 80, 10]
    network, trainer, reference = pair(
        sizes, "tanh", "softmax_cross_entropy", dtype="bfloat16", batch_size=32,
        **method_options(rule), **SOLVERS[solver],
    )  # fmt: skip
    before = [*reference.weights, *reference.biases]
    x, y, _ = data("softmax_cross_entropy", 75, sizes[0], sizes[-1], seed=2)
    for epoch in range(4):
        value = trainer.run_epoch(x, y, epoch=epoch, shuffle=False, learning_rate=0.03)
        expected = reference.run_epoch(x, y, learning_rate=0.03)
        assert value == pytest.approx(expected, rel=STEP_BF16_NORM)
    after = [*reference.weights, *reference.biases]
    assert_changes_close_in_norm(all_parameters(network), after, before, 2 * STEP_BF16_NORM)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rule", READ_ONCE)
def test_several_steps(rule, solver):
    """Three epochs of three batches, the last of them short, in the order of the permutation."""
    n, batch_size = 60, 25
    network, trainer, reference = pair(
        SIZES, "tanh", "softmax_cross_entropy", batch_size=batch_size, seed=3,
        **method_options(rule), **SOLVERS[solver],
    )  # fmt: skip
    before = [*reference.weights, *reference.biases]
    x, y, sample_weight = data("softmax_cross_entropy", n, SIZES[0], SIZES[-1], seed=2)
    options = {"learning_rate": 0.02, "schedule": "cosine", "total_steps": 12}
    for epoch in range(3):
        value = trainer.run_epoch(x, y, sample_weight, epoch=epoch, shuffle=True, **options)
        order = core.permutation(n, 3, epoch)
        expected = reference.run_epoch(x, y, sample_weight, order=order, epoch=epoch, **options)
        assert value == pytest.approx(expected, rel=STEPS_F32)
    assert trainer.step == 9
    after = [*reference.weights, *reference.biases]
    assert_parameters_close(all_parameters(network), after, before, STEPS_F32, STEP_PARAMETER)


def test_batchwise_steps():
    network, trainer, reference = pair(
        SIZES, "tanh", "squared_error", batch_size=20,
        **method_options("sign_symmetric_batchwise"), **SOLVERS["momentum"],
    )  # fmt: skip
    before = [*reference.weights, *reference.biases]
    x, y, _ = data("squared_error", 20, SIZES[0], SIZES[-1], seed=2)
    drawn = []
    for epoch in range(4):
        sync_feedback(trainer, reference)
        drawn.append(np.abs(reference.matrices[0]))
        trainer.run_epoch(x, y, epoch=epoch, shuffle=False, learning_rate=0.01)
        reference.run_epoch(x, y, learning_rate=0.01)
    after = [*reference.weights, *reference.biases]
    assert_parameters_close(all_parameters(network), after, before, STEPS_F32, STEP_PARAMETER)
    assert all(not np.array_equal(a, b) for a in drawn for b in drawn if a is not b)


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        ("constant", {}),
        ("adaptive", {}),
        ("cosine", {"total_steps": 9}),
        ("step", {"step_size": 2, "gamma": 0.3}),
        ("invscaling", {"power_t": 0.7}),
    ],
)
def test_schedule(schedule, options):
    """The rate of every step, seen at a bias whose gradient is 1."""
    network = core.Network([1, 1], "identity", "squared_error", "float32")
    network.initialize(0, "zeros")
    trainer = core.Trainer(network, method="backprop", solver="sgd", momentum=0.0, batch_size=1)
    x = np.zeros((1, 1), np.float32)
    step = 0
    for epoch in range(3):
        for _ in range(3):
            y = network.biases(0)[None] - np.float32(1)  # e = 1
            b = network.biases(0)[0]
            trainer.run_epoch(x, y, epoch=epoch, learning_rate=0.5, schedule=schedule, **options)
            defaults = {"total_steps": 0, "step_size": 10, "gamma": 0.1, "power_t": 0.5}
            rate = oracle_rate(schedule, 0.5, step=step, epoch=epoch, **(defaults | options))
            assert b - network.biases(0)[0] == pytest.approx(rate, abs=1e-6)
            step += 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_input_types_and_scale(kind, dtype):
    """The scale enters the forward pass and the update of the first layer; uint8 is exact."""
    network, trainer, reference = pair(
        [21, 40, 5], "tanh", "softmax_cross_entropy", dtype=dtype, batch_size=30, method="feedback",
        **SOLVERS["sgd"],
    )  # fmt: skip
    before = [*reference.weights, *reference.biases]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (30, 21)).astype(kind)
    y = rng.integers(0, 5, 30).astype(np.int32)
    scale = 1 / 64
    out = np.empty((30, 5), np.float32)
    network.predict(pixels, out, input_scale=scale)
    relative = STEP_BF16_NORM if dtype == "bfloat16" else FORWARD_F32
    np.testing.assert_allclose(out, reference.predict(pixels * scale), atol=relative)
    trainer.run_epoch(pixels, y, epoch=0, shuffle=False, learning_rate=0.05, input_scale=scale)
    reference.train_step(pixels * scale, y, learning_rate=0.05)
    after = [*reference.weights, *reference.biases]
    if dtype == "bfloat16":
        assert_changes_close_in_norm(all_parameters(network), after, before, STEP_BF16_NORM)
    else:
        assert_parameters_close(all_parameters(network), after, before, STEP_F32, STEP_PARAMETER)


@pytest.mark.parametrize("error_signal", ["exact", "sign"])
@pytest.mark.parametrize("rule", RULES)
def test_alignment(rule, error_signal):
    """Angle and norm ratio between the rule's delta and backprop's, per hidden layer."""
    network, trainer, reference = pair(
        SIZES, "tanh", "softmax_cross_entropy", batch_size=32, error_signal=error_signal,
        **method_options(rule),
    )  # fmt: skip
    x, y, sample_weight = data("softmax_cross_entropy", 50, SIZES[0], SIZES[-1], seed=5)
    before = all_parameters(network)
    angles, ratios = trainer.alignment(x, y, sample_weight)
    assert all(np.array_equal(p, q) for p, q in zip(before, all_parameters(network), strict=True))
    ours = reference.deltas(x, y, sample_weight)[0][:-1]
    exact = reference.deltas(x, y, sample_weight, method="backprop")[0][:-1]
    assert len(angles) == len(ratios) == len(ours)
    for angle, ratio, a, b in zip(angles, ratios, ours, exact, strict=True):
        norms = np.linalg.norm(a), np.linalg.norm(b)
        expected = np.degrees(np.arccos((a * b).sum() / (norms[0] * norms[1])))
        assert angle == pytest.approx(expected, abs=ANGLE_DEGREES)
        assert ratio == pytest.approx(norms[0] / norms[1], rel=STEPS_F32)


@pytest.mark.parametrize("distribution", ["uniform", "normal", "sign"])
@pytest.mark.parametrize("rule", RULES)
def test_drawn_feedback(rule, distribution):
    """Shapes, moments and bounds; feedback of different layers differs, and follows the seed."""
    sizes = [10, 300, 300, 300, 40]
    weights = core.Network(sizes, "tanh", "squared_error", "float32")
    weights.initialize(0)

    def draw(seed, scale=1.0):
        trainer = core.Trainer(
            weights, **method_options(rule), feedback_distribution=distribution,
            feedback_scale=scale, seed=seed,
        )  # fmt: skip
        return all_feedback(trainer)

    drawn = draw(1)
    layerwise = rule in LAYERWISE or rule in SIGN_SYMMETRIC
    for layer, b in enumerate(drawn):
        shape = (300, sizes[layer + 2]) if layerwise else (40, 300)
        assert b.shape == shape
        assert b.dtype == np.float32
        scale = 1 / np.sqrt(shape[0])
        if rule == "sign_symmetric":
            scale, expected = 1.0, np.sqrt(2 / sum(shape))
            np.testing.assert_allclose(np.abs(b), expected, rtol=1e-6)
            assert np.array_equal(np.sign(b), np.sign(weights.weights(layer + 1)))
            continue
        if distribution == "uniform":
            assert np.abs(b).max() <= scale
            assert np.abs(b).max() > 0.99 * scale
            std = scale / np.sqrt(3)
        elif distribution == "normal":
            assert np.abs(b).max() > 3 * scale
            std = scale
        else:
            np.testing.assert_allclose(np.abs(b), scale, rtol=1e-6)
            std = scale
        tolerance = 5 / np.sqrt(b.size)
        assert abs(b.mean()) <= tolerance * std
        assert np.sqrt((b**2).mean()) == pytest.approx(std, rel=tolerance)
    assert len(drawn) == 3
    assert all(np.array_equal(a, b) for a, b in zip(drawn, draw(1), strict=True))
    if rule not in SIGN_SYMMETRIC:  # those take their signs from W
        assert not np.array_equal(drawn[0], drawn[1])
        assert not np.array_equal(drawn[0], draw(2)[0])
    for a, b in zip(drawn, draw(1, scale=2.5), strict=True):
        np.testing.assert_allclose(2.5 * a, b, rtol=1e-6)
