# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch's NoProp, and our own, take the steps of the answers and predict what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import ours
import pytest
import rivals
from answers import CHANGE_TOLERANCE, change_error
from denoising_answers import NoPropAnswer, class_weights
from denoising_problem import NoPropProblem
from ours_noprop import OursNoProp
from problem import Data
from rivals.base import Rival

BATCH = 16
PROBLEM = NoPropProblem(
    (20, 24, 16, 5), BATCH, n_blocks=4, input_units=32, label_units=64, n_steps=7
)
# One step of plain descent: large beside the rounding of the weights.
DESCENT = replace(PROBLEM, optimizer="momentum", learning_rate=1.0, weight_decay=0.1)
NAMES = ("ours", "torch_noprop")


def load(name: str) -> Rival:
    if name == "ours":
        if ours.MISSING:
            pytest.skip(ours.MISSING)
        return OursNoProp("float32", 1)
    rival = rivals.load(name)
    if isinstance(rival, str):
        pytest.skip(rival)
    return rival


def make_data() -> Data:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (64, PROBLEM.layer_sizes[0]), dtype=np.uint8)
    y = rng.integers(0, PROBLEM.n_classes, 64).astype(np.int32)
    return Data(x, y, x, y, "random")


def step_error(rival: Rival, problem: NoPropProblem, n_steps: int) -> float:
    data, layers = make_data(), problem.initial_layers()
    trainee = rival.train(problem, data, layers)
    right = NoPropAnswer(problem, layers, late_epsilon=not isinstance(rival, OursNoProp))
    trainee.in_order(n_steps)
    for i in range(n_steps):
        rows = slice(i * BATCH, (i + 1) * BATCH)
        right.train_step(data.x_float[rows].astype(np.float64), data.y[rows], i)
    trainee.accuracy(data.x_float, data.y)
    before, after, wanted = (
        [(b[None], b) for _, b in found] + found
        for found in (layers, trainee.layers(), right.layers())
    )
    return change_error(before, after, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_a_step(name: str) -> None:
    plain = replace(DESCENT, weight_decay=0.0)
    assert step_error(load(name), plain, 1) <= 1e-4


def test_weights_decay() -> None:
    assert step_error(load("ours"), DESCENT, 1) <= 1e-4


@pytest.mark.parametrize("name", [*NAMES, "torch_noprop:bf16"])
def test_steps_of_adam(name: str) -> None:
    rival = load(name)
    assert step_error(rival, PROBLEM, 4) <= CHANGE_TOLERANCE[rival.dtype, "adam"]


@pytest.mark.parametrize("variant", ["dt", "ct"])
@pytest.mark.parametrize("name", [*NAMES, "torch_noprop:bf16"])
def test_predictions(name: str, variant: str) -> None:
    problem = replace(PROBLEM, variant=variant, n_blocks=4 if variant == "dt" else 1)
    layers, x, rival = problem.initial_layers(), make_data().x_float, load(name)
    calls = [rival.predictor(problem, layers, x)]
    if variant == "ct" and hasattr(rival, "hoisted_predictor"):
        calls.append(rival.hoisted_predictor(problem, layers, x))
    right = class_weights(problem, layers, x.astype(np.float64))
    np.testing.assert_allclose(right.sum(axis=1), 1)
    for call in calls:
        call.many(1)
        tolerance = 1e-5 if rival.dtype == "float32" else 5e-2
        np.testing.assert_allclose(call.result(), right, atol=tolerance)


def test_a_trained_rival_is_read_off() -> None:
    problem = replace(PROBLEM, learning_rate=1e-2)
    data = make_data()
    trainee = load("torch_noprop").train(problem, data, problem.initial_layers())
    before = trainee.accuracy(data.x_float, data.y)
    for epoch in range(60):
        assert np.isfinite(trainee.epoch(epoch))
    assert trainee.accuracy(data.x_float, data.y) > max(before, 0.9)
