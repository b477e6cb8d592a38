# SPDX-License-Identifier: BSD-3-Clause
"""Ask and tell: time of a generation, and evaluations to a target."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import ours
from harness import Floor, Result
from ours_search import TITLES, OursSearch
from rivals.base import Rival
from search_answers import search_faults
from search_problem import SearchProblem

from rows.common import Context, Entry, Row, compete, finish, judge_ratios

GENERATION = {
    method: SearchProblem(method, "sphere", 1000, 50, 1.0) for method in ("sep_cma_es", "snes")
}
RIVALS = {"sep_cma_es": ("evosax_search", "pycma_search"), "snes": ("evosax_search",)}
N_PREPARED = 64


def _entrants(ctx: Context, result: Result, method: str, names: Sequence[str]) -> list[Rival]:
    rivals = ctx.entrants(result, (), names)
    return rivals if ours.MISSING else [OursSearch(method, ctx.n_threads), *rivals]


def _check(result: Result, problem: SearchProblem, entrants: Sequence[Rival]) -> list[Rival]:
    """Those whose first generation is right: see search_answers.py."""
    right = []
    for rival in entrants:
        searcher = rival.searcher(problem)
        faults = search_faults(problem, searcher)
        result.wrong += [f"{rival.name}: {fault}" for fault in faults]
        if searcher.own_constants:
            result.notes.append(f"{rival.name} has constants of its own: {searcher.own_constants}")
        if not faults:
            right.append(rival)
    return right


def ask_tell(ctx: Context, *, name: str, method: str) -> Result:
    problem = GENERATION[method]
    result = Result(name, f"{TITLES[method]}: ask and tell of a generation, {problem.title}")
    entrants = _entrants(ctx, result, method, RIVALS[method])
    losses = np.random.default_rng(1).standard_normal((N_PREPARED, problem.population_size))
    searchers = [rival.searcher(problem) for rival in _check(result, problem, entrants)]
    for searcher in searchers:
        searcher.prepare(list(losses))
    entries = [Entry(searcher) for searcher in searchers]
    ratios = compete(ctx, result, entries, unit="us", to_unit=lambda seconds: seconds * 1e6)
    names = [rival.name for rival in entrants if not rival.name.startswith("ours")]
    judge_ratios(result, ratios, [Floor(who, 5.0) for who in names])
    result.wrong += [
        f"{searcher.name}: the mean is not finite after timing"
        for searcher in searchers
        if not np.isfinite(searcher.mean()).all()
    ]
    finish(result, entries, entrants)
    return result


ROWS = tuple(
    Row(
        f"es-ask-tell-{method.replace('_', '-')}",
        f"{TITLES[method]}: ask and tell against {' and '.join(RIVALS[method])}",
        partial(ask_tell, name=f"es-ask-tell-{method.replace('_', '-')}", method=method),
    )
    for method in GENERATION
)
