# SPDX-License-Identifier: BSD-3-Clause
"""One update of an ensemble: the length of its step, its weights, its inflation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Floats
from .draws import PRIOR, mean_of, seed_of
from .options import F64, Options

_STRIP = 1 << 17  # numbers of a strip of parameters that stays in the cache
# Longer steps would lose the 1 of 1 + dt gram.
_MOST = 1e12


@dataclass(frozen=True)
class Found:
    """What an update found out."""

    dt: float
    effective_rank: float
    form: str
    misfits: F64
    mean: F64 | None  # of the members that were to move, where all will be drawn anew


@dataclass(frozen=True)
class Moments:
    """Outputs of members in numbers that do not depend on how many parameters there are."""

    gram: F64
    cross: F64
    noise: F64 | None
    misfits: F64  # of the data alone
    all_misfits: F64  # and of the prior
    n_obs: int  # likewise


def update(
    rows: Floats,
    g: Floats,
    y: F64,
    options: Options,
    *,
    seed: int,
    iteration: int,
    remaining: float,
    n_threads: int,
) -> Found:
    """Update members in place; `remaining` is the longest step. Refuses before it changes any.

    Where all members will be drawn anew their mean is all that is wanted, and they may stay.
    """
    dt = options.given_dt(iteration)
    is_localised, is_redrawn = options.localization != "none", options.redraw_std is not None
    # The kernel knows when the form of the data is cheaper. Where the step follows from the
    # moments, they are there already.
    by_kernel = is_localised or options.form == "data"
    needs_moments = dt is None or options.prior is not None or is_redrawn
    by_kernel |= options.form == "auto" and not needs_moments
    if by_kernel:
        if dt is None:
            dt = _step_size(_moments(rows, g, y, options, seed, iteration, n_threads), options)
        dt = min(dt, remaining)
        form, rank, misfits = _core.ensemble_update(
            rows, rows, g, y, options.noise_cov, options.method, dt, seed, iteration,
            options.localization, options.taper, options.form, n_threads,
        )  # fmt: skip
        if options.inflation != 1:
            inflate(rows, options.inflation)
        return Found(dt, rank, form, misfits, mean_of(rows) if is_redrawn else None)
    moments = _moments(rows, g, y, options, seed, iteration, n_threads)
    dt = min(_step_size(moments, options) if dt is None else dt, remaining)
    transform, rank = _core.ensemble_weights(
        moments.gram, moments.cross, moments.noise, options.method, dt, n_threads
    )
    if is_redrawn:
        mean = moved_mean(rows, transform, n_threads)
        return Found(dt, rank, "ensemble", moments.misfits, mean)
    if options.inflation != 1:
        transform = inflated(transform, options.inflation)
    _core.ensemble_transform(rows, rows, transform, False, n_threads)
    return Found(dt, rank, "ensemble", moments.misfits, None)


def misfit_of_mean(g: Floats, y: F64, noise_cov: F64, n_threads: int) -> float:
    """Give half the squared distance of the outputs' mean from the data, in noise's deviations."""
    pair = np.stack([mean_of(g), y])
    misfits = _core.ensemble_moments(pair, y, noise_cov, n_threads=n_threads)[3]
    assert misfits is not None
    return float(misfits[0])


def spread(members: Floats) -> float:
    """Give the members' deviation: the root of the mean of the parameters' variances."""
    n, size = members.shape
    total = 0.0
    for begin, end in _strips(members):
        block = members[:, begin:end] - members[0, begin:end]
        block -= block.mean(axis=0)
        total += float(np.einsum("ij,ij->", block, block))
    return math.sqrt(total / ((n - 1) * size)) if math.isfinite(total) else total


def moved_mean(members: Floats, transform: F64, n_threads: int) -> F64:
    """Give the mean that the transform would move the members to, in one pass over them."""
    weights = transform.mean(axis=0)
    weights -= weights.mean()  # so that what all members share does not count
    row = cast("Floats", weights[np.newaxis].astype(members.dtype))
    mean = mean_of(members)
    for begin, end in _strips(members):
        block = members[:, begin:end] - members[0, begin:end]
        change = np.empty((1, end - begin), members.dtype)
        _core.product(row, block, change, False, False, n_threads)
        mean[begin:end] += change[0]
    return mean


def inflate(members: Floats, factor: float) -> None:
    """Multiply the anomalies by a factor, in place."""
    for begin, end in _strips(members):
        block = members[:, begin:end]
        mean = cast("Floats", mean_of(block).astype(members.dtype))
        block -= mean
        block *= factor
        block += mean


def inflated(transform: F64, factor: float) -> F64:
    """Give the transform whose anomalies are `factor` times as large, and whose mean is the same.

    With T added to the identity, the anomalies of the members become 1 + T - t, where each row of
    t is the mean of T's rows.
    """
    result = factor * transform + (1 - factor) * transform.mean(axis=0)
    result[np.diag_indices(len(result))] += factor - 1
    return cast("F64", result)


def _moments(
    rows: Floats, g: Floats, y: F64, options: Options, seed: int, iteration: int, n_threads: int
) -> Moments:
    perturbed = options.is_perturbed
    gram, cross, noise, misfits = _core.ensemble_moments(
        g, y, options.noise_cov, None, 0, perturbed, seed, iteration, n_threads
    )
    assert misfits is not None
    if options.prior is None:
        return Moments(gram, cross, noise, misfits, misfits, g.shape[1])
    # Members are outputs too, and the prior's mean is their data: sums over both.
    prior = options.prior
    more = _core.ensemble_moments(
        rows, prior.mean, prior.cov, None, 0, perturbed, seed_of(seed, PRIOR), iteration, n_threads
    )
    assert more[3] is not None
    return Moments(
        gram + more[0],
        cross + more[1],
        None if noise is None or more[2] is None else noise + more[2],
        misfits,
        misfits + more[3],
        g.shape[1] + rows.shape[1],
    )


def _step_size(moments: Moments, options: Options) -> float:
    if options.dt == "misfit":
        dt = _by_misfit(moments.all_misfits, moments.n_obs)
    else:
        # Of D[k, j] = (g_k - mean) . (g_j - y) / (n_ens - 1), which cross has but for a factor.
        square = float(np.einsum("ij,ij->", moments.cross, moments.cross))
        norm = math.sqrt(square / (len(moments.cross) - 1))
        dt = 1 / norm if norm > 0 else math.inf
    trace = float(np.trace(moments.gram))
    longest = _MOST / trace if trace > 0 else 1.0  # outputs that do not differ move nothing
    return min(options.dt_scale * dt, longest)


def _by_misfit(misfits: NDArray[np.float64], n_obs: int) -> float:
    mean, deviation = float(misfits.mean()), float(misfits.std(ddof=1))
    first = n_obs / (2 * mean) if mean > 0 else math.inf
    second = math.sqrt(n_obs / 2) / deviation if deviation > 0 else math.inf
    return max(first, second)


def _strips(members: Floats) -> list[tuple[int, int]]:
    n, size = members.shape
    width = max(1, _STRIP // n)
    return [(begin, min(begin + width, size)) for begin in range(0, size, width)]
