# SPDX-License-Identifier: BSD-3-Clause
"""What a script computes under an instruction set, which is chosen at import: a process each."""

import os
import subprocess
import sys

import numpy as np


def arrays_under(isa, script, folder):
    """Run the script on the folder's in.npz; it prints the instruction set and writes arrays."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder / "in.npz"), str(folder / "out.npz")],
        cwd=folder,
        env=os.environ | {"BPFREE_ISA": isa},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == isa
    with np.load(folder / "out.npz") as found:
        return dict(found)
