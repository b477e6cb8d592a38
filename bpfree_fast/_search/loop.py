# SPDX-License-Identifier: BSD-3-Clause
"""Ask, evaluate, tell, until something says stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._arrays import Floats
from .._validation import flag, integer, real
from .methods import F64
from .objective import Function, Objective
from .pool import CHUNK, MakesExecutor
from .remote import Workers

if TYPE_CHECKING:
    from ..evolution_strategy import Best, EvolutionStrategy


@dataclass(frozen=True)
class SearchInfo:
    """What a generation came to: the argument of ``callback``.

    Parameters
    ----------
    generation : int
        Generations of the strategy so far, this one included.
    n_evaluations : int
        Members that it was told of so far.
    values : ndarray of shape (population_size,)
        What the function gave in this generation.
    mean_value, std_value : float
        Mean and deviation of those values that are finite.
    best : Best
        The best member so far.
    n_failed : int
        Members of this generation whose value was not finite.
    gradient_norm : float
        Norm of this generation's estimate of the gradient, or of the mean's move where the method
        has a step of its own.
    seconds : float
        Since `minimize` began.
    strategy : EvolutionStrategy
        The strategy, which has made the step.

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> es = bf.EvolutionStrategy([1.0, 1.0], 0.5, method="snes", random_state=0)
    >>> result = es.minimize(
    ...     lambda x: x @ x, n_generations=100, callback=lambda info: info.best.value < 0.1
    ... )
    >>> result.reason
    'the callback said so'
    """

    generation: int
    n_evaluations: int
    values: F64
    mean_value: float
    std_value: float
    best: Best
    n_failed: int
    gradient_norm: float
    seconds: float
    strategy: EvolutionStrategy


@dataclass(frozen=True)
class SearchResult:
    """What `EvolutionStrategy.minimize` found.

    Parameters
    ----------
    x : ndarray of shape (n_params,)
        The best member so far.
    value : float
        What the function gave for it.
    mean : ndarray of shape (n_params,)
        The mean of the distribution: where noise is in the function, often better than `x`.
    n_generations, n_evaluations, n_failed : int
        Generations and members of this call, and those of the members without a finite value.
    reason : str
        Why it ended.
    """

    x: Floats
    value: float
    mean: Floats
    n_generations: int
    n_evaluations: int
    n_failed: int
    reason: str


def run(
    strategy: EvolutionStrategy,
    function: Function,
    *,
    n_generations: int | None,
    max_evaluations: int | None,
    target: float | None,
    executor: Executor | MakesExecutor | None,
    chunk_size: int | None,
    vectorized: bool,
    callback: Callable[[SearchInfo], object] | None,
) -> SearchResult:
    """Do what `EvolutionStrategy.minimize` says."""
    if not callable(function):
        raise TypeError(f"the function must be callable, got {function!r}.")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be None or callable, got {callback!r}.")
    if n_generations is None and max_evaluations is None and target is None and callback is None:
        raise ValueError(
            "nothing would end the search: give n_generations, max_evaluations, target or callback."
        )
    generations = None if n_generations is None else integer("n_generations", n_generations, 1)
    size = strategy.population_size
    if max_evaluations is not None:
        evaluations = integer("max_evaluations", max_evaluations, size)
        whole = evaluations // size
        generations = whole if generations is None else min(generations, whole)
    goal = None if target is None else real("target", target, -float("inf"))
    chunk = None if chunk_size is None else integer("chunk_size", chunk_size, 1)
    objective = Objective(function, flag("vectorized", vectorized))
    workers = None if executor is None else Workers(executor, objective)
    begin, first, failed_before = time.perf_counter(), strategy.generation, strategy.n_failed
    reason = ""
    try:
        while not reason:
            if workers is None:
                values = _here(strategy, objective, chunk)
            else:
                values = workers.generation(strategy._sampler(), size, chunk)
            n_failed = strategy.n_failed
            utilities = strategy._tell(values)
            if workers is not None:
                workers.stepped(utilities)
            if callback is not None:
                info = _info(strategy, values, strategy.n_failed - n_failed, begin)
                if callback(info):
                    reason = "the callback said so"
            if goal is not None and strategy._is_reached(goal):
                reason = "the target is reached"
            elif generations is not None and strategy.generation - first >= generations:
                reason = reason or "the last generation is done"
    finally:
        if workers is not None:
            workers.close()
    best, done = strategy.best, strategy.generation - first
    assert best is not None
    return SearchResult(
        best.x, best.value, strategy.mean, done, done * size, strategy.n_failed - failed_before,
        reason,
    )  # fmt: skip


def _here(strategy: EvolutionStrategy, objective: Objective, chunk: int | None) -> F64:
    """Evaluate a generation in this process, a chunk of members at a time."""
    n, sampler = strategy.population_size, strategy._sampler()
    size = chunk or max(1, min(n, CHUNK // sampler.method.mean.size))
    size += size % 2 if sampler.method.noise.antithetic else 0
    values = np.empty(n)
    for begin in range(0, n, size):
        end = min(begin + size, n)
        values[begin:end] = sampler.evaluate(objective, begin, end)
    return values


def _info(strategy: EvolutionStrategy, values: F64, n_failed: int, begin: float) -> SearchInfo:
    finite = values[np.isfinite(values)]
    best = strategy.best
    assert best is not None
    return SearchInfo(
        strategy.generation, strategy.n_evaluations, values, float(finite.mean()),
        float(finite.std()), best, n_failed, strategy.gradient_norm,
        time.perf_counter() - begin, strategy,
    )  # fmt: skip
