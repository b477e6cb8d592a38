# SPDX-License-Identifier: BSD-3-Clause
"""Noise of a population by (seed, generation, member): what members are made of and steps sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import F32, Floats
from .._perturbation import perturb, perturbation_gradient

KINDS = ("gaussian", "rademacher", "low_rank")
Indices = NDArray[np.uint32]
Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Noise:
    """Names the noise of every member of every generation, and holds none of it.

    It is the noise of `kernels.perturb` with the same seed, kind, shapes, rank and antithetic.
    """

    seed: int
    kind: str = "gaussian"
    antithetic: bool = False
    shapes: Shapes | None = None
    rank: int = 1
    n_threads: int | None = None

    @property
    def is_vector(self) -> bool:
        """Whether all parameters are one row of the stream."""
        one = self.shapes is None or (len(self.shapes) == 1 and len(self.shapes[0]) == 1)
        return one and self.kind != "low_rank"

    def members(
        self,
        out: Floats,
        mean: Floats,
        scale: Floats | None,
        std: float,
        generation: int,
        members: Indices,
    ) -> None:
        """Write ``mean + std * scale * noise`` of some members to the rows of `out`.

        `scale` None is 1. One member may be written over the mean.
        """
        if self.is_vector:
            threads = self.n_threads or 0
            _core.search_members(
                out, mean, scale, std, members, self.seed, generation, self.kind,
                self.antithetic, threads,
            )  # fmt: skip
            return
        assert scale is None
        is_f32 = mean.dtype == np.float32
        numbers = members.tolist()
        if is_f32:
            self._perturb(cast("F32", mean), std, generation, numbers, cast("F32", out))
            return
        # Of float64 a pair at a time, which has its noise made once.
        base = np.zeros(mean.size, np.float32)
        noisy, scaled = np.empty((2, mean.size), np.float32), np.empty(mean.size)
        for i in range(0, len(numbers), 2):
            some = noisy[: len(numbers[i : i + 2])]
            self._perturb(base, 1.0, generation, numbers[i : i + 2], some)
            for row, eps in zip(out[i : i + 2], some, strict=True):
                np.multiply(eps, std, out=scaled)
                np.add(mean, scaled, out=row)

    def _perturb(
        self, base: F32, std: float, generation: int, members: list[int], out: F32
    ) -> None:
        # One member may be written over the base.
        perturb(
            base, seed=self.seed, generation=generation,
            member=members[0] if len(members) == 1 else members, std=std, kind=self.kind,
            shapes=self.shapes, rank=self.rank, antithetic=self.antithetic,
            out=out[0] if len(members) == 1 else out, n_threads=self.n_threads,
        )  # fmt: skip

    def sums(
        self,
        first: Floats,
        u: NDArray[np.float64],
        second: Floats | None,
        v: NDArray[np.float64] | None,
        generation: int,
    ) -> None:
        """Write the sums of ``u * noise`` and of ``v * noise**2`` over all members."""
        if self.is_vector and (first.dtype == np.float64 or second is not None):
            # Of pairs only the difference counts, which float32 should not lose in what they share.
            centered = u - u.mean() if self.antithetic else u
            of_first = cast("Floats", centered.astype(first.dtype))
            of_second = None if v is None else cast("Floats", v.astype(first.dtype))
            _core.search_sums(
                first, of_first, second, of_second, self.seed, generation, self.kind,
                self.antithetic, self.n_threads or 0,
            )  # fmt: skip
            return
        assert second is None
        is_f32 = first.dtype == np.float32
        total = perturbation_gradient(
            u, first.size, seed=self.seed, generation=generation,
            kind=self.kind, shapes=self.shapes, rank=self.rank, antithetic=self.antithetic,
            out=first if is_f32 else None, n_threads=self.n_threads,
        )  # fmt: skip
        if not is_f32:
            first[:] = total
