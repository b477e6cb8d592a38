# SPDX-License-Identifier: BSD-3-Clause
"""One training run in a process of its own: how much memory it took at most (Linux).

Usage: memory_probe.py WHO METHOD DTYPE N_THREADS [POPULATION]; prints one JSON line.
The methods es (with a population) and noprop have problems of their own.
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
import sys
from pathlib import Path

import rivals
from denoising_problem import STEP as NOPROP
from denoising_problem import NoPropProblem
from evolution_problem import EvolutionProblem
from ours import Ours, OursTrainee
from ours_evolution import OursEvolution
from ours_noprop import OursNoProp
from problem import Data, Problem, load_data
from rivals.base import Rival

STEPS = 40  # the peak comes within the first few
PROBLEM = Problem((784, 1024, 1024, 10), 128, "momentum", 0.01)
# Loads code, starts threads, fills first-use caches, so that these do not count as the run's.
TINY = Problem((784, 16, 16, 10), 128, "momentum", 0.01)


def problems(method: str, population: int) -> tuple[Problem, Problem]:
    """What is measured, and what goes before it."""
    if method == "noprop":
        return NOPROP, NoPropProblem((784, 16, 10), 128, n_blocks=2, input_units=32, label_units=32)
    if method != "es":
        return PROBLEM, TINY
    return (
        EvolutionProblem((784, 128, 10), 128, "momentum", 1e-4, population_size=population),
        EvolutionProblem((784, 8, 10), 128, "momentum", 1e-4, population_size=4),
    )


def _status(key: str) -> int:
    text = Path("/proc/self/status").read_text()
    match = re.search(rf"^{key}:\s+(\d+) kB$", text, re.MULTILINE)
    if match is None:
        raise RuntimeError(f"/proc/self/status has no {key}")
    return int(match.group(1)) * 1024


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class _MallInfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


_mallinfo2 = ctypes.CDLL(None).mallinfo2
_mallinfo2.restype = _MallInfo2


def _in_use() -> int:
    """Bytes that malloc has handed out (glibc)."""
    info = _mallinfo2()
    return int(info.uordblks + info.hblkhd)


def _growth_between_steps(trainee: OursTrainee) -> int:
    """How much more is in use at the last callback of an epoch than at its first."""
    seen: list[int] = []

    def on_event(done: int, of: int, loss: float) -> bool:
        seen.append(_in_use())
        return False

    trainee._run(slice(None), shuffle=True, on_event=on_event)
    # The list itself and the call's own objects may take a page of Python's; a step may not.
    return max(0, seen[-1] - seen[0] - 4096)


def measure(rival: Rival, data: Data, problem: Problem, tiny: Problem) -> dict[str, float]:
    rival.train(tiny, data, tiny.initial_layers()).many(8)
    layers = problem.initial_layers()
    gc.collect()
    before = _status("VmRSS")
    _forget_peak()
    trainee = rival.train(problem, data, layers)
    trainee.many(STEPS)
    if isinstance(trainee, OursTrainee):
        trainee.epoch(0)
    peak = _status("VmHWM")
    expected = 4 * problem.n_params * (1 + problem.n_slots) + trainee.data_copy_bytes
    growth = _growth_between_steps(trainee) if isinstance(trainee, OursTrainee) else 0
    return {
        "beyond_mb": (peak - before - expected) / 1e6,
        "parameters_and_state_mb": (expected - trainee.data_copy_bytes) / 1e6,
        "in_use_growth_bytes": growth,
    }


def main(who: str, method: str, dtype: str, n_threads: str, population: str = "256") -> None:
    rival: Rival | str
    if who != "ours":
        rival = rivals.load(who)
    elif method == "noprop":
        rival = OursNoProp(dtype, int(n_threads))
    else:
        rival = (OursEvolution if method == "es" else Ours)(method, dtype, int(n_threads))
    if isinstance(rival, str):
        raise SystemExit(rival)
    rival.set_threads(int(n_threads))
    data = load_data()
    data.x_float.sum()  # resident before the clock, as the uint8 rows are
    print(json.dumps(measure(rival, data, *problems(method, int(population)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
