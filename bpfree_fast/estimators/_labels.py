# SPDX-License-Identifier: BSD-3-Clause
"""What NoProp's blocks share: class embeddings, and where these or the schedule learn, a head."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from .. import _core
from .._random import normal
from ._fitted import Arrays, FittedNetwork
from ._training import Samples

# Rows whose distances are held at the same time, and samples of a class that are compared.
_DISTANCE_ROWS = 256
_MAX_COMPARED = 2048


class LabelNetwork(FittedNetwork):
    """Blocks that share what stands for the classes."""

    @property
    def _shared(self) -> Arrays:
        """What the blocks share and no formula gives, to be saved."""
        return shared_of(self._trainer)

    @_shared.setter
    def _shared(self, values: Sequence[NDArray[np.float32]]) -> None:
        set_shared(self._trainer, values)

    @property
    def class_embedding_(self) -> NDArray[np.float32]:
        """The vectors that stand for the classes, a read-only copy."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError(f"{type(self).__name__} has no class_embedding_ before fit.")
        values = self._trainer.embedding()
        values.flags.writeable = False
        return values

    @property
    def head_coef_(self) -> NDArray[np.float32]:
        """Weights of the head, a copy."""
        return self._head("head_coef_")[0]

    @property
    def head_intercept_(self) -> NDArray[np.float32]:
        """Biases of the head, a copy."""
        return self._head("head_intercept_")[1]

    def _head(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if not self.__sklearn_is_fitted__() or not self._trainer.has_head:
            raise AttributeError(
                f"{type(self).__name__} has {name} after a fit that learns embeddings or the "
                "schedule."
            )
        return self._trainer.head()

    def alpha_bar_at(self, t: ArrayLike) -> NDArray[np.float64]:
        """Give the label's share of the variance of its noisy copy at some times, with 'ct'.

        Parameters
        ----------
        t : array-like
            Times from 0, where there is most noise, to 1, in any shape.

        Returns
        -------
        alpha_bar : ndarray of the shape of t, float64
            By the schedule as it is fitted.

        Raises
        ------
        ValueError
            If a time is out of range, or the variant is another one.
        NotFittedError
            Before `fit`.

        Examples
        --------
        >>> import bpfree_fast as bf
        >>> clf = bf.NoPropClassifier((32,), variant="ct", noise_schedule="learned", max_iter=2)
        >>> a, b = clf.fit([[0.0], [9.0]], [0, 1]).alpha_bar_at([0.2, 0.8])
        >>> bool(a < b)
        True
        """
        check_is_fitted(self)
        times = np.asarray(t, dtype=np.float64)
        values = [self._trainer.alpha_bar_at(float(time)) for time in times.flat]
        return np.array(values, dtype=np.float64).reshape(times.shape)

    @property
    def alpha_bar_(self) -> NDArray[np.float64]:
        """The noise schedule in use."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError(f"{type(self).__name__} has no alpha_bar_ before fit.")
        return np.array(self._trainer_options["alpha_bar"], dtype=np.float64)


def shared_of(trainer: _core.Trainer) -> Arrays:
    """Give the embeddings, the head's two arrays and the schedule, of these those that are."""
    arrays = [] if trainer.is_one_hot else [trainer.embedding()]
    if trainer.has_head:
        arrays += [*trainer.head(), trainer.schedule_parameters()]
    return [array for array in arrays if array.size > 0]


def set_shared(trainer: _core.Trainer, values: Sequence[NDArray[np.float32]]) -> None:
    left = list(values)
    if not trainer.is_one_hot:
        trainer.set_embedding(left.pop(0))
    if trainer.has_head:
        trainer.set_head(left.pop(0), left.pop(0))
    if left:
        trainer.set_schedule_parameters(left.pop(0))


def orthogonal(n_rows: int, n_columns: int, seed: int) -> NDArray[np.float32]:
    """Give orthogonal rows of length 1, or columns where there are fewer of these."""
    n, size = sorted((n_rows, n_columns))
    rows = np.zeros((n, size))
    draws = normal(seed, n * size).reshape(n, size).astype(np.float64)
    for i, row in enumerate(draws):
        for _ in range(2):  # once leaves what rounding has of the others
            for other in rows[:i]:
                row -= math.fsum(other * row) * other
        rows[i] = row / math.sqrt(math.fsum(row * row))
    return np.ascontiguousarray(rows if n_rows <= n_columns else rows.T, dtype=np.float32)


def prototypes(samples: Samples, n_classes: int, scale: float) -> NDArray[np.float32]:
    """Give of each class the sample whose median distance to the others is the smallest."""
    rows = []
    for label in range(n_classes):
        members = np.flatnonzero(samples.y == label)
        if len(members) == 0:
            raise ValueError(
                f"class_embedding='prototype' and 'learned_prototype' take a sample of each class, "
                f"and class {label} of {n_classes} has none."
            )
        # Of large classes as many as can be compared, evenly spread.
        picks = members[:: -(-len(members) // _MAX_COMPARED)]
        x = samples.x[picks].astype(np.float64) * scale
        squares = np.sum(x * x, axis=1)
        medians = [
            np.median(squares[i : i + _DISTANCE_ROWS, None] + squares - 2 * part @ x.T, axis=1)
            for i in range(0, len(x), _DISTANCE_ROWS)
            for part in [x[i : i + _DISTANCE_ROWS]]
        ]
        rows.append(x[int(np.argmin(np.concatenate(medians)))])
    return np.ascontiguousarray(rows, dtype=np.float32)
