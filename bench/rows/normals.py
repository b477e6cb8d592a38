# SPDX-License-Identifier: BSD-3-Clause
"""Normal random numbers on one thread."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from harness import Floor, Result

from rows.common import Context, Entry, Row, compete

N = 1 << 20  # 4 MB: larger than a first-level cache, as a weight matrix is


def _looks_normal(values: np.ndarray) -> float:
    """Largest of four moments' deviations in standard errors; below 6 is right."""
    x = values.astype(np.float64)
    n = len(x)
    moments = [
        x.mean() * np.sqrt(n),
        (x.var() - 1) * np.sqrt(n / 2),
        (x**3).mean() * np.sqrt(n / 15),
        ((x**4).mean() - 3) * np.sqrt(n / 96),
    ]
    return float(np.abs(moments).max())


def _run(ctx: Context) -> Result:
    result = Result("normals", "normals, float32, one thread")
    one = replace(ctx, n_threads=1)
    entries = []
    for rival in one.entrants(
        result, [("normals", "float32")], ("numpy", "torch_eager", "jax_backprop")
    ):
        call = rival.normals(N)
        if rival.name.startswith("jax"):
            call.name = f"jax (on {ctx.n_threads} threads)"  # XLA's pool has no per-call size
        call.many(2)
        deviation = _looks_normal(call.result())
        if not deviation < 6.0:
            result.wrong.append(f"{call.name}: a moment is off by {deviation:.1f} standard errors")
            continue
        entries.append(Entry(call, answer_error=deviation))
    ratios = compete(one, result, entries, unit="M/s", to_unit=lambda s: N / s / 1e6)
    for name, floor in (("numpy f32", 8.0), ("torch f32", 3.5)):
        found = ratios.get(name)
        result.verdicts.append(Floor(name, floor).judge(found.median if found else None))
    mine = [line.value.median for line in result.lines if line.who.startswith("ours")]
    result.verdicts.append(Floor("M/s", None, 1400.0).judge(mine[0] if mine else None))
    for rival in ctx.entrants(Result("", ""), (), ("torch_eager",)):
        rival.set_threads(ctx.n_threads)
    return result


ROWS = (Row("normals", "normals on one thread against NumPy and PyTorch", _run),)
