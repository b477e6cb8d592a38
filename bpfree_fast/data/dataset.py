# SPDX-License-Identifier: BSD-3-Clause
"""A data set in two parts, and how one part becomes two."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TEST_SHARE = 5  # one sample in five


@dataclass(frozen=True)
class Dataset:
    """Samples to train on and samples to test with.

    Parameters
    ----------
    name : str
        What it is called in tables.
    X_train, X_test : ndarray of shape (n_samples, n_features)
        The samples: uint8 for pixels, else float32 or float64.
    y_train, y_test : ndarray of shape (n_samples,)
        Their class labels.

    Raises
    ------
    ValueError
        If the parts do not fit together.

    Examples
    --------
    >>> from bpfree_fast import data
    >>> data.load("digits").X_test.shape
    (359, 64)
    """

    name: str
    X_train: NDArray[Any]
    y_train: NDArray[Any]
    X_test: NDArray[Any]
    y_test: NDArray[Any]

    def __post_init__(self) -> None:
        for part, X, y in (
            ("training", self.X_train, self.y_train),
            ("test", self.X_test, self.y_test),
        ):
            if len(X) != len(y):
                raise ValueError(f"{self.name}: {len(X)} {part} samples, but {len(y)} labels.")
            if len(X) == 0:
                raise ValueError(f"{self.name}: the {part} part has no samples.")
        if self.X_train.shape[1] != self.X_test.shape[1]:
            raise ValueError(
                f"{self.name}: {self.X_train.shape[1]} columns to train on, "
                f"but {self.X_test.shape[1]} to test with."
            )

    @classmethod
    def from_one_part(cls, name: str, X: NDArray[Any], y: NDArray[Any]) -> Dataset:
        """Split samples that come as one part, always in the same way: a fifth is for testing."""
        if len(X) != len(y):
            raise ValueError(f"{name}: {len(X)} samples, but {len(y)} labels.")
        n_test = len(X) // _TEST_SHARE
        if n_test == 0:
            raise ValueError(f"{name}: {len(X)} samples are too few to keep a fifth for testing.")
        order = np.random.default_rng(0).permutation(len(X))
        test, train = np.sort(order[:n_test]), np.sort(order[n_test:])
        return cls(name, X[train], y[train], X[test], y[test])


def as_rows(name: str, X: NDArray[Any]) -> NDArray[Any]:
    """Give one row for each sample, whatever shape a sample has."""
    if X.ndim < 2:
        raise ValueError(f"{name}: samples must be rows, got shape {X.shape}.")
    if X.dtype.kind not in "buif":
        raise ValueError(f"{name}: samples must be numbers, got {X.dtype}.")
    return X.reshape(len(X), math.prod(X.shape[1:]))


def as_labels(name: str, y: NDArray[Any]) -> NDArray[Any]:
    """Give one label for each sample; whole numbers in floats become int64."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(f"{name}: labels must be one column, got shape {y.shape}.")
    if y.dtype.kind == "f":
        whole = np.isfinite(y) & (y == np.floor(y))
        if not whole.all():
            raise ValueError(f"{name}: labels must be classes, got {y[~whole][0]!r}.")
        y = y.astype(np.int64)
    return y
