# SPDX-License-Identifier: BSD-3-Clause
"""Ask and tell: time of a generation, and evaluations to a target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import ours
from harness import Floor, Line, Result, Spread
from ours import Ours
from ours_search import TITLES, OursSearch
from rivals.base import Rival, Searcher
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
    simple = replace(problem, function="sphere", start=1.0)  # no way around a hill
    right = []
    for rival in entrants:
        searcher = rival.searcher(simple)
        faults = search_faults(simple, searcher)
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


# Evaluations to a target.

TARGET, LIMIT, N_SEEDS = 1e-6, 1_500_000, 5
STARTS = {"sphere": (1000, 1.0), "ellipsoid": (1000, 1.0), "rosenbrock": (20, 0.0)}
SEARCHES = tuple(
    SearchProblem(method, function, n_params, 50, start)
    for method in TITLES
    for function, (n_params, start) in STARTS.items()
    if method != "xnes" or function == "rosenbrock"
)
# Rivals whose method is the same but for constants, and those shown beside them by one seed.
SAME = RIVALS | {"xnes": ("evosax_search",)}
BESIDE = {"sep_cma_es": ("evosax_search:matrix-rates", "pycma_search:default")}


def evaluations(searcher: Searcher, problem: SearchProblem, limit: int) -> tuple[float, float]:
    """Members until the best is below the target (infinity after the limit), and the best."""
    best = math.inf
    for count in range(problem.population_size, limit + 1, problem.population_size):
        values = problem.value(np.asarray(searcher.ask()))
        best = min(best, float(values.min()))
        if best < TARGET:
            return count, best
        searcher.tell_values(values)
    return math.inf, best


def evaluations_to_target(ctx: Context, *, name: str, problem: SearchProblem) -> Result:
    method = problem.method
    title = f"{TITLES[method]}: evaluations to {TARGET:g}, {problem.title}"
    result = Result(name, f"{title}, start {problem.start:g}, std {problem.std:g}")
    names = (*SAME[method], *BESIDE.get(method, ()))
    entrants = _entrants(ctx, result, method, names)
    same = {rival.name for rival in ctx.entrants(Result("", ""), (), SAME[method])}
    found: dict[str, float] = {}
    for rival in _check(result, problem, entrants):
        n_seeds = N_SEEDS if isinstance(rival, Ours) or rival.name in same else 1
        searchers = (rival.searcher(problem, seed=seed) for seed in range(n_seeds))
        runs = [evaluations(searcher, problem, LIMIT) for searcher in searchers]
        counts = [min(count, LIMIT) for count, _ in runs]
        found[rival.name] = float(np.median([count for count, _ in runs]))
        line = Line(rival.name, "members", Spread.of(counts))
        missed = [best for count, best in runs if count == math.inf]
        if missed:
            values = ", ".join(f"{best:.2g}" for best in missed)
            line.note = f"{len(missed)} of {n_seeds} seeds not there after {LIMIT:g}; best {values}"
        result.lines.append(line)
        result.extra[rival.name] = {"counts": counts, "best": [best for _, best in runs]}
        rival.clean_up()
    mine = found.pop(f"ours {TITLES[method]}", None)
    for who, count in found.items():
        # A rival that was not there counts as if it were at the limit: in its favour.
        ratio = None if mine is None else mine / min(count, LIMIT)
        floor = Floor(f"ours / {who}", 1.2 if who in same else None, at_most=True)
        result.verdicts.append(floor.judge(ratio))
    result.notes.append(f"median of {N_SEEDS} seeds; same start, deviation and population")
    if len(same) < len(found):
        result.notes.append("what has no floor was run with one seed")
    return result


def _rows() -> list[Row]:
    rows = []
    for method in GENERATION:
        name = f"es-ask-tell-{method.replace('_', '-')}"
        about = f"{TITLES[method]}: ask and tell against {' and '.join(RIVALS[method])}"
        rows.append(Row(name, about, partial(ask_tell, name=name, method=method)))
    for problem in SEARCHES:
        name = f"es-evaluations-{problem.method.replace('_', '-')}-{problem.function}"
        about = f"{TITLES[problem.method]}: evaluations to {TARGET:g}, {problem.title}"
        run = partial(evaluations_to_target, name=name, problem=problem)
        rows.append(Row(name, about, run, long=True))
    return rows


ROWS = tuple(_rows())
