# SPDX-License-Identifier: BSD-3-Clause
"""Fused equals unfused: steps by single kernels against the trainer; and what they refuse.

The numbers of each kernel are compared with float64 in test_kernels_api.py.
"""

import numpy as np
import pytest
from oracle import optimizers
from oracle.activations import ACTIVATIONS
from problems import SOLVERS, all_parameters, data, make_network, parameters

from bpfree_fast import _core as core


def layer(batch, n_in, n_out, seed=0):
    rng = np.random.default_rng(seed)
    arrays = [(batch, n_in), (n_in, n_out), (n_out,), (batch, n_out)]
    return [rng.normal(size=shape).astype(np.float32) for shape in arrays]


def new_state(w, b, solver):
    """Zeros, as Trainer.optimizer_state() lists them."""
    slots = optimizers.n_slots(solver["solver"], solver.get("momentum", 0.9))
    return [np.zeros_like(p) for _ in range(slots) for p in (w, b)]


@pytest.mark.parametrize("n_threads", [2, 3, 7])
def test_thread_counts_give_the_same_bits(n_threads):
    x, w, b, delta = layer(300, 130, 250)
    results = []
    for n in (1, n_threads):
        out, w2, b2 = np.empty((300, 250), np.float32), w.copy(), b.copy()
        core.dense_forward(x, w, b, "tanh", out, n_threads=n)
        core.dense_update(
            w2, b2, x, delta, new_state(w, b, SOLVERS["adam"]), "adam", 0.1, n_threads=n
        )
        results.append([out, w2, b2])
    assert all(np.array_equal(p, q) for p, q in zip(*results, strict=True))


@pytest.mark.parametrize("distribution", ["uniform", "normal", "sign"])
@pytest.mark.parametrize("sizes", [[5, 33, 40, 7], [5, 64, 20, 1030]])
def test_feedback_matrix_is_the_trainers(sizes, distribution):
    network = core.Network(sizes, "relu", "squared_error", "float32")
    trainer = core.Trainer(
        network, method="feedback", feedback_distribution=distribution, feedback_scale=0.7, seed=11
    )
    for k in (0, 1):
        out = np.empty((sizes[-1], sizes[k + 1]), np.float32)
        core.feedback_matrix(out, 11, k, distribution, 0.7)
        np.testing.assert_array_equal(out, trainer.feedback(k))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_fused_steps_equal_unfused_ones_bit_for_bit(solver, activation):
    """DFA by single kernels, one layer after the other, against the trainer's fused phases."""
    sizes, n = [19, 40, 33, 7], 45
    weights, biases = parameters(sizes, 0)
    x, y, _ = data("squared_error", n, 19, 7, seed=1)
    network = make_network(weights, biases, activation, "squared_error")
    options = {"momentum": 0.9, "nesterov": True} | SOLVERS[solver]
    trainer = core.Trainer(network, method="feedback", batch_size=n, seed=4, **options)
    name = options.pop("solver")
    states = [
        new_state(w, b, {"solver": name, **options}) for w, b in zip(weights, biases, strict=True)
    ]
    for t in (1, 2, 3):
        trainer.run_epoch(x, y, epoch=t, shuffle=False, learning_rate=0.02)
        h, pre = [x], []
        for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
            out = np.empty((n, sizes[k + 1]), np.float32)
            kept = np.empty_like(out) if activation == "gelu" and k < 2 else None
            core.dense_forward(h[-1], w, b, activation if k < 2 else "identity", out, kept)
            h.append(out)
            pre.append(kept if kept is not None else out)
        e = h[-1] - y
        deltas = []
        for k in (0, 1):
            delta = np.empty((n, sizes[k + 1]), np.float32)
            given = None if activation == "identity" else pre[k]
            core.project_feedback(e, delta, seed=4, layer=k, h=given, activation=activation)
            deltas.append(delta)
        for k, delta in enumerate([*deltas, e]):
            core.dense_update(
                weights[k], biases[k], h[k], delta, states[k], name, 0.02, step=t, **options
            )
    for p, q in zip(all_parameters(network), [*weights, *biases], strict=True):
        np.testing.assert_array_equal(p, q)


def test_empty_batch():
    """No rows: nothing to compute; and no gradient to step along, which is refused."""
    _, w, b, _ = layer(1, 12, 40)
    kept = w.copy(), b.copy()
    x, delta = np.empty((0, 12), np.float32), np.empty((0, 40), np.float32)
    core.dense_forward(x, w, b, "relu", np.empty((0, 40), np.float32))
    with pytest.raises(ValueError, match="0 rows"):
        core.dense_update(w, b, x, delta, [], "sgd", 0.1, momentum=0.0)
    np.testing.assert_array_equal(w, kept[0])
    np.testing.assert_array_equal(b, kept[1])


def test_refused_and_unchanged():
    x, w, b, delta = layer(20, 12, 40)
    out = np.full((20, 40), 7, np.float32)
    frozen = out.copy()
    frozen.flags.writeable = False
    for arguments in (
        (x[:, :5].copy(), w, b, "relu", out), (x, w, b[:-1], "relu", out),
        (x, w, b, "swish", out), (x, w, b, "relu", out[:-1]), (x, w, b, "relu", frozen),
        (x.astype(np.float64), w, b, "relu", out), (np.asfortranarray(x), w, b, "relu", out),
        (x, w.T, b, "relu", out), (x[0], w, b, "relu", out), (x, w, b, "relu", None),
        (x, w, b, "relu", out.astype(np.float64)),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError)):
            core.dense_forward(*arguments)
    square = np.ones((12, 12), np.float32)
    with pytest.raises(ValueError, match=r"(?i)overlap|memory"):
        core.dense_forward(x[:12], square, None, "relu", x[:12])
    with pytest.raises(ValueError, match=r"(?i)overlap|memory"):
        core.dense_forward(x[:12].copy(), square, None, "relu", square)
    assert (out == 7).all()
    kept = w.copy(), b.copy()
    state = [np.zeros_like(p) for p in (w, b, w, b)]
    for arguments in (
        (w, b, x, delta, [], "adam", 0.1), (w, b, x, delta, state[:3], "adam", 0.1),
        (w, b, x, delta, [s[:1] for s in state], "adam", 0.1),
        (w, b, x[:-1], delta, state, "adam", 0.1),
        (w, b, x, delta[:, :-1].copy(), state, "adam", 0.1), (w, b, x, delta, state, "lbfgs", 0.1),
        (w, b, x, delta, state, "adam", float("nan")), (w, b, x, delta, state, "adam", -1.0),
        (w, b[:-1].copy(), x, delta, state, "adam", 0.1), (w.T, b, x, delta, state, "adam", 0.1),
        (w, b, x.astype(np.float64), delta, state, "adam", 0.1),
        (w, b, x, delta, [w, b, *state[2:]], "adam", 0.1),
        (w, b, x, delta, [state[0], state[1], state[0], state[1]], "adam", 0.1),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError)):
            core.dense_update(*arguments)
    with pytest.raises((ValueError, TypeError)):
        core.dense_update(w, b, x, delta, state, "adam", 0.1, step=0)
    np.testing.assert_array_equal(w, kept[0])
    np.testing.assert_array_equal(b, kept[1])
    assert not any(s.any() for s in state)
