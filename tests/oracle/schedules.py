# SPDX-License-Identifier: BSD-3-Clause
"""Learning rate of a step. step counts from 0 over the whole training, epoch too."""

import numpy as np


def learning_rate(schedule, lr, *, step, epoch, total_steps, step_size, gamma, power_t):
    """The rate that a step uses; 'adaptive' is constant here, the estimator lowers it."""
    if schedule in ("constant", "adaptive"):
        return lr
    if schedule == "cosine":
        return lr * 0.5 * (1.0 + np.cos(np.pi * step / total_steps))
    if schedule == "step":
        return lr * gamma ** (epoch // step_size)
    if schedule == "invscaling":
        return lr / (step + 1) ** power_t
    raise ValueError(schedule)
