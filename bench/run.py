# SPDX-License-Identifier: BSD-3-Clause
"""Benchmarks: `python bench/run.py [ROW ...] [--json F]`. bench/README.md says how to read them."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

# An old workaround pins OpenBLAS to a kernel that is slow on this generation of NumPy. Both act
# when NumPy is imported, so the process starts anew without them.
WORKAROUNDS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
SAID = "BPFREE_BENCH_UNSET"
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="a row, its beginning, or a pattern")
    parser.add_argument("--json", type=Path, metavar="F", help="write the results to F")
    parser.add_argument("--list", action="store_true", help="list the rows and stop")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="default 2")
    parser.add_argument("--seconds", type=float, default=0.3, metavar="S", help="a timed block")
    parser.add_argument("--rounds", type=int, default=9, metavar="R", help="alternations")
    parser.add_argument(
        "--epochs",
        type=int,
        default=0,
        metavar="E",
        help="of the rows that train on MNIST to the end, instead of their own",
    )
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu, with --threads 1: a first look on a busy machine, not to be quoted",
    )
    args = parser.parse_args(argv)
    if args.threads < 1 or args.seconds <= 0 or args.rounds < 1 or args.epochs < 0:
        parser.error("--threads, --seconds, --rounds and --epochs must be positive")
    if args.clock == "cpu" and args.threads != 1:
        parser.error("--clock cpu counts the CPU time of all threads: it needs --threads 1")
    return args


def start_clean(n_threads: int) -> None:
    """Start again with the thread counts set, the process bound, and the workarounds gone."""
    found = [name for name in WORKAROUNDS if name in os.environ]
    pools = {name: str(n_threads) for name in POOLS}
    if found or any(os.environ.get(k) != v for k, v in pools.items()):
        env = {k: v for k, v in os.environ.items() if k not in WORKAROUNDS} | pools
        env[SAID] = " ".join(f"{name}={os.environ[name]}" for name in found)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], env)


def bind(n_threads: int) -> None:
    """XLA takes as many threads as the process has CPUs; so the process has as many as asked."""
    from machine import usable_cpus

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, usable_cpus()[:n_threads])


def choose(patterns: list[str], rows: dict[str, Any]) -> list[str]:
    """All but the long rows, or those named: whole, by their beginning, or with * and ?."""
    if not patterns:
        return [name for name, row in rows.items() if not row.long]
    chosen: list[str] = []
    for p in patterns:
        hits = [p] if p in rows else [n for n in rows if fnmatchcase(n, f"{p}*")]
        if not hits:
            raise SystemExit(f"no row is called {p}; --list shows them")
        chosen += [n for n in hits if n not in chosen]
    return chosen


def show(result: Any) -> None:
    print(f"\n== {result.row}: {result.title}")
    if result.skipped:
        print(f"   skipped: {result.skipped}")
    for line in result.lines:
        v = line.value
        text = f"   {line.who:<36} {v.median:>9.4g} {line.unit:<8} ({v.q1:.4g} .. {v.q3:.4g})"
        if line.share_of_peak is not None:
            text += f"  {line.share_of_peak:5.0%} of peak"
        elif "GFLOP" in line.unit or "step" in line.unit:
            text += "  peak n/a"
        if line.ratio_to_ours is not None:
            r = line.ratio_to_ours
            text += f"  {r.median:5.2f}x ({r.q1:.2f} .. {r.q3:.2f})"
        print(text)
        if line.note:
            print(f"      {line.note}")
    for verdict in result.verdicts:
        print(f"   -> {verdict}")
    if result.disturbed:
        where = f"beside {result.disturbed_blocks} of {result.blocks} blocks"
        if not result.blocks:
            where = f"on {result.others:.2f} of the CPUs"
        print(f"   DISTURBED: other processes ran {where}; do not quote these figures")
    for note in result.notes:
        print(f"   note: {note}")
    for wrong in result.wrong:
        print(f"   WRONG ANSWER: {wrong}")


def main(argv: list[str]) -> int:
    args = parse(argv)
    start_clean(args.threads)
    bind(args.threads)

    import machine
    import ours
    from harness import Clock
    from problem import load_data
    from rows import ROWS
    from rows.common import Context

    names = choose(args.rows, ROWS)
    if args.list:
        for name, row in ROWS.items():
            print(f"{name:<34} {row.about}{'  (long: only when named)' if row.long else ''}")
        return 0
    if os.environ.get(SAID):
        print(f"unset before NumPy was imported: {os.environ[SAID]} (slows a current NumPy)")
    about = machine.describe(args.threads, ours.config())
    about["unset"] = os.environ.get(SAID, "")
    print(f"{about['cpu']['model']}, {' '.join(about['cpu']['flags'])}; {args.threads} threads of "
          f"{about['cpus_usable']} CPUs; NumPy runs {about['numpy_blas']}")  # fmt: skip
    print("bpfree_fast: " + ", ".join(f"{k} {v}" for k, v in about["bpfree_fast"].items()))
    if about["load_average_at_start"] > 0.5:
        print(f"load average {about['load_average_at_start']:.1f}: this machine is not quiet")
    if args.clock == "cpu":
        Clock.use_cpu_time()
        print("timed by CPU time, not wall time: a first look")
    data = load_data()
    if data.source == "random":
        print("BPFREE_DATA names no MNIST: random bytes of its shape; accuracy rows are skipped")
    peaks = machine.Peaks(ours.core, cpu_time=args.clock == "cpu")
    peaks.measure_now(args.threads)
    ctx = Context(args.threads, args.seconds, args.rounds, data, peaks, args.epochs)

    results = []
    for name in names:
        start = time.perf_counter()
        result = ROWS[name].run(ctx)
        result.extra["row_seconds"] = round(time.perf_counter() - start, 1)
        show(result)
        results.append(result)
        if args.json:  # after each row, so that an interrupted run keeps what it has
            about["peak_gflops"] = peaks.found
            whole = {
                "machine": about,
                "data": data.source,
                "clock": args.clock,
                "rounds": args.rounds,
                "seconds": args.seconds,
                "rows": [r.as_dict() for r in results],
            }
            args.json.write_text(json.dumps(whole, indent=1) + "\n")
    missed = sum(v.floor_met is False for r in results for v in r.verdicts)
    wrong = sum(bool(r.wrong) for r in results)
    skipped = sum(bool(r.skipped) for r in results)
    disturbed = sum(r.disturbed for r in results)
    print(
        f"\n{len(results)} rows: {skipped} skipped, {disturbed} disturbed, {wrong} with a wrong "
        f"answer; {missed} floors not met"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
