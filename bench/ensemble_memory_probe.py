# SPDX-License-Identifier: BSD-3-Clause
"""One update in a process of its own: memory beyond the members and outputs, MB (Linux).

Usage: ensemble_memory_probe.py WHO N_THREADS N_ENS; prints one number.
"""

from __future__ import annotations

import gc
import sys

import rivals
from ensemble_problem import KalmanProblem
from memory_probe import _forget_peak, _status
from ours_ensemble import OursEnsemble


def main(who: str, n_threads: str, n_ens: str) -> None:
    rival = OursEnsemble(int(n_threads)) if who == "ours" else rivals.load(who)
    if isinstance(rival, str):
        raise SystemExit(rival)
    rival.set_threads(int(n_threads))
    # Loads code and starts threads, so that these do not count.
    rival.kalman_update(KalmanProblem(20, 3000, 100)).many(2)
    call = rival.kalman_update(KalmanProblem(int(n_ens), 101_770, 1000, 1e6))
    gc.collect()
    before = _status("VmRSS")
    _forget_peak()
    call.many(2)
    print((_status("VmHWM") - before) / 1e6)


if __name__ == "__main__":
    main(*sys.argv[1:])
