# SPDX-License-Identifier: BSD-3-Clause
"""Our local losses behind the rivals' interface."""

from __future__ import annotations

from typing import Any

import numpy as np
from layer_local_problem import LocalLossProblem
from numpy.typing import NDArray
from ours import Ours, OursTrainee, core
from problem import F32, Data, Layers, Problem
from rivals.base import Trainee


def _order(problem: LocalLossProblem) -> list[int]:
    """The network's index of every pair of the problem's layers but the maps: see `Network`."""
    n = len(problem.hidden)
    return [*range(n), *range(n + 1, n + problem.n_heads), n]


class OursLocalLossTrainee(OursTrainee):
    _problem: LocalLossProblem

    def __init__(
        self, name: str, problem: LocalLossProblem, data: Data, layers: Layers, *, dtype: str,
        n_threads: int, seed: int = 0,
    ) -> None:  # fmt: skip
        self.name = name
        self._problem, self._data, self._n_threads = problem, data, n_threads
        self._network = core.Network(
            list(problem.layer_sizes), problem.activation, "softmax_cross_entropy", dtype,
            first_head=None if problem.objective == "sim" else 0,
        )  # fmt: skip
        self._trainer = core.Trainer(
            self._network, method="local_loss", local_loss=problem.objective,
            similarity_weight=problem.similarity_weight, sim_projection=problem.sim_projection,
            batch_normalization=problem.batch_norm, dropout=problem.dropout,
            solver={"momentum": "sgd"}.get(problem.optimizer, problem.optimizer),
            momentum=problem.momentum, nesterov=False, batch_size=problem.batch, seed=seed,
            n_threads=n_threads,
        )  # fmt: skip
        order = _order(problem)
        for k, (w, b) in zip(order, layers, strict=False):
            self._network.set_weights(k, w)
            self._network.set_biases(k, b)
        for k, (w, _) in enumerate(layers[len(order) :]):
            self._trainer.set_projection(k, w)
        self._epoch = 0

    def layers(self) -> Layers:
        found = [
            (np.array(self._network.weights(k)), np.array(self._network.biases(k)))
            for k in _order(self._problem)
        ]
        maps = range(self._trainer.n_projections)
        return found + [(np.array(self._trainer.projection(k)), np.zeros(0, "f4")) for k in maps]

    def feedback(self) -> list[F32] | None:
        return None

    def accuracy(self, x: NDArray[Any], y: NDArray[np.int32]) -> float:
        out = np.empty((len(x), self._problem.n_classes), np.float32)
        self._trainer.predict_by(x, out, n_threads=self._n_threads)
        return float((out.argmax(axis=1) == y).mean())


class OursLocalLoss(Ours):
    """Local losses in one dtype; the label says which."""

    def __init__(self, label: str, dtype: str, n_threads: int) -> None:
        super().__init__(f"local {label}", dtype, n_threads)

    def train(self, problem: Problem, data: Data, layers: Layers, *, seed: int = 0) -> Trainee:
        assert isinstance(problem, LocalLossProblem)
        return OursLocalLossTrainee(
            self.name, problem, data, layers, dtype=self.dtype, n_threads=self.n_threads, seed=seed
        )
