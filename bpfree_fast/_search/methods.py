# SPDX-License-Identifier: BSD-3-Clause
"""Search distributions: what the members of a method are, and how a generation moves it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Floats
from .noise import Indices, Noise
from .optimizers import Optimizer, norm

if TYPE_CHECKING:
    from typing_extensions import Self

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Rates:
    """What changes with each generation, and what the noise does."""

    std_decay: float = 1.0
    learning_rate_decay: float = 1.0
    noise_reuse: int = 1
    persistence: int = 1


@dataclass
class Method(ABC):
    """A search distribution. Its arrays, the rate and the deviation are all that changes."""

    noise: Noise
    rates: Rates
    n_members: int
    mean: Floats
    learning_rate: float
    std: float  # times `scale`, where parameters have deviations of their own

    def arrays(self) -> dict[str, Floats]:
        """Give the arrays of the state by name, to be read and written."""
        return {"mean": self.mean}

    def scale(self) -> Floats | None:
        """Give what `std` is multiplied by for each parameter; None is 1."""
        return None

    def deviation(self) -> float | Floats:
        """Give the deviation of the members: a number, or one for each parameter."""
        scale = self.scale()
        return self.std if scale is None else self.std * scale

    def noise_generation(self, generation: int) -> int:
        """Say whose noise a generation has."""
        return generation // self.rates.noise_reuse

    def members(self, out: Floats, generation: int, members: Indices) -> None:
        """Write members of a generation to the rows of `out`."""
        g = self.noise_generation(generation)
        self.noise.members(out, self.mean, self.scale(), self.std, g, members)

    def on_one_thread(self) -> Self:
        """Give a copy for a worker; the arrays are the same."""
        twin = copy(self)
        twin.noise = replace(self.noise, n_threads=1)
        return twin

    def light(self) -> Self:
        """Give a copy for a worker that makes members, without what only steps need."""
        return self.on_one_thread()

    def step(self, utilities: F64, generation: int) -> float:
        """Move by a generation's utilities, larger is better.

        Gives the gradient's norm; NaN where the state is no longer finite.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            length = self._move(utilities, generation)
        self.std *= self.rates.std_decay
        self.learning_rate *= self.rates.learning_rate_decay
        return length

    @abstractmethod
    def _move(self, utilities: F64, generation: int) -> float: ...

    def _checked(self, length: float) -> float:
        return length if np.isfinite(self.mean).all() else math.nan


@dataclass
class Gradient(Method):
    """OpenAI-ES and SPSA: an estimate of the gradient, and an optimizer.

    References: Salimans et al. 2017, arXiv:1703.03864, algorithm 1; Malladi et al. 2023,
    arXiv:2305.17333, algorithm 1; noise that is reused, Li et al. 2023, arXiv:2304.12180; noise
    that persists, Vicol et al. 2021, arXiv:2112.13835.
    """

    optimizer: Optimizer
    slots: list[Floats]

    def arrays(self) -> dict[str, Floats]:
        """Give the mean and the optimizer's state."""
        return super().arrays() | {f"slot_{i}": slot for i, slot in enumerate(self.slots)}

    def light(self) -> Self:
        """Leave the optimizer's state behind."""
        twin = super().light()
        twin.slots = []
        return twin

    def weights(self, utilities: F64) -> F64:
        """Give what each member's noise counts in the gradient, uphill."""
        return utilities / (len(utilities) * self.std)

    def _move(self, utilities: F64, generation: int) -> float:
        # One step of the optimizer along -sum_i weights_i noise_i.
        weights = -self.weights(utilities)
        if self._has_one_direction():
            length = self._step_along_it(weights, generation)
        else:
            gradient = self._gradient(weights, generation)
            length = norm(gradient)
            self._descend(gradient, length, generation)
        return self._checked(length)

    def _descend(self, gradient: Floats, length: float, generation: int) -> None:
        self.optimizer.step(
            self.mean, gradient, length, self.slots, generation + 1, self.learning_rate
        )

    def _gradient(self, weights: F64, generation: int) -> Floats:
        # With persistence, a member's noise is all that it had in this episode.
        gradient = np.empty_like(self.mean)
        first = generation - generation % self.rates.persistence
        self.noise.sums(gradient, weights, None, None, self.noise_generation(first))
        if first < generation:
            part = np.empty_like(gradient)
            for later in range(first + 1, generation + 1):
                self.noise.sums(part, weights, None, None, self.noise_generation(later))
                gradient += part
        return gradient

    def _has_one_direction(self) -> bool:
        plain = self.optimizer.kind == "sgd" and self.optimizer.weight_decay == 0
        one_pair = self.noise.antithetic and self.n_members == 2
        return plain and one_pair and self.rates.persistence == 1

    def _step_along_it(self, weights: F64, generation: int) -> float:
        # The mean moves along the noise that it is perturbed by: one pass, and no gradient.
        slope = float(weights[0] - weights[1])
        g, step = self.noise_generation(generation), -self.learning_rate * slope
        if step != 0:
            member = np.full(1, 0 if step > 0 else 1, np.uint32)  # of the pair, whose side it is
            self.noise.members(self.mean[np.newaxis], self.mean, None, abs(step), g, member)
        return abs(slope) * math.sqrt(self.mean.size)  # the norm of noise, but for its spread


@dataclass
class Ars(Gradient):
    """Augmented random search: the best directions, in units of their returns' deviation.

    References: Mania et al. 2018, arXiv:1803.07055, algorithm 1 (V1-t: states are the user's).
    """

    def weights(self, utilities: F64) -> F64:
        """Give what makes the sum over pairs the paper's: of differences, over the pairs used."""
        return utilities * (2 / len(utilities))


@dataclass
class Pgpe(Gradient):
    """PGPE with symmetric members: a deviation for each parameter, which learns too.

    References: Sehnke et al. 2010, equations 9 and 10; Toklu et al. 2020, arXiv:2008.02387.
    """

    relative_std: Floats
    std_learning_rate: float

    def arrays(self) -> dict[str, Floats]:
        """Give the gradient's arrays and the deviations."""
        return super().arrays() | {"relative_std": self.relative_std}

    def scale(self) -> Floats:
        """Give the deviations, in units of `std`."""
        return self.relative_std

    def _move(self, utilities: F64, generation: int) -> float:
        # One step of the optimizer, and one of the deviations, by at most a fifth.
        gradient, squares = np.empty_like(self.mean), np.empty_like(self.mean)
        baseline = (utilities - utilities.mean()) / len(utilities)
        g = self.noise_generation(generation)
        self.noise.sums(gradient, -utilities / len(utilities), squares, baseline, g)
        gradient *= self.std * self.relative_std
        length = norm(gradient)
        self._descend(gradient, length, generation)
        change = self.std_learning_rate * (squares - baseline.sum())
        self.relative_std *= 1.0 + np.clip(change, -0.2, 0.2)
        return self._checked(length)


@dataclass
class Snes(Method):
    """Separable natural evolution strategy.

    References: Wierstra et al. 2014, JMLR 15, algorithm 6.
    """

    relative_std: F64
    std_learning_rate: float

    def arrays(self) -> dict[str, Floats]:
        """Give the mean and the deviations."""
        return super().arrays() | {"relative_std": self.relative_std}

    def scale(self) -> F64:
        """Give the deviations, in units of `std`."""
        return self.relative_std

    def _move(self, utilities: F64, generation: int) -> float:
        return _core.snes_step(
            cast("F64", self.mean),
            self.relative_std,
            utilities,
            self.std,
            self.learning_rate,
            self.std_learning_rate,
            self.noise.seed,
            generation,
            self.noise.antithetic,
            self.noise.n_threads or 0,
        )
