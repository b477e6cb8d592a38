# SPDX-License-Identifier: BSD-3-Clause
"""The right answers for ask and tell: the step of tests/oracle for a contestant's own members."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from search_problem import SearchProblem

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from oracle import search as oracle
from rivals.base import Searcher

F64 = NDArray[np.float64]

# Of one step, relative to its norm: float32 members lose 2^-24 of the mean beside the deviation.
STEP = 1e-5
N_MOVED = 100


def nes_utilities(losses: F64) -> F64:
    n = len(losses)
    raw = np.maximum(0.0, np.log(n / 2 + 1) - np.log(np.arange(1, n + 1)))
    shaped = np.empty(n)
    shaped[np.argsort(losses)] = raw / raw.sum() - 1 / n
    return shaped


def after_one_generation(problem: SearchProblem, x: F64, losses: F64) -> tuple[F64, F64]:
    """Mean and deviations after the first generation, whose members are x."""
    d, mean, std = problem.n_params, problem.x0(), problem.std
    z = (x - mean) / std
    if problem.method == "sep_cma_es":
        zeros, order = np.zeros(d), np.argsort(losses)
        mean, step, C, _, _ = oracle.sep_cma(mean, std, np.ones(d), zeros, zeros, z, order, 0)
        return mean, step * np.sqrt(C)
    u = nes_utilities(losses)
    if problem.method == "snes":
        rate = (3 + np.log(d)) / (5 * np.sqrt(d))
        return oracle.snes(mean, np.full(d, std), z, u, 1.0, rate)
    rate = (9 + 3 * np.log(d)) / (5 * d * np.sqrt(d))
    mean, step, B = oracle.xnes(mean, std, np.eye(d), z, u, 1.0, rate)
    return mean, step * np.linalg.norm(B, axis=1)


def search_faults(problem: SearchProblem, searcher: Searcher) -> list[str]:
    """What a fresh searcher does wrong in its first generation and in the ones after it."""
    faults = []
    x = np.array(searcher.ask(), np.float64)
    shape = (problem.population_size, problem.n_params)
    if x.shape != shape:
        return [f"members have the shape {x.shape}, expected {shape}"]
    z = (x - problem.x0()) / problem.std
    moments = z.mean() * z.size**0.5, (z.var() - 1) * (z.size / 2) ** 0.5
    if not max(map(abs, moments)) < 6:
        faults.append(f"members are {moments} standard errors from the distribution")
    losses = np.random.default_rng(0).standard_normal(problem.population_size)
    searcher.tell_values(losses)
    mean, deviation = after_one_generation(problem, x, losses)

    def compare(what: str, found: NDArray[Any] | None, expected: F64, before: Any) -> None:
        if found is None:
            return
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected - before)
        if not error < STEP * searcher.rounding:
            faults.append(f"the {what} is off by {error:.2g} of its step")

    compare("mean", searcher.mean(), mean, problem.x0())
    compare("deviation", searcher.deviation(), deviation, problem.std)
    before = problem.value(searcher.mean()[np.newaxis])[0]
    for _ in range(N_MOVED):
        searcher.tell_values(problem.value(np.array(searcher.ask())))
    after = problem.value(searcher.mean()[np.newaxis])[0]
    if not after < before:
        faults.append(f"the {problem.function} at the mean went from {before:.3g} to {after:.3g}")
    return faults
