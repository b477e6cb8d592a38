# SPDX-License-Identifier: BSD-3-Clause
"""Our NoProp behind the rivals' interface."""

from __future__ import annotations

from typing import Any

import numpy as np
from denoising_problem import NoPropProblem
from numpy.typing import NDArray
from ours import Ours, OursTrainee, core
from problem import F32, Data, Layers, Problem
from rivals.base import Call, Trainee


def _make(
    problem: NoPropProblem, layers: Layers, dtype: str, *, seed: int, n_threads: int
) -> tuple[Any, Any]:
    """The network of blocks and its trainer."""
    network = core.Network.of_blocks(
        n_blocks=problem.n_blocks, n_features=problem.layer_sizes[0],
        n_input_units=problem.input_units, n_label=problem.n_label,
        n_label_units=problem.label_units, join=list(problem.layer_sizes[1:-1]),
        n_classes=problem.n_classes, activation="relu", dtype=dtype,
    )  # fmt: skip
    trainer = core.Trainer(
        network, method="noprop", variant=problem.variant, eta=problem.eta,
        noise_schedule="cosine",
        alpha_bar=problem.alpha_bar.tolist() if problem.variant == "dt" else [],
        solver={"momentum": "sgd"}.get(problem.optimizer, problem.optimizer),
        weight_decay=problem.weight_decay, momentum=problem.momentum, nesterov=False,
        batch_size=problem.batch, seed=seed, n_threads=n_threads,
    )  # fmt: skip
    for k, (w, b) in enumerate(layers):
        network.set_weights(k, w)
        network.set_biases(k, b)
    return network, trainer


class OursNoPropTrainee(OursTrainee):
    _problem: NoPropProblem

    def __init__(
        self, name: str, problem: NoPropProblem, data: Data, layers: Layers, *, dtype: str,
        n_threads: int, seed: int = 0,
    ) -> None:  # fmt: skip
        self.name = name
        self._problem, self._data, self._n_threads = problem, data, n_threads
        self._network, self._trainer = _make(problem, layers, dtype, seed=seed, n_threads=n_threads)
        self._epoch = 0

    def layers(self) -> Layers:
        return [
            (np.array(self._network.weights(k)), np.array(self._network.biases(k)))
            for k in range(self._network.n_layers)
        ]

    def feedback(self) -> list[F32] | None:
        return None

    def accuracy(self, x: NDArray[Any], y: NDArray[np.int32]) -> float:
        out = np.empty((len(x), self._problem.n_classes), np.float32)
        self._trainer.predict_blocks(x, out, n_threads=self._n_threads)
        return float((out.argmax(axis=1) == y).mean())


class _Predictor(Call):
    def __init__(
        self, name: str, problem: NoPropProblem, layers: Layers, x: F32, dtype: str, n_threads: int
    ) -> None:
        self.name = name
        _, self._trainer = _make(problem, layers, dtype, seed=0, n_threads=n_threads)
        self._x, self._n_steps, self._n_threads = x, problem.n_steps, n_threads
        self._out = np.empty((len(x), problem.n_classes), np.float32)

    def many(self, n: int) -> None:
        for _ in range(n):
            self._trainer.predict_blocks(
                self._x, self._out, n_steps=self._n_steps, n_threads=self._n_threads
            )

    def result(self) -> NDArray[Any]:
        return self._out


class OursNoProp(Ours):
    def __init__(self, dtype: str, n_threads: int) -> None:
        super().__init__("noprop", dtype, n_threads)

    def train(self, problem: Problem, data: Data, layers: Layers, *, seed: int = 0) -> Trainee:
        assert isinstance(problem, NoPropProblem)
        return OursNoPropTrainee(
            self.name, problem, data, layers, dtype=self.dtype, n_threads=self.n_threads, seed=seed
        )

    def predictor(self, problem: Problem, layers: Layers, x: F32) -> Call:
        assert isinstance(problem, NoPropProblem)
        return _Predictor(self.name, problem, layers, x, self.dtype, self.n_threads)
