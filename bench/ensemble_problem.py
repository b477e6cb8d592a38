# SPDX-License-Identifier: BSD-3-Clause
"""What the ensemble Kalman rows ask for: one update of an ensemble, and its right answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from problem import F32

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class KalmanProblem:
    """EKI with one variance for all observations, step 1; outputs that depend on the members."""

    n_ens: int
    n_params: int
    n_obs: int
    variance: float = 1.0
    localised: bool = False

    @property
    def title(self) -> str:
        return f"{self.n_params} parameters, {self.n_ens} members, {self.n_obs} observations"

    @property
    def flops(self) -> float:
        """Of the products that grow with the parameters."""
        if self.localised:
            return 4.0 * self.n_params * self.n_obs * self.n_ens
        return 2.0 * self.n_params * self.n_ens**2

    def arrays(self) -> tuple[F32, F32, F32]:
        """Members, their outputs, the data."""
        rng = np.random.default_rng(0)
        theta = rng.standard_normal((self.n_ens, self.n_params), np.float32)
        few = theta[:, : min(50, self.n_params)]
        g = few @ rng.standard_normal((few.shape[1], self.n_obs), np.float32) / np.float32(7)
        g += rng.standard_normal(g.shape, np.float32) / 10
        return theta, g, rng.standard_normal(self.n_obs, np.float32)


def right_answer(problem: KalmanProblem) -> F64:
    """The textbook in float64; localised by the correlation, squared among outputs."""
    theta, g, y = (a.astype(np.float64) for a in problem.arrays())
    A, Y = theta - theta.mean(0), g - g.mean(0)
    n = problem.n_ens - 1
    S = Y.T @ Y / n
    if problem.localised:
        S *= S**2 / np.outer(np.diag(S), np.diag(S))
    S += problem.variance * np.eye(problem.n_obs)
    Z = np.linalg.solve(S, (y - g).T)
    C = A.T @ Y / n
    if problem.localised:
        C *= np.abs(C) / np.outer(A.std(0, ddof=1), Y.std(0, ddof=1))
    return theta + (C @ Z).T


def change_error(problem: KalmanProblem, found: NDArray[np.floating], right: F64) -> float:
    """Largest error of a member, over the largest change."""
    theta = problem.arrays()[0]
    return float(np.abs(found - right).max() / np.abs(right - theta).max())
