# SPDX-License-Identifier: BSD-3-Clause
"""The ensemble Kalman kernels behind the rivals' interface."""

from __future__ import annotations

from typing import Any

from ensemble_problem import KalmanProblem
from lorenz96 import F64, Filter, Setting
from numpy.typing import NDArray
from ours import Ours, bf
from problem import F32
from rivals.base import Call


class _Update(Call):
    def __init__(self, name: str, problem: KalmanProblem, n_threads: int) -> None:
        self.name = name
        self._theta, self._g, self._y = problem.arrays()
        self._keywords: dict[str, Any] = {"n_threads": n_threads, "out": self._theta}
        if problem.localised:
            self._keywords["localization"] = "sec"
        self._variance = problem.variance

    def many(self, n: int) -> None:
        for _ in range(n):
            bf.kernels.ensemble_update(
                self._theta, self._g, self._y, self._variance, **self._keywords
            )

    def result(self) -> NDArray[Any]:
        return self._theta


class _Covariance(Call):
    def __init__(self, name: str, a: F32, b: F32 | None, n_threads: int) -> None:
        self.name, self._a, self._b, self._n_threads = name, a, b, n_threads
        self._out = bf.kernels.ensemble_covariance(a, b, n_threads=n_threads)

    def many(self, n: int) -> None:
        for _ in range(n):
            bf.kernels.ensemble_covariance(
                self._a, self._b, out=self._out, n_threads=self._n_threads
            )

    def result(self) -> NDArray[Any]:
        return self._out


class OursEnsemble(Ours):
    def __init__(self, n_threads: int) -> None:
        super().__init__("", "float32", n_threads)
        self.name = "ours f32"

    def kalman_update(self, problem: KalmanProblem) -> Call:
        return _Update(self.name, problem, self.n_threads)

    def covariance(self, a: F32, b: F32 | None) -> Call:
        return _Covariance(self.name, a, b, self.n_threads)


class OursFilter(Filter):
    """`EnsembleKalman` as a filter: the forecast is set, the analysis is told."""

    def __init__(self, first: F64, setting: Setting, n_threads: int, seed: int = 0) -> None:
        self.name = f"ours {setting.method}"
        self._kalman = bf.EnsembleKalman(
            first, 1.0, method=setting.method, inflation=setting.inflation, random_state=seed,
            n_threads=n_threads,
        )  # fmt: skip

    def members(self) -> F64:
        return self._kalman.ensemble

    def analyse(self, predicted: F64, y: F64) -> None:
        self._kalman.ensemble = predicted
        self._kalman.tell(predicted, y)
