# SPDX-License-Identifier: BSD-3-Clause
"""Data that tests share. The tests run on the installed package, never on the bare source."""

import importlib
import os
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent

# "python -m pytest" puts the current folder first, and there lies a bpfree_fast without _core.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _ROOT]


@pytest.fixture(scope="session")
def digits():
    """The digits that scikit-learn ships, in two parts: float32 in [0, 1], labels 0 to 9."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra 'sklearn')")
    return importlib.import_module("bpfree_fast.data").load("digits")


@pytest.fixture(scope="session")
def mnist():
    """MNIST from the folder that BPFREE_DATA names, or from mnist/ below it."""
    home = os.environ.get("BPFREE_DATA")
    if not home:
        pytest.skip("BPFREE_DATA names no folder with MNIST")
    data = importlib.import_module("bpfree_fast.data")
    folders = [Path(home), Path(home) / "mnist"]
    found = [folder for folder in folders if any(folder.glob("train-images*idx3*"))]
    if not found:
        pytest.skip(f"BPFREE_DATA ({home}) has no MNIST")
    return data.load(found[0])
