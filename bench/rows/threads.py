# SPDX-License-Identifier: BSD-3-Clause
"""What a second thread brings: on a quiet machine, and beside a process that keeps a core busy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import ours
from harness import Contestant, Floor, Line, Result, Spread, alternate
from machine import usable_cpus
from problem import Problem
from rivals.base import Rival

from rows.common import Context, Row, training_entries

WIDE = Problem((784, 1024, 1024, 10), 512)
USUAL = Problem((784, 1024, 1024, 10), 128)


class Neighbour:
    """Another process that keeps the last core busy while it may."""

    def __init__(self, cpu: int) -> None:
        program = f"import os\nos.sched_setaffinity(0, [{cpu}])\nwhile True: pass"
        self._process = subprocess.Popen([sys.executable, "-c", program])
        self.rest()

    def work(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def rest(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def leave(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def neighbour() -> Iterator[Neighbour]:
    who = Neighbour(usable_cpus()[-1])
    try:
        yield who
    finally:
        who.leave()


class Beside(Contestant):
    """A contestant whose blocks run beside the busy neighbour."""

    def __init__(self, inner: Contestant, who: Neighbour) -> None:
        self.name = f"{inner.name}, neighbour busy"
        self.expected_others = 1.0
        self._inner, self._who = inner, who

    def many(self, n: int) -> None:
        self._inner.many(n)

    def block(self, seconds: float) -> tuple[int, float]:
        self._who.work()
        try:
            return self._inner.block(seconds)
        finally:
            self._who.rest()


def _two_possible(ctx: Context, result: Result) -> bool:
    if ours.MISSING:
        result.skipped = ours.MISSING
    elif ctx.n_threads < 2 or len(usable_cpus()) < 2:
        result.skipped = "needs two cores and --threads 2"
    return not result.skipped


def _trainee(
    ctx: Context, result: Result, problem: Problem, rival: Rival, n: int
) -> list[Contestant]:
    entries = training_entries(ctx, result, problem, [rival])
    for entry in entries:
        entry.contestant.name += f", {n} thread{'s' if n > 1 else ''}"
    return [entry.contestant for entry in entries]


def _times(ctx: Context, result: Result, contestants: list[Contestant]) -> dict[str, list[float]]:
    timed = alternate(contestants, seconds=ctx.seconds, rounds=ctx.rounds)
    result.count(timed)
    for name, values in timed.times.items():
        result.lines.append(Line(name, "ms/step", Spread.of([v * 1e3 for v in values])))
    return timed.times


def scaling(ctx: Context) -> Result:
    result = Result("threads", f"one thread to {ctx.n_threads}, DFA step {WIDE.title}")
    if not _two_possible(ctx, result):
        return result
    result.notes.append(f"our bf16 path: {ours.bfloat16_path()}")
    for dtype in ("bfloat16", "float32"):
        contestants = []
        for n in (1, ctx.n_threads):
            rival = ours.Ours("dfa", dtype, n)
            contestants += _trainee(ctx, result, WIDE, rival, n)
        if len(contestants) < 2:
            continue
        times = _times(ctx, result, contestants)
        one, two = times.values()
        gain = float(np.median([a / b for a, b in zip(one, two, strict=True)]))
        # The floor is about two threads.
        floor, aim = (1.8, 1.95) if ctx.n_threads == 2 else (None, None)
        result.verdicts.append(Floor(f"{dtype}: 1 to {ctx.n_threads}", floor, aim).judge(gain))
    return result


def busy_neighbour(ctx: Context) -> Result:
    result = Result("busy-neighbour", f"one core kept busy, DFA step {USUAL.title}, 2 threads")
    two = replace(ctx, n_threads=2)
    if not _two_possible(ctx, result):
        return result
    result.notes.append(f"our bf16 path: {ours.bfloat16_path()}")
    (torch,) = two.entrants(result, (), ("torch_eager",)) or (None,)
    with neighbour() as who:
        for dtype in ("bfloat16", "float32"):
            quiet = _trainee(two, result, USUAL, ours.Ours("dfa", dtype, 1), 1)
            both = _trainee(two, result, USUAL, ours.Ours("dfa", dtype, 2), 2)
            if torch is not None and dtype == "float32":
                both += _trainee(two, result, USUAL, torch, 2)
            if not quiet or not both:
                continue
            turns = [*quiet, *both, *(Beside(c, who) for c in both)]
            times = _times(two, result, turns)
            alone, beside = times[turns[0].name], times[turns[1 + len(both)].name]
            slower = float(np.median([b / a for a, b in zip(alone, beside, strict=True)]))
            floor = Floor(f"{dtype}: beside it, over our one-thread step", 1.15, 0.95, at_most=True)
            result.verdicts.append(floor.judge(slower))
    result.extra["cpus"] = len(os.sched_getaffinity(0))
    return result


ROWS = (
    Row("threads", "one thread to two, DFA step, batch 512", scaling),
    Row("busy-neighbour", "two threads while another process keeps one core busy", busy_neighbour),
)
