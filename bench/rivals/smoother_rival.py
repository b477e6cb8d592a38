# SPDX-License-Identifier: BSD-3-Clause
"""iterative_ensemble_smoother: ESMDA, and its localisation by thresholds of the correlation."""

from __future__ import annotations

from typing import Any

import numpy as np
from ensemble_problem import KalmanProblem
from iterative_ensemble_smoother import ESMDA, AdaptiveESMDA
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from rivals.base import Call, Rival


class _Update(Call):
    """Its own layout, parameters by members; data without perturbations, so that it is EKI."""

    def __init__(self, name: str, problem: KalmanProblem, n_threads: int) -> None:
        self.name = name
        theta, g, self._y = problem.arrays()
        self._X, self._Y = np.ascontiguousarray(theta.T), np.ascontiguousarray(g.T)
        self._covariance = np.full(problem.n_obs, problem.variance, np.float32)
        self._localised, self._n_threads = problem.localised, n_threads

    def many(self, n: int) -> None:
        for _ in range(n):
            kind = AdaptiveESMDA if self._localised else ESMDA
            smoother = kind(self._covariance, self._y, alpha=np.ones(1), seed=0)
            smoother.prepare_assimilation(
                Y=self._Y, truncation=1.0, observation_perturbations=np.zeros_like(self._Y)
            )
            more = {"n_jobs": self._n_threads} if self._localised else {}
            self._X = smoother.assimilate_batch(X=self._X, overwrite=True, **more)

    def result(self) -> NDArray[Any]:
        return self._X.T


class Smoother(Rival):
    name = "iterative_ensemble_smoother f32"

    def __init__(self) -> None:
        self._n_threads = 1

    def set_threads(self, n_threads: int) -> None:
        self._n_threads = n_threads
        threadpool_limits(n_threads, user_api="blas")

    def kalman_update(self, problem: KalmanProblem) -> Call:
        return _Update(self.name, problem, self._n_threads)


RIVAL = Smoother()
