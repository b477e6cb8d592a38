# SPDX-License-Identifier: BSD-3-Clause
"""Steps of local losses against tests/oracle; stages and predictions are test_local_loss_use.py."""

import numpy as np
import pytest
from local_losses import Problem
from oracle import optimizers
from oracle.activations import ACTIVATIONS
from problems import LOSSES
from tolerances import STANDARD_ERRORS, STEP_BF16_KINK_NORM, STEP_BF16_NORM

from bpfree_fast import _core as core

OBJECTIVES = ("pred", "sim", "predsim")
DROPOUT = 5  # random::Purpose::dropout
EXTRAS = {
    "plain": {},
    "projection": {"sim_projection": True},
    "batch_norm": {"batch_normalization": True},
    "both": {"sim_projection": True, "batch_normalization": True},
}
NORMS = [name for name, options in EXTRAS.items() if "batch_normalization" in options]


def step(relative=2e-5, **options):
    """One step of the core is the oracle's: the loss and the gradients of every parameter."""
    problem = Problem(**options)
    value = problem.run()
    expected, gradients = problem.expected()
    bias = ("b",) if options.get("batch_normalization") else ()
    problem.check(gradients, relative, without=bias)
    for layer in range(problem.n_hidden if bias else 0):  # it has no effect, and stays
        np.testing.assert_array_equal(problem.network.biases(layer), problem.layers[layer]["b"])
    return value, expected


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("extras", EXTRAS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_step(objective, extras, activation, weighted):
    value, expected = step(
        objective=objective, activation=activation, weighted=weighted, **EXTRAS[extras]
    )
    assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_step_of_every_loss(objective, loss):
    value, expected = step(objective=objective, loss=loss, activation="tanh", weighted=True)
    assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [1, 2, 13, 14, 15, 31, 32, 33, 64, 65, 97])
@pytest.mark.parametrize("extras", ["plain", "both"])
def test_step_of_other_batches(n, extras):
    # Of two rows batch normalisation sends back little more than what their sums round.
    relative = 1e-3 if n == 2 and extras == "both" else 2e-5
    step(relative, objective="predsim", n=n, activation="tanh", **EXTRAS[extras])


@pytest.mark.parametrize(
    "sizes",
    [(3, 7, 2), (8, 9, 15, 16, 3), (17, 31, 33, 32), (65, 64, 63, 33), (5, 130, 2), (4, 20, 70)],
    ids=str,
)
@pytest.mark.parametrize("extras", EXTRAS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_step_of_other_networks(objective, extras, sizes):
    step(objective=objective, sizes=sizes, activation="leaky_relu", **EXTRAS[extras])


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("extras", EXTRAS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_step_in_bfloat16(objective, extras, activation):
    """Within what rounding the operands does; a tail of odd sizes has pairs of its own."""
    relative = STEP_BF16_KINK_NORM if activation == "relu" else STEP_BF16_NORM
    step(
        relative, objective=objective, activation=activation, dtype="bfloat16", n=61,
        sizes=(33, 71, 45, 5), **EXTRAS[extras],
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_equal_numbers_send_nothing_back(dtype):
    """They have no direction: their norm is rounding if their mean is, and it divides."""
    problem = Problem(objective="sim", sizes=(9, 37, 33, 3), activation="identity", dtype=dtype)
    problem.layers[0]["W"][:] = 0
    problem.layers[0]["b"][:] = 0.1
    problem.layers[1]["W"][:, 5] = 0.3
    problem.write(0)
    problem.write(1)
    problem.run()
    first, second = problem.changes()
    assert not first["W"].any()
    assert not first["b"].any()
    assert np.abs(second["W"]).max() < 10


@pytest.mark.parametrize("extras", ["plain", "projection"])
@pytest.mark.parametrize("activation", ["leaky_relu", "identity", "tanh", "gelu"])
@pytest.mark.parametrize("objective", ["sim", "predsim"])
def test_a_blank_row_among_others(objective, activation, extras):
    """Its outputs are equal: cosines of 0, and no similarity to send back to it."""
    problem = Problem(objective=objective, activation=activation, n=40, **EXTRAS[extras])
    problem.layers[0]["b"][:] = 0
    problem.write(0)
    problem.x[[3, 37]] = 0
    value = problem.run()
    expected, gradients = problem.expected()
    assert value == pytest.approx(expected, rel=1e-6)
    problem.check(gradients)


def test_a_target_of_equal_numbers():
    problem = Problem(objective="sim", activation="tanh", loss="squared_error", n=40)
    problem.y[[0, 5]] = 0.25
    assert problem.run() == pytest.approx(problem.expected()[0], rel=1e-6)
    problem.check(problem.expected()[1])


@pytest.mark.parametrize("size", [1e16, 1e19, 1e25, 1e30])
@pytest.mark.parametrize("n_large", [1, 25])
def test_norms_that_overflow_show_in_the_loss(n_large, size):
    problem = Problem(objective="sim", activation="identity")
    problem.x[:n_large] *= np.float32(size)
    value = problem.run()
    if size == 1e16:
        assert value == pytest.approx(problem.expected()[0], rel=1e-6)
    if np.isfinite(value):
        assert all(np.isfinite(p).all() for p in problem.all_parameters())
        assert value == pytest.approx(problem.expected()[0], rel=1e-6)


def test_rows_of_bytes():
    """The scale of the inputs enters the first layer's gradient."""
    problem = Problem(objective="predsim", activation="tanh")
    rows = np.random.default_rng(0).integers(0, 256, problem.x.shape, dtype=np.uint8)
    problem.x = rows
    problem.run(input_scale=1 / 64)
    problem.x = rows / 64
    problem.check(problem.expected()[1])


@pytest.mark.parametrize("objective", ["pred", "predsim"])
def test_dropout(objective):
    """The layer above reads a part of the outputs, the layer's own loss reads all of them."""
    problem = Problem(objective=objective, activation="tanh", dropout=0.4, sizes=(9, 40, 33, 12, 3))
    seed = 0
    problem.run()

    def scale_inputs(layer, h):
        """Element (row, unit) of a matrix whose rows are whole panels wide."""
        blocks = -(-h.shape[1] // 32) * 8
        words = [
            [
                w
                for block in range(blocks)
                for w in core.philox([row * blocks + block, 0, 0, DROPOUT << 24 | layer], [seed, 0])
            ]
            for row in range(len(h))
        ]
        keep = (np.array(words, np.uint64) >> 8) * 2.0**-24 >= 0.4
        return h * keep[:, : h.shape[1]] / 0.6

    problem.check(problem.expected(scale_inputs)[1])


def test_dropout_keeps_its_share():
    """With one row, dW of a unit is zero exactly where the unit was dropped."""
    n, rate = 20000, 0.3
    problem = Problem(
        loss="squared_error", activation="identity", dropout=rate, sizes=(1, n, 1, 2), n=1
    )
    problem.network.set_weights(0, np.zeros((1, n), np.float32))
    problem.network.set_biases(0, np.ones(n, np.float32))  # every output is 1
    kept = []
    for _ in range(2):
        before = problem.network.weights(1)
        problem.run(learning_rate=1e-6)
        kept.append(problem.network.weights(1) != before)
        problem.network.set_weights(0, np.zeros((1, n), np.float32))
        problem.network.set_biases(0, np.ones(n, np.float32))
    for mask in kept:
        assert abs(mask.mean() - (1 - rate)) < STANDARD_ERRORS * np.sqrt(rate * (1 - rate) / n)
    both = (kept[0] & kept[1]).mean()  # every step draws anew
    assert abs(both - (1 - rate) ** 2) < STANDARD_ERRORS * 0.5 / np.sqrt(n)


@pytest.mark.parametrize("extras", NORMS)
def test_running_statistics(extras):
    """Momentum 0.1, the variance without bias; a batch of one row leaves the variance alone."""
    problem = Problem(objective="predsim", **EXTRAS[extras])
    problem.run()
    a = problem.x.astype(np.float64) @ problem.layers[0]["W"] + problem.layers[0]["b"]
    _, _, mean, variance = problem.trainer.norm(0)
    np.testing.assert_allclose(mean, 0.1 * a.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, 0.9 + 0.1 * a.var(axis=0, ddof=1), rtol=1e-5)
    problem.trainer.run_epoch(
        problem.x[:1], problem.y[:1], epoch=0, learning_rate=0.0, shuffle=False
    )
    assert np.array_equal(variance, problem.trainer.norm(0)[3])
    assert not np.array_equal(mean, problem.trainer.norm(0)[2])


@pytest.mark.parametrize("extras", NORMS)
def test_a_weight_of_two_is_the_row_twice(extras):
    """In the statistics too, and in what prediction remembers of them."""
    whole, merged = (
        Problem(objective="predsim", activation="tanh", batch_size=64, weighted=True,
                **EXTRAS[extras])
        for _ in range(2)
    )  # fmt: skip
    counts = np.arange(25) % 3 + 1
    merged.sample_weight = counts.astype(np.float32)
    rows = np.repeat(np.arange(25), counts)
    whole.x, whole.y, whole.sample_weight = whole.x[rows], whole.y[rows], None
    assert merged.run() == pytest.approx(whole.run(), rel=1e-6)
    merged.check(whole.changes(), without=("b",))
    for layer in range(2):
        pairs = zip(merged.trainer.norm(layer), whole.trainer.norm(layer), strict=True)
        for one, other in pairs:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_weights_that_are_shares_leave_the_variance_as_it_is():
    """A sum near 1 is no count of rows: nothing is divided by the sum minus 1."""
    problem = Problem(batch_normalization=True)
    problem.sample_weight = np.full(25, 0.0401, np.float32)
    problem.run()
    a = problem.x.astype(np.float64) @ problem.layers[0]["W"] + problem.layers[0]["b"]
    np.testing.assert_allclose(problem.trainer.norm(0)[3], 0.9 + 0.1 * a.var(axis=0), rtol=1e-5)


SOLVER = {"solver": "adam", "beta_1": 0.85, "beta_2": 0.95, "epsilon": 1e-2}


@pytest.mark.parametrize("extras", EXTRAS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_epochs(objective, extras):
    """Three epochs with a tail batch, alpha and decay: every parameter steps with the solver."""
    problem = Problem(
        objective=objective, activation="tanh", n=41, batch_size=16, weighted=True, **SOLVER,
        alpha=0.05, weight_decay=0.03, **EXTRAS[extras],
    )  # fmt: skip
    losses = [problem.run(epoch, learning_rate=0.01) for epoch in range(3)]
    actual = [problem.read(layer) for layer in range(problem.n_hidden)]
    start = [dict(p) for p in problem.layers]
    x, y, w = problem.x, problem.y, problem.sample_weight
    states, t, values = {}, 0, []
    for _ in range(3):
        total = 0.0
        for begin in range(0, 41, 16):
            rows = slice(begin, begin + 16)
            problem.x, problem.y, problem.sample_weight = x[rows], y[rows], w[rows]
            value, gradients = problem.expected()
            total += value * w[rows].sum(dtype=np.float64)
            t += 1
            for layer, g in enumerate(gradients):
                p = problem.layers[layer]
                for name in p:
                    if name == "b" and "gain" in p:
                        continue
                    decays = name in ("W", "M", "V")
                    l2 = 0.05 / w[rows].sum(dtype=np.float64) * p[name] if decays else 0.0
                    key = layer, name
                    state = states.get(key, [np.zeros_like(g[name])] * 2)
                    p[name], states[key] = optimizers.update(
                        np.asarray(p[name], np.float64), g[name] + l2, state, t, 0.01,
                        decay=0.03 if decays else 0.0, momentum=0.9, nesterov=True, **SOLVER,
                    )  # fmt: skip
        values.append(total / w.sum(dtype=np.float64))
    np.testing.assert_allclose(losses, values, rtol=2e-5)
    for layer, p in enumerate(problem.layers):
        for name, expected in p.items():
            moved = np.abs(expected - start[layer][name]).max()
            np.testing.assert_allclose(
                actual[layer][name], expected, atol=2e-4 * moved + 1e-6, err_msg=f"{layer} {name}"
            )
