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
