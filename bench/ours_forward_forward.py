# SPDX-License-Identifier: BSD-3-Clause
"""Our Forward-Forward behind the rivals' interface."""

from __future__ import annotations

from typing import Any

import numpy as np
from layer_local_problem import ForwardForwardProblem
from numpy.typing import NDArray
from ours import Ours, OursTrainee, core
from problem import F32, Data, Layers, Problem
from rivals.base import Call, Trainee

NEGATIVES = 9  # purpose of the stream that draws wrong labels


def _order(problem: ForwardForwardProblem) -> list[int]:
    """The network's index of every pair of the problem's layers: the output layer is a head."""
    n = len(problem.hidden)
    n_heads = n - problem.first_head
    return [*range(n), *range(n + 1, n + n_heads), n]


def make_network(problem: ForwardForwardProblem, layers: Layers, dtype: str) -> Any:
    assert problem.label_position == "append"  # overwrite stores the label's rows elsewhere
    network = core.Network(
        [problem.input_sizes[0], *problem.hidden, problem.n_classes], "relu",
        "softmax_cross_entropy", dtype, first_head=problem.first_head,
    )  # fmt: skip
    for k, (w, b) in zip(_order(problem), layers, strict=True):
        network.set_weights(k, w)
        network.set_biases(k, b)
    return network


def make_trainer(problem: ForwardForwardProblem, network: Any, *, seed: int, n_threads: int) -> Any:
    return core.Trainer(
        network, method="forward_forward",
        solver={"momentum": "sgd"}.get(problem.optimizer, problem.optimizer),
        weight_decay=problem.weight_decay, momentum=problem.momentum, nesterov=False,
        batch_size=problem.batch, seed=seed, n_threads=n_threads,
        goodness=problem.goodness, goodness_loss=problem.loss,
        label_position=problem.label_position, negatives=problem.negatives,
        temperature=problem.temperature, symba_scale=problem.alpha,
        peer_normalization=problem.peer,
    )  # fmt: skip


def drawn_negatives(problem: ForwardForwardProblem, y: NDArray[np.int32], seed: int, step: int):
    """The wrong labels of one of our steps, made again from the stream that is documented."""
    blocks = range(-(-len(y) // 4))
    words = [w for k in blocks for w in core.philox([k, 0, step, NEGATIVES << 24], [seed, 0])]
    u = (np.array(words[: len(y)], np.uint64) >> 8) * 2.0**-24
    others = problem.n_classes - 1
    pick = np.minimum((u * others).astype(np.int32), others - 1)
    return pick + (pick >= y)


class OursForwardForwardTrainee(OursTrainee):
    _problem: ForwardForwardProblem

    def __init__(
        self, name: str, problem: ForwardForwardProblem, data: Data, layers: Layers, *, dtype: str,
        n_threads: int, seed: int = 0,
    ) -> None:  # fmt: skip
        self.name = name
        self._problem, self._data = problem, data
        self._n_threads, self._seed = n_threads, seed
        self._network = make_network(problem, layers, dtype)
        self._trainer = make_trainer(problem, self._network, seed=seed, n_threads=n_threads)
        self._epoch = 0

    def check_negatives(self, y: NDArray[np.int32], step: int) -> NDArray[np.int32]:
        return drawn_negatives(self._problem, y, self._seed, step)

    def layers(self) -> Layers:
        return [
            (np.array(self._network.weights(k)), np.array(self._network.biases(k)))
            for k in _order(self._problem)
        ]

    def feedback(self) -> list[F32] | None:
        return None

    def accuracy(self, x: NDArray[Any], y: NDArray[np.int32]) -> float:
        out = np.empty((len(x), self._problem.n_classes), np.float32)
        self._trainer.predict_by(x, out, goodness=False, n_threads=self._n_threads)
        return float((out.argmax(axis=1) == y).mean())


class _Goodness(Call):
    def __init__(self, name: str, trainer: Any, x: F32, n_classes: int, n_threads: int) -> None:
        self.name = name
        self._trainer, self._x, self._n_threads = trainer, x, n_threads
        self._out = np.empty((len(x), n_classes), np.float32)

    def many(self, n: int) -> None:
        for _ in range(n):
            self._trainer.predict_by(self._x, self._out, goodness=True, n_threads=self._n_threads)

    def result(self) -> NDArray[Any]:
        return self._out


class OursForwardForward(Ours):
    """Forward-Forward in one dtype."""

    def __init__(self, dtype: str, n_threads: int) -> None:
        super().__init__("forward-forward", dtype, n_threads)

    def train(self, problem: Problem, data: Data, layers: Layers, *, seed: int = 0) -> Trainee:
        assert isinstance(problem, ForwardForwardProblem)
        return OursForwardForwardTrainee(
            self.name, problem, data, layers, dtype=self.dtype, n_threads=self.n_threads, seed=seed
        )

    def goodness_predictor(self, problem: Problem, layers: Layers, x: F32) -> Call:
        assert isinstance(problem, ForwardForwardProblem)
        network = make_network(problem, layers, self.dtype)
        trainer = make_trainer(problem, network, seed=0, n_threads=self.n_threads)
        return _Goodness(self.name, trainer, x, problem.n_classes, self.n_threads)
