# SPDX-License-Identifier: BSD-3-Clause
"""Our evolution strategies behind the rivals' interface."""

from __future__ import annotations

from typing import Any

import numpy as np
from evolution_problem import EvolutionProblem
from numpy.typing import NDArray
from ours import Ours, OursTrainee, bf, core, make_network
from problem import F32, PIXEL_SCALE, Data, Layers, Problem
from rivals.base import Call, EvolutionTrainee, Perturbing


class OursEvolutionTrainee(OursTrainee, EvolutionTrainee):
    _problem: EvolutionProblem

    def __init__(
        self, name: str, problem: EvolutionProblem, data: Data, layers: Layers, *, dtype: str,
        n_threads: int, seed: int = 0,
    ) -> None:  # fmt: skip
        self.name = name
        self._problem, self._data, self._n_threads = problem, data, n_threads
        self._network = make_network(problem, layers, dtype)
        self._trainer = core.Trainer(
            self._network, method="evolution", population_size=problem.population_size,
            std=problem.std, perturbation=problem.perturbation, antithetic=True,
            fitness_shaping=problem.fitness_shaping,
            solver={"momentum": "sgd"}.get(problem.optimizer, problem.optimizer),
            momentum=problem.momentum, nesterov=False, batch_size=problem.batch, seed=seed,
            n_threads=n_threads,
        )  # fmt: skip
        self._epoch = 0

    def population_loss(self) -> float:
        return -float(self._trainer.evolution_reports()[-1, 0])

    def feedback(self) -> list[F32] | None:
        return None


class _PopulationForward(Call):
    """A unit is the outputs of the whole population on one minibatch."""

    def __init__(
        self, name: str, problem: EvolutionProblem, data: Data, layers: Layers, dtype: str,
        n_threads: int,
    ) -> None:  # fmt: skip
        trainee = OursEvolutionTrainee("", problem, data, layers, dtype=dtype, n_threads=n_threads)
        self.name = name
        self._trainer = trainee._trainer
        self._data = data.x[: problem.batch], data.y[: problem.batch]
        self._trainer.begin_epoch(
            *self._data, epoch=0, shuffle=False, input_scale=PIXEL_SCALE, learning_rate=1e-3
        )
        self._trainer.next_batch()
        shape = problem.population_size, problem.batch, problem.layer_sizes[-1]
        self._out = np.empty(shape, np.float32)

    def many(self, n: int) -> None:
        for _ in range(n):
            self._trainer.evaluate(0, self._out)

    def result(self) -> NDArray[Any]:
        return self._out


class _Perturbing(Perturbing):
    def __init__(self, name: str, theta: F32, utilities: F32, n_threads: int) -> None:
        self.name = name
        self._theta, self._utilities, self._n_threads = theta, utilities, n_threads
        self._out, self._sum = np.empty_like(theta), np.empty_like(theta)

    def _perturb(self, i: int) -> None:
        bf.kernels.perturb(
            self._theta, seed=0, member=i, std=self.std, out=self._out, n_threads=self._n_threads
        )

    def many(self, n: int) -> None:
        for _ in range(n):
            for i in range(len(self._utilities)):
                self._perturb(i)
            bf.kernels.perturbation_gradient(
                self._utilities, len(self._theta), seed=0, out=self._sum,
                n_threads=self._n_threads,
            )  # fmt: skip

    def member(self, i: int) -> F32:
        self._perturb(i)
        return self._out.copy()

    def result(self) -> NDArray[Any]:
        return self._sum


class OursEvolution(Ours):
    def __init__(self, label: str, dtype: str, n_threads: int) -> None:
        super().__init__(f"es {label}", dtype, n_threads)

    def train(
        self, problem: Problem, data: Data, layers: Layers, *, seed: int = 0
    ) -> OursEvolutionTrainee:
        assert isinstance(problem, EvolutionProblem)
        return OursEvolutionTrainee(
            self.name, problem, data, layers, dtype=self.dtype, n_threads=self.n_threads, seed=seed
        )

    def population_forward(self, problem: EvolutionProblem, data: Data, layers: Layers) -> Call:
        return _PopulationForward(self.name, problem, data, layers, self.dtype, self.n_threads)

    def perturbing(self, theta: F32, utilities: F32) -> Perturbing:
        return _Perturbing(self.name, theta, utilities, self.n_threads)
