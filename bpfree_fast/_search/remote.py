# SPDX-License-Identifier: BSD-3-Clause
"""Evaluation by an executor. Noise never travels: workers make their members themselves.

A small search goes to the workers with each task. A large one goes once: then a task carries the
last generation's utilities, from which a worker that still holds the search makes the same step as
everyone; one that does not says so, and is sent the search.
"""

from __future__ import annotations

import threading
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass

import numpy as np

from .methods import F64
from .objective import Objective, Sampler
from .pool import CHUNK, MakesExecutor, Pool, Span

# Larger searches are held by the workers: making a generation's noise again for the step costs
# less than the copies through pipes do.
LARGE = 1 << 20
_KEPT = 4  # searches that a worker holds, of those that it was sent last


@dataclass(frozen=True)
class Stale:
    """The answer of a worker that does not hold the search as the task needs it."""


@dataclass(frozen=True)
class Replay:
    """How a worker brings the search that it holds to this generation."""

    token: str
    generation: int
    utilities: F64 | None  # of the generation before
    checksum: int


@dataclass(frozen=True)
class Task:
    """Members begin..end of one generation."""

    begin: int
    end: int
    whole: tuple[Objective, Sampler] | None
    replay: Replay | None


_held: OrderedDict[str, tuple[Objective, Sampler]] = OrderedDict()
_lock = threading.Lock()


def evaluate(task: Task) -> F64 | Stale:
    """Do a task, in whatever process this is."""
    found = task.whole if task.replay is None else _hold(task)
    if found is None:
        return Stale()
    objective, sampler = found
    return sampler.evaluate(objective, task.begin, task.end)


def checksum(sampler: Sampler) -> int:
    """Give a number that tells two states of a search apart."""
    crc = zlib.crc32(repr((sampler.method.std, sampler.method.learning_rate)).encode())
    for array in sampler.method.arrays().values():
        crc = zlib.crc32(array.reshape(-1).view(np.uint8).data, crc)
    return crc


def _hold(task: Task) -> tuple[Objective, Sampler] | None:
    replay = task.replay
    assert replay is not None
    with _lock:
        if task.whole is not None:
            _held[replay.token] = task.whole
        found = _held.get(replay.token)
        if found is None:
            return None
        _held.move_to_end(replay.token)
        while len(_held) > _KEPT:
            _held.popitem(last=False)
        objective, sampler = found
        if sampler.generation == replay.generation:
            return found
        if sampler.generation != replay.generation - 1 or replay.utilities is None:
            return None
        # On a copy: a task that a broken pool left behind may still read the old state.
        method = deepcopy(sampler.method)
        method.step(replay.utilities, sampler.generation)
        if sampler.bounds is not None:
            sampler.bounds.clip(method.mean)
        moved = Sampler(method, sampler.bounds, replay.generation)
        if checksum(moved) != replay.checksum:
            return None
        _held[replay.token] = (objective, moved)
        return _held[replay.token]


class Workers(Pool):
    """An executor, or what makes one, and the tasks of one search."""

    def __init__(self, executor: Executor | MakesExecutor, objective: Objective) -> None:
        super().__init__(executor, objective)
        self._objective = objective
        self._token = uuid.uuid4().hex
        self._last_utilities: F64 | None = None
        self.replays: bool | None = None  # decided by the size of the search
        self._sampler: Sampler
        self._values: F64
        self._task: Callable[[Span], Task]

    def stepped(self, utilities: F64) -> None:
        """Note the utilities with which the search left the last generation."""
        self._last_utilities = utilities

    def generation(self, sampler: Sampler, n: int, chunk: int | None) -> F64:
        """Give the values of members 0..n of the sampler's generation."""
        self._sampler, self._values = sampler, np.empty(n)
        noise, size = sampler.method.noise, sampler.method.mean.size
        most = max(1, CHUNK // size)
        self.complete(self.spans(n, chunk, most, in_pairs=noise.antithetic))
        return self._values

    def _here(self, span: Span) -> None:
        self._values[slice(*span)] = self._sampler.evaluate(self._objective, *span)

    def _begin_round(self, executor: Executor) -> None:
        if self.replays is None:
            in_process = isinstance(executor, ThreadPoolExecutor)
            self.replays = not in_process and self._sampler.nbytes > LARGE
        self._task = self._tasks(whole=not self._sent)

    def _submit(self, executor: Executor, span: Span) -> Future[F64 | Stale]:
        return executor.submit(evaluate, self._task(span))

    def _take(
        self, executor: Executor, span: Span, found: F64 | Stale
    ) -> Future[F64 | Stale] | None:
        if isinstance(found, Stale):
            return executor.submit(evaluate, self._tasks(whole=True)(span))
        self._values[slice(*span)] = found
        return None

    def _tasks(self, *, whole: bool) -> Callable[[Span], Task]:
        sampler = self._sampler
        if not self.replays:
            light = (self._objective, sampler.for_worker(steps=False))
            return lambda span: Task(*span, light, None)
        replay = Replay(
            self._token, sampler.generation, None if whole else self._last_utilities,
            checksum(sampler),
        )  # fmt: skip
        everything = (self._objective, sampler.for_worker(steps=True)) if whole else None
        return lambda span: Task(*span, everything, replay)
