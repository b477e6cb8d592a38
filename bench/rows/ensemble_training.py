# SPDX-License-Identifier: BSD-3-Clause
"""Networks trained by ensemble Kalman: an iteration, and MNIST."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import ours
from ensemble_training_problem import EnsembleTrainingProblem
from harness import Floor, Line, Result, Spread
from machine import Interference
from ours_ensemble_training import OursEnsembleTraining
from problem import Problem
from rivals.base import Rival

from rows.common import Context, Entry, Row, compete, finish, judge_ratios

SHORT = {"float32": "f32", "bfloat16": "bf16"}
# Of the change, in norm; and with how many members it is checked.
TOLERANCE, N_CHECKED = {"float32": 1e-3, "bfloat16": 3e-2}, 40


def _entries(
    ctx: Context, result: Result, problem: EnsembleTrainingProblem, entrants: list[Rival]
) -> list[Entry]:
    """Contestants whose iteration of a few members is right."""
    layers = Problem(problem.layer_sizes, problem.batch).initial_layers()
    few = replace(problem, n_ens=N_CHECKED)
    entries = []
    for rival in entrants:
        call = rival.ensemble_training(few, ctx.data, layers)
        before, after = call.step()
        right = few.right_answer(before, ctx.data)
        change = right if problem.redraw else right - before
        error = float(np.linalg.norm(after - right) / np.linalg.norm(change))
        if not error <= TOLERANCE[rival.dtype]:
            result.wrong.append(f"{call.name}: the step is off by {error:.2g} of itself")
            continue
        call = rival.ensemble_training(problem, ctx.data, layers)
        entries.append(Entry(call, rival.dtype, problem.flops, error))
    return entries


def iteration(ctx: Context, *, name: str, dtype: str, redraw: bool) -> Result:
    problem = EnsembleTrainingProblem(redraw=redraw)
    result = Result(name, f"one iteration, {problem.title}, {dtype}")
    entrants = ctx.entrants(result, (), ("torch_ensemble",))
    if not ours.MISSING:
        if dtype == "bfloat16":
            result.notes.append(f"our bf16 path: {ours.bfloat16_path()}")
        label = "redrawn" if redraw else "kept"
        entrants = [OursEnsembleTraining(label, dtype, ctx.n_threads), *entrants]
    entries = _entries(ctx, result, problem, entrants)
    ratios = compete(ctx, result, entries, unit="ms/step")
    judge_ratios(result, ratios, [Floor("torch f32", 1.3 if dtype == "float32" else 2.0)])
    finish(result, entries, entrants)
    return result


# MNIST. The best of a few settings on 10,000 held-out training rows, in trials of 60 to 100
# iterations that were cut short.
MNIST_SETTINGS: dict[str, Any] = {
    "n_ens": 1000,
    "redraw_spread": 0.5,
    "dt": 300.0,
    "batch_size": 500,
    "max_iter": 5,
}
MNIST_HIDDEN = (64,)


def _fit(ctx: Context, cls: Callable[..., Any], settings: dict[str, Any]) -> tuple:
    """Test accuracy and training seconds after each epoch."""
    accuracy: list[float] = []
    seconds: list[float] = []

    def note(info: Any) -> None:
        if info.epoch_ended:
            seconds.append(info.seconds)
            accuracy.append(info.estimator.score(ctx.data.x_test, ctx.data.y_test))

    cls(
        MNIST_HIDDEN, random_state=0, n_threads=ctx.n_threads, callback=note, **settings
    ).fit(ctx.data.x, ctx.data.y)  # fmt: skip
    return accuracy, seconds


def mnist(ctx: Context, *, name: str) -> Result:
    sizes = "-".join(map(str, (784, *MNIST_HIDDEN, 10)))
    settings = {**MNIST_SETTINGS, "max_iter": ctx.epochs or MNIST_SETTINGS["max_iter"]}
    members, epochs = settings["n_ens"], settings["max_iter"]
    result = Result(name, f"MNIST, {sizes}, ensemble Kalman, {members} members, {epochs} epochs")
    if ctx.data.source != "mnist":
        result.skipped = "BPFREE_DATA names no folder with MNIST's four IDX files"
        return result
    if ours.MISSING:
        result.skipped = ours.MISSING
        return result
    n_iterations = epochs * -(-len(ctx.data.y) // settings["batch_size"])
    result.notes.append(f"{n_iterations} iterations of {members} members")
    watch = Interference()
    for who, cls, options in (
        ("ours enkf redrawn", ours.bf.EnKFClassifier, settings),
        ("ours backprop", ours.bf.BackpropClassifier, {"max_iter": 5}),
    ):
        for dtype, short in SHORT.items():
            accuracy, seconds = _fit(ctx, cls, {**options, "dtype": dtype})
            line = Line(f"{who} {short}", "s", Spread.of([seconds[-1]]))
            line.note = "test accuracy, %, by epoch: " + " ".join(
                f"{100 * a:.2f}" for a in accuracy
            )
            result.lines.append(line)
            result.extra[line.who] = {"accuracy": accuracy, "seconds": seconds}
            if cls is ours.bf.EnKFClassifier:
                floor = 95.0 if epochs >= MNIST_SETTINGS["max_iter"] else None
                verdict = Floor(f"{line.who}, test accuracy, %", floor).judge(100 * accuracy[-1])
                result.verdicts.append(verdict)
    result.others = watch.others()
    return result


def _rows() -> list[Row]:
    rows = []
    for redraw in (False, True):
        for dtype, short in SHORT.items():
            name = f"enkf-step{'-redrawn' if redraw else ''}-{short}"
            about = f"an iteration of {'redrawn' if redraw else 'kept'} members, {dtype}"
            run = partial(iteration, name=name, dtype=dtype, redraw=redraw)
            rows.append(Row(name, f"{about}, against PyTorch", run))
    return rows


ROWS = (
    *_rows(),
    Row(
        "enkf-mnist",
        "MNIST, ensemble Kalman (epochs: its own, or --epochs), beside backprop",
        partial(mnist, name="enkf-mnist"),
        long=True,
    ),
)
