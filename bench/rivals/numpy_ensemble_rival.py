# SPDX-License-Identifier: BSD-3-Clause
"""NumPy's ensemble Kalman update: the textbook's gain, and the best that we could write."""

from __future__ import annotations

from typing import Any

import numpy as np
from ensemble_problem import KalmanProblem
from numpy.typing import NDArray
from problem import F32
from threadpoolctl import threadpool_limits

from rivals.base import Call, Rival

STRIP = 8192  # parameters at a time: their product stays in the cache (4096 and 16384 were slower)


class _Update(Call):
    def __init__(self, name: str, problem: KalmanProblem) -> None:
        self.name = name
        self._theta, self._g, self._y = problem.arrays()
        self._problem = problem
        self._n = np.float32(problem.n_ens - 1)

    def many(self, n: int) -> None:
        for _ in range(n):
            self._update()

    def _update(self) -> None:
        raise NotImplementedError

    def result(self) -> NDArray[Any]:
        return self._theta


class _Textbook(_Update):
    """theta + C_theta_g (C_gg + R)^-1 (y - g), with both covariances in full."""

    def _update(self) -> None:
        A, Y = self._theta - self._theta.mean(0), self._g - self._g.mean(0)
        S = Y.T @ Y / self._n + np.float32(self._problem.variance) * np.eye(len(self._y), dtype="f")
        C = A.T @ Y / self._n
        self._theta += (C @ np.linalg.solve(S, (self._y - self._g).T)).T


class _Best(_Update):
    """Members' space; anomalies of a strip of parameters at a time, added in place."""

    def _update(self) -> None:
        Y = (self._g - self._g.mean(0)) / np.sqrt(self._n * np.float32(self._problem.variance))
        r = (self._y - self._g) / np.sqrt(np.float32(self._problem.variance))
        omega = Y @ Y.T
        omega.flat[:: len(omega) + 1] += 1
        T = np.linalg.solve(omega, Y @ r.T).T / np.sqrt(self._n)
        T -= T.mean(1, keepdims=True)  # the mean of the members drops out, without a pass
        for i in range(0, self._theta.shape[1], STRIP):
            strip = self._theta[:, i : i + STRIP]
            strip += T @ strip


class _Localised(_Update):
    def _update(self) -> None:
        Y = (self._g - self._g.mean(0)) / np.sqrt(self._n)
        S = Y.T @ Y
        r = S / np.sqrt(np.outer(S.diagonal(), S.diagonal()))
        S *= r * r
        S.flat[:: len(S) + 1] += np.float32(self._problem.variance)
        Z = np.linalg.solve(S, (self._y - self._g).T) / np.sqrt(self._n)
        inverse = 1 / np.sqrt((Y * Y).sum(0))
        for i in range(0, self._theta.shape[1], 512):
            strip = self._theta[:, i : i + 512]
            A = strip - strip.mean(0)
            C = A.T @ Y
            factor = np.abs(C)
            factor *= inverse
            factor /= np.sqrt((A * A).sum(0))[:, None]
            C *= factor
            strip += (C @ Z).T


class _Covariance(Call):
    def __init__(self, name: str, a: F32, b: F32 | None) -> None:
        self.name, self._a, self._b = name, a, b
        self._out = np.empty((a.shape[1], (a if b is None else b).shape[1]), np.float32)

    def many(self, n: int) -> None:
        for _ in range(n):
            A = self._a - self._a.mean(0)
            A /= np.sqrt(np.float32(len(A) - 1))
            B = A
            if self._b is not None:
                B = self._b - self._b.mean(0)
                B /= np.sqrt(np.float32(len(B) - 1))
            np.matmul(A.T, B, out=self._out)

    def result(self) -> NDArray[Any]:
        return self._out


class NumpyEnsemble(Rival):
    def __init__(self, name: str, update: type[_Update]) -> None:
        self.name, self._kind = name, update

    def set_threads(self, n_threads: int) -> None:
        threadpool_limits(n_threads, user_api="blas")

    def kalman_update(self, problem: KalmanProblem) -> Call:
        return (_Localised if problem.localised else self._kind)(self.name, problem)

    def covariance(self, a: F32, b: F32 | None) -> Call:
        return _Covariance(self.name, a, b)


RIVAL = NumpyEnsemble("numpy f32", _Best)
VARIANTS = {"textbook": NumpyEnsemble("numpy textbook f32", _Textbook)}
