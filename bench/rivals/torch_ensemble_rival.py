# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch: outputs of the members by torch.func.vmap, and the update in members' space.

The move is one product into a second buffer, the fastest that we found: the members' mean drops
out of it, so that no anomalies are written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ensemble_training_problem import EnsembleTrainingProblem
from numpy.typing import NDArray
from problem import Data, Layers
from torch import Tensor
from torch.nn import functional as F

from rivals.base import Iterating, Rival


class _Iterating(Iterating):
    """A unit is one iteration on the next rows of resident float32."""

    def __init__(
        self, name: str, problem: EnsembleTrainingProblem, data: Data, layers: Layers
    ) -> None:
        self.name = name
        self._problem = problem
        self._mean = torch.from_numpy(problem.start(layers))
        self._deviations = torch.from_numpy(problem.deviations)
        self._generator = torch.Generator().manual_seed(0)
        self._theta = torch.empty(problem.n_ens, problem.n_params)
        self._draw()
        self._other = torch.empty_like(self._theta) if not problem.redraw else self._theta
        self._x = torch.from_numpy(data.x_float)
        self._y = torch.from_numpy(data.y.astype(np.int64))
        self._forward = torch.func.vmap(self._logits, in_dims=(0, None))
        self._at = 0

    def _draw(self) -> None:
        self._theta.normal_(generator=self._generator)
        self._theta.mul_(self._deviations).add_(self._mean)

    def _logits(self, theta: Tensor, x: Tensor) -> Tensor:
        h, at = x, 0
        shapes = self._problem.shapes
        for k in range(0, len(shapes), 2):
            n_in, n_out = shapes[k]
            w = theta[at : at + n_in * n_out].view(n_in, n_out)
            at += n_in * n_out
            h = h @ w + theta[at : at + n_out]
            at += n_out
            h = F.relu(h) if k + 2 < len(shapes) else h
        return h

    def _iterate(self, rows: slice) -> None:
        p = self._problem
        n = p.n_ens
        g = self._forward(self._theta, self._x[rows])
        score = F.one_hot(self._y[rows], p.layer_sizes[-1]) - g.softmax(-1)
        Y = (g - g.mean(0)) / (n - 1) ** 0.5
        Y = (Y - Y.mean(-1, keepdim=True)).flatten(1)
        omega = torch.eye(n).addmm_(Y, Y.T, alpha=p.dt / 2)
        factor = torch.linalg.cholesky(omega)
        step = p.dt / (n - 1) ** 0.5
        if p.redraw:
            w = torch.cholesky_solve(Y @ score.mean(0).flatten()[:, None], factor)[:, 0] * step
            self._moved = (w - w.mean()) @ self._theta
            self._mean += self._moved
            return
        T = torch.cholesky_solve(Y @ score.flatten(1).T, factor).T * step
        T -= T.mean(1, keepdim=True)
        torch.addmm(self._theta, T, self._theta, out=self._other)
        self._theta, self._other = self._other, self._theta

    def many(self, n: int) -> None:
        with torch.inference_mode():
            for _ in range(n):
                if self._problem.redraw:
                    self._draw()
                batch = self._problem.batch
                if self._at + batch > len(self._y):
                    self._at = 0
                self._iterate(slice(self._at, self._at + batch))
                self._at += batch

    def step(self) -> tuple[NDArray[Any], NDArray[Any]]:
        with torch.inference_mode():
            before = self._theta.numpy().copy()
            self._iterate(slice(0, self._problem.batch))
            return before, (self._moved if self._problem.redraw else self._theta).numpy().copy()


class TorchEnsemble(Rival):
    name = "torch f32"
    method = "enkf"

    def set_threads(self, n_threads: int) -> None:
        torch.set_num_threads(n_threads)

    def ensemble_training(
        self, problem: EnsembleTrainingProblem, data: Data, layers: Layers
    ) -> Iterating:
        return _Iterating(self.name, problem, data, layers)


RIVAL = TorchEnsemble()
