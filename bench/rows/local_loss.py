# SPDX-License-Identifier: BSD-3-Clause
"""Local losses: a step beside DFA's and PyTorch's, and MNIST to the end."""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import ours
from answers import CHANGE_TOLERANCE, change_error
from harness import Floor, Line, Result, Spread
from layer_local_answers import LocalLossAnswer
from layer_local_problem import LocalLossProblem
from machine import Interference
from ours import Ours
from ours_local_loss import OursLocalLoss
from problem import PIXEL_SCALE, Layers, Problem
from rivals.base import Rival

from rows.common import (
    CHECK_STEPS,
    Context,
    Entry,
    Row,
    compete,
    finish,
    training_entries,
)
from rows.mnist import Curve, learn

SIZES = (784, 1024, 1024, 10)
EPOCHS, SEEDS = 12, (0, 1, 2)
REACHED = 0.984  # test accuracy whose time is told
# PyTorch's backprop in float32, eager and compiled.
BACKPROP_F32 = ("torch f32", "torch.compile f32")
DEEP = (784, 1024, 1024, 1024, 10)

Pair = tuple[Rival, LocalLossProblem]


def _torch(ctx: Context, result: Result, names: Sequence[str]) -> list[Rival]:
    """PyTorch's local losses, eager and compiled, in float32 and under bf16 autocast."""
    try:
        module = importlib.import_module("rivals.torch_local_loss_rival")
    except ImportError as error:
        result.notes.append(f"torch local losses: not installed ({error})")
        return []
    found: list[Rival] = [module.VARIANTS[name] for name in names]
    for rival in found:
        rival.set_threads(ctx.n_threads)
    return found


def _layers(problem: LocalLossProblem) -> Layers:
    """Heads that are not zero: else hidden layers move by little more than their own rounding."""
    layers, rng = problem.initial_layers(), np.random.default_rng(1)
    first, last = len(problem.hidden), len(problem.hidden) + problem.n_heads
    for k in range(first, last):
        w, b = layers[k]
        layers[k] = (rng.normal(0, 0.05, w.shape).astype(np.float32), b)
    return layers


def _entries(ctx: Context, result: Result, pairs: Sequence[Pair]) -> list[Entry]:
    """Trainees whose first steps are right, against the same steps in float64."""
    entries = []
    for rival, problem in pairs:
        layers = _layers(problem)
        trainee = rival.train(problem, ctx.data, layers)
        if problem.sim_projection and not trainee.name.startswith("ours"):
            trainee.name += " map"
        answer = LocalLossAnswer(problem, layers)
        for i in range(CHECK_STEPS):
            rows = slice(i * problem.batch, (i + 1) * problem.batch)
            answer.train_step(ctx.data.x[rows] * PIXEL_SCALE, ctx.data.y[rows])
        trainee.in_order(CHECK_STEPS)
        error = change_error(layers, trainee.layers(), answer.layers())
        limit = CHANGE_TOLERANCE[rival.dtype, problem.optimizer]
        if not error <= limit:
            result.wrong.append(f"{trainee.name}: change of weights off by {error:.2g} > {limit}")
            continue
        entries.append(Entry(trainee, rival.dtype, problem.flops(""), error))
    return entries


def step(ctx: Context, *, name: str, objective: str, dtype: str, batch: int) -> Result:
    title = f"local loss {objective}, step {'-'.join(map(str, SIZES))}, batch {batch}, {dtype}"
    result = Result(name, title)
    bare = LocalLossProblem(SIZES, batch, objective=objective)
    mapped, pred = replace(bare, sim_projection=True), replace(bare, objective="pred")
    short = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    variants = ("", "compile") if dtype == "float32" else ("", "compile", "bf16", "compile-bf16")
    pairs: list[Pair] = []
    plain = ctx.entrants(result, [("dfa", dtype)], ("torch_eager", "torch_compile"))
    if not ours.MISSING:
        pairs.append((OursLocalLoss(objective, dtype, ctx.n_threads), bare))
        if objective != "pred":
            pairs.append((OursLocalLoss(f"{objective} map", dtype, ctx.n_threads), mapped))
            pairs.append((OursLocalLoss("pred", dtype, ctx.n_threads), pred))
    pairs += [(rival, bare) for rival in _torch(ctx, result, variants)]
    if objective != "pred":
        pairs += [(rival, mapped) for rival in _torch(ctx, result, variants[:1])]
    entries = _entries(ctx, result, pairs)
    entries += training_entries(ctx, result, Problem(SIZES, batch), plain)
    ratios = compete(ctx, result, entries, unit="ms/step")
    if objective == "pred":
        over, limit = f"ours dfa {short}", 1.1
        if dtype == "bfloat16":
            found = [ratios[who].median for who in BACKPROP_F32 if who in ratios]
            fastest = Floor("fastest torch f32 backprop, eager or compiled", 2.9)
            result.verdicts.append(fastest.judge(min(found, default=None)))
    else:
        over, limit = f"ours local pred {short}", 1.35
    other = ratios.get(over)
    floor = Floor(f"ours local {objective} over {over}", limit, at_most=True)
    result.verdicts.append(floor.judge(1 / other.median if other else None))
    finish(result, entries, [*plain, *(rival for rival, _ in pairs)])
    return result


# MNIST to the end.


def _seconds_to(curve: Curve, accuracy: float) -> list[float | None]:
    """Training seconds of each seed until the end of the first epoch that reached it."""
    found: list[float | None] = []
    for accuracies, seconds in zip(curve.accuracy, curve.seconds, strict=True):
        epoch = next((k for k, a in enumerate(accuracies) if a >= accuracy), None)
        found.append(None if epoch is None else sum(seconds[: epoch + 1]))
    return found


def _report(result: Result, curves: dict[str, Curve], first: str) -> None:
    """A line for each: training seconds, accuracy by epoch, and when 98.4 % was reached."""
    mine = curves.get(first)
    for who, curve in curves.items():
        line = Line(who, "s", Spread.of(curve.wall))
        if mine is not None and curve is not mine:
            ratios = [b / a for a, b in zip(mine.wall, curve.wall, strict=True)]
            line.ratio_to_ours = Spread.of(ratios)
        epochs = [100 * statistics.mean(a) for a in zip(*curve.accuracy, strict=True)]
        reached = _seconds_to(curve, REACHED)
        said = " ".join("never" if s is None else f"{s:.1f}" for s in reached)
        line.note = f"{100 * REACHED:.1f} % after {said} s; test accuracy, %, by epoch: "
        line.note += " ".join(f"{a:.2f}" for a in epochs)
        result.lines.append(line)
        result.extra[who] = {
            "accuracy": curve.accuracy, "seconds": curve.seconds, "seconds_to_98.4": reached,
        }  # fmt: skip


def _judge_times(result: Result, curves: dict[str, Curve], me: str) -> None:
    """Our seconds to 98.4 % over PyTorch's: over float32's, and over the fastest's."""
    share: dict[str, float] = {}  # median over seeds, of those that reached it with every one
    mine = _seconds_to(curves[me], REACHED)
    for who, curve in curves.items():
        pairs = [(a, b) for a, b in zip(mine, _seconds_to(curve, REACHED), strict=True) if a and b]
        if who.startswith("torch") and len(pairs) == len(mine):
            share[who] = statistics.median(a / b for a, b in pairs)
    if None in mine:
        result.notes.append(f"{me} never reached {100 * REACHED:.1f} % with some seed")
    what = f"seconds to {100 * REACHED:.1f} % over"
    first = Floor(f"{what} {BACKPROP_F32[0]}'s", 1 / 3, 1 / 5, at_most=True)
    result.verdicts.append(first.judge(share.get(BACKPROP_F32[0])))
    fastest = Floor(f"{what} the fastest torch's", 0.6, 1 / 3, at_most=True)
    result.verdicts.append(fastest.judge(max(share.values(), default=None)))


def mnist(ctx: Context, *, name: str, epochs: int, seeds: Sequence[int]) -> Result:
    """'pred' in bf16 against PyTorch's backprop: accuracy, and the time until 98.4 %."""
    epochs = ctx.epochs or epochs
    title = f"MNIST, local loss pred, {'-'.join(map(str, SIZES))}, Adam 1e-3 cosine, batch 128"
    result = Result(name, f"{title}, {epochs} epochs, {len(seeds)} seed(s)")
    if ctx.data.source != "mnist":
        result.skipped = "BPFREE_DATA names no folder with MNIST's four IDX files"
        return result
    rivals = ("torch_eager", "torch_compile", "torch_autocast")
    entrants = ctx.entrants(result, [("dfa", "bfloat16"), ("backprop", "bfloat16")], rivals)
    if not ours.MISSING:
        entrants.insert(0, OursLocalLoss("pred", "bfloat16", ctx.n_threads))

    def problem_of(rival: Rival, total_steps: int) -> Problem:
        cls = LocalLossProblem if isinstance(rival, OursLocalLoss) else Problem
        return cls(SIZES, 128, "adam", 1e-3, total_steps=total_steps)

    watch = Interference()
    curves = learn(ctx, entrants, epochs, seeds, problem_of)
    result.others = watch.others()
    _report(result, curves, "ours local pred bf16")
    me = "ours local pred bf16"
    if me in curves:
        full = epochs == EPOCHS and len(seeds) == len(SEEDS)
        accuracy = Floor("local pred bf16, test accuracy, %", 98.5 if full else None)
        result.verdicts.append(accuracy.judge(statistics.mean(curves[me].last)))
        _judge_times(result, curves, me)
        if not full:
            result.notes.append("too short to judge accuracy")
    return result


def mnist_predsim(ctx: Context, *, name: str, epochs: int, seeds: Sequence[int]) -> Result:
    """'predsim' with and without map and batch normalisation, beside 'pred' and backprop."""
    epochs = ctx.epochs or epochs
    title = f"MNIST, local losses, {'-'.join(map(str, DEEP))}, dropout 0.1, batch 128, bfloat16"
    result = Result(name, f"{title}, {epochs} epochs, {len(seeds)} seed(s)")
    if ctx.data.source != "mnist":
        result.skipped = "BPFREE_DATA names no folder with MNIST's four IDX files"
        return result
    if ours.MISSING:
        result.skipped = ours.MISSING
        return result
    result.notes.append("backprop has neither dropout nor batch normalisation")
    plain = LocalLossProblem(DEEP, 128, "adam", 1e-3, dropout=0.1)
    problems: dict[str, Problem] = {}
    entrants: list[Rival] = []
    for label, problem in (
        ("predsim", replace(plain, objective="predsim")),
        ("predsim map", replace(plain, objective="predsim", sim_projection=True)),
        ("predsim norm", replace(plain, objective="predsim", batch_norm=True)),
        (
            "predsim map norm",
            replace(plain, objective="predsim", sim_projection=True, batch_norm=True),
        ),
        ("pred", plain),
        ("pred norm", replace(plain, batch_norm=True)),
    ):
        rival = OursLocalLoss(label, "bfloat16", ctx.n_threads)
        problems[rival.name] = problem
        entrants.append(rival)
    entrants.append(Ours("backprop", "bfloat16", ctx.n_threads))
    problems[entrants[-1].name] = Problem(DEEP, 128, "adam", 1e-3)
    watch = Interference()
    curves = learn(
        ctx, entrants, epochs, seeds,
        lambda rival, total_steps: replace(problems[rival.name], total_steps=total_steps),
    )  # fmt: skip
    result.others = watch.others()
    _report(result, curves, "ours local predsim bf16")
    last = {who: statistics.mean(curve.last) for who, curve in curves.items()}
    best = max(points for who, points in last.items() if " predsim" in who)
    floor = Floor("best predsim over pred, points", -0.05 if epochs >= EPOCHS else None)
    result.verdicts.append(floor.judge(best - last["ours local pred bf16"]))
    return result


def _step_rows() -> list[Row]:
    rows = []
    for objective in ("pred", "predsim"):
        for dtype, short in (("float32", "f32"), ("bfloat16", "bf16")):
            for batch in (128, 512):
                name = f"local-step-{objective}-{short}-{batch}"
                run = partial(step, name=name, objective=objective, dtype=dtype, batch=batch)
                rows.append(Row(name, f"local loss {objective}, batch {batch}, {dtype}", run))
    return rows


ROWS = (
    *_step_rows(),
    Row(
        "local-mnist",
        f"MNIST, local loss pred, {EPOCHS} epochs, three seeds, against PyTorch's backprop",
        partial(mnist, name="local-mnist", epochs=EPOCHS, seeds=SEEDS),
        long=True,
    ),
    Row(
        "local-mnist-predsim",
        f"MNIST, local losses, 3 x 1024, {EPOCHS} epochs (or --epochs), one seed",
        partial(mnist_predsim, name="local-mnist-predsim", epochs=EPOCHS, seeds=SEEDS[:1]),
        long=True,
    ),
)
