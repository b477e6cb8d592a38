# SPDX-License-Identifier: BSD-3-Clause
"""bf.kernels.local_loss_update: the oracle, its parts bit for bit, threads, and refusals."""

import os
import subprocess
import sys

import numpy as np
import pytest
from differences import central_difference
from oracle import local_loss_layer as oracle
from oracle import losses, optimizers
from oracle.activations import ACTIVATIONS
from tolerances import DIFFERENCES, ISA_F32_NORM, STEP_F32, STEP_PARAMETER, STEPS_F32

import bpfree_fast as bf
from bpfree_fast import _core as core

kernels = bf.kernels
# batch, n_in, n_out, n_outputs: edges of vectors and panels, rows 2 KiB apart, many tiles of rows.
SHAPES = [
    (1, 1, 1, 2), (2, 7, 8, 3), (7, 9, 15, 2), (16, 31, 32, 10), (33, 512, 17, 33),
    (65, 20, 512, 7), (300, 9, 40, 5),
]  # fmt: skip
LOCAL = ("pred", "sim", "predsim")
LOSSES = ("softmax_cross_entropy", "binary_cross_entropy", "squared_error")
SOLVERS = [
    {"solver": "sgd"},
    {"solver": "sgd", "momentum": 0.9, "alpha": 0.1},
    {"solver": "adam", "weight_decay": 0.1, "step": 3},
    {"solver": "rmsprop", "n_samples": 12.5},
]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def problem(shape, loss="softmax_cross_entropy", seed=0):
    """Parameters [W, b, M, c], x, and y of the loss's kind."""
    batch, n_in, n_out, n_outputs = shape
    x, W = draw(batch, n_in, seed=seed), draw(n_in, n_out, seed=seed + 1) / np.sqrt(n_in, dtype="f")
    M = draw(n_out, n_outputs, seed=seed + 2) / np.sqrt(n_out, dtype="f")
    parameters = [W, draw(n_out, seed=seed + 3) / 2, M, draw(n_outputs, seed=seed + 4)]
    rng = np.random.default_rng(seed + 5)
    if loss == "softmax_cross_entropy":
        return parameters, x, rng.integers(0, n_outputs, batch).astype(np.int32)
    if loss == "binary_cross_entropy":
        return parameters, x, rng.integers(0, 2, (batch, n_outputs)).astype(np.float32)
    return parameters, x, rng.normal(size=(batch, n_outputs)).astype(np.float32)


def step(parameters, x, y, *, activation="relu", learning_rate=0.125, **options):
    """The layer's output, and the kernel on it."""
    W, b = parameters[:2]
    a = np.empty((len(x), W.shape[1]), np.float32) if activation == "gelu" else None
    h = kernels.dense_forward(x, W, b, activation=activation, preactivation=a)
    return kernels.local_loss_update(
        *parameters, x, h, y, learning_rate=learning_rate, activation=activation, preactivation=a,
        **options,
    )  # fmt: skip


def exact(parameters, x, y, sample_weight=None, similarity_weight=0.99, **options):
    """Loss and gradients of the oracle, in float64."""
    y = losses.one_hot(y, parameters[2].shape[1]) if y.ndim == 1 else y
    s = np.ones(len(x)) if sample_weight is None else sample_weight
    options = {"loss": LOSSES[0], "local_loss": "pred", "activation": "relu"} | options
    arrays = (array.astype(np.float64) for array in (x, *parameters, y, s))
    return oracle.gradients(*arrays, share=similarity_weight, **options)


def check_step(parameters, x, y, **options):
    loss, *gradients = exact(parameters, x, y, **options)
    before, rate = [array.copy() for array in parameters], 0.125
    assert step(parameters, x, y, learning_rate=rate, **options) == pytest.approx(
        loss, rel=STEP_F32
    )
    for now, old, gradient in zip(parameters, before, gradients, strict=True):
        allowed = STEP_F32 * rate * np.abs(gradient).max() + STEP_PARAMETER * np.abs(old)
        assert (np.abs(now - (old - rate * gradient)) <= allowed).all()


@pytest.mark.parametrize("local_loss", LOCAL)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_the_oracles(shape, local_loss):
    check_step(*problem(shape), local_loss=local_loss, activation="tanh")


@pytest.mark.parametrize("local_loss", LOCAL)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, local_loss):
    check_step(*problem((50, 20, 41, 6), seed=3), local_loss=local_loss, activation=activation)


@pytest.mark.parametrize("local_loss", LOCAL)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_sample_weights(loss, local_loss):
    parameters, x, y = problem((50, 20, 41, 34), loss, seed=7)
    weights = np.random.default_rng(1).uniform(0.0, 3.0, 50).astype(np.float32)
    weights[[4, 40]] = 0.0
    check_step(
        parameters, x, y, loss=loss, local_loss=local_loss, similarity_weight=0.7,
        sample_weight=weights, activation="tanh",
    )  # fmt: skip


@pytest.mark.parametrize("local_loss", LOCAL)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_the_oracle_is_the_derivative(activation, loss, local_loss):
    parameters, x, y = problem((6, 4, 5, 3), loss, seed=2)
    y = losses.one_hot(y, 3) if y.ndim == 1 else y
    s = np.random.default_rng(0).uniform(0.5, 2.0, 6)
    x, *parameters, y = (array.astype(np.float64) for array in (x, *parameters, y))
    share = {"pred": 0.0, "sim": 1.0, "predsim": 0.3}[local_loss]
    options = {"loss": loss, "activation": activation}
    value, *gradients = oracle.gradients(
        x, *parameters, y, s, local_loss=local_loss, share=share, **options
    )
    assert value == pytest.approx(oracle.objective(x, *parameters, y, s, share=share, **options))
    for k, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        part = 0.0 if local_loss == "sim" and k >= 2 else share  # the head follows its own loss

        def f(part=part):
            return oracle.objective(x, *parameters, y, s, share=part, **options)

        difference = central_difference(f, parameter)
        np.testing.assert_allclose(gradient, difference, rtol=0, atol=DIFFERENCES)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_weight_of_two_is_the_row_twice(loss):
    parameters, x, y = problem((40, 12, 20, 5), loss)
    counts = np.random.default_rng(3).integers(0, 3, 40)
    others = [array.copy() for array in parameters]
    options = {"loss": loss, "local_loss": "predsim", "similarity_weight": 0.5}
    first = step(parameters, x, y, sample_weight=counts.astype(np.float32), **options)
    second = step(others, np.repeat(x, counts, axis=0), np.repeat(y, counts, axis=0), **options)
    assert first == pytest.approx(second, rel=STEP_F32)
    for ours, theirs in zip(parameters, others, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=STEP_F32)


@pytest.mark.parametrize("loss", [LOSSES[0], LOSSES[2]])
@pytest.mark.parametrize("activation", ["leaky_relu", "identity", "tanh", "gelu"])
def test_a_blank_row_among_others(activation, loss):
    """Its outputs are equal: cosines of 0, and no similarity to send back to it."""
    parameters, x, y = problem((40, 9, 20, 5), loss)
    parameters[1][:] = 0
    x[[3, 37]] = 0
    if loss == LOSSES[2]:
        y[7] = 0.25
    check_step(parameters, x, y, loss=loss, local_loss="predsim", activation=activation)


@pytest.mark.parametrize("size", [1e16, 1e19, 1e25, 1e30])
def test_norms_that_overflow_show_in_the_loss(size):
    parameters, x, y = problem((40, 9, 20, 5))
    x[2] *= np.float32(size)
    expected = exact(parameters, x, y, local_loss="sim", activation="identity")[0]
    value = step(parameters, x, y, local_loss="sim", activation="identity")
    if np.isfinite(value):
        assert all(np.isfinite(p).all() for p in parameters)
        assert value == pytest.approx(expected, rel=1e-6)


def test_the_similarity_sees_directions_only():
    """Its derivative by a row of h is orthogonal to that row and to the row of ones."""
    h, M = draw(45, 60), np.zeros((60, 4), np.float32)
    y = (np.arange(45) % 4).astype(np.int32)
    W, n = np.zeros((45, 60), np.float32), {"n_samples": 45}
    kernels.local_loss_update(
        W, None, M, None, np.eye(45, dtype="f"), h, y, local_loss="sim", activation="identity",
        learning_rate=1.0, **n,
    )  # fmt: skip
    size = np.abs(W).max()
    assert size > 0
    assert np.abs(W.sum(axis=1)).max() < 1e-5 * size
    assert np.abs((W * h).sum(axis=1)).max() < 1e-5 * size


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("has_bias", [True, False])
def test_pred_has_the_bits_of_its_parts(solver, has_bias):
    (W, b, M, c), x, y = problem((45, 31, 70, 34), "squared_error", seed=4)
    parameters = [W, b if has_bias else None, M, c if has_bias else None]
    theirs = [None if array is None else array.copy() for array in parameters]
    slots = range(optimizers.n_slots(solver["solver"], solver.get("momentum", 0.0)))

    def zeros(*arrays):
        return [np.zeros_like(array) for _ in slots for array in arrays if array is not None]

    ours, parts = ([zeros(*parameters[:2]), zeros(*parameters[2:])] for _ in range(2))
    rate = {"learning_rate": 0.01, **solver}
    loss = step(parameters, x, y, loss="squared_error", activation="tanh", state=ours[0],
                head_state=ours[1], **rate)  # fmt: skip
    h = kernels.dense_forward(x, *theirs[:2], activation="tanh")
    e = kernels.dense_forward(h, *theirs[2:]) - y
    feedback = np.ascontiguousarray(theirs[2].T)
    delta = kernels.project_feedback(e, 70, feedback=feedback, h=h, activation="tanh")
    kernels.dense_update(*theirs[:2], x, delta, state=parts[0], **rate)
    kernels.dense_update(*theirs[2:], h, e, state=parts[1], **rate)
    expected = 0.5 * np.sum(e.astype(np.float64) ** 2) / solver.get("n_samples", 45)
    assert loss == pytest.approx(expected, rel=STEP_F32)
    for array, other in zip([*parameters, *ours[0], *ours[1]], [*theirs, *parts[0], *parts[1]],
                            strict=True):  # fmt: skip
        np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize("local_loss", LOCAL)
@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_a_step_is_the_trainers(is_weighted, solver, local_loss):
    """'pred' bit for bit; the similarity's sums run in another order."""
    parameters, x, y = problem((50, 37, 45, 11), seed=6)
    weights = np.random.default_rng(2).uniform(0.2, 2.0, 50).astype("f") if is_weighted else None
    network = core.Network(
        [37, 45, 11], "tanh", LOSSES[0], "float32", None if local_loss == "sim" else 0
    )
    for k in (0, 1):
        network.set_weights(k, parameters[2 * k])
        network.set_biases(k, parameters[2 * k + 1])
    trainer = core.Trainer(
        network, method="local_loss", local_loss=local_loss, solver=solver, momentum=0.0,
        epsilon=1e-4, batch_size=50,
    )  # fmt: skip
    loss = trainer.run_epoch(x, y, weights, epoch=0, shuffle=False, learning_rate=0.1)
    state = [np.zeros_like(a) for a in parameters[:2] * 2] if solver == "adam" else []
    head_state = [np.zeros_like(a) for a in parameters[2:] * 2] if solver == "adam" else []
    found = step(
        parameters, x, y, activation="tanh", local_loss=local_loss, sample_weight=weights,
        solver=solver, epsilon=1e-4, state=state, head_state=head_state, learning_rate=0.1,
    )  # fmt: skip
    if local_loss != "sim":  # whose trainer counts the head's loss too
        assert found == pytest.approx(loss, rel=STEP_F32)
    theirs = [network.weights(0), network.biases(0), network.weights(1), network.biases(1)]
    for ours, other in zip(parameters, theirs, strict=True):
        if local_loss == "pred":
            np.testing.assert_array_equal(ours, other)
        np.testing.assert_allclose(ours, other, rtol=0, atol=STEPS_F32)


@pytest.mark.parametrize("loss", [LOSSES[0], LOSSES[2]])
def test_sim_needs_no_head(loss):
    (W, b, M, c), x, y = problem((40, 12, 20, 5), loss)
    alone = [W.copy(), b.copy(), None, None]
    options = {"loss": loss, "local_loss": "sim"}
    first = step([W, b, M, c], x, y, **options)
    given = {} if y.ndim == 2 else {"n_outputs": 5}
    assert step(alone, x, y, **options, **given) == first
    np.testing.assert_array_equal(alone[0], W)
    np.testing.assert_array_equal(alone[1], b)


@pytest.mark.parametrize("local_loss", LOCAL)
@pytest.mark.parametrize("loss", [LOSSES[0], LOSSES[2]])
def test_the_same_bits_for_any_number_of_threads(loss, local_loss):
    results = []
    for n_threads in (1, 2, 3, 7):
        parameters, x, y = problem((200, 300, 130, 40), loss)
        value = step(parameters, x, y, loss=loss, local_loss=local_loss, n_threads=n_threads)
        results.append([np.float64(value), *parameters])
    for result in results[1:]:
        for ours, first in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(ours, first)


SCRIPT = """
import sys
sys.path[:0] = [sys.argv[1]]
import numpy as np
from kernels import test_local_loss as tests
saved = {}
for local_loss in tests.LOCAL:
    parameters, x, y = tests.problem((50, 37, 45, 11), seed=5)
    loss = tests.step(parameters, x, y, local_loss=local_loss, activation="tanh", learning_rate=1.0)
    saved |= {f"{local_loss} {i}": a for i, a in enumerate([np.float64(loss), *parameters])}
assert tests.core.isa() == sys.argv[3]
np.savez(sys.argv[2], **saved)
"""


@pytest.mark.parametrize("isa", core.available_isas())
def test_instruction_sets_agree(isa, tmp_path):
    tests, saved = os.path.dirname(os.path.dirname(__file__)), tmp_path / "saved.npz"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tests, str(saved), isa], cwd=tmp_path, check=False,
        env={**os.environ, "BPFREE_ISA": isa}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with np.load(saved) as arrays:
        for local_loss in LOCAL:
            parameters, x, y = problem((50, 37, 45, 11), seed=5)
            loss = step(parameters, x, y, local_loss=local_loss, activation="tanh",
                        learning_rate=1.0)  # fmt: skip
            for i, array in enumerate([np.float64(loss), *parameters]):
                off = np.linalg.norm(arrays[f"{local_loss} {i}"] - array)
                assert off <= ISA_F32_NORM * np.linalg.norm(array)


@pytest.mark.parametrize("local_loss", LOCAL)
def test_rows_without_weight_change_nothing(local_loss):
    parameters, x, y = problem((20, 12, 40, 5))
    before = [array.copy() for array in parameters]
    weights = np.zeros(20, np.float32)
    assert step(parameters, x, y, local_loss=local_loss, sample_weight=weights) == 0
    for now, old in zip(parameters, before, strict=True):
        np.testing.assert_array_equal(now, old)


@pytest.mark.parametrize("local_loss", LOCAL)
def test_odd_rows(local_loss):
    """Silent units teach nothing; NaN stays NaN."""
    parameters, x, y = problem((40, 12, 40, 5))
    parameters[1][:] = -100
    W = parameters[0].copy()
    assert np.isfinite(step(parameters, x, y, local_loss=local_loss))
    np.testing.assert_array_equal(parameters[0], W)
    parameters[1][:] = 0
    x[3, 4] = np.nan
    assert np.isnan(step(parameters, x, y, local_loss=local_loss, activation="tanh"))
    assert np.isnan(parameters[0]).all()


def test_denormals_are_zero_within_the_step_alone():
    parameters, x, y = problem((20, 12, 40, 5))
    x[:, 3], parameters[0][3] = 0.0, 1e-40
    step(parameters, x, y)
    np.testing.assert_array_equal(parameters[0][3], 0.0)
    assert np.float32(1e-40) * np.float32(0.5) > 0


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("(19, 40)", {"h": draw(19, 40)}),
        ("(20, 13)", {"x": draw(20, 13)}),
        ("float64", {"x": draw(20, 12).astype(np.float64)}),
        ("contiguous", {"x": np.asfortranarray(draw(20, 12))}),
        ("(41, 5)", {"head_W": draw(41, 5)}),
        ("(4,)", {"head_b": draw(4)}),
        ("y is int64", {"y": np.zeros(20, np.int64)}),
        ("y is float32", {"y": draw(20, 5)}),
        ("y is int32", {"loss": "squared_error"}),
        ("(20, 4)", {"loss": "squared_error", "y": draw(20, 4)}),
        ("y[0] is 5", {"y": np.full(20, 5, np.int32)}),
        ("y[7] is -1", {"y": np.where(np.arange(20) == 7, -1, 0).astype(np.int32)}),
        ("sample_weight[2] is -1", {"sample_weight": np.float32([1, 1, -1] + [1] * 17)}),
        ("sample_weight[0] is nan", {"sample_weight": np.full(20, np.nan, np.float32)}),
        ("(19,)", {"sample_weight": draw(19)}),
        ("hinge", {"loss": "hinge"}),
        ("cosine", {"local_loss": "cosine"}),
        ("swish", {"activation": "swish"}),
        ("1.5", {"similarity_weight": 1.5}),
        ("head_W is missing", {"head_W": None, "head_b": None}),
        ("head_b was given", {"head_W": None, "local_loss": "sim", "n_outputs": 5}),
        ("n_outputs is 0", {"head_W": None, "head_b": None, "local_loss": "sim"}),
        ("n_outputs is 4", {"n_outputs": 4}),
        ("n_outputs is 1", {"head_W": draw(40, 1), "head_b": draw(1), "local_loss": "sim",
                            "y": np.zeros(20, np.int32)}),
        ("n_outputs is 0", {"head_W": draw(40, 0), "head_b": draw(0)}),
        ("preactivation is missing", {"activation": "gelu"}),
        ("preactivation was given", {"preactivation": draw(20, 40)}),
        ("head_state has 0", {"solver": "adam", "state": [draw(12, 40), draw(40)] * 2}),
        ("state has 1", {"state": [draw(12, 40)]}),
        ("head_state[1]", {"solver": "rmsprop", "state": [draw(12, 40), draw(40)],
                           "head_state": [draw(40, 5), draw(4)]}),
        ("-0.5", {"learning_rate": -0.5}),
        ("step", {"step": 0}),
        ("0", {"n_threads": 0}),
        ("0 rows", {"x": draw(0, 12), "h": draw(0, 40), "y": np.empty(0, np.int32)}),
        ("W has 0 columns", {"W": draw(12, 0), "b": None, "h": draw(20, 0), "head_W": draw(0, 5)}),
        ("list", {"y": [0] * 20}),
    ],
)  # fmt: skip
def test_refused_and_unchanged(words, changes):
    (W, b, M, c), x, y = problem((20, 12, 40, 5))
    arguments = {"W": W, "b": b, "head_W": M, "head_b": c, "x": x, "h": draw(20, 40), "y": y}
    arguments |= {"learning_rate": 0.1} | changes
    names = [name for name in ("W", "b", "head_W", "head_b") if arguments[name] is not None]
    kept = {name: arguments[name].copy() for name in names}
    with pytest.raises((ValueError, TypeError)) as error:
        kernels.local_loss_update(**arguments)
    assert words in str(error.value), str(error.value)
    for name in names:
        np.testing.assert_array_equal(arguments[name], kept[name])


def test_overlaps_and_read_only_arrays_are_refused():
    h = draw(20, 20)
    (W, b, M, c), x, y = problem((20, 20, 20, 20))
    for words, arrays in (
        ("W overlaps x", (x, b, M, c, x, h, y)), ("head_W overlaps h", (W, b, h, c, x, h, y)),
        ("W overlaps head_W", (W, b, W, c, x, h, y)), ("b overlaps head_b", (W, b, M, b, x, h, y)),
        ("b overlaps y", (W, y.view(np.float32), M, c, x, h, y)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            kernels.local_loss_update(*arrays, learning_rate=0.1)
    weights = draw(20) ** 2
    with pytest.raises(ValueError, match="b overlaps sample_weight"):
        kernels.local_loss_update(
            W, weights, M, c, x, h, y, learning_rate=0.1, sample_weight=weights
        )
    frozen = M.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="head_W is read-only"):
        kernels.local_loss_update(W, b, frozen, c, x, h, y, learning_rate=0.1)
    kernels.local_loss_update(W, b, M, c, x, x, y, learning_rate=0.1)  # inputs may overlap


def test_a_layer_without_inputs_still_has_biases():
    (W, b, M, c), x, y = problem((9, 0, 20, 3))
    before = b.copy()
    step([W, b, M, c], x, y, activation="tanh")
    assert (b != before).all()
