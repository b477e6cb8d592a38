# SPDX-License-Identifier: BSD-3-Clause
"""Members as rows of an array: a strip of their parameters at a time, and some of them apart."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from .._arrays import Floats

_STRIP = 1 << 17  # numbers of a strip of parameters that stays in the cache


def strips(members: Floats) -> list[tuple[int, int]]:
    """Cut the parameters into strips, each so wide that all members of it fit a cache."""
    n, size = members.shape
    width = max(1, _STRIP // n)
    return [(begin, min(begin + width, size)) for begin in range(0, size, width)]


def mean_of(members: Floats) -> NDArray[np.float64]:
    """Give the mean of the members, in float64."""
    return cast("NDArray[np.float64]", members.mean(axis=0, dtype=np.float64))


def others(n: int, failed: NDArray[np.intp]) -> NDArray[np.intp]:
    """Give the numbers of n members that did not fail."""
    return np.delete(np.arange(n), failed)


def move_together(members: Floats, failed: NDArray[np.intp]) -> Floats:
    """Move the members that did not fail to the front, in their order, and give them."""
    good = others(len(members), failed)
    for to, place in enumerate(good):
        if to != place:
            members[to] = members[place]
    return members[: len(good)]


def move_back(members: Floats, failed: NDArray[np.intp]) -> None:
    """Move them to where they were."""
    good = others(len(members), failed)
    for place in range(len(good) - 1, -1, -1):
        if place != good[place]:
            members[good[place]] = members[place]
