# SPDX-License-Identifier: BSD-3-Clause
"""The machine under the figures: what it is, what it can do at most, and how busy it is."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = (
    "bpfree-fast",
    "numpy",
    "torch",
    "jax",
    "jaxlib",
    "evosax",
    "evotorch",
    "cma",
    "scikit-learn",
    "threadpoolctl",
)
CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


def usable_cpus() -> list[int]:
    """CPUs this process may use, the first thread of each core before the others."""
    cpus = sorted(os.sched_getaffinity(0))
    firsts: list[int] = []
    seconds: list[int] = []
    seen: set[str] = set()
    for cpu in cpus:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        core = path.read_text().strip() if path.is_file() else str(cpu)
        (seconds if core in seen else firsts).append(cpu)
        seen.add(core)
    return firsts + seconds


def _cpu_info() -> dict[str, Any]:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""

    def first(key: str) -> str:
        match = re.search(rf"^{key}\s*:\s*(.*)$", text, re.MULTILINE)
        return match.group(1).strip() if match else ""

    flags = set((first("flags") or first("Features")).split())
    return {
        "model": first("model name") or platform.processor() or platform.machine(),
        "family_model_stepping": [first("cpu family"), first("model"), first("stepping")],
        "flags": [f for f in CPU_FLAGS if f in flags],
        "cache": first("cache size"),
    }


def _commit(folder: Path) -> str:
    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *args], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    changed = [line for line in git("status", "--porcelain").splitlines() if line[:2] != "??"]
    return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def numpy_kernel() -> str:
    """Which kernel NumPy's BLAS runs: an old workaround may have forced a slow one."""
    from threadpoolctl import threadpool_info

    blas = [i for i in threadpool_info() if i["user_api"] == "blas"]
    return ", ".join(f"{i['internal_api']} {i['version']} {i.get('architecture')}" for i in blas)


def describe(n_threads: int, config: dict[str, object]) -> dict[str, Any]:
    """What a results file says about the machine; no host name, no path."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(Path(__file__).resolve().parent),
        "cpu": _cpu_info(),
        "cpus_usable": len(usable_cpus()),
        "n_threads": n_threads,
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions(),
        "numpy_blas": numpy_kernel(),
        "load_average_at_start": os.getloadavg()[0],
        "bpfree_fast": {k: v if isinstance(v, (int, str, list)) else str(v)
                        for k, v in config.items()},
    }  # fmt: skip


def copy_rate(n_bytes: int, n_threads: int, seconds: float = 0.5) -> float:
    """Bytes moved a second (read + written) by copies with a working set of `n_bytes`.

    NumPy's copy releases the GIL, so Python threads do. The working set matters: where it fits a
    large cache the rate is the cache's, and so is the optimizer's.
    """
    n = max(1, n_bytes // 2 // n_threads // 4)
    pairs = [(np.ones(n, np.float32), np.zeros(n, np.float32)) for _ in range(n_threads)]
    counts = [0] * n_threads
    begin = threading.Barrier(n_threads)

    def work(i: int) -> None:
        source, target = pairs[i]
        np.copyto(target, source)
        begin.wait()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            np.copyto(target, source)
            counts[i] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n_threads)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return sum(counts) * 2.0 * n * 4 / seconds


class Interference:
    """How much of this process's CPUs others use, by the kernel's count (ticks of 10 ms)."""

    def __init__(self) -> None:
        self._cpus = {f"cpu{c}" for c in os.sched_getaffinity(0)}
        self._tick = os.sysconf("SC_CLK_TCK")
        self.start()

    def _busy(self) -> float:
        """Seconds that the CPUs were busy with anybody, stolen time included."""
        total = 0
        for line in Path("/proc/stat").read_text().splitlines():
            name, *ticks = line.split()
            if name in self._cpus:
                user, nice, system, _idle, _wait, irq, softirq, steal = map(int, ticks[:8])
                total += user + nice + system + irq + softirq + steal
        return total / self._tick

    def start(self) -> None:
        self._begin = (self._busy(), sum(os.times()[:4]), time.perf_counter())

    def others(self) -> float:
        """CPUs that others kept busy since `start`: 0 if none, 1 if one all the time."""
        busy, own, begin = self._begin
        mine = sum(os.times()[:4]) - own
        return max(0.0, self._busy() - busy - mine) / (time.perf_counter() - begin)


class Peaks:
    """The register-only loop's GFLOP/s, measured once a dtype and thread count."""

    def __init__(self, core: Any, *, cpu_time: bool = False, seconds: float = 0.05) -> None:
        self._cpu_time = cpu_time  # as the contestants are timed
        self._measure: Any = getattr(core, "peak_gflops", None)
        self._seconds = seconds
        self.found: dict[str, float | None] = {}

    def _once(self, dtype: str, n_threads: int) -> float:
        wall, cpu = time.perf_counter(), time.process_time()
        found = float(self._measure(dtype, n_threads, self._seconds))
        if not self._cpu_time:
            return found
        return found * (time.perf_counter() - wall) / (time.process_time() - cpu)

    def _many(self, dtype: str, n_threads: int) -> float:
        """The best of many: a neighbour only lowers it. CPU time errs both ways: the median."""
        found = [self._once(dtype, n_threads) for _ in range(20)]
        return float(np.median(found)) if self._cpu_time else max(found)

    def measure_now(self, n_threads: int) -> None:
        """Measure while no rival is loaded, whose threads would spin beside the loop.

        Measured after one, float32's peak on two threads came out at half.
        """
        for dtype in ("float32", "bfloat16"):
            self.gflops(dtype, n_threads)

    def gflops(self, dtype: str, n_threads: int) -> float | None:
        key = f"{dtype} x{n_threads}"
        if key not in self.found:
            try:
                self.found[key] = self._many(dtype, n_threads) if self._measure else None
            except (TypeError, ValueError):  # a dtype this build does not measure
                self.found[key] = None
        return self.found[key]

    def share(self, flops: float, seconds: float, dtype: str, n_threads: int) -> float | None:
        peak = self.gflops(dtype, n_threads)
        return flops / seconds / (peak * 1e9) if peak else None
