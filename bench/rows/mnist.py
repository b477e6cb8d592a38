# SPDX-License-Identifier: BSD-3-Clause
"""MNIST to the end: accuracy, wall time, and whether bf16 learns what f32 learns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import ours
from harness import Clock, Floor, Line, Result, Spread
from machine import Interference
from ours import Ours
from problem import F32, Problem
from rivals.base import Rival, Trainee

from rows.common import Context, Row

EPOCHS, SEEDS = 12, (0, 1, 2)
METHODS = [(m, d) for m in ("dfa", "backprop") for d in ("bfloat16", "float32")]


@dataclass
class Curve:
    """What one contestant did: [seed][epoch]."""

    accuracy: list[list[float]]
    seconds: list[list[float]]

    @property
    def last(self) -> list[float]:
        return [100 * a[-1] for a in self.accuracy]

    @property
    def wall(self) -> list[float]:
        """Training seconds of each seed; the test set is not in them."""
        return [sum(s) for s in self.seconds]


def train_epoch(trainee: Trainee, epoch: int) -> float:
    time.sleep(0.1)  # the last contestant's threads stop spinning
    start = Clock.now()
    loss = trainee.epoch(epoch)
    seconds = Clock.now() - start
    if not np.isfinite(loss):
        raise FloatingPointError(f"{trainee.name}: loss {loss} in epoch {epoch}")
    return seconds


def _problem(rival: Rival, total_steps: int) -> Problem:
    return Problem((784, 1024, 1024, 10), 128, "adam", 1e-3, total_steps=total_steps)


def learn(
    ctx: Context,
    entrants: Sequence[Rival],
    epochs: int,
    seeds: Sequence[int],
    problem_of: Callable[[Rival, int], Problem] = _problem,
) -> dict[str, Curve]:
    """Train all of them, an epoch each in turn, from the same weights."""
    curves = {r.name: Curve([], []) for r in entrants}
    x_test: F32 = ctx.data.x_test_float
    for seed in seeds:
        n_steps = -(-len(ctx.data.y) // 128)
        trainees = []
        for rival in entrants:
            problem = problem_of(rival, n_steps * epochs)
            layers = problem.initial_layers(seed)
            if isinstance(rival, Ours):
                trainees.append(rival.train(problem, ctx.data, layers, seed=seed))
            else:
                trainees.append(rival.train(problem, ctx.data, layers))
            curves[rival.name].accuracy.append([])
            curves[rival.name].seconds.append([])
        for epoch in range(epochs):
            for t in trainees:
                curves[t.name].seconds[-1].append(train_epoch(t, epoch))
                curves[t.name].accuracy[-1].append(t.accuracy(x_test, ctx.data.y_test))
    return curves


def _prepare(ctx: Context, result: Result, rivals: Sequence[str]) -> list[Rival]:
    if ctx.data.source != "mnist":
        result.skipped = "BPFREE_DATA names no folder with MNIST's four IDX files"
        return []
    entrants = ctx.entrants(result, METHODS, rivals)
    if not entrants:
        result.skipped = ours.MISSING
    return entrants


def _report(result: Result, curves: dict[str, Curve]) -> None:
    mine = curves.get("ours dfa bf16")
    for name, curve in curves.items():
        line = Line(name, "s", Spread.of(curve.wall))
        if mine is not None and curve is not mine:
            line.ratio_to_ours = Spread.of(
                [b / a for a, b in zip(mine.wall, curve.wall, strict=True)]
            )
        epochs = [statistics.mean(accs) * 100 for accs in zip(*curve.accuracy, strict=True)]
        line.note = "test accuracy, %, by epoch: " + " ".join(f"{a:.2f}" for a in epochs)
        result.lines.append(line)
        result.extra[name] = {"accuracy": curve.accuracy, "seconds": curve.seconds}


def _judge_bf16(result: Result, curves: dict[str, Curve]) -> None:
    """bf16 may lose no more than two standard errors of the seeds' means (or 0.1 points)."""
    for method in ("dfa", "backprop"):
        f32, bf16 = curves.get(f"ours {method} f32"), curves.get(f"ours {method} bf16")
        if f32 is None or bf16 is None:
            continue
        lost = statistics.mean(f32.last) - statistics.mean(bf16.last)
        n = len(f32.last)
        spread = statistics.variance(f32.last) + statistics.variance(bf16.last) if n > 1 else 0.0
        noise = max(0.1, 2 * (spread / n) ** 0.5)
        floor = Floor(f"{method}: points lost by bf16", round(noise, 3), at_most=True)
        result.verdicts.append(floor.judge(lost))


def mnist(ctx: Context, *, name: str, epochs: int, seeds: Sequence[int]) -> Result:
    epochs = ctx.epochs or epochs
    title = f"MNIST, 784-1024-1024-10, Adam 1e-3 cosine, batch 128, {epochs} epochs"
    result = Result(name, f"{title}, {len(seeds)} seed(s)")
    entrants = _prepare(ctx, result, ("torch_eager",))
    if not entrants:
        return result
    watch = Interference()
    curves = learn(ctx, entrants, epochs, seeds)
    result.others = watch.others()
    _report(result, curves)
    full = epochs == EPOCHS

    def last(who: str) -> float | None:
        return statistics.mean(curves[who].last) if who in curves else None

    for method, floor in (("dfa", 98.2), ("backprop", 98.4)):
        judged = Floor(f"{method} bf16, test accuracy, %", floor if full else None)
        result.verdicts.append(judged.judge(last(f"ours {method} bf16")))
    torch, mine = curves.get("torch f32"), curves.get("ours dfa bf16")
    ratio = statistics.median(
        [t / m for t, m in zip(torch.wall, mine.wall, strict=True)]
    ) if torch and mine else None  # fmt: skip
    result.verdicts.append(Floor("torch f32's wall time over ours", 3.0, 4.0).judge(ratio))
    if full:
        _judge_bf16(result, curves)
    else:
        result.notes.append("too short to judge accuracy")
    return result


def learning_curves(ctx: Context, *, name: str, epochs: int, seeds: Sequence[int]) -> Result:
    epochs = ctx.epochs or epochs
    result = Result(name, f"bf16 against f32 learning curves, MNIST, {epochs} epochs")
    entrants = [e for e in _prepare(ctx, result, ()) if isinstance(e, Ours)]
    if entrants:
        watch = Interference()
        curves = learn(ctx, entrants, epochs, seeds)
        result.others = watch.others()
        _report(result, curves)
        if len(seeds) > 1:
            _judge_bf16(result, curves)
    return result


ROWS = (
    Row(
        "mnist-quick",
        "MNIST, two epochs, one seed: wall time only",
        partial(mnist, name="mnist-quick", epochs=2, seeds=(0,)),
    ),
    Row(
        "mnist",
        "MNIST, 12 epochs, three seeds, against PyTorch f32 backprop",
        partial(mnist, name="mnist", epochs=EPOCHS, seeds=SEEDS),
        long=True,
    ),
    Row(
        "curves",
        "bf16 against f32 learning curves, 12 epochs, three seeds",
        partial(learning_curves, name="curves", epochs=EPOCHS, seeds=SEEDS),
        long=True,
    ),
)
