# SPDX-License-Identifier: BSD-3-Clause
"""Methods that learn a covariance: xNES the whole one, sep-CMA-ES its diagonal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from .. import _core
from .._arrays import Floats
from ..kernels import product
from .methods import F64, Method
from .noise import Indices

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_XNES = 1000


def expm(a: F64) -> F64:
    """Give the exponential of a symmetric matrix.

    Taylor's polynomial of degree 12 in five products (Paterson & Stockmeyer 1973), after halving
    until the norm is at most 1/4, where what is left out is below 3e-18 of the norm; then squared
    as often.
    """
    size = float(np.abs(a).sum(axis=0).max(initial=0.0))
    halvings = max(0, math.ceil(math.log2(4 * size))) if size > 0 else 0
    a = a * 0.5**halvings
    one = np.eye(len(a))
    square = product(a, a)
    powers = (one, a, square, product(square, a))
    fourth = product(square, square)
    total = fourth / math.factorial(12)
    for block in (2, 1, 0):
        total += sum(p / math.factorial(4 * block + i) for i, p in enumerate(powers))
        if block > 0:
            total = cast("F64", product(total, fourth))
    for _ in range(halvings):
        total = cast("F64", product(total, total))
    return total


@dataclass
class Xnes(Method):
    """Exponential natural evolution strategy: x = mean + std * B z.

    References: Glasmachers et al. 2010, "Exponential natural evolution strategies", algorithm 1;
    Wierstra et al. 2014, JMLR 15, algorithm 5.
    """

    shape: F64  # B [n_params, n_params], of determinant 1
    std_learning_rate: float
    shape_learning_rate: float

    def arrays(self) -> dict[str, Floats]:
        """Give the mean and B."""
        return super().arrays() | {"shape": self.shape}

    def deviation(self) -> float | Floats:
        """Give the root of the covariance's diagonal."""
        deviation: F64 = self.std * np.sqrt(np.add.reduce(self.shape**2, axis=1))
        return deviation

    def members(self, out: Floats, generation: int, members: Indices) -> None:
        """Write members of a generation to the rows of `out`."""
        z = self._noise(generation, members)
        np.multiply(product(z, self.shape, transpose_b=True), self.std, out=out)
        out += self.mean

    def _move(self, utilities: F64, generation: int) -> float:
        # Along the natural gradient of mean, step size and B.
        z = self._noise(generation, np.arange(self.n_members, dtype=np.uint32))
        weighted = utilities[:, np.newaxis] * z
        direction = product(np.add.reduce(weighted)[np.newaxis], self.shape, transpose_b=True)[0]
        direction *= self.std
        moment = product(z, weighted, transpose_a=True)
        moment = 0.5 * (moment + moment.T)
        n = len(self.mean)
        moment.flat[:: n + 1] -= utilities.sum()
        of_std = float(np.add.reduce(moment.flat[:: n + 1])) / n
        moment.flat[:: n + 1] -= of_std
        length = math.sqrt(float(np.add.reduce(direction * direction)))
        std = self.std * float(np.exp(0.5 * self.std_learning_rate * of_std))
        moment *= 0.5 * self.shape_learning_rate
        if not (0 < std < math.inf and np.isfinite(moment).all()):
            return math.nan
        shape = product(self.shape, expm(moment))
        if not np.isfinite(shape).all():
            return math.nan
        self.mean += self.learning_rate * direction
        self.shape[:], self.std = shape, std
        return self._checked(length)

    def _noise(self, generation: int, members: Indices) -> F64:
        z = np.empty((len(members), len(self.mean)))
        g = self.noise_generation(generation)
        self.noise.members(z, np.zeros_like(self.mean), None, 1.0, g, members)
        return z


@dataclass(frozen=True)
class CmaConstants:
    """What sep-CMA-ES takes from the dimension and the population."""

    weights: F64  # of the members by rank, best first; 0 for the worse half
    # mu_eff, c_path_std, damping, c_path, c_one, c_mu, expected_norm
    rates: tuple[float, float, float, float, float, float, float]

    @classmethod
    def of(cls, n_params: int, n_members: int) -> CmaConstants:
        """Hansen 2016, arXiv:1604.00772, table 1, with the learning rates of a diagonal.

        Both rates are (n_params + 2) / 3 times those of a full matrix (Ros & Hansen 2008, section
        3.1).
        """
        n = float(n_params)
        raw = math.log((n_members + 1) / 2) - np.log(np.arange(1, n_members + 1))
        weights = raw.clip(min=0)
        weights /= weights.sum()
        mu = 1.0 / float(np.add.reduce(weights**2))
        c_path_std = (mu + 2) / (n + mu + 5)
        damping = 1 + 2 * max(0.0, math.sqrt((mu - 1) / (n + 1)) - 1) + c_path_std
        c_path = (4 + mu / n) / (n + 4 + 2 * mu / n)
        enlarged = (n + 2) / 3
        c_one = min(1.0, enlarged * 2 / ((n + 1.3) ** 2 + mu))
        c_mu = min(1 - c_one, enlarged * 2 * (mu - 2 + 1 / mu) / ((n + 2) ** 2 + mu))
        expected_norm = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
        return cls(weights, (mu, c_path_std, damping, c_path, c_one, c_mu, expected_norm))


@dataclass
class SepCma(Method):
    """CMA-ES with a diagonal covariance: x = mean + std * D z.

    References: Ros & Hansen 2008, "A simple modification in CMA-ES achieving linear time and space
    complexity"; Hansen 2016, arXiv:1604.00772.
    """

    constants: CmaConstants
    relative_std: F64  # D
    path_std: F64
    path: F64

    def arrays(self) -> dict[str, Floats]:
        """Give the mean, D and both paths."""
        more = {"relative_std": self.relative_std, "path_std": self.path_std, "path": self.path}
        return super().arrays() | more

    def scale(self) -> F64:
        """Give D."""
        return self.relative_std

    def light(self) -> Self:
        """Leave the paths behind."""
        twin = super().light()
        twin.path_std = twin.path = np.empty(0)
        return twin

    def _move(self, utilities: F64, generation: int) -> float:
        # The utilities are the weights of recombination.
        length, self.std = _core.sep_cma_step(
            cast("F64", self.mean),
            self.relative_std,
            self.path_std,
            self.path,
            self.std,
            utilities,
            self.constants.rates,
            self.noise.seed,
            generation,
            self.noise.n_threads or 0,
        )
        return length
