# SPDX-License-Identifier: BSD-3-Clause
"""EvoTorch: PGPE with ClipUp by its functional interface, all members in batched products."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from evolution_problem import EvolutionProblem
from evotorch.algorithms.functional import pgpe, pgpe_ask, pgpe_tell
from numpy.typing import NDArray
from problem import Data, Layers, Problem
from torch import Tensor
from torch.nn import functional as F

from rivals.base import EvolutionTrainee, Rival
from rivals.torch_common import build


class EvoTorchTrainee(EvolutionTrainee):
    """A unit is one generation on the next minibatch of shuffled, resident rows."""

    def __init__(self, name: str, problem: EvolutionProblem, data: Data, layers: Layers) -> None:
        self.name = name
        self._problem = problem
        self._shapes = [(w.shape, b.shape) for w, b in layers]
        center = np.concatenate([p.ravel() for layer in layers for p in layer])
        self._state = pgpe(
            center_init=torch.from_numpy(center.astype(np.float32)),
            center_learning_rate=problem.learning_rate,
            stdev_learning_rate=0.1,
            objective_sense="min",
            stdev_init=problem.std,
        )
        self._x = torch.from_numpy(data.x_float)
        self._y = torch.from_numpy(data.y.astype(np.int64))
        self._generator = torch.Generator().manual_seed(0)
        self._order = torch.empty(0, dtype=torch.int64)
        self._mean = torch.zeros(())

    def _losses(self, population: Tensor, x: Tensor, y: Tensor) -> Tensor:
        h, at = x, 0
        for i, (w_shape, b_shape) in enumerate(self._shapes):
            n_in, n_out = w_shape
            w = population[:, at : at + n_in * n_out].reshape(-1, n_in, n_out)
            at += n_in * n_out
            b = population[:, at : at + b_shape[0]]
            at += b_shape[0]
            h = torch.matmul(h, w) + b[:, None, :]
            h = F.relu(h) if i + 1 < len(self._shapes) else h
        n, batch = h.shape[:2]
        losses = F.cross_entropy(h.flatten(0, 1), y.repeat(n), reduction="none")
        return losses.reshape(n, batch).mean(dim=1)

    def _train_step(self, rows: Tensor | slice) -> None:
        with torch.no_grad():
            population = pgpe_ask(self._state, popsize=self._problem.population_size)
            losses = self._losses(population, self._x[rows], self._y[rows])
            self._state = pgpe_tell(self._state, population, losses)
            self._mean = losses.mean()

    def many(self, n: int) -> None:
        batch = self._problem.batch
        for _ in range(n):
            if len(self._order) < batch:
                self._order = torch.randperm(len(self._y), generator=self._generator)
            rows, self._order = self._order[:batch], self._order[batch:]
            self._train_step(rows)

    def in_order(self, n_steps: int) -> None:
        for i in range(n_steps):
            self._train_step(slice(i * self._problem.batch, (i + 1) * self._problem.batch))

    def epoch(self, epoch: int) -> float:
        order = torch.randperm(len(self._y), generator=self._generator)
        for rows in order.split(self._problem.batch):
            self._train_step(rows)
        return float(self._mean)

    def population_loss(self) -> float:
        return float(self._mean)

    def layers(self) -> Layers:
        center, found, at = self._state.optimizer_state.center.numpy(), [], 0
        for shapes in self._shapes:
            parts = []
            for shape in shapes:
                size = int(np.prod(shape))
                parts.append(center[at : at + size].reshape(shape).copy())
                at += size
            found.append((parts[0], parts[1]))
        return found

    def accuracy(self, x: NDArray[Any], y: NDArray[np.int32]) -> float:
        with torch.inference_mode():
            guess = build(self.layers())(torch.from_numpy(x)).argmax(dim=1)
        return float((guess.numpy() == y).mean())


class EvoTorch(Rival):
    name = "EvoTorch PGPE f32"
    method = "es"

    def set_threads(self, n_threads: int) -> None:
        torch.set_num_threads(n_threads)

    def train(self, problem: Problem, data: Data, layers: Layers) -> EvoTorchTrainee:
        assert isinstance(problem, EvolutionProblem)
        return EvoTorchTrainee(self.name, problem, data, layers)


RIVAL = EvoTorch()
