# SPDX-License-Identifier: BSD-3-Clause
"""Rules that must coincide, whatever the numbers are: the core judges itself."""

from itertools import product

import numpy as np
import pytest
from oracle.feedback import LAYERWISE, RULES
from problems import (
    LOSSES,
    SOLVERS,
    all_feedback,
    all_parameters,
    assert_parameters_close,
    data,
    make_network,
    method_options,
    parameters,
)
from tolerances import STEP_F32, STEP_PARAMETER, STEPS_F32

from bpfree_fast import _core as core

SIZES = [11, 34, 20, 33, 6]
N = 37


def run(
    rule, activation="tanh", loss="softmax_cross_entropy", *, dtype="float32", weights=None,
    biases=None, x=None, y=None, sample_weight=None, feedback=None, steps=1, solver="sgd",
    **options,
):  # fmt: skip
    """Parameters before and after some steps on one batch; feedback(weights) is set before each."""
    drawn = parameters(SIZES, 0)
    weights, biases = weights or drawn[0], biases or drawn[1]
    network = make_network(weights, biases, activation, loss, dtype)
    given = data(loss, N, SIZES[0], SIZES[-1], seed=1)
    x, y = given[0] if x is None else x, given[1] if y is None else y
    options = SOLVERS[solver] | options
    trainer = core.Trainer(network, batch_size=len(x), **method_options(rule), **options)
    before = all_parameters(network)
    for epoch in range(steps):
        if feedback is not None:
            now = [network.weights(k) for k in range(len(SIZES) - 1)]
            for layer, b in enumerate(feedback(now)):
                trainer.set_feedback(layer, np.ascontiguousarray(b, np.float32))
        trainer.run_epoch(x, y, sample_weight, epoch=epoch, shuffle=False, learning_rate=0.03)
    return before, all_parameters(network), trainer


def assert_same(one, other, relative=STEP_F32):
    assert_parameters_close(one[1], other[1], one[0], relative, STEP_PARAMETER)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "activation", ["identity", "relu", "leaky_relu", "tanh", "logistic", "gelu"]
)
@pytest.mark.parametrize("rule", LAYERWISE)
def test_feedback_alignment_with_the_true_transposes_is_backprop(rule, activation, loss):
    theirs = run("backprop", activation, loss, steps=3, solver="nesterov")
    ours = run(rule, activation, loss, steps=3, solver="nesterov", feedback=lambda w: w[1:])
    assert_same(ours, theirs, STEPS_F32)


@pytest.mark.parametrize("rule", [*LAYERWISE, "sign_symmetric_fixed"])
def test_the_same_in_bfloat16(rule):
    """Feedback that is set is rounded as the weights are: not even a rounding differs."""
    theirs = run("backprop", dtype="bfloat16", steps=3)
    ours = run(rule, dtype="bfloat16", steps=3, feedback=lambda w: w[1:])
    assert_same(ours, theirs)


@pytest.mark.parametrize("loss", LOSSES)
def test_set_feedback_counts_in_bfloat16(loss):
    """Direct feedback is kept in float32: the rest of the step is what it is for drawn numbers."""
    start = run("direct", loss=loss, dtype="bfloat16", steps=0)[2]
    drawn = all_feedback(start)
    ours = run("direct", loss=loss, dtype="bfloat16", feedback=lambda _: drawn)
    theirs = run("direct", loss=loss, dtype="bfloat16")
    assert all(np.array_equal(p, q) for p, q in zip(ours[1], theirs[1], strict=True))
    other = run("direct", loss=loss, dtype="bfloat16", feedback=lambda _: [-b for b in drawn])
    assert not np.array_equal(other[1][0], theirs[1][0])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rule", ["direct", "direct_kolen_pollack"])
def test_direct_feedback_with_products_of_weights_is_backprop_on_a_linear_network(rule, loss):
    def products(w):
        result = [w[-1].T]
        for k in range(len(w) - 2, 0, -1):
            result.insert(0, result[0] @ w[k].T)
        return result

    theirs = run("backprop", "identity", loss, steps=3, solver="momentum")
    ours = run(rule, "identity", loss, steps=3, solver="momentum", feedback=products)
    assert_same(ours, theirs, STEPS_F32)


def test_direct_feedback_of_one_hidden_layer_is_feedback_alignment():
    """Both project e by one matrix: B [n_outputs, n_hidden] and its transpose."""
    sizes = [11, 40, 6]
    weights, biases = parameters(sizes, 0)
    x, y, _ = data("softmax_cross_entropy", N, 11, 6, seed=1)
    after, drawn = [], None
    for rule in ("direct", "layerwise"):
        network = make_network(weights, biases, "relu", "softmax_cross_entropy")
        trainer = core.Trainer(network, batch_size=N, **method_options(rule), **SOLVERS["sgd"])
        if drawn is None:
            drawn = trainer.feedback(0)
        else:
            trainer.set_feedback(0, np.ascontiguousarray(drawn.T))
        trainer.run_epoch(x, y, epoch=0, shuffle=False, learning_rate=0.05)
        after.append(all_parameters(network))
    assert_parameters_close(*after, [*weights, *biases], STEP_F32, STEP_PARAMETER)


def test_sign_symmetric_is_backprop_where_all_weights_have_its_size():
    weights, biases = parameters(SIZES, 0)
    weights = [
        (np.sign(w) * np.sqrt(2 / sum(w.shape))).astype(np.float32) if k else w
        for k, w in enumerate(weights)
    ]
    given = {"weights": weights, "biases": biases}
    assert_same(run("sign_symmetric", **given), run("backprop", **given))


def test_fixed_magnitudes_of_the_weights_make_backprop():
    """sign(W) |W| = W; only the magnitudes of what is set count."""
    ours = run("sign_symmetric_fixed", feedback=lambda w: [-np.abs(m) for m in w[1:]])
    again = run("sign_symmetric_fixed", feedback=lambda w: w[1:])
    theirs = run("backprop")
    assert_same(again, theirs)
    assert_same(ours, theirs)


@pytest.mark.parametrize("rule", [r for r in RULES if r != "target"])
def test_sign_of_an_error_of_ones_is_the_error(rule):
    """Targets one unit away from the prediction: e is its own sign."""
    weights, biases = parameters(SIZES, 0)
    weights[-1] = np.zeros_like(weights[-1])
    if "sign_symmetric" in rule:
        weights[-1] += np.float32(1e-20)  # sign(0) would carry nothing
    biases[-1] = np.zeros_like(biases[-1])
    x = data("squared_error", N, SIZES[0], SIZES[-1], seed=1)[0]
    y = np.random.default_rng(2).choice([-1.0, 1.0], (N, SIZES[-1])).astype(np.float32)
    given = {"weights": weights, "biases": biases, "x": x, "y": y}
    exact = run(rule, loss="squared_error", **given)
    signs = run(rule, loss="squared_error", error_signal="sign", **given)
    assert_same(signs, exact)


def test_target_is_direct_with_the_negative_feedback_where_the_prediction_is_zero():
    """There e = -y, so projecting y is projecting e by -B."""
    weights, biases = parameters(SIZES, 0)
    weights[-1] = np.zeros_like(weights[-1])
    biases[-1] = np.zeros_like(biases[-1])
    b = [np.random.default_rng(3).normal(size=(SIZES[-1], n)) for n in SIZES[1:-1]]
    given = {"weights": weights, "biases": biases, "loss": "squared_error"}
    target = run("target", feedback=lambda _: b, **given)
    direct = run("direct", feedback=lambda _: [-m for m in b], **given)
    assert_same(target, direct)


@pytest.mark.parametrize("solver", ["sgd", "momentum", "nesterov"])
def test_kolen_pollack_goes_to_the_weights_at_the_rate_of_the_decay(solver):
    """W and B get the same gradient, so B - W shrinks by 1 - lr * weight_decay in every step."""
    options = {"alpha": 0.0, "weight_decay": 1.5}
    _, after, trainer = run("kolen_pollack", solver=solver, steps=12, **options)
    start = run("kolen_pollack", solver=solver, steps=0, **options)
    shrunk = (1 - 0.03 * 1.5) ** 12
    for layer, b in enumerate(all_feedback(trainer)):
        before = start[2].feedback(layer) - start[0][layer + 1]
        np.testing.assert_allclose(b - after[layer + 1], shrunk * before, atol=2e-6)


@pytest.mark.parametrize("rule", ["layerwise", "direct", "target", "sign_symmetric_fixed"])
def test_fixed_feedback_stays(rule):
    _, _, trainer = run(rule, steps=5, solver="adamw")
    fresh = run(rule, steps=0)[2]
    same = [
        np.array_equal(np.abs(a), np.abs(b))
        for a, b in zip(all_feedback(trainer), all_feedback(fresh), strict=True)
    ]
    assert all(same)
    assert len(same) == 3


@pytest.mark.parametrize("method", ["backprop", *RULES])
def test_without_hidden_layers_every_method_is_the_same(method):
    weights, biases = parameters([9, 4], 0)
    x, y, _ = data("softmax_cross_entropy", N, 9, 4, seed=1)
    after = []
    for rule in ("backprop", method):
        network = make_network(weights, biases, "relu", "softmax_cross_entropy")
        trainer = core.Trainer(network, batch_size=16, **method_options(rule))
        trainer.run_epoch(x, y, epoch=0, learning_rate=0.01)
        after.append(all_parameters(network))
    assert all(np.array_equal(a, b) for a, b in zip(*after, strict=True))


@pytest.mark.parametrize(
    ("rule", "error_signal"), [("backprop", "exact"), *product(RULES, ("exact", "sign"))]
)
def test_weight_two_is_a_sample_given_twice_and_weight_zero_none(rule, error_signal):
    x, y, _ = data("softmax_cross_entropy", 20, SIZES[0], SIZES[-1], seed=1)
    counts = np.arange(20) % 3
    weighted = run(
        rule, x=x, y=y, sample_weight=counts.astype(np.float32), error_signal=error_signal
    )
    rows = np.repeat(np.arange(20), counts)
    repeated = run(rule, x=x[rows].copy(), y=y[rows].copy(), error_signal=error_signal)
    assert_same(weighted, repeated)


@pytest.mark.parametrize("rule", ["backprop", *RULES])
def test_a_batch_without_weight_changes_nothing(rule):
    before, after, trainer = run(rule, sample_weight=np.zeros(N, np.float32))
    assert all(np.array_equal(p, q) for p, q in zip(before, after, strict=True))
    assert trainer.step == 1


@pytest.mark.parametrize("rule", RULES)
def test_the_output_layer_gets_its_exact_gradient(rule):
    theirs = run("backprop")
    for error_signal in ("exact", "sign"):
        ours = run(rule, error_signal=error_signal)
        last = len(SIZES) - 2
        for k in (last, 2 * last + 1):
            assert_parameters_close(
                [ours[1][k]], [theirs[1][k]], [ours[0][k]], STEP_F32, STEP_PARAMETER
            )
