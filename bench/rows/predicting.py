# SPDX-License-Identifier: BSD-3-Clause
"""`predict` of 10,000 rows, resident as float32 (or bf16 for the bf16 rival)."""

from __future__ import annotations

from functools import partial

import numpy as np
from answers import NumpyNetwork
from harness import Floor, Result
from problem import Problem

from rows.common import Context, Entry, Row, compete, finish, judge_ratios

PROBLEM = Problem((784, 1024, 1024, 10), 128)
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}  # of a probability


def _run(ctx: Context, *, dtype: str, short: str) -> Result:
    n = len(ctx.data.x_test)
    result = Result(f"predict-{short}", f"predict {n} x 784, 784-1024-1024-10, {dtype}")
    layers = PROBLEM.initial_layers()
    x = ctx.data.x_test_float
    right = NumpyNetwork(PROBLEM, layers, None, np.float64).forward(x.astype(np.float64))[1]
    bf16 = dtype == "bfloat16"
    names = ("torch_autocast",) if bf16 else ("torch_eager", "torch_compile", "jax_backprop")
    entrants = ctx.entrants(result, [("predict", dtype)], names)
    flops = PROBLEM.flops("dfa") / 2 / PROBLEM.batch * n  # the forward half
    entries = []
    for rival in entrants:
        call = rival.predictor(PROBLEM, layers, x)
        call.many(1)
        error = float(np.abs(call.result() - right).max())
        if not error <= TOLERANCE[dtype]:
            result.wrong.append(f"{call.name}: a probability is off by {error:.2g}")
            continue
        entries.append(Entry(call, dtype, flops, error))
    ratios = compete(ctx, result, entries)
    judge_ratios(result, ratios, [Floor("torch bf16" if bf16 else "torch f32", 1.1, 1.3)])
    finish(result, entries, entrants)
    return result


ROWS = tuple(
    Row(
        f"predict-{short}", f"predict 10,000 rows, {dtype}", partial(_run, dtype=dtype, short=short)
    )
    for dtype, short in (("float32", "f32"), ("bfloat16", "bf16"))
)
