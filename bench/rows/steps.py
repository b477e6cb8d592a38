# SPDX-License-Identifier: BSD-3-Clause
"""One training step: DFA against every rival, and our backprop against PyTorch's."""

from __future__ import annotations

from functools import partial

import numpy as np
from harness import Floor, Result
from machine import copy_rate
from problem import Problem

from rows.common import Context, Row, compete, finish, judge_ratios, training_entries

BIG, SMALL, DEEP = (784, 1024, 1024, 10), (784, 256, 256, 10), (784, *[2000] * 4, 10)
NETWORKS = {
    "1024x2": Problem(BIG, 128),
    "1024x2-batch512": Problem(BIG, 512),
    "2000x4": Problem(DEEP, 100),
    "256x2": Problem(SMALL, 64),
}
RIVALS = ("torch_eager", "torch_compile", "torch_autocast", "jax_backprop", "jax_dfa")


def step_bytes(problem: Problem, dtype: str) -> tuple[float, float]:
    """Least traffic of one DFA step, and the working set; per parameter, in bytes, then all.

    Master weights and optimizer values are read and written once (4 bytes each way), weights are
    read once more for the forward pass; bf16 writes and reads a shadow of 2 bytes instead.
    """
    slots = problem.n_slots
    moved = 8.0 * (1 + slots) + 4.0  # the last: read 4 bytes, or write and read 2
    held = 4.0 * (1 + slots) + (2.0 if dtype == "bfloat16" else 0.0)
    return moved * problem.n_params, held * problem.n_params


def dfa_step(
    ctx: Context, *, name: str, problem: Problem, dtype: str, floors: tuple[Floor, ...],
    aim_share: float | None = None, traffic: bool = False,
) -> Result:  # fmt: skip
    result = Result(name, f"DFA step {problem.title}, {dtype}, {ctx.n_threads} threads")
    names = ("numpy", *RIVALS) if dtype == "float32" and not traffic else RIVALS
    entrants = ctx.entrants(result, [("dfa", dtype), ("backprop", dtype)], names)
    entries = training_entries(ctx, result, problem, entrants)
    ratios = compete(ctx, result, entries, unit="ms/step")
    judge_ratios(result, ratios, floors)
    ours = [line for line in result.lines if line.who.startswith("ours dfa")]
    if aim_share is not None:
        share = ours[0].share_of_peak if ours else None
        result.verdicts.append(Floor("share of peak", None, aim_share).judge(share))
    if traffic:
        moved, held = step_bytes(problem, dtype)
        rate = float(np.median([copy_rate(int(held), ctx.n_threads) for _ in range(3)]))
        text = f"a step moves at least {moved / 1e6:.0f} MB; copying {held / 1e6:.0f} MB runs at "
        text += f"{rate / 1e9:.1f} GB/s, so traffic alone takes {moved / rate * 1e3:.1f} ms"
        if ours:
            reached = moved / (ours[0].value.median * 1e-3)
            text += f"; we move {reached / 1e9:.1f} GB/s, {reached / rate:.0%} of it"
        result.notes.append(text)
        result.extra.update(bytes_moved=moved, bytes_held=held, copy_bytes_per_second=rate)
    finish(result, entries, entrants)
    return result


def backprop_step(ctx: Context, *, name: str, problem: Problem, dtype: str) -> Result:
    result = Result(name, f"backprop step {problem.title}, {dtype}, {ctx.n_threads} threads")
    bf16 = dtype == "bfloat16"
    names = ("torch_autocast",) if bf16 else ("torch_eager", "torch_compile", "jax_backprop")
    entrants = ctx.entrants(result, [("backprop", dtype)], names)
    entries = training_entries(ctx, result, problem, entrants)
    ratios = compete(ctx, result, entries, unit="ms/step")
    rival, aim = ("torch bf16", 1.8) if bf16 else ("torch f32", 1.4)
    judge_ratios(result, ratios, [Floor(rival, 1.2, aim)])
    finish(result, entries, entrants)
    return result


def _dfa_row(
    name: str, problem: Problem, dtype: str, floors: dict[str, tuple[float, float]],
    aim_share: float | None = None, traffic: bool = False,
) -> Row:  # fmt: skip
    judged = tuple(Floor(who, *limits) for who, limits in floors.items())
    run = partial(
        dfa_step, name=name, problem=problem, dtype=dtype, floors=judged, aim_share=aim_share,
        traffic=traffic,
    )  # fmt: skip
    return Row(name, f"DFA step {problem.title}, {dtype}", run)


def _dfa_rows() -> list[Row]:
    rows = []
    in_bf16 = {"torch f32": (3.0, 4.0), "torch bf16": (1.8, 2.3), "jax dfa f32": (2.0, 2.5)}
    in_f32 = {"torch f32": (1.8, 2.1), "jax dfa f32": (1.25, 1.4)}
    for optimizer, share in (("momentum", 0.8), ("adam", 0.7)):
        # Adam's steps do not shrink with the gradient: its usual rate keeps the network finite.
        rate = {"momentum": 0.01, "adam": 1e-3}[optimizer]
        problem = Problem(BIG, 128, optimizer, rate)
        name = f"dfa-step-1024x2-{optimizer}"
        rows.append(_dfa_row(f"{name}-bf16", problem, "bfloat16", in_bf16, share))
        rows.append(_dfa_row(f"{name}-f32", problem, "float32", in_f32))
    batch512 = {"torch f32": (2.9, 3.4), "torch bf16": (1.5, 1.7), "jax dfa f32": (1.9, 2.2)}
    wide = NETWORKS["1024x2-batch512"]
    rows.append(_dfa_row("dfa-step-1024x2-batch512-bf16", wide, "bfloat16", batch512))
    deep = {"torch f32": (3.0, 3.6)}
    rows.append(
        _dfa_row("dfa-step-2000x4-bf16", NETWORKS["2000x4"], "bfloat16", deep, traffic=True)
    )
    small = {"jax dfa f32": (2.2, 3.5)}
    rows.append(_dfa_row("dfa-step-256x2-bf16", NETWORKS["256x2"], "bfloat16", small))
    return rows


def _backprop_rows() -> list[Row]:
    rows = []
    for net, problem in NETWORKS.items():
        for dtype, short in (("float32", "f32"), ("bfloat16", "bf16")):
            name = f"backprop-step-{net}-{short}"
            run = partial(backprop_step, name=name, problem=problem, dtype=dtype)
            rows.append(Row(name, f"our backprop against PyTorch's, {problem.title}, {dtype}", run))
    return rows


ROWS = (*_dfa_rows(), *_backprop_rows())
