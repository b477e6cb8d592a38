# SPDX-License-Identifier: BSD-3-Clause
"""JAX: one jitted step, buffers donated, rows picked inside the step from resident arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray
from problem import F32, Data, Layers, Problem

from rivals.base import Call, Rival, Trainee

Params = list[tuple[Array, Array]]
# (params, x, y, feedback) -> (loss, gradients)
Gradients = Callable[[Params, Array, Array, list[Array]], tuple[Array, Params]]


def forward(params: Params, x: Array) -> tuple[list[Array], Array]:
    """Every layer's input, and the logits."""
    hs = [x]
    for w, b in params[:-1]:
        hs.append(jax.nn.relu(hs[-1] @ w + b))
    return hs, hs[-1] @ params[-1][0] + params[-1][1]


def mean_loss(logits: Array, y: Array) -> Array:
    log_p = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(log_p, y[:, None], axis=1))


def _update(
    optimizer: str, momentum: float, params: Params, slots: Any, grads: Params, lr: Array, t: Array
) -> tuple[Params, Any]:
    """SGD with momentum, or Adam: the same few lines as ours, left to XLA to fuse."""
    tree = jax.tree_util.tree_map
    if optimizer == "momentum":
        (v,) = slots
        v = tree(lambda s, g: momentum * s - lr * g, v, grads)
        return tree(lambda p, s: p + s, params, v), (v,)
    m, v = slots
    m = tree(lambda s, g: 0.9 * s + 0.1 * g, m, grads)
    v = tree(lambda s, g: 0.999 * s + 0.001 * g * g, v, grads)
    rate = lr * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    new = tree(lambda p, a, b: p - rate * a / (jnp.sqrt(b) + 1e-8), params, m, v)
    return new, (m, v)


def make_step(problem: Problem, gradients: Gradients) -> Any:
    batch = problem.batch

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(
        params: Params, slots: Any, x: Array, y: Array, order: Array, start: Array, lr: Array,
        t: Array, feedback: list[Array],
    ) -> tuple[Params, Any, Array]:  # fmt: skip
        rows = jax.lax.dynamic_slice(order, (start,), (batch,))
        loss, grads = gradients(params, x[rows], y[rows], feedback)
        params, slots = _update(problem.optimizer, problem.momentum, params, slots, grads, lr, t)
        return params, slots, loss

    return step


class JaxTrainee(Trainee):
    def __init__(
        self, name: str, problem: Problem, data: Data, layers: Layers, gradients: Gradients,
        feedback: list[F32] | None,
    ) -> None:  # fmt: skip
        self.name = name
        self._problem = problem
        self._feedback_np = feedback
        self._feedback = [jnp.array(b) for b in feedback or []]
        self._params: Params = [(jnp.array(w), jnp.array(b)) for w, b in layers]
        zeros = partial(jax.tree_util.tree_map, jnp.zeros_like, self._params)
        self._slots = tuple(zeros() for _ in range(problem.n_slots))
        self._x, self._y = jnp.array(data.x_float), jnp.array(data.y)
        self.data_copy_bytes = int(self._x.nbytes + self._y.nbytes)
        self._step_fn = make_step(problem, gradients)
        self._rng = np.random.default_rng(0)
        self._loss = jnp.zeros(())
        self._step = 0
        self._shuffle()

    def _shuffle(self) -> None:
        self._order = jnp.array(self._rng.permutation(len(self._y)).astype(np.int32))
        self._start = 0

    def _train_step(self) -> None:
        p = self._problem
        self._step += 1
        lr = np.float32(p.lr_at(self._step - 1))
        self._params, self._slots, self._loss = self._step_fn(
            self._params, self._slots, self._x, self._y, self._order, np.int32(self._start), lr,
            np.float32(self._step), self._feedback,
        )  # fmt: skip
        self._start += p.batch

    def many(self, n: int) -> None:
        for _ in range(n):
            if self._start + self._problem.batch > len(self._y):
                self._shuffle()
            self._train_step()
        self._loss.block_until_ready()

    def in_order(self, n_steps: int) -> None:
        self._order, self._start = jnp.arange(len(self._y), dtype=jnp.int32), 0
        for _ in range(n_steps):
            self._train_step()
        self._shuffle()

    def epoch(self, epoch: int) -> float:
        self._shuffle()
        self.many(len(self._y) // self._problem.batch)
        return float(self._loss)

    def layers(self) -> Layers:
        return [(np.array(w), np.array(b)) for w, b in self._params]

    def feedback(self) -> list[F32] | None:
        return self._feedback_np

    def accuracy(self, x: NDArray[Any], y: NDArray[np.int32]) -> float:
        return float((forward(self._params, jnp.array(x))[1].argmax(axis=1) == y).mean())


class _Normals(Call):
    def __init__(self, name: str, n: int) -> None:
        self.name = name
        self._draw = jax.jit(partial(jax.random.normal, shape=(n,)))
        self._key = jax.random.key(0)

    def many(self, n: int) -> None:
        for _ in range(n):
            self._key = jax.random.fold_in(self._key, 1)
            self._out = self._draw(self._key)
        self._out.block_until_ready()

    def result(self) -> NDArray[Any]:
        return np.asarray(self._out)


class _Product(Call):
    def __init__(self, name: str, a: F32, b: F32, transpose_a: bool) -> None:
        self.name = name
        self._a, self._b = jnp.array(a), jnp.array(b)
        self._mm = jax.jit((lambda a, b: a.T @ b) if transpose_a else (lambda a, b: a @ b))

    def many(self, n: int) -> None:
        for _ in range(n):
            self._out = self._mm(self._a, self._b)
        self._out.block_until_ready()

    def result(self) -> NDArray[Any]:
        return np.asarray(self._out)


class _Predictor(Call):
    def __init__(self, name: str, layers: Layers, x: F32) -> None:
        self.name = name
        self._params: Params = [(jnp.array(w), jnp.array(b)) for w, b in layers]
        self._x = jnp.array(x)
        self._fn = jax.jit(lambda params, x: jax.nn.softmax(forward(params, x)[1]))

    def many(self, n: int) -> None:
        for _ in range(n):
            self._out = self._fn(self._params, self._x)
        self._out.block_until_ready()

    def result(self) -> NDArray[Any]:
        return np.asarray(self._out)


class JaxRival(Rival):
    """Threads: XLA takes as many as the process may use, so run.py binds the process."""

    def gradients(self) -> Gradients:
        raise NotImplementedError

    def train(self, problem: Problem, data: Data, layers: Layers) -> Trainee:
        feedback = problem.feedback() if self.method == "dfa" else None
        return JaxTrainee(self.name, problem, data, layers, self.gradients(), feedback)

    def product(self, a: F32, b: F32, *, transpose_a: bool = False) -> Call:
        return _Product(self.name, a, b, transpose_a)

    def normals(self, n: int) -> Call:
        return _Normals(self.name, n)

    def predictor(self, problem: Problem, layers: Layers, x: F32) -> Call:
        return _Predictor(self.name, layers, x)

    def clean_up(self) -> None:
        jax.clear_caches()
