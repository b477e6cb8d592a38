# SPDX-License-Identifier: BSD-3-Clause
"""What methods share whose layers learn by themselves: heads of hidden layers, greedy stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _validation as check
from ._base import NetworkEstimator
from ._fitted import Arrays
from ._parameters import Settings

TRAINING_ORDERS = ("simultaneous", "greedy")


class LayerLocalEstimator(NetworkEstimator):
    """A network whose hidden layers have heads, and learn all at once or one after the other."""

    schedule: str

    # The stage of greedy training; None while all layers learn at once.
    _stage: int | None = None

    @property
    def head_coefs_(self) -> Arrays:
        """Weights of the head of each layer that has one, from below; assign a whole list."""
        heads = self._heads()
        return self._list("head_coefs_", lambda i: self._network.weights(heads[i]), len(heads))

    @head_coefs_.setter
    def head_coefs_(self, values: Sequence[ArrayLike]) -> None:
        heads = self._heads()
        self._assign("head_coefs_", values, lambda i, v: self._network.set_weights(heads[i], v))

    @property
    def head_intercepts_(self) -> Arrays:
        """Intercepts of the head of each layer that has one, from below; assign a whole list."""
        heads = self._heads()
        return self._list("head_intercepts_", lambda i: self._network.biases(heads[i]), len(heads))

    @head_intercepts_.setter
    def head_intercepts_(self, values: Sequence[ArrayLike]) -> None:
        heads = self._heads()
        self._assign("head_intercepts_", values, lambda i, v: self._network.set_biases(heads[i], v))

    def _heads(self) -> list[int]:
        """Give the network's indices of the heads; that of the last layer is the output layer."""
        if not self.__sklearn_is_fitted__():
            return []
        output = self.n_layers_ - 2
        return [*range(output + 1, output + 1 + self._network.n_heads), output]

    # Greedy training.

    def _n_stages(self) -> int:
        """Give how many stages greedy training has."""
        return self.n_layers_ - 2

    def _is_done(self) -> bool:
        if self.schedule == "simultaneous" or self._stage is None:
            return super()._is_done()
        n_epochs = self.n_iter_ - self._stage_start
        return self._stage == self._n_stages() - 1 and n_epochs >= self.max_iter

    def _check_schedule(self) -> None:
        check.choice("schedule", self.schedule, TRAINING_ORDERS)
        if self.schedule == "greedy" and self.early_stopping:
            raise ValueError(
                "schedule='greedy' leaves the last head to the end, which early_stopping=True "
                "scores."
            )

    def _start(self, settings: Settings, dtype: np.dtype[Any], loss: str) -> None:
        if not settings.hidden:
            raise ValueError(
                "hidden_layer_sizes is []: there must be a layer that learns by itself."
            )
        super()._start(settings, dtype, loss)
        self._stage, self._stage_start = None, 0

    def _stages(self, settings: Settings, incremental: bool) -> Iterator[int]:
        if self.schedule == "simultaneous":
            self._stage, self._stage_start = None, 0
            self._trainer.set_stage(None)
            yield from super()._stages(settings, incremental)
            return
        last = self._n_stages() - 1
        stage = self._stage
        if stage is None:
            stage = self._enter_stage(0, settings)
        while True:
            end = self._stage_start + settings.max_iter
            if self.n_iter_ < end or stage == last:
                self._trainer.set_stage(stage)
                yield self.n_iter_ + 1 if incremental else end
                if incremental or stage == last:
                    return
            stage = self._enter_stage(stage + 1, settings)

    def _enter_stage(self, stage: int, settings: Settings) -> int:
        """Begin with the next layer: its clock, its learning rate and its losses are its own."""
        self._stage, self._stage_start = stage, self.n_iter_
        self._trainer.step = 0
        self._learning_rate = settings.learning_rate
        self.best_loss_ = np.inf
        self._no_improvement_count = 0
        return stage


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give the softmax of each row, computed in float64."""
    exponent = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    probability: NDArray[np.float64] = exponent / exponent.sum(axis=1, keepdims=True)
    return probability.astype(np.float32)
