# SPDX-License-Identifier: BSD-3-Clause
"""What rows share: the context of a run, the check before the clock, the table after it."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import ours
import rivals
from answers import CHANGE_TOLERANCE, NumpyNetwork, change_error
from harness import Contestant, Floor, Line, Result, Spread, alternate, paired_ratio
from machine import Peaks
from ours import Ours
from problem import PIXEL_SCALE, Data, Layers, Problem
from rivals.base import Rival, Trainee

CHECK_STEPS = 4


@dataclass
class Context:
    """One run of the benchmark."""

    n_threads: int
    seconds: float  # a timed block
    rounds: int
    data: Data
    peaks: Peaks
    epochs: int = 0  # of the rows that train to the end; 0: each row's own

    def entrants(
        self, result: Result, mine: Iterable[tuple[str, str]], names: Iterable[str]
    ) -> list[Rival]:
        """Ours as (method, dtype), then the rivals; whoever is missing is noted."""
        found: list[Rival] = []
        if ours.MISSING:
            result.notes.append(f"{ours.MISSING}; the rivals run alone")
        else:
            found += [Ours(method, dtype, self.n_threads) for method, dtype in mine]
        for name in names:
            rival = rivals.load(name)
            if isinstance(rival, str):
                result.notes.append(rival)
            else:
                rival.set_threads(self.n_threads)
                found.append(rival)
        if any(rival.dtype == "bfloat16" and isinstance(rival, Ours) for rival in found):
            result.notes.append(f"our bf16 path: {ours.bfloat16_path()}")
        if self.data.source == "random":
            result.extra["data"] = "random bytes of MNIST's shape (BPFREE_DATA names no MNIST)"
        return found


@dataclass(frozen=True)
class Row:
    """A line of the issue's table."""

    name: str
    about: str
    run: Callable[[Context], Result]
    long: bool = False  # minutes: runs only when named


@dataclass
class Entry:
    """A contestant, and what its line needs."""

    contestant: Contestant
    dtype: str = "float32"
    flops: float | None = None  # of one unit
    answer_error: float | None = None
    n_threads: int = 0  # for the share of the peak; 0: those of the run
    label: str = ""  # printed before the name


def compete(
    ctx: Context,
    result: Result,
    entries: Sequence[Entry],
    *,
    unit: str = "ms",
    to_unit: Callable[[float], float] = lambda seconds: seconds * 1e3,
) -> dict[str, Spread]:
    """Time the entries in alternation, write their lines, return rival time over the first's.

    The first entry is ours unless ours is missing; then there are no ratios.
    """
    if not entries:
        return {}
    timed = alternate([e.contestant for e in entries], seconds=ctx.seconds, rounds=ctx.rounds)
    result.count(timed)
    times = timed.times
    first = entries[0].contestant.name
    ratios: dict[str, Spread] = {}
    for entry in entries:
        name = entry.contestant.name
        value = Spread.of([to_unit(t) for t in times[name]])
        line = Line(f"{entry.label}{name}", unit, value, answer_error=entry.answer_error)
        if entry.flops:
            line.share_of_peak = ctx.peaks.share(
                entry.flops, float(np.median(times[name])), entry.dtype,
                entry.n_threads or ctx.n_threads,
            )  # fmt: skip
        if name != first and first.startswith("ours"):
            ratios[name] = line.ratio_to_ours = paired_ratio(times, first, name)
        result.lines.append(line)
    return ratios


def judge_ratios(result: Result, ratios: dict[str, Spread], floors: Iterable[Floor]) -> None:
    """Floors named after a contestant are judged on its median ratio."""
    for floor in floors:
        spread = ratios.get(floor.what)
        verdict = floor.judge(spread.median if spread else None)
        result.verdicts.append(verdict)


@dataclass
class TrainingCheck:
    """Compares four steps of a contestant with the same steps in float64."""

    problem: Problem
    data: Data
    layers: Layers
    _right: dict[bool, Layers] = field(default_factory=dict)

    def error(self, trainee: Trainee) -> float:
        feedback = trainee.feedback()
        trainee.in_order(CHECK_STEPS)
        right = self._right.get(False) if feedback is None else None
        if right is None:
            net = NumpyNetwork(self.problem, self.layers, feedback, np.float64)
            for i in range(CHECK_STEPS):
                rows = slice(i * self.problem.batch, (i + 1) * self.problem.batch)
                net.train_step(self.data.x[rows] * PIXEL_SCALE, self.data.y[rows])
            right = [(w, b) for w, b in net.params]
            if feedback is None:
                self._right[False] = right
        return change_error(self.layers, trainee.layers(), right)


def training_entries(
    ctx: Context, result: Result, problem: Problem, entrants: Sequence[Rival]
) -> list[Entry]:
    """Trainees whose first steps are right, ready to be timed."""
    layers = problem.initial_layers()
    check = TrainingCheck(problem, ctx.data, layers)
    entries = []
    for rival in entrants:
        trainee = rival.train(problem, ctx.data, layers)
        error = check.error(trainee)
        limit = CHANGE_TOLERANCE[rival.dtype, problem.optimizer]
        if not error <= limit:  # NaN is wrong too
            result.wrong.append(f"{trainee.name}: change of weights off by {error:.2g} > {limit}")
            continue
        flops = problem.flops(rival.method)
        entries.append(Entry(trainee, rival.dtype, flops, error))
    return entries


def finish(result: Result, entries: Sequence[Entry], entrants: Sequence[Rival]) -> None:
    """After the clock: nobody may have trained into NaN, where time means nothing."""
    for entry in entries:
        if isinstance(entry.contestant, Trainee):
            bad = [w for w, _ in entry.contestant.layers() if not math.isfinite(float(w.sum()))]
            if bad:
                result.wrong.append(f"{entry.contestant.name}: weights are not finite after timing")
    for rival in entrants:
        rival.clean_up()
    gc.collect()
