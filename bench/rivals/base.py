# SPDX-License-Identifier: BSD-3-Clause
"""What a rival can be asked for. What it cannot do raises NotImplementedError."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from ensemble_problem import KalmanProblem
from ensemble_training_problem import EnsembleTrainingProblem
from harness import Contestant
from numpy.typing import NDArray
from problem import F32, Data, Layers, Problem
from search_problem import SearchProblem


class Trainee(Contestant):
    """A network in training; one unit of work is one step on shuffled, resident data."""

    data_copy_bytes: int = 0  # data that it keeps a second time, for the memory row

    @abstractmethod
    def in_order(self, n_steps: int) -> None:
        """Steps on the first rows of the data in their natural order, for the check."""

    @abstractmethod
    def epoch(self, epoch: int) -> float:
        """One shuffled epoch; returns its mean loss (or the last step's)."""

    @abstractmethod
    def layers(self) -> Layers: ...

    @abstractmethod
    def accuracy(self, x: NDArray[Any], y: NDArray[np.int32]) -> float: ...

    def feedback(self) -> list[F32] | None:
        """Direct feedback matrices if it trains by DFA, None if by backprop."""
        return None


class EvolutionTrainee(Trainee):
    """A step is one generation: a population sees a minibatch."""

    @abstractmethod
    def population_loss(self) -> float:
        """Mean loss of the last generation's members on their minibatch."""


class Call(Contestant):
    """A contestant whose unit is one call that leaves a result."""

    @abstractmethod
    def result(self) -> NDArray[Any]: ...


class Perturbing(Call):
    """A unit: every member theta + std * noise into one array, then the sum of u * noise.

    The noise is made twice and not kept, as a population of that size must be.
    """

    std: float = 0.02

    @abstractmethod
    def member(self, i: int) -> F32:
        """One member, copied; `result` is the sum."""


class Iterating(Contestant):
    """Ensemble Kalman training; a unit is one iteration on the next minibatch."""

    @abstractmethod
    def step(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The first iteration, on the first rows: members before it, and what it gives.

        That is the members after it; of redrawn ones what their mean moves by.
        """


class Searcher(Contestant):
    """A search by ask and tell; a unit is one generation, told losses that were prepared.

    Random losses: the function is nobody's time, and no generation depends on the one before.
    """

    own_constants: str = ""  # in which its step differs from the papers' that we take
    rounding: float = 1.0  # of its numbers, in those of float64 members: larger for float32
    _prepared: Sequence[Any] = ()
    _turn: int = 0

    @abstractmethod
    def ask(self) -> Any:
        """This generation's members [population_size, n_params], in its own kind of array."""

    @abstractmethod
    def tell(self, losses: Any) -> None:
        """Step by losses of its own kind, and wait until the step is done."""

    @abstractmethod
    def own_kind(self, losses: NDArray[np.float64]) -> Any:
        """Losses as `tell` takes them."""

    @abstractmethod
    def mean(self) -> NDArray[Any]: ...

    @abstractmethod
    def deviation(self) -> NDArray[Any] | None:
        """The members' deviations; None where its constants are its own."""

    def tell_values(self, losses: NDArray[np.float64]) -> None:
        self.tell(self.own_kind(losses))

    def prepare(self, losses: Sequence[NDArray[np.float64]]) -> None:
        """Give what generations are told in turn when timed."""
        self._prepared = [self.own_kind(values) for values in losses]

    def many(self, n: int) -> None:
        for _ in range(n):
            self.ask()
            self._turn = (self._turn + 1) % len(self._prepared)
            self.tell(self._prepared[self._turn])


class Rival:
    """Base of ours and of each rival: they are asked the same questions."""

    name: str
    dtype: str = "float32"
    method: str = "backprop"

    def set_threads(self, n_threads: int) -> None:
        """Ask the library for this many threads."""

    def train(self, problem: Problem, data: Data, layers: Layers) -> Trainee:
        raise NotImplementedError(f"{self.name} does not train")

    def product(self, a: F32, b: F32, *, transpose_a: bool = False) -> Call:
        raise NotImplementedError(f"{self.name} has no product")

    def normals(self, n: int) -> Call:
        raise NotImplementedError(f"{self.name} has no normals")

    def perturbing(self, theta: F32, utilities: F32) -> Perturbing:
        raise NotImplementedError(f"{self.name} does not perturb")

    def searcher(self, problem: SearchProblem, *, seed: int = 0) -> Searcher:
        raise NotImplementedError(f"{self.name} does not search")

    def kalman_update(self, problem: KalmanProblem) -> Call:
        raise NotImplementedError(f"{self.name} has no ensemble Kalman update")

    def ensemble_training(
        self, problem: EnsembleTrainingProblem, data: Data, layers: Layers
    ) -> Iterating:
        raise NotImplementedError(f"{self.name} has no ensemble Kalman training")

    def covariance(self, a: F32, b: F32 | None) -> Call:
        raise NotImplementedError(f"{self.name} has no covariance")

    def predictor(self, problem: Problem, layers: Layers, x: F32) -> Call:
        raise NotImplementedError(f"{self.name} does not predict")

    def goodness_predictor(self, problem: Problem, layers: Layers, x: F32) -> Call:
        """Forward-Forward: the goodness [n, n_classes] of x under every label."""
        raise NotImplementedError(f"{self.name} has no goodness")

    def fit_classifier(
        self, x: NDArray[Any], y: NDArray[Any], hidden: tuple[int, ...], epochs: int
    ) -> Call:
        raise NotImplementedError(f"{self.name} has no classifier")

    def clean_up(self) -> None:
        """Drop what the last row compiled or cached."""
