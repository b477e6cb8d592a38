# SPDX-License-Identifier: BSD-3-Clause
"""scikit-learn's MLPClassifier, with its defaults, for exactly the epochs asked for."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from rivals.base import Call, Rival


class _Fit(Call):
    def __init__(
        self, name: str, x: NDArray[Any], y: NDArray[Any], hidden: tuple[int, ...], epochs: int
    ) -> None:
        self.name = name
        self._x, self._y = x, y
        # Never stopped early: n_iter_no_change is beyond the epochs.
        self._make = lambda: MLPClassifier(
            hidden, max_iter=epochs, n_iter_no_change=epochs + 1, random_state=0
        )

    def many(self, n: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            for _ in range(n):
                self._model = self._make().fit(self._x, self._y)

    def result(self) -> NDArray[Any]:
        return np.asarray(self._model.predict(self._x))


class SklearnMLP(Rival):
    name = "sklearn MLPClassifier"

    def fit_classifier(
        self, x: NDArray[Any], y: NDArray[Any], hidden: tuple[int, ...], epochs: int
    ) -> Call:
        return _Fit(self.name, x, y, hidden, epochs)


RIVAL = SklearnMLP()
