# SPDX-License-Identifier: BSD-3-Clause
"""Batch normalisation of a fitted network: what it learned, and its running statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _core
from ._fitted import Arrays, FittedNetwork


class NormalizedNetwork(FittedNetwork):
    """Lists of arrays, one for each layer that is normalised."""

    _norm_lists: ClassVar[tuple[str, ...]] = (
        "norm_gains_",
        "norm_shifts_",
        "norm_means_",
        "norm_variances_",
    )

    @staticmethod
    def _norm_arrays(trainer: _core.Trainer) -> Arrays:
        """Give the four arrays of each layer, one layer after the other."""
        return [array for layer in range(trainer.n_norms) for array in trainer.norm(layer)]

    def _set_norm_arrays(self, arrays: Sequence[NDArray[np.float32]]) -> None:
        for layer in range(self._trainer.n_norms):
            gain, shift, mean, variance = arrays[4 * layer : 4 * layer + 4]
            self._trainer.set_norm(layer, gain, shift, mean, variance)

    def _norm_list(self, name: str, which: int) -> Arrays:
        n = self._trainer.n_norms if self.__sklearn_is_fitted__() else 0
        return self._list(name, lambda i: self._trainer.norm(i)[which], n)

    def _assign_norms(self, name: str, which: int, values: Sequence[ArrayLike]) -> None:
        def write(layer: int, value: NDArray[np.float32]) -> None:
            arrays = list(self._trainer.norm(layer))
            arrays[which] = value
            self._trainer.set_norm(layer, *arrays)

        self._assign(name, values, write)

    @property
    def norm_gains_(self) -> Arrays:
        """Gains of the units of each layer, with `batch_normalization`; assign a whole list."""
        return self._norm_list("norm_gains_", 0)

    @norm_gains_.setter
    def norm_gains_(self, values: Sequence[ArrayLike]) -> None:
        self._assign_norms("norm_gains_", 0, values)

    @property
    def norm_shifts_(self) -> Arrays:
        """Shifts of the units of each layer, with `batch_normalization`; assign a whole list."""
        return self._norm_list("norm_shifts_", 1)

    @norm_shifts_.setter
    def norm_shifts_(self, values: Sequence[ArrayLike]) -> None:
        self._assign_norms("norm_shifts_", 1, values)

    @property
    def norm_means_(self) -> Arrays:
        """Running means before the activation, which prediction uses; assign a whole list."""
        return self._norm_list("norm_means_", 2)

    @norm_means_.setter
    def norm_means_(self, values: Sequence[ArrayLike]) -> None:
        self._assign_norms("norm_means_", 2, values)

    @property
    def norm_variances_(self) -> Arrays:
        """Running variances before the activation, at least 0; assign a whole list."""
        return self._norm_list("norm_variances_", 3)

    @norm_variances_.setter
    def norm_variances_(self, values: Sequence[ArrayLike]) -> None:
        for layer, value in enumerate(values):
            if not np.all(np.asarray(value) >= 0):
                raise ValueError(f"norm_variances_[{layer}] must be at least 0, got {value!r}.")
        self._assign_norms("norm_variances_", 3, values)
