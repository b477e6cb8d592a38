# SPDX-License-Identifier: BSD-3-Clause
"""The user's forward model, and who evaluates it: here, or the workers of an executor."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .._arrays import Floats
from .._search.objective import Function, real_numbers
from .._search.pool import CHUNK, MakesExecutor, Pool, Span
from .options import F64

_FEW = 32  # least rows of a call, and then most calls


@dataclass(frozen=True)
class Forward:
    """A function of one member, or of the rows of an array; it gives what would be observed."""

    function: Function
    vectorized: bool
    n_obs: int

    def __call__(self, x: Floats) -> F64:
        """Give the outputs of the rows of x."""
        if self.vectorized:
            return self._checked(self.function(x), (len(x), self.n_obs))
        outputs = np.empty((len(x), self.n_obs))
        for out, row in zip(outputs, x, strict=True):
            out[:] = self._checked(self.function(row), (self.n_obs,))
        return outputs

    def _checked(self, found: object, shape: tuple[int, ...]) -> F64:
        g = real_numbers("what the forward model gives", found)
        if g.shape != shape:
            raise ValueError(
                f"the forward model gave an array of shape {g.shape}, expected {shape}."
            )
        return g


@dataclass(frozen=True)
class Task:
    """Some members, and the model that they are given to."""

    forward: Forward
    members: NDArray[Any]


def evaluate(task: Task) -> F64:
    """Do a task, in whatever process this is."""
    return task.forward(cast("Floats", task.members))


def rows_of_call(n: int, size: int) -> int:
    """Give how many of n members a model that takes arrays is given at once.

    Whoever evaluates them: a model's own rounding may depend on how many rows it has.
    """
    return max(1, min(max(_FEW, -(-n // _FEW)), CHUNK // size))


def outputs_here(forward: Forward, members: Floats, chunk: int | None) -> F64:
    """Evaluate all members in this process, a chunk at a time."""
    n, size = members.shape
    step = chunk or (rows_of_call(n, size) if forward.vectorized else n)
    g = np.empty((n, forward.n_obs))
    for begin in range(0, n, step):
        # A copy: the model may write to what it is given.
        g[begin : begin + step] = forward(cast("Floats", members[begin : begin + step].copy()))
    return g


class Workers(Pool):
    """An executor, or what makes one, and the members that it is sent."""

    def __init__(self, executor: Executor | MakesExecutor, forward: Forward) -> None:
        super().__init__(executor, forward)
        self._forward = forward
        self._members: Floats
        self._g: F64

    def outputs(self, members: Floats, chunk: int | None) -> F64:
        """Give the outputs of all members."""
        n, size = members.shape
        self._members, self._g = members, np.empty((n, self._forward.n_obs))
        if chunk is None and self._forward.vectorized:
            chunk = rows_of_call(n, size)
        self.complete(self.spans(n, chunk, max(1, CHUNK // size)))
        return self._g

    def _here(self, span: Span) -> None:
        self._g[slice(*span)] = evaluate(self._task(span))

    def _begin_round(self, executor: Executor) -> None:
        pass  # a task carries its members, and needs nothing of those before

    def _submit(self, executor: Executor, span: Span) -> Future[F64]:
        return executor.submit(evaluate, self._task(span))

    def _take(self, executor: Executor, span: Span, found: F64) -> Future[F64] | None:
        self._g[slice(*span)] = found
        return None

    def _task(self, span: Span) -> Task:
        return Task(self._forward, self._members[slice(*span)].copy())
