# SPDX-License-Identifier: BSD-3-Clause
"""Tasks of members on any executor; what lost workers had is done again."""

from __future__ import annotations

import pickle
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from typing import Any, Protocol, TypeAlias

MakesExecutor: TypeAlias = Callable[[], Executor]
Span: TypeAlias = tuple[int, int]  # members begin..end

# Numbers of a chunk of members where no chunk_size was given: 16 MB of float64.
CHUNK = 1 << 21
_TRIES = 3  # pools that may break one after the other with no member evaluated


class Travels(Protocol):
    """What every task carries."""

    @property
    def function(self) -> object:
        """The user's function, for the sentence that says that it cannot travel."""


class Pool(ABC):
    """An executor, or what makes one, and the tasks of one run."""

    def __init__(self, executor: Executor | MakesExecutor, payload: Travels) -> None:
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
        self._payload = payload
        self._sent = False  # whether any worker of this executor was sent a task

    def close(self) -> None:
        """Shut down the executor if it was made here."""
        if self._makes is not None and self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    @abstractmethod
    def _here(self, span: Span) -> None:
        """Do a task in this process."""

    @abstractmethod
    def _begin_round(self, executor: Executor) -> None:
        """Decide what the tasks of this round carry."""

    @abstractmethod
    def _submit(self, executor: Executor, span: Span) -> Future[Any]:
        """Send a task."""

    @abstractmethod
    def _take(self, executor: Executor, span: Span, found: Any) -> Future[Any] | None:
        """Take what a worker found; give another task where it must be asked again."""

    def spans(self, n: int, chunk: int | None, most: int, *, in_pairs: bool = False) -> list[Span]:
        """Cut n members into tasks of `chunk`, or of a quarter of a worker's share up to `most`."""
        if chunk is None:
            self._open()
            size = getattr(self._executor, "_max_workers", None)
            n_workers = size if isinstance(size, int) else 8
            chunk = min(max(1, n // (4 * n_workers)), most)
        if in_pairs:
            chunk += chunk % 2  # both of a pair have one noise
        return [(begin, min(begin + chunk, n)) for begin in range(0, n, chunk)]

    def complete(self, left: list[Span]) -> None:
        """Do all the tasks, whatever workers are lost meanwhile."""
        tries = 0
        while left:
            if self._executor is None and self._makes is None:
                for span in left:
                    self._here(span)
                break
            before = len(left)
            error = self._round(left)
            if error is None:
                break
            tries = tries + 1 if len(left) == before else 0
            self._give_up_pool(error, tries)

    def _open(self) -> None:
        if self._executor is None and self._makes is not None:
            executor = self._makes()
            if not isinstance(executor, Executor):
                raise TypeError(f"the callable must make an Executor, it gave {executor!r}.")
            self._executor = executor
            self._sent = False

    def _round(self, left: list[Span]) -> BaseException | None:
        """Do what is left; give the error of a pool that broke, with `left` up to date."""
        self._open()
        executor = self._executor
        assert executor is not None
        self._begin_round(executor)
        if isinstance(executor, ProcessPoolExecutor) and not self._sent:
            _check_travels(self._payload)
        broken = _broken()
        waiting: dict[Future[Any], Span] = {}
        try:
            for span in left:
                waiting[self._submit(executor, span)] = span
            self._sent = True
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    span = waiting.pop(future)
                    again = self._take(executor, span, future.result())
                    if again is None:
                        left.remove(span)
                    else:
                        waiting[again] = span
        except broken as error:
            return error
        finally:
            for future in waiting:
                future.cancel()
        return None

    def _give_up_pool(self, error: BaseException, tries: int) -> None:
        executor, self._executor = self._executor, None
        if self._makes is None:
            warnings.warn(
                f"the executor lost its workers ({type(error).__name__}): their members, and all "
                f"that follow, are evaluated in this process; a callable that makes an executor "
                f"would be asked for a new one.",
                RuntimeWarning,
                stacklevel=6,
            )
            return
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
        if tries >= _TRIES:
            raise RuntimeError(
                f"{_TRIES} executors broke one after the other before a member was evaluated "
                f"({error!r})."
            ) from error


def _check_travels(payload: Travels) -> None:
    # A pool of processes may hang for ever over a task that it cannot send.
    try:
        pickle.dumps(payload)
    except Exception as error:  # whatever pickling a user's object raises
        raise TypeError(
            f"{payload.function!r} cannot be sent to another process ({error}): a function of a "
            f"module can."
        ) from None


def _broken() -> tuple[type[BaseException], ...]:
    """Give what it looks like when workers are lost; dask is asked only where it is in use."""
    found: list[type[BaseException]] = [BrokenExecutor]
    distributed: Any = sys.modules.get("distributed")
    if distributed is not None:
        found += [distributed.scheduler.KilledWorker, distributed.comm.core.CommClosedError]
    return tuple(found)
