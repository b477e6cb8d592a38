# SPDX-License-Identifier: BSD-3-Clause
"""Lorenz-96: the twin experiment on which filters are compared, and a filter in plain NumPy.

Forty variables on a ring, dx_i/dt = (x_(i+1) - x_(i-2)) x_(i-1) - x_i + 8, by Runge-Kutta of fourth
order; all of them are observed each 0.05 with noise of variance 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
N_STATE, FORCING, INTERVAL = 40, 8.0, 0.05
SPIN_UP = 400


@dataclass(frozen=True)
class Setting:
    """A filter, and the error that is published for it."""

    method: str  # of `EnsembleKalman`
    n_ens: int
    inflation: float  # of the anomalies, after the analysis
    published: float

    @property
    def title(self) -> str:
        return f"{self.method}, {self.n_ens} members, inflation {self.inflation:g}"


# DAPPER's list for Sakov & Oke 2008, table 1 (dapper/mods/Lorenz96/sakov2008.py: 'Sqrt', 'DEnKF',
# 'PertObs'), two digits. Its square root filter turns the members at random, which ours does not.
SETTINGS = (
    Setting("etki", 24, 1.013, 0.18),
    Setting("denkf", 40, 1.01, 0.18),
    Setting("enkf", 40, 1.06, 0.22),
    Setting("enkf", 28, 1.08, 0.24),
)


def tendency(x: F64) -> F64:
    ahead, behind = np.roll(x, -1, -1), np.roll(x, 1, -1)
    return (ahead - np.roll(x, 2, -1)) * behind - x + FORCING


def forecast(x: F64) -> F64:
    h = INTERVAL
    a = tendency(x)
    b = tendency(x + h / 2 * a)
    c = tendency(x + h / 2 * b)
    d = tendency(x + h * c)
    return np.asarray(x + h / 6 * (a + 2 * b + 2 * c + d))


class Filter(ABC):
    """Members, and an analysis of them."""

    name: str

    @abstractmethod
    def members(self) -> F64: ...

    @abstractmethod
    def analyse(self, predicted: F64, y: F64) -> None:
        """Take a forecast of the members, and update it by the data."""


class NumpyEtkf(Filter):
    """The symmetric square root by eigenvectors."""

    def __init__(self, first: F64, inflation: float) -> None:
        self.name = "numpy etkf"
        self._members, self._inflation = first, inflation

    def members(self) -> F64:
        return self._members

    def analyse(self, predicted: F64, y: F64) -> None:
        n = len(predicted) - 1
        mean = predicted.mean(0)
        A = predicted - mean
        values, vectors = np.linalg.eigh(A @ A.T + n * np.eye(n + 1))
        weights = (vectors / values) @ (vectors.T @ (A @ (y - mean)))
        root = (vectors * np.sqrt(n / values)) @ vectors.T
        self._members = mean + (weights + self._inflation * root) @ A


def start(n_ens: int, seed: int) -> tuple[F64, F64]:
    """The truth on its attractor, and members around it."""
    rng = np.random.default_rng(seed)
    truth = FORCING + rng.standard_normal(N_STATE)
    for _ in range(SPIN_UP):
        truth = forecast(truth)
    return truth, truth + rng.standard_normal((n_ens, N_STATE))


def twin(filter_: Filter, truth: F64, cycles: int, seed: int) -> float:
    """Mean over the cycles after the spin-up of the analysis' root mean square error."""
    rng = np.random.default_rng(seed + 1)
    errors = []
    for cycle in range(SPIN_UP + cycles):
        truth = forecast(truth)
        y = truth + rng.standard_normal(N_STATE)
        filter_.analyse(forecast(filter_.members()), y)
        if cycle >= SPIN_UP:
            errors.append(float(np.sqrt(np.mean((filter_.members().mean(0) - truth) ** 2))))
    return float(np.mean(errors))
