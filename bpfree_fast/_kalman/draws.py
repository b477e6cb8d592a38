# SPDX-License-Identifier: BSD-3-Clause
"""Random numbers of an ensemble, each by seed, iteration and member: nothing is kept of them."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Floats
from .._random import uniform
from .options import F64
from .rows import mean_of, others, strips

# What is drawn for one purpose has nothing in common with what is drawn for another: the seed is
# xored with a multiple of an odd number (the golden ratio's, of 64 bits).
PRIOR, REDRAW, ADDITIVE, REPLACEMENT, DROPOUT = range(1, 6)
_ODD = 0x9E3779B97F4A7C15
_ROWS = 1 << 21  # numbers of noise that are held at a time


def seed_of(seed: int, purpose: int) -> int:
    """Give the seed of one purpose."""
    return seed ^ (purpose * _ODD % 2**64)


class Draws:
    """Draws of one seed, on some threads."""

    def __init__(self, seed: int, n_threads: int) -> None:
        self.seed = seed
        self._n_threads = n_threads

    def redraw(self, members: Floats, mean: F64, std: Floats, iteration: int) -> None:
        """Write members of deviation `std` whose mean is `mean`."""
        center = cast("Floats", mean.astype(members.dtype))
        noise = self._mean_noise(members, REDRAW, iteration)
        self._fill(members, cast("Floats", center - std * noise), std, REDRAW, iteration, 0)

    def spread_out(self, members: Floats, std: Floats, iteration: int) -> None:
        """Add noise of deviation `std`, whose mean over the members is 0."""
        n, size = members.shape
        base = cast("Floats", -(std * self._mean_noise(members, ADDITIVE, iteration)))
        step = max(1, _ROWS // size)
        noise = np.empty((min(step, n), size), members.dtype)
        for begin in range(0, n, step):
            some = noise[: min(step, n - begin)]
            self._fill(cast("Floats", some), base, std, ADDITIVE, iteration, begin)
            members[begin : begin + step] += some

    def replace(self, members: Floats, failed: NDArray[np.intp], iteration: int) -> None:
        """Draw members anew, around the mean of the others, with their covariance."""
        good = others(len(members), failed)
        n, dtype = len(good), members.dtype
        weights = np.empty((len(failed), n), dtype)
        _core.search_members(
            weights, np.zeros(n, dtype), None, 1.0, failed.astype(np.uint32),
            seed_of(self.seed, REPLACEMENT), iteration, "gaussian", False, self._n_threads,
        )  # fmt: skip
        weights -= weights.mean(axis=1, keepdims=True)
        weights /= np.sqrt(n - 1)
        for begin, end in strips(members):
            block = members[good, begin:end]
            mean = cast("Floats", mean_of(block).astype(dtype))
            block -= mean
            drawn = np.empty((len(failed), end - begin), dtype)
            _core.product(weights, block, drawn, False, False, self._n_threads)
            drawn += mean
            members[failed, begin:end] = drawn

    def kept(self, n_params: int, dropout: float, iteration: int) -> NDArray[np.bool_]:
        """Say which parameters a step does not drop."""
        numbers = uniform(
            seed_of(self.seed, DROPOUT), n_params, stream=iteration,
            n_threads=self._n_threads or None,
        )  # fmt: skip
        return np.asarray(numbers >= dropout)

    def _mean_noise(self, members: Floats, purpose: int, iteration: int) -> Floats:
        n, size = members.shape
        mean = np.empty(size, members.dtype)
        _core.search_sums(
            mean, np.full(n, 1 / n, members.dtype), None, None, seed_of(self.seed, purpose),
            iteration, "gaussian", False, self._n_threads,
        )  # fmt: skip
        return cast("Floats", mean)

    def _fill(
        self, out: Floats, base: Floats, std: Floats, purpose: int, iteration: int, first: int
    ) -> None:
        """Write ``base + std * noise`` of the members from `first` on."""
        scale = None if std.ndim == 0 else std
        _core.search_members(
            out, base, scale, float(std) if scale is None else 1.0,
            np.arange(first, first + len(out), dtype=np.uint32), seed_of(self.seed, purpose),
            iteration, "gaussian", False, self._n_threads,
        )  # fmt: skip
