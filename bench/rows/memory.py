# SPDX-License-Identifier: BSD-3-Clause
"""Memory of a training run beyond data, parameters and optimizer state; a process for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import ours
from harness import Floor, Line, Result, Spread

from rows.common import Context, Row

PROBE = Path(__file__).resolve().parent.parent / "memory_probe.py"
WHO = (
    ("ours", "dfa", "bfloat16"),
    ("ours", "dfa", "float32"),
    ("ours", "backprop", "float32"),
    ("torch_eager", "backprop", "float32"),
    ("jax_dfa", "dfa", "float32"),
)
LIMIT_MB = 32.0


def probe(ctx: Context, who: str, method: str, dtype: str) -> dict[str, float] | str:
    command = [sys.executable, str(PROBE), who, method, dtype, str(ctx.n_threads)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no output"])[-1]
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _run(ctx: Context) -> Result:
    result = Result(
        "memory", "peak resident memory beyond data, parameters, optimizer state; 1024x2, batch 128"
    )
    if ours.MISSING:
        result.notes.append(f"{ours.MISSING}; the rivals run alone")
    else:
        result.notes.append(f"our bf16 path: {ours.bfloat16_path()}")
    for who, method, dtype in WHO:
        if who == "ours" and ours.MISSING:
            continue
        name = f"{who} {method} {dtype}"
        found = probe(ctx, who, method, dtype)
        if isinstance(found, str):
            result.notes.append(f"{name}: {found}")
            continue
        result.lines.append(Line(name, "MB", Spread.of([found["beyond_mb"]])))
        result.extra[name] = found
        if who == "ours":
            limit = Floor(f"{name}, MB", LIMIT_MB, at_most=True)
            result.verdicts.append(limit.judge(found["beyond_mb"]))
            floor = Floor(f"{name}, bytes kept by an epoch's steps", 0.0, at_most=True)
            result.verdicts.append(floor.judge(found["in_use_growth_bytes"]))
    return result


ROWS = (Row("memory", "memory of a training run beyond data, parameters, state", _run),)
