# SPDX-License-Identifier: BSD-3-Clause
"""Evaluation by an executor. Noise never travels: workers make their members themselves.

A small search goes to the workers with each task. A large one goes once: then a task carries the
last generation's utilities, from which a worker that still holds the search makes the same step as
everyone; one that does not says so, and is sent the search.
"""

from __future__ import annotations

import pickle
import sys
import threading
import uuid
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .methods import F64
from .objective import Objective, Sampler

MakesExecutor: TypeAlias = Callable[[], Executor]

# Larger searches are held by the workers: making a generation's noise again for the step costs
# less than the copies through pipes do.
LARGE = 1 << 20
# Numbers of a chunk of members where no chunk_size was given: 16 MB of float64.
CHUNK = 1 << 21
_KEPT = 4  # searches that a worker holds, of those that it was sent last
_TRIES = 3  # pools that may break one after the other with no member evaluated


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


class Workers:
    """An executor, or what makes one, and the tasks of one search."""

    def __init__(self, executor: Executor | MakesExecutor, objective: Objective) -> None:
        self._makes: MakesExecutor | None = None
        self._executor: Executor | None = None
        if isinstance(executor, Executor):
            self._executor = executor
        elif callable(executor):
            self._makes = executor
        else:
            raise TypeError(
                f"executor must be an Executor or a callable that makes one, got {executor!r}."
            )
        self._objective = objective
        self._token = uuid.uuid4().hex
        self._sent = False  # whether any worker was sent the search
        self._last_utilities: F64 | None = None
        self.replays: bool | None = None  # decided by the size of the search

    def close(self) -> None:
        """Shut down the executor if it was made here."""
        if self._makes is not None and self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def stepped(self, utilities: F64) -> None:
        """Note the utilities with which the search left the last generation."""
        self._last_utilities = utilities

    def generation(self, sampler: Sampler, n: int, chunk: int | None) -> F64:
        """Give the values of members 0..n of the sampler's generation."""
        values = np.empty(n)
        noise, size = sampler.method.noise, sampler.method.mean.size
        left = self._chunks(n, chunk, noise.antithetic, max(1, CHUNK // size))
        tries = 0
        while left:
            if self._executor is None and self._makes is None:
                for begin, end in left:
                    values[begin:end] = sampler.evaluate(self._objective, begin, end)
                break
            before = len(left)
            error = self._round(sampler, values, left)
            if error is None:
                break
            tries = tries + 1 if len(left) == before else 0
            self._give_up_pool(error, tries)
        return values

    def _chunks(
        self, n: int, chunk: int | None, in_pairs: bool, most: int
    ) -> list[tuple[int, int]]:
        if chunk is None:
            self._open()
            size = getattr(self._executor, "_max_workers", None)
            n_workers = size if isinstance(size, int) else 8
            chunk = min(max(1, n // (4 * n_workers)), most)
        if in_pairs:
            chunk += chunk % 2  # both of a pair have one noise
        return [(begin, min(begin + chunk, n)) for begin in range(0, n, chunk)]

    def _open(self) -> None:
        if self._executor is None and self._makes is not None:
            executor = self._makes()
            if not isinstance(executor, Executor):
                raise TypeError(f"the callable must make an Executor, it gave {executor!r}.")
            self._executor = executor
            self._sent = False

    def _round(
        self, sampler: Sampler, values: F64, left: list[tuple[int, int]]
    ) -> BaseException | None:
        """Evaluate what is left; give the error of a pool that broke, with `left` up to date."""
        self._open()
        assert self._executor is not None
        if self.replays is None:
            in_process = isinstance(self._executor, ThreadPoolExecutor)
            self.replays = not in_process and sampler.nbytes > LARGE
        if isinstance(self._executor, ProcessPoolExecutor) and not self._sent:
            _check_travels(self._objective)
        broken = _broken()
        waiting: dict[Future[F64 | Stale], tuple[int, int]] = {}
        try:
            task = self._tasks(sampler, whole=not self._sent)
            for span in left:
                waiting[self._executor.submit(evaluate, task(span))] = span
            self._sent = True
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    span = waiting.pop(future)
                    found = future.result()
                    if isinstance(found, Stale):
                        again = self._tasks(sampler, whole=True)(span)
                        waiting[self._executor.submit(evaluate, again)] = span
                        continue
                    values[span[0] : span[1]] = found
                    left.remove(span)
        except broken as error:
            return error
        finally:
            for future in waiting:
                future.cancel()
        return None

    def _tasks(self, sampler: Sampler, *, whole: bool) -> Callable[[tuple[int, int]], Task]:
        if not self.replays:
            light = (self._objective, sampler.for_worker(steps=False))
            return lambda span: Task(*span, light, None)
        replay = Replay(
            self._token, sampler.generation, None if whole else self._last_utilities,
            checksum(sampler),
        )  # fmt: skip
        everything = (self._objective, sampler.for_worker(steps=True)) if whole else None
        return lambda span: Task(*span, everything, replay)

    def _give_up_pool(self, error: BaseException, tries: int) -> None:
        executor, self._executor = self._executor, None
        if self._makes is None:
            warnings.warn(
                f"the executor lost its workers ({type(error).__name__}): their members, and all "
                f"that follow, are evaluated in this process; a callable that makes an executor "
                f"would be asked for a new one.",
                RuntimeWarning,
                stacklevel=5,
            )
            return
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
        if tries >= _TRIES:
            raise RuntimeError(
                f"{_TRIES} executors broke one after the other before a member was evaluated "
                f"({error!r})."
            ) from error


def _check_travels(objective: Objective) -> None:
    # A pool of processes may hang for ever over a task that it cannot send.
    try:
        pickle.dumps(objective)
    except Exception as error:  # whatever pickling a user's object raises
        raise TypeError(
            f"{objective.function!r} cannot be sent to another process ({error}): a function of a "
            f"module can."
        ) from None


def _broken() -> tuple[type[BaseException], ...]:
    """Give what it looks like when workers are lost; dask is asked only where it is in use."""
    found: list[type[BaseException]] = [BrokenExecutor]
    distributed: Any = sys.modules.get("distributed")
    if distributed is not None:
        found += [distributed.scheduler.KilledWorker, distributed.comm.core.CommClosedError]
    return tuple(found)
