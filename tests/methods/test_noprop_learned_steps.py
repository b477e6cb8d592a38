# SPDX-License-Identifier: BSD-3-Clause
"""NoProp's shared arrays and its blocks beside them: steps against gradients by hand."""

import numpy as np
import pytest
from differences import central_difference
from noprop_problem import RATE
from noprop_whole_step import WholeStep
from tolerances import STEP_BF16_NORM

KINDS = {
    "dt": {"variant": "dt"},
    "ct": {"variant": "ct", "n_blocks": 1, "max_snr_weight": 0.0},
    "schedule": {"variant": "ct", "n_blocks": 1, "learn": "schedule"},
    "both": {"variant": "ct", "n_blocks": 1, "learn": "both"},
    "fm": {"variant": "fm", "n_blocks": 1},
}
kinds = pytest.mark.parametrize("kind", KINDS)
# A learned schedule wants the exact gradient.
ways = pytest.mark.parametrize(
    ("kind", "block_feedback"),
    [*((kind, "exact") for kind in KINDS), *((kind, "direct") for kind in ("dt", "ct", "fm"))],
)


def check_step(problem, relative=2e-5, loss_relative=1e-5):
    trainer, before = problem.trainer(), problem.own()
    loss, gradients = problem.expected_step()
    assert problem.run(trainer) == pytest.approx(loss, rel=loss_relative)
    found = problem.found(trainer)
    for k, (old, new, wanted) in enumerate(zip(before, found, gradients, strict=True)):
        # What float32 keeps of a change of its own size.
        ulp = np.linalg.norm(old) * 2.0**-23 / RATE
        error, norm = np.linalg.norm((old - new) / RATE - wanted), np.linalg.norm(wanted)
        assert error <= relative * max(norm, 0.1) + ulp, (k, error, norm)


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic"])
@ways
def test_step(kind, block_feedback, activation):
    options = {"activation": activation, "block_feedback": block_feedback, "weighted": True}
    check_step(WholeStep(**KINDS[kind], dim=9, **options))


@ways
def test_step_with_batch_normalization(kind, block_feedback):
    options = {"batch_normalization": True, "block_feedback": block_feedback, "weighted": True}
    check_step(WholeStep(**KINDS[kind], n=29, dim=9, **options), relative=1e-4)


@pytest.mark.parametrize("n", [1, 2, 13, 31, 32, 33, 65, 97])
@pytest.mark.parametrize("dim", [1, 8, 31, 33, 70])
@pytest.mark.parametrize("kind", ["dt", "both", "fm"])
def test_step_of_other_sizes(kind, dim, n):
    check_step(WholeStep(**KINDS[kind], n=n, dim=dim, n_classes=33), relative=5e-5)


@pytest.mark.parametrize("join", [(), (7,), (33, 65, 9)], ids=str)
@kinds
def test_step_of_other_blocks(kind, join):
    check_step(WholeStep(**KINDS[kind], join=join))


def test_step_of_more_blocks_than_a_group():
    check_step(WholeStep(n_blocks=19, alpha_bar=np.linspace(0.01, 0.97, 20)))


@pytest.mark.parametrize("kind", ["dt", "schedule", "both", "fm"])
def test_bfloat16(kind):
    check_step(WholeStep(**KINDS[kind], dtype="bfloat16", n=64), STEP_BF16_NORM, STEP_BF16_NORM)


@kinds
def test_gradients_by_hand_against_differences(kind):
    problem = WholeStep(**KINDS[kind] | ({"n_blocks": 2} if kind == "dt" else {}), n=6)
    problem.set_own(problem.own())
    gradients = problem.expected_step()[1]
    arrays = [problem.embedding, *problem.head, problem.curve]
    learns = [problem.learns_embedding, True, True, problem.learns_schedule]
    for p, g, learn in zip(arrays, gradients[-4:], learns, strict=True):
        if learn:
            numeric = central_difference(lambda: problem.loss(*arrays), p)
            scale = max(1.0, np.abs(g).max())
            np.testing.assert_allclose(g / scale, numeric / scale, atol=1e-7)
    # All that a single block's arrays change is its own loss, and with fm what the head reads.
    if kind != "dt":
        bias = problem.biases[-1]
        numeric = central_difference(lambda: problem.loss(*arrays), bias)
        found = gradients[len(problem.weights) + len(problem.biases) - 1]
        np.testing.assert_allclose(found, numeric, atol=1e-7 * max(1, np.abs(numeric).max()))


@pytest.mark.parametrize("batch", [33, 64])
@kinds
def test_steps_with_a_tail(kind, batch):
    """Each draws its own noise and begins where the one before has ended."""
    problem = WholeStep(**KINDS[kind], n=97, dim=9, weighted=True)
    x, label, weight, rate = problem.x, problem.label, problem.sample_weight, 0.01
    trainer = problem.trainer(batch_size=batch)
    trainer.run_epoch(x, label, weight, epoch=0, shuffle=False, learning_rate=rate)
    found, start = problem.found(trainer), problem.own()
    for step, first in enumerate(range(0, 97, batch)):
        rows = slice(first, first + batch)
        problem.x, problem.label, problem.sample_weight = x[rows], label[rows], weight[rows]
        gradients = problem.expected_step(step)[1]
        problem.set_own([a - rate * g for a, g in zip(problem.own(), gradients, strict=True)])
    for old, new, wanted in zip(start, found, problem.own(), strict=True):
        change = np.linalg.norm(wanted - old) + 1e-4 * np.linalg.norm(old)
        assert np.linalg.norm(new - wanted) <= 1e-3 * change


def test_decay_acts_on_embeddings_and_the_matrix_of_the_head():
    """It is decoupled: beside the same step by the gradient it takes rate * decay of them."""
    found = []
    for decay in (0.0, 0.1):
        problem = WholeStep(**KINDS["both"])
        trainer = problem.trainer(solver="adam", weight_decay=decay)
        problem.run(trainer)
        found.append(problem.found(trainer)[-4:])
    for k, (plain, decayed, before) in enumerate(zip(*found, problem.values(), strict=True)):
        wanted = RATE * 0.1 * before if k < 2 else 0 * before
        np.testing.assert_allclose(plain - decayed, wanted, atol=1e-6)


def test_order_of_the_state():
    problem = WholeStep(**KINDS["both"], dim=7)
    trainer = problem.trainer(solver="adam")
    problem.run(trainer)
    state = trainer.optimizer_state()
    assert len(state) == 2 * (2 * problem.network.n_layers + 4)
    assert [a.size for a in state[-8:]] == [35, 35, 35, 35, 5, 5, 99, 99]
    assert all(a.any() for a in state[-8:])
