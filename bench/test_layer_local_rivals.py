# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch's Forward-Forward and local losses, and our own, take the steps of the answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed (extra 'bench')")

from answers import CHANGE_TOLERANCE, change_error
from layer_local_answers import ForwardForwardAnswer, LocalLossAnswer
from layer_local_problem import ForwardForwardProblem, LocalLossProblem
from ours_local_loss import OursLocalLoss
from problem import Data, Layers
from rivals.base import Rival
from rivals.torch_forward_forward_rival import VARIANTS as FORWARD_FORWARD
from rivals.torch_local_loss_rival import VARIANTS as LOCAL

SIZES, BATCH = (20, 40, 30, 24, 5), 16
# One step of plain descent: large beside the rounding of the weights.
RATE = {"momentum": 1.0, "adam": 1e-3}
# Of one float32 step: sums of some dozen products, relative to the step's norm.
STEP = 1e-4


def make_data(n: int = 64) -> Data:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (n, SIZES[0]), dtype=np.uint8)
    y = rng.integers(0, SIZES[-1], n).astype(np.int32)
    return Data(x, y, x, y, "random")


def with_heads(layers: Layers, n_hidden: int) -> Layers:
    """Heads and biases that are not zero: a wrong sign in them would not show."""
    rng = np.random.default_rng(1)
    return [
        (
            w if i < n_hidden else rng.normal(0, 0.2, w.shape).astype(np.float32),
            rng.normal(0, 0.2, b.shape).astype(np.float32),
        )
        for i, (w, b) in enumerate(layers)
    ]


def error_of(
    rival: Any, problem: Any, answer: type[Any], n_steps: int
) -> tuple[float, Any, Any, Data]:
    """change_error after n_steps, and the two networks."""
    data = make_data()
    layers = with_heads(problem.initial_layers(), len(problem.hidden))
    trainee, right = rival.train(problem, data, layers), answer(problem, layers)
    trainee.in_order(n_steps)
    x = data.x_float.astype(np.float64)
    for i in range(n_steps):
        rows = slice(i * BATCH, (i + 1) * BATCH)
        given = [data.y[rows]]
        if answer is ForwardForwardAnswer:
            given.append(problem.check_negatives(data.y)[rows])
        right.train_step(x[rows], *given)
    error = change_error(layers, trainee.layers(), right.layers())
    biases = [(b[None], b) for _, b in layers if len(b)]
    after = [(b[None], b) for _, b in trainee.layers() if len(b)]
    wanted = [(b[None], b) for _, b in right.layers() if len(b)]
    return max(error, change_error(biases, after, wanted)), trainee, right, data


@pytest.mark.parametrize("optimizer", RATE)
@pytest.mark.parametrize("peer", [0.0, 0.1])
@pytest.mark.parametrize("loss", ["logistic", "symba"])
@pytest.mark.parametrize("goodness", ["sum", "mean"])
@pytest.mark.parametrize("position", ["append", "overwrite"])
def test_forward_forward_step(
    position: str, goodness: str, loss: str, peer: float, optimizer: str
) -> None:
    problem = ForwardForwardProblem(
        SIZES, BATCH, optimizer, RATE[optimizer], label_position=position, goodness=goodness,
        loss=loss, peer=peer, temperature=1.5, alpha=0.5 if goodness == "mean" else 0.05,
    )  # fmt: skip
    momentum = optimizer == "momentum"
    error, trainee, right, data = error_of(
        FORWARD_FORWARD[""], problem, ForwardForwardAnswer, 1 if momentum else 4
    )
    assert error <= (STEP if momentum else CHANGE_TOLERANCE["float32", optimizer])
    if momentum:
        x = data.x_float
        np.testing.assert_allclose(trainee.predict_goodness(x), right.goodness(x), rtol=STEP)
        accuracy = (right.probabilities(x).argmax(axis=1) == data.y).mean()
        assert trainee.accuracy(x, data.y) == pytest.approx(accuracy)


def test_forward_forward_decays_matrices_alone() -> None:
    problem = ForwardForwardProblem(SIZES, BATCH, "adam", RATE["adam"], weight_decay=10.0)
    error, *_ = error_of(FORWARD_FORWARD[""], problem, ForwardForwardAnswer, 4)
    assert error <= CHANGE_TOLERANCE["float32", "adam"]
    without = replace(problem, weight_decay=0.0)
    error, *_ = error_of(FORWARD_FORWARD[""], without, ForwardForwardAnswer, 4)
    assert error <= CHANGE_TOLERANCE["float32", "adam"]


def test_forward_forward_predictions() -> None:
    problem = ForwardForwardProblem(SIZES, BATCH)
    layers = with_heads(problem.initial_layers(), len(problem.hidden))
    right, x = ForwardForwardAnswer(problem, layers), make_data().x_float
    rival = FORWARD_FORWARD[""]
    for call, expected in [
        (rival.predictor(problem, layers, x), right.probabilities(x)),
        (rival.goodness_predictor(problem, layers, x), right.goodness(x)),
    ]:
        call.many(1)
        np.testing.assert_allclose(call.result(), expected, rtol=STEP)


def test_forward_forward_in_bf16_and_with_hard_negatives() -> None:
    problem = ForwardForwardProblem(SIZES, BATCH, negatives="hard")
    error, trainee, _, _ = error_of(FORWARD_FORWARD["bf16"], problem, ForwardForwardAnswer, 4)
    assert error <= CHANGE_TOLERANCE["bfloat16", "momentum"]
    trainee.many(3)
    assert all(np.isfinite(w).all() for w, _ in trainee.layers())


@pytest.mark.parametrize("rival", [LOCAL[""], OursLocalLoss("", "float32", 1)])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("sim_projection", [False, True])
@pytest.mark.parametrize("objective", ["pred", "sim", "predsim"])
def test_local_loss_step(
    objective: str, sim_projection: bool, activation: str, rival: Rival
) -> None:
    problem = LocalLossProblem(
        SIZES, BATCH, learning_rate=1.0, objective=objective, sim_projection=sim_projection,
        activation=activation, similarity_weight=0.6,
    )  # fmt: skip
    error, *_ = error_of(rival, problem, LocalLossAnswer, 1)
    assert error <= STEP


def test_local_loss_with_batch_norm_and_dropout_trains() -> None:
    problem = LocalLossProblem(SIZES, BATCH, objective="predsim", batch_norm=True, dropout=0.1)
    data = make_data()
    trainee = LOCAL["bf16"].train(problem, data, problem.initial_layers())
    assert np.isfinite(trainee.epoch(0))
    assert 0 <= trainee.accuracy(data.x_float, data.y) <= 1
