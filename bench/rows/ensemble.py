# SPDX-License-Identifier: BSD-3-Clause
"""Ensemble Kalman kernels: updates, their memory, localised ones, covariances; filters."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import ours
from ensemble_problem import KalmanProblem, change_error, right_answer
from harness import Contestant, Floor, Line, Result, Spread
from lorenz96 import SETTINGS, SPIN_UP, Filter, NumpyEtkf, Setting, forecast, start, twin
from numpy.typing import NDArray
from ours_ensemble import OursEnsemble, OursFilter
from rivals.base import Rival

from rows.common import Context, Entry, Row, compete, finish, judge_ratios

SMOOTHER, BEST, TEXTBOOK = "iterative_ensemble_smoother f32", "numpy f32", "numpy textbook f32"
PARAMETERS = 101_770  # of 784-128-10
SMALL = 2000  # parameters for the check: the textbook in float64 stores parameters x observations
TOLERANCE = 1e-4  # float32 algebra; ours is off by 1e-6
NO_CHECK = "no answer of the smoother is checked: what it keeps of a covariance is another"
# Updates are repeated in place: with noise this large a thousand of them leave numbers normal.
MILD = 1e6


def _entrants(ctx: Context, result: Result, names: Sequence[str]) -> list[Rival]:
    rivals = ctx.entrants(result, (), names)
    return rivals if ours.MISSING else [OursEnsemble(ctx.n_threads), *rivals]


def _update_entries(
    result: Result, problem: KalmanProblem, entrants: Sequence[Rival]
) -> list[Entry]:
    small = replace(problem, n_params=min(SMALL, problem.n_params))
    right = right_answer(small)
    entries = []
    for rival in entrants:
        error = None
        if problem.localised and rival.name == SMOOTHER:
            result.notes.append(NO_CHECK)
        else:
            call = rival.kalman_update(small)
            call.many(1)
            error = change_error(small, call.result(), right)
            if not error <= TOLERANCE:
                result.wrong.append(f"{call.name}: members are off by {error:.2g} of the change")
                continue
        call = rival.kalman_update(replace(problem, variance=MILD))
        entries.append(Entry(call, "float32", problem.flops, error))
    return entries


def update(ctx: Context, *, name: str, n_ens: int) -> Result:
    problem = KalmanProblem(n_ens, PARAMETERS, 1000)
    result = Result(name, f"one update, {problem.title}, f32")
    names = ["numpy_ensemble", "smoother"]
    if n_ens <= 200:
        names.append("numpy_ensemble:textbook")
    entrants = _entrants(ctx, result, names)
    entries = _update_entries(result, problem, entrants)
    few = replace(ctx, rounds=min(ctx.rounds, 5))
    ratios = compete(few, result, entries)
    floors = [Floor(BEST, 1.6), Floor(SMOOTHER, 3.0), Floor(TEXTBOOK, 15.0)]
    judge_ratios(result, ratios, floors if n_ens <= 200 else [Floor(BEST, 1.05)])
    result.notes.append("the smoother truncates nothing and gets no perturbations: the same answer")
    finish(result, entries, entrants)
    return result


def localised(ctx: Context, *, name: str) -> Result:
    problem = KalmanProblem(100, 20_000, 500, localised=True)
    result = Result(name, f"one localised update, {problem.title}, f32")
    entrants = _entrants(ctx, result, ("smoother", "numpy_ensemble"))
    entries = _update_entries(result, problem, entrants)
    few = replace(ctx, rounds=min(ctx.rounds, 5))
    ratios = compete(few, result, entries)
    judge_ratios(result, ratios, [Floor(SMOOTHER, 3.0), Floor(BEST, None)])
    result.notes.append(
        "ours and NumPy shrink every covariance by its correlation ('sec'); the smoother's nearest "
        "form, AdaptiveESMDA, drops pairs below 3 / sqrt(members) and skips their work"
    )
    finish(result, entries, entrants)
    return result


def covariance(ctx: Context, *, name: str, p: int, q: int) -> Result:
    """With q 0 that of the columns with themselves."""
    n_ens = 100
    title = f"{p} x {q}" if q else f"symmetric, {p} x {p}"
    result = Result(name, f"covariance {title}, {n_ens} members, f32")
    rng = np.random.default_rng(0)
    a = rng.standard_normal((n_ens, p), np.float32)
    b = rng.standard_normal((n_ens, q), np.float32) if q else None
    left, right = (np.asarray(v, np.float64) for v in (a, a if b is None else b))
    exact = (left - left.mean(0)).T @ (right - right.mean(0)) / (n_ens - 1)
    entrants = _entrants(ctx, result, ("numpy_ensemble",))
    entries = []
    for rival in entrants:
        call = rival.covariance(a, b)
        call.many(1)
        error = float(np.abs(call.result() - exact).max())
        if not error <= 1e-5:
            result.wrong.append(f"{call.name}: a covariance is off by {error:.2g}")
            continue
        entries.append(Entry(call, "float32", 2.0 * n_ens * exact.size / (1 if q else 2), error))
    del exact
    ratios = compete(ctx, result, entries)
    judge_ratios(result, ratios, [Floor(BEST, 1.2 if q else 1.3)])
    finish(result, entries, entrants)
    return result


PROBE = Path(__file__).resolve().parent.parent / "ensemble_memory_probe.py"


def memory(ctx: Context, *, name: str) -> Result:
    result = Result(
        name, f"memory of an update beyond members and outputs, {PARAMETERS} parameters"
    )
    for who in ("ours", "numpy_ensemble", "smoother"):
        for n_ens in (200, 1000):
            if who == "ours" and ours.MISSING:
                continue
            command = [sys.executable, str(PROBE), who, str(ctx.n_threads), str(n_ens)]
            done = subprocess.run(
                command, capture_output=True, text=True, env=os.environ, check=False
            )
            label = f"{who}, {n_ens} members"
            if done.returncode:
                result.notes.append(f"{label}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
                continue
            found = float(done.stdout.splitlines()[-1])
            result.lines.append(Line(label, "MB", Spread.of([found])))
            if who == "ours":
                floor = Floor(f"{label}, MB", 64.0, at_most=True)
                result.verdicts.append(floor.judge(found))
    return result


# The standard twin experiment.

CYCLES, N_SEEDS = 5000, 3
DIGIT = 0.01  # published errors have two digits


class _Analyses(Contestant):
    """The analysis of one forecast, again and again."""

    def __init__(self, filter_: Filter, predicted: NDArray[np.float64]) -> None:
        self.name, self._filter, self._predicted = filter_.name, filter_, predicted
        self._y = predicted.mean(0) + np.random.default_rng(2).standard_normal(predicted.shape[1])

    def many(self, n: int) -> None:
        for _ in range(n):
            self._filter.analyse(self._predicted, self._y)


def lorenz96(ctx: Context, *, name: str) -> Result:
    result = Result(name, f"Lorenz-96, analysis error over {CYCLES} cycles, {N_SEEDS} seeds")
    if ours.MISSING:
        result.skipped = ours.MISSING
        return result

    def errors(make: Callable[[NDArray[np.float64], int], Filter], n_ens: int) -> Spread:
        found = []
        for seed in range(N_SEEDS):
            truth, first = start(n_ens, seed)
            found.append(twin(make(first, seed), truth, CYCLES, seed))
        return Spread.of(found)

    def of(setting: Setting) -> Callable[[NDArray[np.float64], int], Filter]:
        return lambda first, seed: OursFilter(first, setting, ctx.n_threads, seed)

    for setting in SETTINGS:
        value = errors(of(setting), setting.n_ens)
        result.lines.append(Line(f"ours {setting.title}", "rmse", value))
        floor = Floor(setting.title, setting.published + DIGIT, at_most=True)
        result.verdicts.append(floor.judge(value.median))
    etkf = SETTINGS[0]
    value = errors(lambda first, _: NumpyEtkf(first, etkf.inflation), etkf.n_ens)
    result.lines.append(Line(f"numpy etkf, {etkf.n_ens} members", "rmse", value))
    # Both, from the same members, must be the same filter before chaos parts them.
    truth, first = start(etkf.n_ens, 0)
    contestants: list[Filter] = [
        OursFilter(first, etkf, ctx.n_threads),
        NumpyEtkf(first, etkf.inflation),
    ]
    predicted = forecast(first)
    for filter_ in contestants:
        filter_.analyse(predicted, truth)
    error = float(np.abs(contestants[0].members() - contestants[1].members()).max())
    if not error <= 1e-10:
        result.wrong.append(f"the first analysis is off by {error:.2g}")
    entries = [
        Entry(_Analyses(filter_, predicted), label="an analysis: ") for filter_ in contestants
    ]
    ratios = compete(ctx, result, entries, unit="us", to_unit=lambda seconds: seconds * 1e6)
    judge_ratios(result, ratios, [Floor("numpy etkf", None)])
    result.notes.append(
        f"{SPIN_UP} cycles before are not counted; floors are what DAPPER gives for table 1 of "
        f"Sakov & Oke 2008, and a hundredth"
    )
    return result


ROWS = (
    *(
        Row(
            f"enkf-update-{n_ens}",
            f"update of {PARAMETERS} parameters, {n_ens} members, in place",
            partial(update, name=f"enkf-update-{n_ens}", n_ens=n_ens),
        )
        for n_ens in (200, 1000)
    ),
    Row("enkf-memory", "memory of these updates", partial(memory, name="enkf-memory")),
    Row("enkf-localized", "a localised update", partial(localised, name="enkf-localized")),
    Row(
        "enkf-covariance",
        "covariances of parameters and outputs against NumPy",
        partial(covariance, name="enkf-covariance", p=20_000, q=500),
    ),
    Row(
        "enkf-covariance-symmetric",
        "covariances of columns with themselves against NumPy, which takes syrk",
        partial(covariance, name="enkf-covariance-symmetric", p=4000, q=0),
    ),
    Row(
        "enkf-lorenz96",
        "error and time of filters on Lorenz-96, 40 variables, against published errors",
        partial(lorenz96, name="enkf-lorenz96"),
    ),
)
