# SPDX-License-Identifier: BSD-3-Clause
"""Searches that ask and tell: what is searched, by which method, from where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def sphere(x: NDArray[Any]) -> F64:
    return np.asarray(np.sum(x * x, axis=1))


def ellipsoid(x: NDArray[Any]) -> F64:
    """Axes whose curvatures are from 1 to a million."""
    n = x.shape[1]
    return np.asarray((x * x) @ 1e6 ** (np.arange(n) / (n - 1)))


def rosenbrock(x: NDArray[Any]) -> F64:
    head, tail = x[:, :-1], x[:, 1:]
    return np.asarray(np.sum(100 * (tail - head**2) ** 2 + (1 - head) ** 2, axis=1))


FUNCTIONS: dict[str, Callable[[NDArray[Any]], F64]] = {
    "sphere": sphere,
    "ellipsoid": ellipsoid,
    "rosenbrock": rosenbrock,
}


@dataclass(frozen=True)
class SearchProblem:
    """A method's search: its start is the same for every contestant, its noise is not."""

    method: str  # 'sep_cma_es' | 'snes' | 'xnes'
    function: str
    n_params: int
    population_size: int
    start: float  # every parameter's
    std: float = 0.5

    @property
    def title(self) -> str:
        return f"{self.function}, {self.n_params} parameters, population {self.population_size}"

    def x0(self) -> F64:
        return np.full(self.n_params, self.start)

    def value(self, x: NDArray[Any]) -> F64:
        """The function's values of the rows of x, in float64 for everybody."""
        return FUNCTIONS[self.function](x.astype(np.float64))
