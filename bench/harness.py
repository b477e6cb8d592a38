# SPDX-License-Identifier: BSD-3-Clause
"""How it is timed: contestants take turns in one process, and only their ratios count."""

from __future__ import annotations

import gc
import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from machine import Interference

# Thread pools spin after their last call (OpenBLAS for some 30 ms): after each switch the next
# contestant runs untimed for at least this long.
SETTLE_SECONDS = 0.06

# A block is disturbed when other processes used more than this of one CPU; tries for each block.
OTHERS_LIMIT = 0.06
TRIES = 4
# Above this share of disturbed blocks a row's figures are not worth quoting.
DISTURBED_LIMIT = 0.2


class Clock:
    """Wall time; or this process's CPU time, for a first look on a machine that is never quiet."""

    now: Callable[[], float] = staticmethod(time.perf_counter)

    @classmethod
    def use_cpu_time(cls) -> None:
        cls.now = staticmethod(time.process_time)


class Contestant(ABC):
    """Something that does units of work (a step, a product, a million normals)."""

    name: str
    expected_others: float = 0.0  # CPUs that a neighbour of its own keeps busy
    _pace: float = 0.0  # seconds a unit, from the last block

    @abstractmethod
    def many(self, n: int) -> None:
        """Do n units and wait until they are done."""

    def block(self, seconds: float) -> tuple[int, float]:
        """Work for at least `seconds`; return units done and seconds taken."""
        units, elapsed = 0, 0.0
        while elapsed < seconds:
            n = 1 if not self._pace else max(1, math.ceil((seconds - elapsed) / self._pace))
            start = Clock.now()
            self.many(n)
            elapsed += Clock.now() - start
            units += n
            self._pace = max(elapsed / units, 1e-9)
        return units, elapsed


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of one value a round."""

    median: float
    q1: float
    q3: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) < 2:
            return cls(values[0], values[0], values[0], len(values))
        q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, q1, q3, len(values))


@dataclass
class Timed:
    """Seconds a unit of each contestant, one value a round."""

    times: dict[str, list[float]]
    blocks: int = 0
    disturbed: int = 0  # blocks kept although other processes took part of the CPUs


def alternate(contestants: Sequence[Contestant], *, seconds: float, rounds: int) -> Timed:
    """Contestants take turns, and the order turns each round.

    A block beside which other processes took CPU time is done again, and after some tries kept
    and counted. That the block was slow is never the reason: what others did decides alone.
    """
    timed = Timed({c.name: [] for c in contestants})
    watch = Interference()
    for c in contestants:  # compile, touch pages, learn the pace
        c.block(min(seconds, 0.2))
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            k = turn % len(contestants)
            for c in (*contestants[k:], *contestants[:k]):
                for _ in range(TRIES):
                    c.block(SETTLE_SECONDS)
                    watch.start()
                    units, elapsed = c.block(seconds)
                    disturbed = watch.others() - c.expected_others > OTHERS_LIMIT
                    if not disturbed:
                        break
                timed.times[c.name].append(elapsed / units)
                timed.blocks += 1
                timed.disturbed += disturbed
    finally:
        gc.enable()
    return timed


@dataclass(frozen=True)
class Floor:
    """A line of the issue's table: what the value must reach, and what it is hoped to reach."""

    what: str
    at_least: float | None
    aim: float | None = None
    at_most: bool = False  # the value must stay below instead

    def judge(self, value: float | None) -> Verdict:
        def met(limit: float | None) -> bool | None:
            if value is None or limit is None:
                return None
            return value <= limit if self.at_most else value >= limit

        return Verdict(
            self.what, value, self.at_least, self.aim, self.at_most, met(self.at_least),
            met(self.aim),
        )  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    what: str
    value: float | None
    floor: float | None
    aim: float | None
    at_most: bool
    floor_met: bool | None
    aim_met: bool | None

    def __str__(self) -> str:
        def say(word: str, limit: float | None, met: bool | None) -> str:
            if limit is None:
                return ""
            sign = "<=" if self.at_most else ">="
            judged = "n/a" if met is None else "met" if met else "NOT MET"
            return f"  {word} {sign} {limit:g}: {judged}"

        value = "n/a" if self.value is None else f"{self.value:.3g}"
        floor = say("floor", self.floor, self.floor_met)
        return f"{self.what:<44} {value:>7}{floor}{say('aim', self.aim, self.aim_met)}"


@dataclass
class Line:
    """One contestant in one row."""

    who: str
    unit: str
    value: Spread
    ratio_to_ours: Spread | None = None  # > 1: ours is faster
    share_of_peak: float | None = None
    answer_error: float | None = None
    note: str = ""


@dataclass
class Result:
    """What a row found."""

    row: str
    title: str
    lines: list[Line] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # whose answer was wrong: never timed
    skipped: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    blocks: int = 0
    disturbed_blocks: int = 0
    others: float = 0.0  # CPUs that other processes used, for rows that have no blocks

    def count(self, timed: Timed) -> None:
        self.blocks += timed.blocks
        self.disturbed_blocks += timed.disturbed

    @property
    def disturbed(self) -> bool:
        many = self.disturbed_blocks > DISTURBED_LIMIT * self.blocks
        return many or self.others > OTHERS_LIMIT

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"disturbed": self.disturbed}


def paired_ratio(times: dict[str, list[float]], ours: str, rival: str) -> Spread:
    """Rival's time over ours, round by round: drift of the machine cancels."""
    return Spread.of([r / o for r, o in zip(times[rival], times[ours], strict=True)])


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(v) for v in values) / len(values))
