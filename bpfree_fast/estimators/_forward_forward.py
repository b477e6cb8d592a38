# SPDX-License-Identifier: BSD-3-Clause
"""Forward-Forward's parameters, the rows that it contrasts, and the network that it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array

from .. import _validation as check
from ._fitted import INPUT_DTYPES
from ._layer_local import LayerLocalEstimator, softmax
from ._parameters import Settings

GOODNESS = ("sum", "mean", "grouped_squares", "grouped_mean")
GOODNESS_LOSSES = ("logistic", "symba")
NEGATIVES = ("random", "hard", "given")
LABEL_POSITIONS = ("append", "overwrite")
PREDICTIONS = ("softmax", "goodness")
PHASES = ("both", "positive", "negative")


class ForwardForwardEstimator(LayerLocalEstimator):
    """Layers that learn to tell positive from negative rows, and a softmax head beside them."""

    _core_method: ClassVar[str] = "forward_forward"
    _activations: ClassVar[tuple[str, ...]] = ("relu",)
    _array_lists: ClassVar[tuple[str, ...]] = (
        "coefs_",
        "intercepts_",
        "head_coefs_",
        "head_intercepts_",
    )

    goodness: str
    goodness_loss: str
    threshold: float | None
    temperature: float
    symba_scale: float
    peer_normalization: float
    negatives: str
    label_position: str
    predict_with: str

    # The phase of the call that runs.
    _phase = "both"

    # Parameters.

    def _is_grouped(self) -> bool:
        return self.goodness in ("grouped_squares", "grouped_mean")

    def _label_input(self) -> str:
        """Give where the label enters, in the core's words."""
        return "none" if self._is_grouped() or self.negatives == "given" else self.label_position

    def _method_options(self) -> dict[str, Any]:
        check.choice("goodness", self.goodness, GOODNESS)
        loss = check.choice("goodness_loss", self.goodness_loss, GOODNESS_LOSSES)
        negatives = check.choice("negatives", self.negatives, NEGATIVES)
        check.choice("label_position", self.label_position, LABEL_POSITIONS)
        check.choice("predict_with", self.predict_with, PREDICTIONS)
        peers = check.real("peer_normalization", self.peer_normalization, 0)
        threshold = None if self.threshold is None else check.real("threshold", self.threshold, 0)
        self._check_schedule()
        unlabelled = self._label_input() == "none" and not self._is_grouped()
        if unlabelled and self.predict_with == "goodness":
            raise ValueError(
                "predict_with='goodness' tries labels, and negatives='given' learns without them: "
                "take predict_with='softmax'."
            )
        return {
            "method": self._core_method,
            "goodness": self.goodness,
            "goodness_loss": loss,
            "label_position": self._label_input(),
            # The core asks for given rows, which grouped goodness has no use for.
            "negatives": "random" if self._is_grouped() else negatives,
            "threshold": threshold,
            "temperature": check.real("temperature", self.temperature, 0, open_low=True),
            "symba_scale": check.real("symba_scale", self.symba_scale, 0, open_low=True),
            "peer_normalization": 0.0 if self._is_grouped() else peers,
        }

    def _architecture_of(self, settings: Settings) -> dict[str, Any]:
        return {**super()._architecture_of(settings), "label_position": self._label_input()}

    def _first_head(self) -> int | None:
        return 1

    def _n_inputs(self) -> int:
        label = self._architecture["label_position"] == "append"
        return self.n_features_in_ + (self.n_outputs_ if label else 0)

    # Data.

    def _check_negative(self, X_negative: ArrayLike | None, X: NDArray[Any]) -> NDArray[Any] | None:
        if self._phase != "both":
            self._check_phase()
        needed = self.negatives == "given" and not self._is_grouped() and self._phase == "both"
        if X_negative is None:
            if needed:
                raise ValueError("negatives='given' needs X_negative, one negative row a sample.")
            return None
        if not needed:
            why = f"negatives={self.negatives!r}"
            if self._is_grouped():
                why = f"goodness={self.goodness!r}"
            elif self._phase != "both":
                why = f"phase={self._phase!r}"
            raise ValueError(f"X_negative was given, but {why} has no use for it.")
        rows: NDArray[Any] = check_array(
            X_negative, dtype=INPUT_DTYPES, order="C", input_name="X_negative"
        )
        if rows.shape != X.shape:
            raise ValueError(f"X_negative must have X's shape {X.shape}, got {rows.shape}.")
        if self._implied_scale(rows.dtype) != self._implied_scale(X.dtype):
            raise ValueError(
                f"X_negative has dtype {rows.dtype} and X {X.dtype}, which mean different "
                "input_scale: convert one, or set input_scale to a number."
            )
        return rows

    def _check_phase(self) -> None:
        if self._is_grouped():
            raise ValueError(
                f"phase={self._phase!r} means nothing to goodness={self.goodness!r}, which has no "
                "negatives."
            )
        if self.goodness_loss == "symba":
            raise ValueError(
                f"phase={self._phase!r} does not go with goodness_loss='symba', which compares "
                "positive with negative rows."
            )
        if self._phase == "negative" and self._head_is_next():
            raise ValueError(
                "phase='negative' has nothing to teach the softmax head, which learns alone in the "
                "last stage of schedule='greedy': take phase='positive' or 'both'."
            )

    def _head_is_next(self) -> bool:
        """Say whether the next call of partial_fit is one of the head's."""
        if self.schedule != "greedy" or self._stage is None or not self.__sklearn_is_fitted__():
            return False
        over = self.n_iter_ >= self._stage_start + self.max_iter
        return self._stage + over >= self._n_stages() - 1

    def _start(self, settings: Settings, dtype: np.dtype[Any], loss: str) -> None:
        n_classes = self.n_outputs_
        if self._label_input() == "overwrite" and self.n_features_in_ <= n_classes:
            raise ValueError(
                f"label_position='overwrite' writes {n_classes} classes over the first columns, "
                f"and X has {self.n_features_in_}: take 'append'."
            )
        if self._is_grouped() and min(settings.hidden) < n_classes:
            raise ValueError(
                f"goodness={self.goodness!r} needs a unit for each of the {n_classes} classes in "
                f"every hidden layer, and hidden_layer_sizes has {min(settings.hidden)}."
            )
        super()._start(settings, dtype, loss)

    def _n_stages(self) -> int:
        return super()._n_stages() + 1  # the softmax head learns last

    def _stages(self, settings: Settings, incremental: bool) -> Iterator[int]:
        self._trainer.set_phase(self._phase)
        yield from super()._stages(settings, incremental)

    # The fitted network.

    def _predicts_by_goodness(self) -> bool:
        return check.choice("predict_with", self.predict_with, PREDICTIONS) == "goodness"

    def _output(self, X: NDArray[Any]) -> NDArray[np.float32]:
        by_goodness = self._predicts_by_goodness()
        out = self._predict_by(X, by_goodness)
        return softmax(out) if by_goodness else out

    def _predict_by(self, X: NDArray[Any], by_goodness: bool) -> NDArray[np.float32]:
        out = np.empty((len(X), self.n_outputs_), dtype=np.float32)
        self._trainer.predict_by(
            X,
            out,
            goodness=by_goodness,
            input_scale=self.input_scale_,
            n_threads=check.n_threads(self.n_threads),
        )
        return out

    def _n_matrices(self) -> int:
        return getattr(self, "n_layers_", 2) - 2

    # The core keeps the features' rows before the label's.

    def _read_weights(self, layer: int) -> NDArray[np.float32]:
        weights = self._network.weights(layer)
        return np.roll(weights, self._label_rows(layer), axis=0)

    def _write_weights(self, layer: int, value: NDArray[np.float32]) -> None:
        rows = np.roll(value, -self._label_rows(layer), axis=0)
        self._network.set_weights(layer, np.ascontiguousarray(rows))

    def _label_rows(self, layer: int) -> int:
        overwritten = layer == 0 and self._architecture["label_position"] == "overwrite"
        return self.n_outputs_ if overwritten else 0
