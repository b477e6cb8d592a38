# SPDX-License-Identifier: BSD-3-Clause
"""Ensemble Kalman rivals give the answer that they are timed for."""

from __future__ import annotations

import numpy as np
import ours
import pytest
import rivals
from ensemble_problem import KalmanProblem, change_error, right_answer
from ours_ensemble import OursEnsemble
from rivals.base import Rival

NAMES = ("ours", "numpy_ensemble", "numpy_ensemble:textbook", "smoother")


def load(name: str) -> Rival:
    if name == "ours":
        if ours.MISSING:
            pytest.skip(ours.MISSING)
        return OursEnsemble(1)
    rival = rivals.load(name)
    if isinstance(rival, str):
        pytest.skip(rival)
    rival.set_threads(1)
    return rival


@pytest.mark.parametrize("name", NAMES)
def test_an_update(name: str) -> None:
    problem = KalmanProblem(20, 300, 40)
    call = load(name).kalman_update(problem)
    assert change_error(problem, call.result(), right_answer(problem)) > 0.5
    call.many(1)
    assert change_error(problem, call.result(), right_answer(problem)) < 1e-4


@pytest.mark.parametrize("name", ["ours", "numpy_ensemble"])
def test_a_localised_update(name: str) -> None:
    problem = KalmanProblem(20, 300, 40, localised=True)
    call = load(name).kalman_update(problem)
    call.many(1)
    assert change_error(problem, call.result(), right_answer(problem)) < 1e-4


@pytest.mark.parametrize("name", ["ours", "numpy_ensemble"])
@pytest.mark.parametrize("own", [False, True])
def test_covariances(name: str, own: bool) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((30, n), np.float32) for n in (70, 20))
    call = load(name).covariance(a, None if own else b)
    call.many(1)
    other = a if own else b
    exact = (a - a.mean(0)).T @ (other - other.mean(0)) / 29
    np.testing.assert_allclose(call.result(), exact, atol=1e-5)
