# SPDX-License-Identifier: BSD-3-Clause
"""Everybody's iteration of ensemble Kalman training gives the answer that it is timed for."""

from __future__ import annotations

import numpy as np
import ours
import pytest
import rivals
from ensemble_training_problem import EnsembleTrainingProblem
from ours_ensemble_training import OursEnsembleTraining
from problem import Data, Problem
from rivals.base import Rival

NAMES = ("ours float32", "ours bfloat16", "torch_ensemble")


def load(name: str) -> Rival:
    if name.startswith("ours"):
        if ours.MISSING:
            pytest.skip(ours.MISSING)
        return OursEnsembleTraining("", name.split()[1], 1)
    rival = rivals.load(name)
    if isinstance(rival, str):
        pytest.skip(rival)
    rival.set_threads(1)
    return rival


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("redraw", [False, True])
def test_an_iteration(name: str, redraw: bool) -> None:
    problem = EnsembleTrainingProblem((16, 20, 10), 32, 12, redraw, dt=0.5)
    layers = Problem(problem.layer_sizes, problem.batch).initial_layers()
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (256, 16), dtype=np.uint8)
    y = (x[:, 0] // 26).astype(np.int32)
    data = Data(x, y, x[:10], y[:10], "random")
    call = load(name).ensemble_training(problem, data, layers)
    before, after = call.step()
    right = problem.right_answer(before, data)
    change = right if redraw else right - before
    bound = 3e-2 if name.endswith("16") else 1e-3
    assert np.linalg.norm(after - right) <= bound * np.linalg.norm(change)
    call.many(2)
