# SPDX-License-Identifier: BSD-3-Clause
"""Our ensemble Kalman training behind the rivals' interface."""

from __future__ import annotations

from typing import Any

import numpy as np
from ensemble_training_problem import EnsembleTrainingProblem
from numpy.typing import NDArray
from ours import Ours, core
from problem import PIXEL_SCALE, Data, Layers
from rivals.base import Iterating


class _Iterating(Iterating):
    """A unit is one iteration on the next rows, gathered from uint8."""

    def __init__(
        self, name: str, problem: EnsembleTrainingProblem, data: Data, layers: Layers, dtype: str,
        n_threads: int,
    ) -> None:  # fmt: skip
        self.name = name
        self._problem, self._data = problem, data
        self._network = core.Network(
            list(problem.layer_sizes), "relu", "softmax_cross_entropy", dtype
        )
        for i, (w, b) in enumerate(layers):
            self._network.set_weights(i, w)
            self._network.set_biases(i, b)
        self._trainer = core.Trainer(
            self._network, method="ensemble_kalman", n_ens=problem.n_ens, redraw=problem.redraw,
            spread=problem.spread, batch_size=problem.batch, n_threads=n_threads,
        )  # fmt: skip
        self._epoch = 0

    def _run(self, n: int, dt: float) -> None:
        rows = n * self._problem.batch
        x, y = self._data.x[:rows], self._data.y[:rows]
        self._epoch += 1
        self._trainer.run_epoch(
            x, y, epoch=self._epoch, shuffle=n > 1, learning_rate=dt, input_scale=PIXEL_SCALE
        )

    def many(self, n: int) -> None:
        most = len(self._data.y) // self._problem.batch
        while n > 0:
            self._run(min(n, most), self._problem.dt)
            n -= min(n, most)

    def _flat(self) -> NDArray[Any]:
        layers = range(len(self._problem.layer_sizes) - 1)
        parts = [q for k in layers for q in (self._network.weights(k), self._network.biases(k))]
        return np.concatenate([q.ravel() for q in parts])

    def step(self) -> tuple[NDArray[Any], NDArray[Any]]:
        self._run(1, 0.0)  # the first members
        before, mean = self._trainer.members(), self._flat()
        self._run(1, self._problem.dt)
        if self._problem.redraw:
            return before, self._flat().astype(np.float64) - mean
        return before, self._trainer.members()


class OursEnsembleTraining(Ours):
    def __init__(self, label: str, dtype: str, n_threads: int) -> None:
        super().__init__(f"enkf {label}", dtype, n_threads)

    def ensemble_training(
        self, problem: EnsembleTrainingProblem, data: Data, layers: Layers
    ) -> Iterating:
        return _Iterating(self.name, problem, data, layers, self.dtype, self.n_threads)
