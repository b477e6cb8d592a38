# SPDX-License-Identifier: BSD-3-Clause
"""NoProp on MNIST to the end: accuracy after each block, and what an epoch costs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import ours
from denoising_problem import STEP
from harness import Floor, Line, Result, Spread
from machine import Interference
from problem import Problem

from rows.common import Context, Row
from rows.mnist import train_epoch

EPOCHS, SEEDS = 20, (0, 1, 2)
# The estimator's defaults: nothing was chosen. On held-out rows three blocks learn a little better
# with he_uniform and a weight decay of 1, and ten blocks worse.
SETTINGS: dict[str, Any] = {"dtype": "bfloat16"}
STEPS_SHOWN = 10  # of the steps of continuous time


@dataclass
class Fits:
    """Of each seed: test accuracy and seconds by epoch, and test accuracy after each block."""

    accuracy: list[list[float]] = field(default_factory=list)
    seconds: list[list[float]] = field(default_factory=list)
    stages: list[list[float]] = field(default_factory=list)

    @property
    def last(self) -> list[float]:
        return [100 * a[-1] for a in self.accuracy]

    @property
    def per_epoch(self) -> list[float]:
        return [value for seconds in self.seconds for value in seconds]


def _percent(curves: Sequence[Sequence[float]]) -> str:
    """Means over the seeds."""
    return " ".join(f"{100 * statistics.mean(a):.2f}" for a in zip(*curves, strict=True))


def _fit(ctx: Context, fits: Fits, epochs: int, seed: int, settings: dict[str, Any]) -> None:
    x_test, y_test = ctx.data.x_test, ctx.data.y_test
    accuracy: list[float] = []
    until: list[float] = [0.0]

    def note(info: Any) -> None:
        if info.epoch_ended:
            until.append(info.seconds)
            accuracy.append(info.estimator.score(x_test, y_test))

    clf = ours.bf.NoPropClassifier(
        max_iter=epochs, batch_size=STEP.batch, random_state=seed, n_threads=ctx.n_threads,
        tol=0.0, n_iter_no_change=epochs + 1, callback=note, **settings,
    ).fit(ctx.data.x, ctx.data.y)  # fmt: skip
    fits.accuracy.append(accuracy)
    fits.seconds.append([b - a for a, b in pairwise(until)])
    fits.stages.append(clf.staged_score(x_test, y_test))


def _report(result: Result, who: str, fits: Fits, what: str, every: int) -> None:
    line = Line(who, "s/epoch", Spread.of(fits.per_epoch))
    total = statistics.mean(sum(seconds) for seconds in fits.seconds)
    shown = [stages[every - 1 :: every] for stages in fits.stages]
    line.note = (
        f"{total:.3g} s for {len(fits.accuracy[0])} epochs; test accuracy, %, after each {what}: "
        f"{_percent(shown)}; by epoch: {_percent(fits.accuracy)}; by seed: "
        + " ".join(f"{a:.2f}" for a in fits.last)
    )
    result.lines.append(line)
    result.extra[who] = {
        "accuracy": fits.accuracy, "seconds": fits.seconds, "stages": fits.stages,
    }  # fmt: skip


def _add_rivals(ctx: Context, result: Result, epochs: int) -> None:
    """One epoch of PyTorch's blocks and of our backprop, whose network is like one block."""
    mine = result.lines[0]
    blocks = replace(STEP, total_steps=epochs * -(-len(ctx.data.y) // STEP.batch))
    single = Problem((784, 256, 256, 128, 10), STEP.batch, "adam", 1e-3)
    names = ("torch_noprop", "torch_noprop:compile", "torch_noprop:bf16")
    rivals = ctx.entrants(result, [("backprop", "bfloat16")], names)
    for rival in rivals:
        problem = single if rival.method == "backprop" else blocks
        trainee = rival.train(problem, ctx.data, problem.initial_layers())
        trainee.many(2)  # compiled before the clock
        seconds = train_epoch(trainee, 0)
        line = Line(rival.name, "s/epoch", Spread.of([seconds]))
        if mine.who.startswith("ours"):
            line.ratio_to_ours = Spread.of([seconds / mine.value.median])
        line.note = "one epoch" if problem is blocks else f"one epoch of {problem.title}"
        result.lines.append(line)
        rival.clean_up()


def _start(ctx: Context, name: str, title: str) -> Result:
    result = Result(name, title)
    if ctx.data.source != "mnist":
        result.skipped = "BPFREE_DATA names no folder with MNIST's four IDX files"
    elif ours.MISSING:
        result.skipped = ours.MISSING
    else:
        result.notes.append("the estimator's defaults: nothing was chosen")
    return result


def mnist(ctx: Context, *, name: str, epochs: int, seeds: Sequence[int]) -> Result:
    epochs = ctx.epochs or epochs
    result = _start(
        ctx, name, f"MNIST, NoProp, {STEP.n_blocks} blocks, {epochs} epochs, {len(seeds)} seed(s)"
    )
    if result.skipped:
        return result
    watch, fits = Interference(), Fits()
    for seed in seeds:
        _fit(ctx, fits, epochs, seed, SETTINGS)
    who = "ours noprop bf16"
    _report(result, who, fits, "block", 1)
    _add_rivals(ctx, result, epochs)
    result.others = watch.others()
    full = epochs >= EPOCHS
    accuracy = Floor(f"{who}, test accuracy, %", 98.2 if full else None)
    result.verdicts.append(accuracy.judge(statistics.mean(fits.last)))
    gains = [100 * (stages[-1] - stages[0]) for stages in fits.stages]
    rise = Floor("points from the first block to the last", 0.01 if full else None)
    result.verdicts.append(rise.judge(statistics.mean(gains)))
    if not full:
        result.notes.append("too short to judge accuracy")
    return result


def continuous(ctx: Context, *, name: str, epochs: int) -> Result:
    epochs = ctx.epochs or epochs
    result = _start(ctx, name, f"MNIST, NoProp in continuous time, {epochs} epochs, one seed")
    if result.skipped:
        return result
    result.notes.append(f"our bf16 path: {ours.bfloat16_path()}")
    watch, last = Interference(), []
    for variant in ("ct", "fm"):
        fits = Fits()
        _fit(ctx, fits, epochs, SEEDS[0], {**SETTINGS, "variant": variant})
        every = len(fits.stages[0]) // STEPS_SHOWN
        _report(result, f"ours noprop {variant} bf16", fits, f"{every} steps", every)
        last.append(fits.last[0])
    result.others = watch.others()
    floor = Floor("the better of the two, test accuracy, %", 97.0 if epochs >= EPOCHS else None)
    result.verdicts.append(floor.judge(max(last)))
    return result


ROWS = (
    Row(
        "noprop-mnist",
        f"MNIST, NoProp, ten blocks, {EPOCHS} epochs (or --epochs), three seeds",
        partial(mnist, name="noprop-mnist", epochs=EPOCHS, seeds=SEEDS),
        long=True,
    ),
    Row(
        "noprop-mnist-continuous",
        f"MNIST, NoProp in continuous time and by flow matching, {EPOCHS} epochs, one seed",
        partial(continuous, name="noprop-mnist-continuous", epochs=EPOCHS),
        long=True,
    ),
)
