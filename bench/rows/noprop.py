# SPDX-License-Identifier: BSD-3-Clause
"""NoProp: a step of ten blocks, predictions, blocks in processes, memory, and MNIST to the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import ours
from answers import CHANGE_TOLERANCE, change_error
from denoising_answers import NoPropAnswer, class_weights
from denoising_problem import CONTINUOUS, STEP, NoPropProblem
from harness import Contestant, Floor, Line, Result, Spread, alternate
from machine import usable_cpus
from ours_noprop import OursNoProp
from problem import PIXEL_SCALE
from rivals.base import Call, Rival

from rows.common import CHECK_STEPS, Context, Entry, Row, compete, finish
from rows.memory import probe

SHORT = {"float32": "f32", "bfloat16": "bf16"}
# PyTorch's float32 as it is written: a row's floor is about the faster of the two.
TORCH = ("torch noprop f32", "torch.compile noprop f32")
WEIGHT_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}  # of a class weight
N_CHECKED = 200
# Of continuous time, where the rival runs its network a hundred times.
N_CONTINUOUS = 2000


def _entrants(ctx: Context, result: Result, dtype: str, variants: Sequence[str]) -> list[Rival]:
    names = [f"torch_noprop:{name}" if name else "torch_noprop" for name in variants]
    rivals = ctx.entrants(result, (), names)
    if ours.MISSING:
        return rivals
    if dtype == "bfloat16":
        result.notes.append(f"our bf16 path: {ours.bfloat16_path()}")
    return [OursNoProp(dtype, ctx.n_threads), *rivals]


def _variants(dtype: str) -> tuple[str, ...]:
    return ("", "compile") if dtype == "float32" else ("", "compile", "bf16", "compile-bf16")


def _judge(result: Result, ratios: dict[str, Spread], floor: float) -> None:
    found = [ratios[who].median for who in TORCH if who in ratios]
    fastest = Floor("fastest torch f32, eager or compiled", floor)
    result.verdicts.append(fastest.judge(min(found, default=None)))


def step(ctx: Context, *, name: str, dtype: str) -> Result:
    result = Result(name, f"NoProp step, {STEP.n_blocks} blocks, batch {STEP.batch}, {dtype}")
    layers = STEP.initial_layers()
    right = {late: NoPropAnswer(STEP, layers, late_epsilon=late) for late in (False, True)}
    for i in range(CHECK_STEPS):
        rows = slice(i * STEP.batch, (i + 1) * STEP.batch)
        for answer in right.values():
            answer.train_step(ctx.data.x[rows] * PIXEL_SCALE, ctx.data.y[rows], i)
    entrants = _entrants(ctx, result, dtype, _variants(dtype))
    entries = []
    for rival in entrants:
        trainee = rival.train(STEP, ctx.data, layers)
        trainee.in_order(CHECK_STEPS)
        answer = right[not isinstance(rival, OursNoProp)]
        error = change_error(layers, trainee.layers(), answer.layers())
        limit = CHANGE_TOLERANCE[rival.dtype, STEP.optimizer]
        if not error <= limit:
            result.wrong.append(f"{trainee.name}: change of weights off by {error:.2g} > {limit}")
            continue
        entries.append(Entry(trainee, rival.dtype, STEP.flops(""), error))
    ratios = compete(ctx, result, entries, unit="ms/step")
    _judge(result, ratios, 1.7 if dtype == "float32" else 2.8)
    finish(result, entries, entrants)
    return result


def _compare_predictions(
    ctx: Context, result: Result, problem: NoPropProblem, dtype: str, floor: float, n: int,
    calls: Callable[[Rival], Sequence[Call]], variants: Sequence[str],
) -> None:  # fmt: skip
    """Calls of every entrant whose class weights are right, timed and judged."""
    x = ctx.data.x_test_float[:n]
    right = class_weights(problem, problem.initial_layers(), x[:N_CHECKED].astype(np.float64))
    entrants = _entrants(ctx, result, dtype, variants)
    entries = []
    for rival in entrants:
        for call in calls(rival):
            call.many(1)
            error = float(np.abs(call.result()[:N_CHECKED] - right).max())
            if not error <= WEIGHT_TOLERANCE[rival.dtype]:
                result.wrong.append(f"{call.name}: a class weight is off by {error:.2g}")
                continue
            hoisted = call.name.startswith("ours") or call.name.endswith("hoisted")
            flops = problem.prediction_flops(hoisted=hoisted) * len(x)
            entries.append(Entry(call, rival.dtype, flops, error))
    ratios = compete(ctx, result, entries)
    _judge(result, ratios, floor)
    finish(result, entries, entrants)


def predict(ctx: Context, *, name: str, dtype: str) -> Result:
    n = len(ctx.data.x_test)
    result = Result(name, f"NoProp predicts {n} rows by {STEP.n_blocks} blocks, {dtype}")
    layers, x = STEP.initial_layers(), ctx.data.x_test_float
    _compare_predictions(
        ctx, result, STEP, dtype, 1.3 if dtype == "float32" else 2.3, n,
        lambda rival: [rival.predictor(STEP, layers, x)], _variants(dtype),
    )  # fmt: skip
    return result


def predict_continuous(ctx: Context, *, name: str, dtype: str) -> Result:
    x = ctx.data.x_test_float[:N_CONTINUOUS]
    layers = CONTINUOUS.initial_layers()
    result = Result(
        name, f"NoProp predicts {len(x)} rows in {CONTINUOUS.n_steps} steps of time, {dtype}"
    )
    result.notes.append("'hoisted' computes once what time does not change, as ours does")

    def calls(rival: Rival) -> list[Call]:
        found = [rival.predictor(CONTINUOUS, layers, x)]
        if not isinstance(rival, OursNoProp):
            hoisted: Any = rival
            found.append(hoisted.hoisted_predictor(CONTINUOUS, layers, x))
        return found

    _compare_predictions(
        ctx, result, CONTINUOUS, dtype, 4.0 if dtype == "float32" else 8.0, len(x), calls,
        _variants(dtype)[::2] if dtype == "bfloat16" else _variants(dtype),
    )  # fmt: skip
    return result


# Blocks in processes of their own.

N_FITTED = 2000  # compared bit by bit
# Rows and blocks travel once a fit, for a quarter of a second: an epoch of all rows is timed.
N_ROWS = 60_000
MOST_ROUNDS = 3  # a unit takes seconds


class _Fit(Contestant):
    """A fit of one epoch, here or by two processes that run already."""

    def __init__(self, name: str, make: Callable[[], Any], x: Any, y: Any, pool: Any) -> None:
        self.name, self._make, self._x, self._y, self._pool = name, make, x, y, pool
        self.expected_others = 0.0 if pool is None else 2.0

    def many(self, n: int) -> None:
        for _ in range(n):
            apart = {} if self._pool is None else {"executor": self._pool, "n_parts": 2}
            self.model = self._make().fit(self._x, self._y, **apart)


def blocks(ctx: Context, *, name: str) -> Result:
    result = Result(name, f"a fit of 10 blocks on {N_ROWS} rows: one process, and two of 5 blocks")
    if ours.MISSING:
        result.skipped = ours.MISSING
    elif ctx.n_threads < 2 or len(usable_cpus()) < 2:
        result.skipped = "needs two cores and --threads 2"
    if result.skipped:
        return result
    x, y = ctx.data.x, ctx.data.y
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for dtype, short in SHORT.items():

            def make(n_threads: int = 1, dtype: str = dtype) -> Any:
                return ours.bf.NoPropClassifier(
                    max_iter=1, random_state=0, n_threads=n_threads, dtype=dtype
                )  # fmt: skip

            one, two = f"one process {short}", f"two processes {short}"
            fits = [
                _Fit(who, make, x[:N_FITTED], y[:N_FITTED], where)
                for who, where in ((one, None), (two, pool))
            ]
            for fit in fits:
                fit.many(1)
            pairs = zip(*(fit.model.coefs_ + fit.model.intercepts_ for fit in fits), strict=True)
            if not all(np.array_equal(a, b) for a, b in pairs):
                result.wrong.append(f"{two}: other bits than {one}")
                continue
            fits = [_Fit(fit.name, make, x[:N_ROWS], y[:N_ROWS], fit._pool) for fit in fits]
            threads = partial(make, 2)
            fits.append(
                _Fit(f"one process, 2 threads {short}", threads, x[:N_ROWS], y[:N_ROWS], None)
            )
            timed = alternate(fits, seconds=ctx.seconds, rounds=min(ctx.rounds, MOST_ROUNDS))
            result.count(timed)
            for who, values in timed.times.items():
                result.lines.append(Line(who, "s", Spread.of(values)))
            gain = Spread.of(
                [a / b for a, b in zip(timed.times[one], timed.times[two], strict=True)]
            )
            result.verdicts.append(Floor(f"{two}, over one", 1.7).judge(gain.median))
    result.notes.append(
        "a thread in each process; the same bits; rows and blocks travel in the time"
    )
    return result


def memory(ctx: Context, *, name: str) -> Result:
    result = Result(
        name,
        f"NoProp, {STEP.n_blocks} blocks: peak memory beyond data, parameters, optimizer state",
    )
    # In float32, each beside its packed copy and beside what goes back through it. bf16 has
    # weights of its own, those that errors go back through in both orders.
    activations = 3 * 4 * STEP.group_activations / 1e6
    weights = 2 * STEP.n_blocks * sum(i * o for i, o in STEP.block_shapes) / 1e6
    turned = 2 * STEP.n_blocks * sum(i * o for i, o in STEP.block_shapes[2:]) / 1e6
    result.notes.append(f"bf16 weights are {weights + turned:.1f} MB of it")
    for who, dtype in (("ours", "bfloat16"), ("ours", "float32"), ("torch_noprop", "float32")):
        label = f"{who} {SHORT[dtype]}"
        if who == "ours" and ours.MISSING:
            result.notes.append(ours.MISSING)
            continue
        found = probe(ctx, who, "noprop", dtype)
        if isinstance(found, str):
            result.notes.append(f"{label}: {found}")
            continue
        result.lines.append(Line(label, "MB", Spread.of([found["beyond_mb"]])))
        result.extra[label] = found
        if who == "ours":
            limit = activations + (weights + turned if dtype == "bfloat16" else 0)
            floor = Floor(f"{label}, MB", round(limit, 1), at_most=True)
            result.verdicts.append(floor.judge(found["beyond_mb"]))
    return result


def _rows() -> list[Row]:
    rows = []
    for kind, about, run in (
        ("step", f"NoProp step, {STEP.n_blocks} blocks, batch {STEP.batch}", step),
        ("predict", f"NoProp predicts 10,000 rows by {STEP.n_blocks} blocks", predict),
        ("ct-predict", "NoProp predicts in 100 steps of time", predict_continuous),
    ):
        for dtype, short in SHORT.items():
            name = f"noprop-{kind}-{short}"
            rows.append(Row(name, f"{about}, {dtype}", partial(run, name=name, dtype=dtype)))
    return rows


ROWS = (
    *_rows(),
    Row(
        "noprop-blocks",
        "NoProp, two processes with five blocks each against one with ten, a thread each",
        partial(blocks, name="noprop-blocks"),
        long=True,
    ),
    Row("noprop-memory", "memory of a NoProp step", partial(memory, name="noprop-memory")),
)
