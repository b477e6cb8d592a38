# SPDX-License-Identifier: BSD-3-Clause
"""The right answers for evolution strategies, whose noise every contestant draws for itself.

So the first generation is judged by what does not depend on the draw: the mean loss of the
population, and how far the weights moved in the direction of the exact gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from answers import NumpyNetwork
from evolution_problem import EvolutionProblem
from numpy.typing import NDArray
from problem import PIXEL_SCALE, Data, Layers

F64 = NDArray[np.float64]

N_DRAWN = 256  # members drawn to estimate the mean loss
# Of the means of two populations, in standard errors of their difference.
MEAN_LIMIT = 6.0


def flat(layers: Layers) -> F64:
    return np.concatenate([p.ravel().astype(np.float64) for layer in layers for p in layer])


def mean_loss(params: Layers, x: NDArray, y: NDArray[np.int32]) -> float:
    h = x
    for i, (w, b) in enumerate(params):
        h = h @ w + b
        h = np.maximum(h, 0) if i + 1 < len(params) else h
    top = h.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(h - top).sum(axis=1)) + top[:, 0]
    return float((log_sum - h[np.arange(len(y)), y]).mean())


@dataclass
class GenerationCheck:
    """What the first generation on the first rows must look like."""

    problem: EvolutionProblem
    data: Data
    layers: Layers

    def __post_init__(self) -> None:
        p, rng = self.problem, np.random.default_rng(1)
        rows = slice(0, p.batch)
        self._x, self._y = self.data.x_float[rows], self.data.y[rows]
        pairs = []
        for _ in range(N_DRAWN // 2):
            noise = [self._noise(rng, w.shape, b.shape) for w, b in self.layers]
            pairs.append([self._loss(noise, sign * p.std) for sign in (1, -1)])
        of_pairs = np.mean(pairs, axis=1)
        # Halves of a pair cancel what is odd, and are not independent: pairs are.
        self._mean, self._pair_std = float(of_pairs.mean()), float(of_pairs.std(ddof=1))
        self._gradient = self._backprop()

    def _noise(self, rng: np.random.Generator, w: tuple, b: tuple) -> tuple[NDArray, NDArray]:
        if self.problem.perturbation == "low_rank":
            of_w = np.outer(*(rng.standard_normal(n, np.float32) for n in w))
        else:
            of_w = rng.standard_normal(w, np.float32)
        return of_w, rng.standard_normal(b, np.float32)

    def _loss(self, noise: list[tuple[NDArray, NDArray]], std: float) -> float:
        member = [
            (w + np.float32(std) * e, b + np.float32(std) * d)
            for (w, b), (e, d) in zip(self.layers, noise, strict=True)
        ]
        return mean_loss(member, self._x, self._y)

    def _backprop(self) -> F64:
        """The exact gradient of the first batch, as one plain step of length 1 shows it."""
        plain = EvolutionProblem(self.problem.layer_sizes, self.problem.batch, learning_rate=1.0)
        net = NumpyNetwork(plain, self.layers, None, np.float64)
        x = self.data.x[: self.problem.batch] * PIXEL_SCALE
        net.train_step(x, self._y)
        return flat(self.layers) - flat([(w, b) for w, b in net.params])

    def faults(self, found_mean: float, after: Layers) -> list[str]:
        """Sentences that say what is wrong with a generation; none if it is right."""
        p, wrong = self.problem, []
        error = self._pair_std * (1 / (N_DRAWN // 2) + 1 / p.n_pairs) ** 0.5
        off = (found_mean - self._mean) / error
        if not abs(off) <= MEAN_LIMIT:
            wrong.append(
                f"the population's mean loss is {found_mean:.5g}, {off:.1f} standard errors from "
                f"{self._mean:.5g}"
            )
        moved = flat(self.layers) - flat(after)
        cosine, least = self.cosine(moved), 0.5 * self.expected_cosine()
        if not cosine >= least:
            wrong.append(f"the step's cosine to the gradient is {cosine:.3g} < {least:.3g}")
        return wrong

    def cosine(self, moved: F64) -> float:
        return float(
            moved @ self._gradient / np.linalg.norm(moved) / np.linalg.norm(self._gradient)
        )

    def expected_cosine(self) -> float:
        """Of n pairs in d dimensions: sqrt(n / (n + d)); ranks lose a few per cent of it."""
        n, d = self.problem.n_pairs, sum(i * o + o for i, o in pairwise(self.problem.layer_sizes))
        return (n / (n + d)) ** 0.5
