# SPDX-License-Identifier: BSD-3-Clause
"""NoProp's right answers in float64, from tests/oracle, and the noise that everybody is given."""

from __future__ import annotations

from typing import Any

import layer_local_answers  # puts tests/oracle within reach
import numpy as np
from denoising_problem import NoPropProblem
from numpy.typing import NDArray
from oracle import noprop, random
from oracle.activations import ACTIVATIONS
from problem import Layers

Array = NDArray[Any]

NOISY_LABEL, START = 7, 0xFFFFFF  # of the library's streams, with seed 0


def label_noise(problem: NoPropProblem, block: int, step: int) -> NDArray[np.float32]:
    """[batch, n_classes] of a block in a step of the check."""
    shape = problem.batch, problem.n_classes
    noise = random.normal(random.matrix_words(0, shape, NOISY_LABEL, block, step))
    return np.ascontiguousarray(noise[:, : problem.n_classes], np.float32)


def start_noise(problem: NoPropProblem) -> NDArray[np.float32]:
    """[n_classes]: where the predictions of all rows begin."""
    noise = random.normal(random.matrix_words(0, (1, problem.n_classes), NOISY_LABEL, START))
    return np.ascontiguousarray(noise[0, : problem.n_classes], np.float32)


def _relu_slope(h: Array) -> Array:
    return (h > 0).astype(np.float64)


class NoPropAnswer(layer_local_answers.Answer):
    """Blocks of discrete time.

    late_epsilon: Adam's epsilon is added after the bias correction, as PyTorch has it. The first
    blocks' losses are small, and so are their gradients: it is a fifth of the first steps.
    """

    def __init__(
        self, problem: NoPropProblem, layers: Layers, *, late_epsilon: bool = False
    ) -> None:
        super().__init__(problem, layers)
        self.problem, self._late_epsilon = problem, late_epsilon

    def _epsilon(self) -> float:
        late = float(np.sqrt(1 - 0.999**self._step))
        return super()._epsilon() * (late if self._late_epsilon else 1.0)

    def train_step(self, x: Array, y: NDArray[np.int32], step: int) -> float:
        """One batch with the noise of the check; returns the mean of the blocks' losses."""
        p, total = self.problem, 0.0
        label = np.eye(p.n_classes)[y]
        gradients = []
        for block, weight in enumerate(p.loss_weights):
            share = p.alpha_bar[block]
            z = np.sqrt(share) * label + np.sqrt(1 - share) * label_noise(p, block, step)
            weights, biases = map(list, zip(*p.of_block(self.params, block), strict=True))
            states, o = noprop.forward(x, z, weights, biases, ACTIVATIONS["relu"])
            losses, e = noprop.loss(o, label, np.full(len(y), weight), np.eye(p.n_classes))
            found = noprop.gradients(x, z, e / len(y), states, weights, _relu_slope)
            gradients += list(zip(*found, strict=True))
            total += float(losses.mean()) / p.n_blocks
        self._update(gradients)
        return total


def class_weights(problem: NoPropProblem, layers: Layers, x: Array) -> Array:
    """[n, n_classes]: what a prediction from `start_noise` gives."""
    start = start_noise(problem).astype(np.float64)
    z = np.tile(start, (len(x), 1))
    time = problem.time_features.astype(np.float64)
    for i, (a, b) in enumerate(problem.denoising_steps):
        discrete = problem.variant == "dt"
        seen = z if discrete else np.hstack([z, np.tile(time[i], (len(x), 1))])
        block = problem.of_block(layers, i if discrete else 0)
        weights, biases = map(list, zip(*block, strict=True))
        _, o = noprop.forward(x, seen, weights, biases, ACTIVATIONS["relu"])
        z = a * noprop.softmax(o) + b * z
    return problem.class_weights(z, start)
