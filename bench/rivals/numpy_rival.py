# SPDX-License-Identifier: BSD-3-Clause
"""NumPy: its BLAS, its generator, and backprop as one would write it by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from answers import NumpyNetwork
from numpy.typing import NDArray
from problem import F32, Data, Layers, Problem
from threadpoolctl import threadpool_limits

from rivals.base import Call, Perturbing, Rival, Trainee


class _Product(Call):
    def __init__(self, name: str, a: F32, b: F32, transpose_a: bool) -> None:
        self.name = name
        self._a = a.T if transpose_a else a
        self._b = b
        self._out = np.empty((self._a.shape[0], b.shape[1]), np.float32)

    def many(self, n: int) -> None:
        for _ in range(n):
            np.matmul(self._a, self._b, out=self._out)

    def result(self) -> NDArray[Any]:
        return self._out


class _Normals(Call):
    def __init__(self, name: str, n: int) -> None:
        self.name = name
        self._rng = np.random.default_rng(0)
        self._out = np.empty(n, np.float32)

    def many(self, n: int) -> None:
        for _ in range(n):
            self._rng.standard_normal(dtype=np.float32, out=self._out)

    def result(self) -> NDArray[Any]:
        return self._out


class _Perturbing(Perturbing):
    def __init__(self, name: str, theta: F32, utilities: F32) -> None:
        self.name = name
        self._theta, self._utilities = theta, utilities
        self._noise, self._out, self._sum = (np.empty_like(theta) for _ in range(3))

    def _draw(self, i: int) -> None:
        np.random.default_rng([0, i]).standard_normal(dtype=np.float32, out=self._noise)

    def _perturb(self, i: int) -> None:
        self._draw(i)
        np.multiply(self._noise, np.float32(self.std), out=self._out)
        self._out += self._theta

    def many(self, n: int) -> None:
        for _ in range(n):
            for i in range(len(self._utilities)):
                self._perturb(i)
            self._sum[:] = 0
            for i, u in enumerate(self._utilities):
                self._draw(i)
                self._noise *= u
                self._sum += self._noise

    def member(self, i: int) -> F32:
        self._perturb(i)
        return self._out.copy()

    def result(self) -> NDArray[Any]:
        return self._sum


class _Trainee(Trainee):
    def __init__(self, name: str, problem: Problem, data: Data, layers: Layers) -> None:
        self.name = name
        self._net = NumpyNetwork(problem, layers, None, np.float32)
        self._x, self._y = data.x_float, data.y
        self._rng = np.random.default_rng(0)
        self._batch = problem.batch
        self._order = np.empty(0, np.int64)

    def many(self, n: int) -> None:
        for _ in range(n):
            if len(self._order) < self._batch:
                self._order = self._rng.permutation(len(self._y))
            rows, self._order = self._order[: self._batch], self._order[self._batch :]
            self._net.train_step(self._x[rows], self._y[rows])

    def in_order(self, n_steps: int) -> None:
        for i in range(n_steps):
            rows = slice(i * self._batch, (i + 1) * self._batch)
            self._net.train_step(self._x[rows], self._y[rows])

    def epoch(self, epoch: int) -> float:
        order = self._rng.permutation(len(self._y))
        starts = range(0, len(order), self._batch)
        losses = []
        for i in starts:
            rows = order[i : i + self._batch]
            losses.append(self._net.train_step(self._x[rows], self._y[rows]))
        return float(np.mean(losses))

    def layers(self) -> Layers:
        return [(w, b) for w, b in self._net.params]

    def accuracy(self, x: NDArray[Any], y: NDArray[np.int32]) -> float:
        return float((self._net.forward(x)[1].argmax(axis=1) == y).mean())


class NumpyRival(Rival):
    name = "numpy f32"

    def set_threads(self, n_threads: int) -> None:
        threadpool_limits(n_threads, user_api="blas")

    def train(self, problem: Problem, data: Data, layers: Layers) -> Trainee:
        return _Trainee(self.name, problem, data, layers)

    def product(self, a: F32, b: F32, *, transpose_a: bool = False) -> Call:
        return _Product(self.name, a, b, transpose_a)

    def normals(self, n: int) -> Call:
        return _Normals(self.name, n)

    def perturbing(self, theta: F32, utilities: F32) -> Perturbing:
        return _Perturbing(self.name, theta, utilities)


RIVAL = NumpyRival()
