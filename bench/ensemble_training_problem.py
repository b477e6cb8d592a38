# SPDX-License-Identifier: BSD-3-Clause
"""One iteration of ensemble Kalman training: what everybody computes, and its right answer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from ensemble_problem import F64
from numpy.typing import NDArray
from problem import PIXEL_SCALE, Data, Layers


@dataclass(frozen=True)
class EnsembleTrainingProblem:
    """Cross-entropy with the bound of its Hessian; a kept ensemble, or one redrawn each time.

    dt is small, so that thousands of iterations in place leave an ensemble to work on.
    """

    layer_sizes: tuple[int, ...] = (784, 64, 10)
    batch: int = 128
    n_ens: int = 500
    redraw: bool = False
    spread: float = 0.5  # of a layer over the root of its inputs
    dt: float = 1e-3

    @property
    def title(self) -> str:
        sizes = "-".join(map(str, self.layer_sizes))
        kind = "redrawn" if self.redraw else "kept"
        return f"{sizes}, {self.n_ens} {kind} members, batch {self.batch}"

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of W_0, b_0, W_1, b_1, ... as they lie in a member."""
        return [s for i, o in pairwise(self.layer_sizes) for s in ((i, o), (o,))]

    @property
    def n_params(self) -> int:
        return sum(int(np.prod(s)) for s in self.shapes)

    @property
    def deviations(self) -> NDArray[np.float32]:
        """Of each parameter of a member."""
        parts = [
            np.full(i * o + o, self.spread / np.sqrt(i)) for i, o in pairwise(self.layer_sizes)
        ]
        return np.concatenate(parts).astype(np.float32)

    @property
    def flops(self) -> float:
        """Of the members' outputs, and of a kept ensemble's move."""
        forward = 2.0 * self.n_ens * self.n_params * self.batch
        return forward + (0.0 if self.redraw else 2.0 * self.n_params * self.n_ens**2)

    def start(self, layers: Layers) -> NDArray[np.float32]:
        return np.concatenate([p.ravel() for layer in layers for p in layer]).astype(np.float32)

    def right_answer(self, members: NDArray[np.floating], data: Data) -> F64:
        """Members after an iteration on the first rows; redrawn ones: what their mean moves by."""
        theta, n = members.astype(np.float64), self.n_ens
        x = data.x[: self.batch] * np.float64(PIXEL_SCALE)
        target = np.eye(self.layer_sizes[-1])[data.y[: self.batch]]
        g = np.stack([self._logits(t, x) for t in theta])
        p = np.exp(g - g.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        Y = (g - g.mean(0)) / np.sqrt(n - 1)
        Y = (Y - Y.mean(-1, keepdims=True)).reshape(n, -1)
        cross = Y @ (target - p).reshape(n, -1).T
        S = np.linalg.solve(np.eye(n) + self.dt / 2 * Y @ Y.T, cross)
        T = self.dt / np.sqrt(n - 1) * S.T
        if not self.redraw:
            return theta + T @ (theta - theta.mean(0))
        w = T.mean(0)
        return (w - w.mean()) @ theta

    def _logits(self, theta: F64, x: F64) -> F64:
        h, at = x, 0
        for i, o in pairwise(self.layer_sizes):
            w = theta[at : at + i * o].reshape(i, o)
            h = (h if at == 0 else np.maximum(h, 0)) @ w + theta[at + i * o : at + i * o + o]
            at += i * o + o
        return h
