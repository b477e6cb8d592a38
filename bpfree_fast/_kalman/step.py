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
from .draws import PRIOR, seed_of
from .options import F64, Options
from .rows import mean_of, strips

# Numbers of a piece of a member, or of a few short members: the products of so few are not shared
# out among threads of BLAS, and have the same bits for any number of them.
_PIECE = 1 << 13
# Of a sum of squares around the first member, the share that its distance from the mean may be.
_MOST_LOST = 0.9
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
class Outputs:
    """What members gave, what was observed, and the variances or the covariance of its noise."""

    g: Floats
    y: F64
    noise_cov: F64

    def whitened(self, root: F64 | None, n_threads: int) -> Outputs:
        """Give them in deviations of the noise, around their mean, where its root is known."""
        if root is None:
            return self
        mean = mean_of(self.g)
        white = np.empty(self.g.shape)
        _core.product(self.g - mean, root, white, False, True, n_threads)
        return Outputs(white, root @ (self.y - mean), np.ones(1))


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
    told = Outputs(g, y, options.noise_cov)
    white = told
    if not is_localised or dt is None:
        white = told.whitened(options.noise_root, n_threads)
    moments = None
    if dt is None:
        moments = _moments(rows, white, options, seed, iteration, n_threads)
        dt = _step_size(moments, options)
    dt = min(dt, remaining)
    form = options.form
    if form == "auto" and not is_localised:
        by_members = options.prior is not None or is_redrawn
        # Where the data's form is cheaper the kernel says so too, unless float32 is too coarse.
        if moments is not None:
            by_members |= not _data_is_cheaper(rows, g.shape[1], options.method)
        form = "ensemble" if by_members else form
    if form != "ensemble":
        given = told if is_localised else white
        form, rank, misfits = _core.ensemble_update(
            rows, rows, given.g, given.y, given.noise_cov, options.method, dt, seed, iteration,
            options.localization, options.taper, options.obs_taper, form, n_threads,
        )  # fmt: skip
        if options.inflation != 1:
            inflate(rows, options.inflation)
        return Found(dt, rank, form, misfits, mean_of(rows) if is_redrawn else None)
    if moments is None:
        moments = _moments(rows, white, options, seed, iteration, n_threads)
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


def misfit_of_mean(g: Floats, y: F64, options: Options, n_threads: int) -> float:
    """Give half the squared distance of the outputs' mean from the data, in noise's deviations."""
    mean = mean_of(g)
    if options.noise_root is not None:
        off = options.noise_root @ (y - mean)
        return float(off @ off) / 2
    pair = np.stack([mean, y])
    misfits = _core.ensemble_moments(pair, y, options.noise_cov, n_threads=n_threads)[3]
    assert misfits is not None
    return float(misfits[0])


def spread(members: Floats) -> float:
    """Give the members' deviation: the root of the mean of the parameters' variances."""
    n, size = members.shape
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # the caller looks at the result
        for begin in range(0, size, _PIECE):
            some = members[:, begin : begin + _PIECE]
            squares, sums = _around(some, some[0])
            of_mean = float(sums @ sums) / n
            if of_mean > _MOST_LOST * squares:  # the first member is far from the others
                squares, sums = _around(some, (some[0] + sums / n).astype(members.dtype))
                of_mean = float(sums @ sums) / n
            total += squares - of_mean
    return math.sqrt(total / ((n - 1) * size)) if math.isfinite(total) else total


def _around(members: Floats, center: Floats) -> tuple[float, F64]:
    """Give the sums of squared distances from a center and of distances, in one pass."""
    n, size = members.shape
    step = max(1, _PIECE // size)
    buffer = np.empty((min(step, n), size), members.dtype)
    squares, sums, part = 0.0, np.zeros(size, members.dtype), np.empty(size, members.dtype)
    for begin in range(0, n, step):
        some = members[begin : begin + step]
        block = buffer[: len(some)]
        np.subtract(some, center, out=block)
        sums += block[0] if len(block) == 1 else np.add.reduce(block, axis=0, out=part)
        squares += float(np.vdot(block, block))
    return squares, sums.astype(np.float64)


def moved_mean(members: Floats, transform: F64, n_threads: int) -> F64:
    """Give the mean that the transform would move the members to, in one pass over them."""
    weights = transform.mean(axis=0)
    weights -= weights.mean()  # so that what all members share does not count
    row = cast("Floats", weights[np.newaxis].astype(members.dtype))
    mean = mean_of(members)
    for begin, end in strips(members):
        block = members[:, begin:end] - members[0, begin:end]
        change = np.empty((1, end - begin), members.dtype)
        _core.product(row, block, change, False, False, n_threads)
        mean[begin:end] += change[0]
    return mean


def inflate(members: Floats, factor: float) -> None:
    """Multiply the anomalies by a factor, in place."""
    for begin, end in strips(members):
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
    rows: Floats, outputs: Outputs, options: Options, seed: int, iteration: int, n_threads: int
) -> Moments:
    perturbed = options.is_perturbed
    gram, cross, noise, misfits = _core.ensemble_moments(
        outputs.g, outputs.y, outputs.noise_cov, None, 0, perturbed, seed, iteration, n_threads
    )
    assert misfits is not None
    n_obs = outputs.g.shape[1]
    if options.prior is None:
        return Moments(gram, cross, noise, misfits, misfits, n_obs)
    # Members are outputs too, and the prior's mean is their data: sums over both.
    prior = options.prior
    known = Outputs(rows, prior.mean, prior.cov).whitened(prior.root, n_threads)
    more = _core.ensemble_moments(
        known.g, known.y, known.noise_cov, None, 0, perturbed, seed_of(seed, PRIOR), iteration,
        n_threads,
    )  # fmt: skip
    assert more[3] is not None
    return Moments(
        gram + more[0],
        cross + more[1],
        None if noise is None or more[2] is None else noise + more[2],
        misfits,
        misfits + more[3],
        n_obs + rows.shape[1],
    )


def _data_is_cheaper(rows: Floats, n_obs: int, method: str) -> bool:
    """Say which form needs fewer operations where the moments are there already.

    Those of the algebra, in float64, count twice where the members are float32, as in the kernel.
    """
    n, size = (float(number) for number in rows.shape)
    algebra = 1 if rows.dtype == np.float64 else 2
    by_data = 4 * size * n_obs * n + algebra * (4 * n_obs**2 * n + n_obs**3 / 3)
    return method != "etki" and by_data < 2 * size * n * n + algebra * 7 * n**3 / 3


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
