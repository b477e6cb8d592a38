# SPDX-License-Identifier: BSD-3-Clause
"""Functions that tests give to workers: a module, so that other processes can import them."""

import os
import signal

import numpy as np


def objective(x):
    return float(np.sum((x - 0.5) ** 2))


def killing(x, *, flag, main):
    """Kill the worker that comes first, once."""
    if os.getpid() != main and flag.exists():
        flag.unlink(missing_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return objective(x)


def always_killing(x, *, main):
    if os.getpid() != main:
        os.kill(os.getpid(), signal.SIGKILL)
    return objective(x)


def failing(x):
    raise ArithmeticError("no value")


def first_parameter(x):
    return float(x[0])


def observed(x):
    """Three outputs of four parameters."""
    return np.array([x[0] + x[1], np.sin(x[2]), x[3] * x[0]])


def all_observed(x):
    return np.stack([observed(row) for row in x])


def killing_observed(x, *, flag, main):
    killing(x, flag=flag, main=main)
    return observed(x)


def failing_observed(x):
    """One in some members has no outputs."""
    return np.full(3, np.nan) if x[0] > 1 else observed(x)
