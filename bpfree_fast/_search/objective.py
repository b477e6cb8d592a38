# SPDX-License-Identifier: BSD-3-Clause
"""The user's function, and the members that it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from .._arrays import Floats
from .._validation import integer
from .bounds import Bounds
from .methods import F64, Method
from .noise import Indices

Function = Callable[[Any], Any]


@dataclass(frozen=True)
class Objective:
    """A function of one member, or of the rows of an array."""

    function: Function
    vectorized: bool

    def __call__(self, x: Floats) -> F64:
        """Evaluate the rows of x."""
        if not self.vectorized:
            return np.array([_number(self.function(row)) for row in x], np.float64)
        values = real_numbers("what the function gives", self.function(x))
        if values.shape != (len(x),):
            raise ValueError(
                f"the function gave an array of shape {values.shape} for {len(x)} members, "
                f"expected ({len(x)},)."
            )
        return values


def _number(value: object) -> float:
    if not isinstance(value, (str, bytes)) and not np.iscomplexobj(cast("Any", value)):
        try:
            return float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            pass
    raise TypeError(f"the function must give a number, got {value!r}.")


def real_numbers(name: str, values: object) -> F64:
    """Give values as float64; text, None and complex numbers are none."""
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be numbers, got {values!r}.")
    return np.array(array, np.float64)


def member_indices(members: object, n: int) -> Indices:
    """Check numbers of members of a population of n."""
    if not isinstance(members, Iterable):
        raise TypeError(f"members must be a sequence of whole numbers, got {members!r}.")
    return np.array([integer("each of members", i, 0, n - 1) for i in members], np.uint32)


@dataclass(frozen=True)
class Sampler:
    """What makes members of a generation: all that a worker needs of the search."""

    method: Method
    bounds: Bounds | None
    generation: int

    def members(self, members: Indices, out: Floats | None = None) -> Floats:
        """Give members as rows."""
        shape = (len(members), self.method.mean.size)
        x = np.empty(shape, self.method.mean.dtype) if out is None else out
        self.method.members(x, self.generation, members)
        if self.bounds is not None:
            self.bounds.apply(x)
        return x

    def for_worker(self, *, steps: bool) -> Sampler:
        """Give a copy on one thread; without what only steps need, unless it `steps`."""
        method = self.method.on_one_thread() if steps else self.method.light()
        return Sampler(method, self.bounds, self.generation)

    def evaluate(self, objective: Objective, begin: int, end: int) -> F64:
        """Give the values of members begin..end, of which no other array is held meanwhile."""
        return objective(self.members(np.arange(begin, end, dtype=np.uint32)))

    @property
    def nbytes(self) -> int:
        """Bytes that a worker is sent."""
        return sum(array.nbytes for array in self.method.light().arrays().values())
