# SPDX-License-Identifier: BSD-3-Clause
"""The benchmarks run on the installed package, never on the bare source, beside their modules."""

import sys
from pathlib import Path

_BENCH = Path(__file__).resolve().parent
_ROOT = _BENCH.parent

# "python -m pytest" puts the current folder first, and there lies a bpfree_fast without _core.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _ROOT]
sys.path.insert(0, str(_BENCH))
