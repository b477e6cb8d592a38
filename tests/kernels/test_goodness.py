# SPDX-License-Identifier: BSD-3-Clause
"""bf.kernels.goodness and forward_forward_update: the float64 oracle, threads, and refusals."""

import numpy as np
import pytest
from oracle import forward_forward as oracle
from oracle import forward_forward_step as oracle_step
from oracle import optimizers
from oracle.product import product as exact_product
from tolerances import STEP_F32, STEP_PARAMETER, U, product_bound

import bpfree_fast as bf
from bpfree_fast import _core as core

kernels = bf.kernels
# batch, n_in, n_out: edges of vectors and panels, rows 2 KiB apart, more rows than a task takes.
SHAPES = [(2, 1, 1), (6, 7, 33), (16, 31, 32), (34, 512, 17), (130, 20, 100), (1000, 9, 40)]
OPTIONS = [
    {},
    {"threshold": 3.0, "temperature": 2.5},
    {"goodness": "mean"},
    {"goodness": "mean", "threshold": 0.25, "temperature": 0.5},
    {"goodness_loss": "symba", "symba_scale": 0.5},
    {"goodness_loss": "symba", "goodness": "mean"},
]
SOLVERS = [
    {"solver": "sgd"},
    {"solver": "sgd", "momentum": 0.9},
    {"solver": "adam", "weight_decay": 0.1, "step": 3},
    {"solver": "rmsprop", "n_samples": 12.5},
]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def layer(shape, seed=0):
    """Weights whose goodness is about the threshold, so that no slope is lost in a sigmoid."""
    batch, n_in, n_out = shape
    scale = 10.0 ** np.random.default_rng(seed).integers(-3, 4, (batch, 1))
    x = (draw(batch, n_in, seed=seed) * scale).astype(np.float32)
    W = draw(n_in, n_out, seed=seed + 1) / np.float32(np.sqrt(n_in))
    return x, W, 0.5 * draw(n_out, seed=seed + 2)


def zeros_of_state(W, b, options):
    slots = optimizers.n_slots(options["solver"], options.get("momentum", 0.0))
    return [np.zeros_like(array) for _ in range(slots) for array in (W, b) if array is not None]


def expected_step(x, W, b, n_positive, options):
    """Loss, dW, db and h of the oracle, in float64."""
    kind = options.get("goodness", "sum")
    threshold = options.get("threshold", 1.0 if kind == "mean" else float(W.shape[1]))
    x, W, b = (array.astype(np.float64) for array in (x, W, b))
    [(loss, dW, db, _)] = oracle_step.gradients(
        x[:n_positive], x[n_positive:], [W], [b], [np.zeros(W.shape[1])], thresholds=[threshold],
        kind=kind, loss=options.get("goodness_loss", "logistic"),
        temperature=options.get("temperature", 1.0), alpha=options.get("symba_scale", 4.0),
    )  # fmt: skip
    return loss, dW, db, oracle.forward(x, [W], [b])[1][0]


@pytest.mark.parametrize("kind", ["sum", "mean"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (16, 33), (100, 1000), (3000, 17), (0, 5)])
def test_goodness(shape, kind):
    h = draw(*shape)
    factor = np.full(shape[0], np.nan, np.float32)
    out = kernels.goodness(h, kind=kind, row_factor=factor)
    exact = oracle.goodness(h.astype(np.float64), kind)
    assert out.dtype == np.float32
    assert (np.abs(out - exact) <= (shape[1] + 2) * U["float32"] * exact).all()
    normal = oracle.normalized(h.astype(np.float64))
    np.testing.assert_allclose(h * factor[:, None], normal, rtol=(shape[1] + 4) * U["float32"])
    given = np.full_like(out, np.nan)
    assert kernels.goodness(h, kind=kind, out=given, n_threads=3) is given
    np.testing.assert_array_equal(given, out)
    np.testing.assert_array_equal(kernels.goodness(h[-1:], kind=kind), out[-1:])


def test_goodness_of_odd_rows():
    """A silent row stays silent, NaN stays NaN and stays in its row."""
    h = np.zeros((3, 20), np.float32)
    h[1, 3] = np.nan
    h[2] = 1
    factor = np.empty(3, np.float32)
    out = kernels.goodness(h, row_factor=factor)
    np.testing.assert_array_equal(out, np.float32([0, np.nan, 20]))
    np.testing.assert_allclose(factor, [1e4, np.nan, 1], rtol=1e-6)
    np.testing.assert_array_equal(kernels.goodness(np.empty((2, 0), np.float32)), [0, 0])


@pytest.mark.parametrize(
    ("words", "h", "keywords"),
    [
        ("float64", np.zeros((2, 3)), {}),
        ("(3,)", draw(3), {}),
        ("contiguous", draw(4, 6)[:, ::2], {}),
        ("(4,)", draw(3, 2), {"out": draw(4)}),
        ("(2,)", draw(3, 2), {"row_factor": draw(2)}),
        ("grouped", draw(3, 2), {"kind": "grouped"}),
        ("0 columns", np.empty((3, 0), np.float32), {"kind": "mean"}),
        ("list", [[1.0]], {}),
        ("0", draw(3, 2), {"n_threads": 0}),
    ],
)
def test_goodness_refuses(words, h, keywords):
    with pytest.raises((ValueError, TypeError)) as error:
        kernels.goodness(h, **keywords)
    assert words in str(error.value), str(error.value)


def test_goodness_refuses_to_overlap():
    h = draw(4, 4)
    for keywords in ({"out": h[0]}, {"out": (f := draw(4)), "row_factor": f}):
        with pytest.raises(ValueError, match="overlaps"):
            kernels.goodness(h, **keywords)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())) or "-")
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_the_oracles(shape, options):
    x, W, b = layer(shape)
    n_positive = shape[0] // 2
    loss, dW, db, h = expected_step(x, W, b, n_positive, options)
    before, rate = (W.copy(), b.copy()), 0.125
    given = np.full(h.shape, np.nan, np.float32)
    found = kernels.forward_forward_update(
        W, b, x, n_positive, learning_rate=rate, h_out=given, **options
    )
    assert found == pytest.approx(loss, rel=STEP_F32)
    unit = oracle.normalized(x.astype(np.float64))
    _, magnitude = exact_product(unit, before[0], transpose_a=False, transpose_b=False)
    # The row factor is a product of its own: as many roundings again.
    bound = product_bound(2 * shape[1] + 4, "float32", magnitude + np.abs(before[1]))
    assert (np.abs(given - h) <= bound).all()
    for now, old, gradient in ((W, before[0], dW), (b, before[1], db)):
        allowed = STEP_F32 * rate * np.abs(gradient).max() + STEP_PARAMETER * np.abs(old)
        assert (np.abs(now - (old - rate * gradient)) <= allowed).all()


@pytest.mark.parametrize("n_positive", [0, 5, 13])
def test_any_number_of_data_rows(n_positive):
    """Sums are divided by the data rows; without any, by all rows."""
    x, W, b = layer((13, 20, 40))
    loss, dW, db, _ = expected_step(x, W, b, n_positive, {})
    before = W.copy(), b.copy()
    found = kernels.forward_forward_update(W, b, x, n_positive, learning_rate=0.5)
    assert found == pytest.approx(loss, rel=STEP_F32)
    np.testing.assert_allclose(W, before[0] - 0.5 * dW, atol=STEP_F32 * np.abs(dW).max())
    np.testing.assert_allclose(b, before[1] - 0.5 * db, atol=STEP_F32 * np.abs(db).max())


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("has_bias", [True, False])
def test_solvers_are_those_of_dense_update(solver, has_bias):
    """The same step from its parts: forward, delta in NumPy, dense_update."""
    x, W, b = layer((22, 31, 70), seed=4)
    b = b if has_bias else None
    parts = W.copy(), b.copy() if has_bias else None
    fused, separate = zeros_of_state(W, b, solver), zeros_of_state(W, b, solver)
    factor, h = np.empty(22, np.float32), np.empty((22, 70), np.float32)
    kernels.goodness(x, row_factor=factor)
    unit = x * factor[:, None]
    outputs = kernels.dense_forward(unit, *parts, activation="relu").astype(np.float64)
    sign = np.where(np.arange(22) < 11, 1.0, -1.0)
    losses, slope = oracle.logistic(oracle.goodness(outputs, "sum"), sign, 70.0, 1.0)
    delta = (2 * slope[:, None] * outputs).astype(np.float32)
    rate = {"learning_rate": 0.01}
    samples = solver.get("n_samples", 11.0)
    kernels.dense_update(*parts, unit, delta, **rate, **(solver | {"n_samples": samples}),
                         state=separate)  # fmt: skip
    found = kernels.forward_forward_update(W, b, x, 11, **rate, **solver, state=fused, h_out=h)
    assert found == pytest.approx(losses.sum() / samples, rel=STEP_F32)
    np.testing.assert_allclose(h, outputs, rtol=0, atol=1e-5)
    for ours, theirs in zip([W, *fused], [parts[0], *separate], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    if has_bias:
        np.testing.assert_allclose(b, parts[1], rtol=1e-3, atol=1e-5)


def test_the_same_bits_for_any_number_of_threads():
    x = draw(200, 300)
    results = []
    for n_threads in (1, 2, 5):
        W, b, h = draw(300, 130, seed=2), draw(130, seed=3), np.empty((200, 130), np.float32)
        loss = kernels.forward_forward_update(
            W, b, x, 100, learning_rate=0.1, h_out=h, n_threads=n_threads
        )
        results.append((W, b, h, np.float64(loss)))
    for result in results[1:]:
        for ours, first in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(ours, first)
    W, b = draw(300, 130, seed=2), draw(130, seed=3)
    kernels.forward_forward_update(W, b, x, 100, learning_rate=0.1)  # without h_out
    np.testing.assert_array_equal(W, results[0][0])


@pytest.mark.parametrize("options", OPTIONS[:2] + OPTIONS[4:], ids=str)
@pytest.mark.parametrize(("solver", "momentum"), [("sgd", 0.0), ("sgd", 0.9), ("adam", 0.9)])
def test_a_step_has_the_bits_of_the_trainer(solver, momentum, options):
    sizes, n = [37, 70, 5], 30
    network = core.Network(sizes, "relu", "softmax_cross_entropy", "float32")
    network.initialize(11)
    trainer = core.Trainer(
        network, method="forward_forward", solver=solver, momentum=momentum, batch_size=n, seed=9,
        negatives="given", label_position="none", **options,
    )  # fmt: skip
    trainer.set_stage(0)
    W, b = network.weights(0).copy(), network.biases(0).copy()
    positive, negative = draw(n, 37), draw(n, 37, seed=1)
    label = np.zeros(n, np.int32)
    for t in range(2):
        trainer.run_epoch(
            positive, label, epoch=t, shuffle=False, learning_rate=0.01, x_negative=negative
        )
    numbers = {"solver": solver, "momentum": momentum}
    state = zeros_of_state(W, b, numbers)
    for t in (1, 2):
        kernels.forward_forward_update(
            W, b, np.concatenate([positive, negative]), n, learning_rate=0.01, step=t, state=state,
            **numbers, **options,
        )  # fmt: skip
    np.testing.assert_array_equal(W, network.weights(0))
    np.testing.assert_array_equal(b, network.biases(0))


def test_nan_stays_nan():
    x, W, b = layer((6, 9, 20))
    x[4, 2] = np.nan
    assert np.isnan(kernels.forward_forward_update(W, b, x, 3, learning_rate=0.1))
    assert np.isnan(W).all()


@pytest.mark.parametrize(
    ("words", "n_positive", "keywords"),
    [
        ("21", 21, {}),
        ("-1", -1, {}),
        ("2.5", 2.5, {}),
        ("5 positive", 5, {"goodness_loss": "symba"}),
        ("grouped", 10, {"goodness": "grouped_mean"}),
        ("hinge", 10, {"goodness_loss": "hinge"}),
        ("-2", 10, {"threshold": -2.0}),
        ("temperature", 10, {"temperature": 0.0}),
        ("nan", 10, {"symba_scale": float("nan")}),
        ("-0.5", 10, {"learning_rate": -0.5}),
        ("lbfgs", 10, {"solver": "lbfgs"}),
        ("state", 10, {"solver": "adam"}),
        ("(20, 39)", 10, {"h_out": np.zeros((20, 39), np.float32)}),
        ("step", 10, {"step": 0}),
    ],
)
def test_refused_and_unchanged(words, n_positive, keywords):
    x, W, b = layer((20, 12, 40))
    kept = W.copy(), b.copy()
    with pytest.raises((ValueError, TypeError)) as error:
        kernels.forward_forward_update(W, b, x, n_positive, **({"learning_rate": 0.1} | keywords))
    assert words in str(error.value), str(error.value)
    np.testing.assert_array_equal(W, kept[0])
    np.testing.assert_array_equal(b, kept[1])


def test_arrays_that_do_not_fit():
    x, W, b = layer((20, 20, 20))
    step = kernels.forward_forward_update
    for arguments, keywords in (
        ((W, b, x[:, :5].copy()), {}), ((W, b[:-1].copy(), x), {}),
        ((W.T, b, x), {}), ((W, b, x.astype(np.float64)), {}),
        ((W, b, np.empty((0, 20), np.float32)), {}), ((W, b, W), {}),
        ((W, b, x), {"h_out": x}), ((W, b, x), {"h_out": W}),
        ((np.empty((20, 0), np.float32), None, x), {}),
        ((np.empty((0, 20), np.float32), None, np.empty((20, 0), np.float32)), {}),
    ):  # fmt: skip
        n_positive = len(arguments[2]) // 2
        with pytest.raises((ValueError, TypeError)):
            step(*arguments, n_positive, learning_rate=0.1, **keywords)


def test_squares_that_overflow_give_no_factor_of_zero():
    """The row would vanish: NaN is seen. Rows beside it are as they were."""
    x, W, b = layer((6, 7, 33))
    factor, clean = np.empty((2, 6), np.float32)
    kernels.goodness(x, row_factor=clean)
    x[2] = 1e25
    assert np.isinf(kernels.goodness(x, row_factor=factor)[2])
    assert np.isnan(factor[2])
    np.testing.assert_array_equal(np.delete(factor, 2), np.delete(clean, 2))
    assert np.isnan(kernels.forward_forward_update(W, b, x, 3, learning_rate=0.1))
