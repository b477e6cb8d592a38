# SPDX-License-Identifier: BSD-3-Clause
"""Targets: class labels, several labels at once, and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from ._base import NetworkEstimator
from ._training import Samples

if TYPE_CHECKING:
    from typing_extensions import Self


class NetworkClassifier(ClassifierMixin, NetworkEstimator):
    """A network whose outputs are classes, or labels of which any number holds."""

    _numeric_target: ClassVar[bool] = False

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on samples and their classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The samples. Rows of uint8, float32 and float64 are read where they lie, also from a
            memory map; uint8 is taken for pixels (`input_scale`).
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Class labels, numbers or strings; or 0 and 1 for each of several labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, at least 0. Samples of weight 0 are left out.

        Returns
        -------
        self : estimator
            The fitted estimator. After Ctrl-C it is usable, and `interrupted_` is True.

        Raises
        ------
        ValueError
            If a parameter is out of range, X or y has a wrong shape or holds NaN or infinity,
            or the loss stops being finite.
        TypeError
            If a parameter has a wrong type, or X is sparse.

        Examples
        --------
        >>> import bpfree_fast as bf
        >>> clf = bf.DFAClassifier((16,), max_iter=50, random_state=0)
        >>> clf.fit([[0.0], [1.0], [9.0], [8.0]], ["low", "low", "high", "high"]).classes_.tolist()
        ['high', 'low']
        """
        self._fit(X, y, sample_weight)
        return self

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Train one epoch on a part of the samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The samples.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Their classes.
        classes : array-like of shape (n_classes,), default=None
            Every class that will ever come. Needed in the first call, unless `y` has them all.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, at least 0.

        Returns
        -------
        self : estimator
            The estimator, one epoch on.

        Raises
        ------
        ValueError
            If y has a class that the first call did not name, or as `fit`.
        TypeError
            As `fit`.

        Examples
        --------
        >>> import bpfree_fast as bf
        >>> clf = bf.DFAClassifier((16,), random_state=0)
        >>> clf.partial_fit([[0.0]], ["low"], classes=["low", "high"]).n_iter_
        1
        >>> clf.partial_fit([[9.0]], ["high"]).n_iter_
        2
        """
        self._fit(X, y, sample_weight, incremental=True, classes=classes)
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Give the most probable class of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The samples.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_labels)
            The classes; for several labels 1 where the probability is above one half.

        Raises
        ------
        ValueError
            If X has another number of columns than in `fit`, holds NaN or infinity, or has a
            dtype that means another `input_scale`.

        Examples
        --------
        >>> import bpfree_fast as bf
        >>> clf = bf.DFAClassifier((16,), max_iter=50, random_state=0)
        >>> clf.fit([[0.0], [1.0], [9.0], [8.0]], [0, 0, 1, 1]).predict([[0.5]]).tolist()
        [0]
        """
        probability = self._output(self._check_input(X))
        if self._multilabel:
            return (probability > 0.5).astype(np.int64)
        chosen: NDArray[Any] = self.classes_[probability.argmax(axis=1)]
        return chosen

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """Give the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The samples.

        Returns
        -------
        probability : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`. Rows sum to 1, but not for several labels.

        Raises
        ------
        ValueError
            As `predict`.

        Examples
        --------
        >>> import bpfree_fast as bf
        >>> clf = bf.DFAClassifier((16,), random_state=0).fit([[0.0], [9.0]], [0, 1])
        >>> clf.predict_proba([[0.5]]).shape
        (1, 2)
        """
        return self._output(self._check_input(X))

    def predict_log_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """Give the logarithm of the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The samples.

        Returns
        -------
        log_probability : ndarray of shape (n_samples, n_classes)
            ``log(predict_proba(X))``; -inf where a probability is 0.

        Raises
        ------
        ValueError
            As `predict`.

        Examples
        --------
        >>> import bpfree_fast as bf
        >>> clf = bf.DFAClassifier((16,), random_state=0).fit([[0.0], [9.0]], [0, 1])
        >>> clf.predict_log_proba([[0.5]]).shape
        (1, 2)
        """
        with np.errstate(divide="ignore"):
            logarithm: NDArray[np.float32] = np.log(self.predict_proba(X))
        return logarithm

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = False
        return tags

    def _learn_target(self, y: NDArray[Any], classes: ArrayLike | None) -> str:
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        self._multilabel = kind == "multilabel-indicator"
        if self._multilabel:
            self.n_outputs_ = y.shape[1]
            self.classes_: NDArray[Any] = np.arange(self.n_outputs_)
            return "binary_cross_entropy"
        if kind == "multiclass-multioutput":
            raise ValueError("y has several columns of classes: only columns of 0 and 1 will do.")
        labels = column_or_1d(y, warn=True) if classes is None else np.asarray(classes)
        self.classes_ = np.unique(labels)
        self.n_outputs_ = len(self.classes_)
        return "softmax_cross_entropy"

    def _encode_target(self, y: NDArray[Any]) -> NDArray[Any]:
        if self._multilabel:
            columns = y.toarray() if hasattr(y, "toarray") else y
            if columns.ndim != 2 or columns.shape[1] != self.n_outputs_:
                raise ValueError(f"y must have {self.n_outputs_} columns, got shape {y.shape}.")
            return np.ascontiguousarray(columns, dtype=np.float32)
        check_classification_targets(y)
        labels = column_or_1d(y)
        try:
            index = np.searchsorted(self.classes_, labels)
        except TypeError:
            raise ValueError(
                f"y holds {labels.dtype}, but the classes are {self.classes_.dtype}."
            ) from None
        index = np.minimum(index, len(self.classes_) - 1)
        unknown = self.classes_[index] != labels
        if np.any(unknown):
            names = np.unique(labels[unknown])[:5].tolist()
            raise ValueError(
                f"y has classes that the first call did not name: {names}; "
                "name them all with classes= in the first partial_fit."
            )
        encoded: NDArray[np.int32] = index.astype(np.int32)
        return encoded

    def _score_samples(self, samples: Samples) -> float:
        output = self._output(samples.x)
        if self._multilabel:
            right = np.all((output > 0.5) == (samples.y > 0.5), axis=1)
        else:
            right = output.argmax(axis=1) == samples.y
        return float(np.average(right, weights=samples.weight))


class NetworkRegressor(RegressorMixin, NetworkEstimator):
    """A network whose outputs are numbers."""

    _numeric_target: ClassVar[bool] = True

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on samples and their values.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The samples. Rows of uint8, float32 and float64 are read where they lie, also from a
            memory map; uint8 is taken for pixels (`input_scale`).
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The values, one column or several.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, at least 0. Samples of weight 0 are left out.

        Returns
        -------
        self : estimator
            The fitted estimator. After Ctrl-C it is usable, and `interrupted_` is True.

        Raises
        ------
        ValueError
            If a parameter is out of range, X or y has a wrong shape or holds NaN or infinity,
            or the loss stops being finite.
        TypeError
            If a parameter has a wrong type, or X is sparse.

        Examples
        --------
        >>> import bpfree_fast as bf
        >>> X = [[0.0], [1.0], [2.0], [3.0]]
        >>> reg = bf.DFARegressor((32,), learning_rate_init=0.1, max_iter=50, random_state=0)
        >>> reg = reg.fit(X, [0, 10, 20, 30])
        >>> bool(reg.score(X, [0, 10, 20, 30]) > 0.9)
        True
        """
        self._fit(X, y, sample_weight)
        return self

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Train one epoch on a part of the samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The samples.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their values. The first call fixes `target_mean_` and `target_scale_`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, at least 0.

        Returns
        -------
        self : estimator
            The estimator, one epoch on.

        Raises
        ------
        ValueError, TypeError
            As `fit`.

        Examples
        --------
        >>> import bpfree_fast as bf
        >>> bf.DFARegressor((16,), random_state=0).partial_fit([[0.0], [1.0]], [0, 10]).n_iter_
        1
        """
        self._fit(X, y, sample_weight, incremental=True)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Give the value of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The samples.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            The values.

        Raises
        ------
        ValueError
            If X has another number of columns than in `fit`, holds NaN or infinity, or has a
            dtype that means another `input_scale`.

        Examples
        --------
        >>> import bpfree_fast as bf
        >>> reg = bf.DFARegressor((16,), random_state=0).fit([[0.0], [1.0]], [0, 10])
        >>> reg.predict([[0.5]]).shape
        (1,)
        """
        output = self._output(self._check_input(X))
        values: NDArray[np.float64] = output * self.target_scale_ + self.target_mean_
        if self.n_outputs_ == 1:
            values = values[:, 0]
        return values

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _learn_target(self, y: NDArray[Any], classes: ArrayLike | None) -> str:
        self.n_outputs_ = 1 if y.ndim == 1 else y.shape[1]
        return "squared_error"

    def _encode_target(self, y: NDArray[Any]) -> NDArray[Any]:
        columns = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        if columns.shape[1] != self.n_outputs_:
            raise ValueError(f"y must have {self.n_outputs_} columns, got shape {y.shape}.")
        return columns

    def _scale_target(self, samples: Samples, going_on: bool) -> None:
        if not going_on:
            self.target_mean_: NDArray[np.float64] = np.average(
                samples.y, axis=0, weights=samples.weight
            )
            variance = np.average(
                (samples.y - self.target_mean_) ** 2, axis=0, weights=samples.weight
            )
            spread = np.sqrt(variance)
            # A constant target keeps its scale; what rounding leaves of one is no spread.
            rounding = 1e-12 * np.abs(self.target_mean_)
            self.target_scale_: NDArray[np.float64] = np.where(spread > rounding, spread, 1.0)
        scaled = (samples.y - self.target_mean_) / self.target_scale_
        samples.y = np.ascontiguousarray(scaled, dtype=np.float32)

    def _score_samples(self, samples: Samples) -> float:
        output = self._output(samples.x)
        return float(r2_score(samples.y, output, sample_weight=samples.weight))
