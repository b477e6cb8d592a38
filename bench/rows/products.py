# SPDX-License-Identifier: BSD-3-Clause
"""The product by itself: both operands are packed inside the timed call."""

from __future__ import annotations

import numpy as np
from answers import product_error
from harness import Floor, Result, geometric_mean
from rivals.base import Call

from rows.common import Context, Entry, Row, compete

# m, k, n and whether the left operand lies transposed (the weight product, h^T delta).
SHAPES = (
    (128, 784, 1024, False),
    (128, 1024, 1024, False),
    (512, 1024, 1024, False),
    (1024, 128, 1024, True),
    (2000, 2000, 2000, False),
    (100, 2000, 2000, False),
)
LARGE = ("512x1024x1024", "2000x2000x2000")
TINY = (64, 64, 64, False)


def _shape(
    ctx: Context, result: Result, m: int, k: int, n: int, transposed: bool, dtype: str,
    names: tuple[str, ...],
) -> tuple[str, dict[str, float], float | None]:  # fmt: skip
    """Time one shape; ratios by rival, and our share of the peak."""
    label = f"{m}x{k}x{n}"
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n)))
    u = 2.0**-24
    if dtype == "bfloat16":
        u = 2.0**-8
        for v in (a, b):  # exact in bf16, so that both sides multiply the same numbers
            v.view(np.uint32)[...] &= 0xFFFF0000
    left = np.ascontiguousarray(a.T) if transposed else a
    entries = []
    for rival in ctx.entrants(result, [("product", dtype)], names):
        call: Call = rival.product(left, b, transpose_a=transposed)
        call.many(1)
        error = product_error(a, b, call.result(), u)
        if not error <= 1.0:
            result.wrong.append(f"{label} {call.name}: error {error:.2g} times the bound")
            continue
        entries.append(Entry(call, dtype, 2.0 * m * k * n, error, label=f"{label}  "))
    first = len(result.lines)
    ratios = compete(
        ctx, result, entries, unit="GFLOP/s", to_unit=lambda s: 2.0 * m * k * n / s / 1e9
    )
    mine = [line for line in result.lines[first:] if "ours" in line.who]
    return label, {w: r.median for w, r in ratios.items()}, mine[0].share_of_peak if mine else None


def _run(ctx: Context, dtype: str) -> Result:
    bf16 = dtype == "bfloat16"
    short, names = ("bf16", ("torch_autocast",)) if bf16 else ("f32", ("numpy", "torch_eager"))
    rival = "torch bf16" if bf16 else "numpy f32"
    result = Result(f"product-{short}", f"{short} product, m x k x n, {ctx.n_threads} threads")
    ratios, shares = [], []
    for shape in SHAPES:
        label, found, share = _shape(ctx, result, *shape, dtype, names)
        if rival in found:
            ratios.append(found[rival])
        if label in LARGE and share is not None:
            shares.append(share)
    mean = geometric_mean(ratios) if ratios else None
    smallest = min(shares) if shares else None
    if bf16:
        judged = [(Floor(f"geometric mean against {rival}", 0.95), mean)]
        judged.append((Floor("share of peak, large ones", None, 0.88), smallest))
    else:
        _, found, _ = _shape(ctx, result, *TINY, dtype, names)
        judged = [
            (Floor(f"geometric mean against {rival}", 1.0), mean),
            (Floor(f"worst shape against {rival}", 0.9), min(ratios, default=None)),
            (Floor(f"64x64x64 against {rival}, through Python", 0.6), found.get(rival)),
            (Floor("share of peak, large ones", None, 0.92), smallest),
        ]
    result.verdicts += [floor.judge(value) for floor, value in judged]
    result.notes = sorted(set(result.notes))
    return result


ROWS = (
    Row("product-f32", "f32 product against NumPy/OpenBLAS", lambda c: _run(c, "float32")),
    Row("product-bf16", "bf16 product against PyTorch bf16", lambda c: _run(c, "bfloat16")),
)
