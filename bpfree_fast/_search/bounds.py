# SPDX-License-Identifier: BSD-3-Clause
"""Boxes that members stay in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._arrays import Floats
from .._validation import choice

HANDLINGS = ("clip", "reflect")


@dataclass(frozen=True)
class Bounds:
    """A box whose sides are numbers of the search's type; infinite where it is open."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    handling: str

    def apply(self, x: Floats) -> None:
        """Bring the rows of `x` into the box, in place."""
        low: NDArray[Any] = self.low.astype(x.dtype)
        high: NDArray[Any] = self.high.astype(x.dtype)
        if self.handling == "reflect":
            # A point beyond a wall comes back as far as it went: a wave of twice the width.
            closed = np.isfinite(high - low)
            np.copyto(x, low + (low - x), where=~closed & (x < low))
            np.copyto(x, high - (x - high), where=~closed & (x > high))
            width = np.where(closed, high - low, 1)
            along = np.where(closed, x - low, 0) % (2 * width)
            np.copyto(x, low + np.minimum(along, 2 * width - along), where=closed)
        np.clip(x, low, high, out=x)

    def clip(self, mean: Floats) -> None:
        """Bring a mean into the box, in place."""
        np.clip(mean, self.low.astype(mean.dtype), self.high.astype(mean.dtype), out=mean)


def bounds_of(value: object, handling: object, x0: Floats) -> Bounds | None:
    """Check ``bounds=(low, high)``, each a number, an array like x0, or None where open."""
    kind = choice("bound_handling", handling, HANDLINGS)
    if value is None:
        return None
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"bounds must be None or a pair (low, high), got {value!r}.")
    low, high = _side("low", value[0], -np.inf, x0), _side("high", value[1], np.inf, x0)
    wrong = np.flatnonzero(~(low < high))
    if wrong.size:
        i = int(wrong[0])
        raise ValueError(f"bounds must have low < high, got {low[i]:g} and {high[i]:g} at {i}.")
    low, high = _inwards(low, x0.dtype, np.inf), _inwards(high, x0.dtype, -np.inf)
    wrong = np.flatnonzero(~(low <= high))
    if wrong.size:
        i = int(wrong[0])
        raise ValueError(f"bounds must have a {x0.dtype} between them, got none at {i}.")
    outside = np.flatnonzero(~((x0 >= low) & (x0 <= high)))
    if outside.size:
        i = int(outside[0])
        raise ValueError(
            f"x0 must be within the bounds, got {x0[i]:g} at {i}, not from {low[i]:g} to "
            f"{high[i]:g}."
        )
    return Bounds(low, high, kind)


def _side(name: str, value: ArrayLike | None, open_value: float, x0: Floats) -> NDArray[np.float64]:
    array = np.asarray(open_value if value is None else value, np.float64)
    if array.ndim > 1 or (array.ndim == 1 and array.shape != x0.shape):
        raise ValueError(
            f"the {name} bound has shape {array.shape}, expected a number or {x0.shape}."
        )
    full: NDArray[np.float64] = np.broadcast_to(array, x0.shape).copy()
    return full


def _inwards(
    side: NDArray[np.float64], dtype: np.dtype[Any], towards: float
) -> NDArray[np.float64]:
    """Round a side to the search's type, never out of the box."""
    with np.errstate(over="ignore"):
        near: NDArray[Any] = side.astype(dtype)
    outside = near < side if towards > 0 else near > side
    near[outside] = np.nextafter(near[outside], np.asarray(towards, dtype))
    return near.astype(np.float64)
