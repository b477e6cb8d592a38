# SPDX-License-Identifier: BSD-3-Clause
"""What a step is told: checked, and apart from the members."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._arrays import Floats
from .options import F64, floats, real_array


def data_of(y: ArrayLike, noise_cov: F64) -> F64:
    """Check the data."""
    data = real_array("y", y)
    if data.ndim != 1 or data.size == 0:
        raise ValueError(f"y has shape {data.shape}, expected (n_obs,) with n_obs > 0.")
    wrong = np.flatnonzero(~np.isfinite(data))
    if wrong.size:
        raise ValueError(f"y must be finite, got {data[wrong[0]]} at {wrong[0]}.")
    n_obs = len(noise_cov)
    if n_obs > 1 and n_obs != data.size:
        raise ValueError(
            f"y has {data.size} observations, but obs_noise_cov is of {n_obs} of them."
        )
    return data


def outputs_of(g: ArrayLike, asked: Floats) -> Floats:
    """Give outputs as the kernels take them: float32 and float64 as they are."""
    given = floats("g", g)
    if np.may_share_memory(given, asked):  # a filter's members may be its outputs
        given = given.copy()
    return cast("Floats", np.ascontiguousarray(given))


def succeeded(g: Floats, iteration: int) -> tuple[Floats, NDArray[np.intp]]:
    """Give the outputs of those that did not fail, and the numbers of those that did."""
    finite = np.isfinite(g).all(axis=1)
    n_good = int(np.count_nonzero(finite))
    if n_good == len(g):
        return g, np.empty(0, np.intp)
    if n_good < 2:
        raise ValueError(
            f"{n_good} of {len(g)} members have finite outputs in iteration {iteration}, "
            f"expected at least 2: nothing was changed."
        )
    return g[finite], np.flatnonzero(~finite)
