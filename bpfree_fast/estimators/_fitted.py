# SPDX-License-Identifier: BSD-3-Clause
"""A fitted network: what it predicts, its arrays, its pickles and its files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import _core
from .. import _validation as check
from . import _saving

# Read where they lie; anything else becomes the first.
INPUT_DTYPES = [np.float64, np.float32, np.uint8]

Arrays = list[NDArray[np.float32]]


class FittedNetwork(BaseEstimator):
    """What an estimator can do once it has a network."""

    # The lists of arrays to save.
    _array_lists: ClassVar[tuple[str, ...]] = ("coefs_", "intercepts_")

    # Two parameters, and what fit sets.
    input_scale: str | float | None
    n_threads: int | None
    n_features_in_: int
    n_outputs_: int
    n_layers_: int
    seed_: int
    input_scale_: float
    _architecture: dict[str, Any]
    _loss: str
    _network: _core.Network
    _trainer: _core.Trainer
    _trainer_options: dict[str, Any]
    _best_weights: Arrays | None
    _last_weights: Arrays | None

    def _new_network(self) -> _core.Network:
        old = self._architecture
        sizes = [self._n_inputs(), *old["hidden_layer_sizes"], self.n_outputs_]
        return _core.Network(sizes, old["activation"], self._loss, old["dtype"], self._first_head())

    def _first_head(self) -> int | None:
        """Give the first hidden layer, from 0, that has a head of its own."""
        return None

    def _n_inputs(self) -> int:
        return self.n_features_in_

    def _stored_feedback(self, trainer: _core.Trainer) -> Arrays:
        """Give the feedback that cannot be made again from the seed."""
        return []

    def _set_stored_feedback(self, feedback: Arrays) -> None:
        for layer, value in enumerate(feedback):
            self._trainer.set_feedback(layer, value)

    def _take_over(self, old: _core.Trainer) -> None:
        """Give a new trainer what the old one held besides the network."""
        self._set_stored_feedback(self._stored_feedback(old))

    # With early stopping the best weights are the model, and the last ones where to go on.

    def _weights(self) -> Arrays:
        layers = range(self.n_layers_ - 1 + self._network.n_heads)
        matrices = [self._network.weights(layer) for layer in layers]
        return matrices + [self._network.biases(layer) for layer in layers]

    def _set_weights(self, arrays: Arrays) -> None:
        n = len(arrays) // 2
        for layer in range(n):
            self._network.set_weights(layer, arrays[layer])
            self._network.set_biases(layer, arrays[n + layer])

    def _keep_best(self) -> None:
        if self._best_weights is not None:
            self._last_weights = self._weights()
            self._set_weights(self._best_weights)
            self._best_weights = None

    def _restore_last(self) -> None:
        if self._last_weights is not None:
            self._best_weights = self._weights()
            self._set_weights(self._last_weights)
            self._last_weights = None

    # Prediction.

    def _implied_scale(self, dtype: np.dtype[Any]) -> float:
        if isinstance(self.input_scale, str):
            return 1 / 255 if dtype == np.uint8 else 1.0
        return 1.0 if self.input_scale is None else float(self.input_scale)

    def _check_input_scale(self, X: NDArray[Any]) -> None:
        if isinstance(self.input_scale, str) and self._implied_scale(X.dtype) != self.input_scale_:
            raise ValueError(
                f"X has dtype {X.dtype}, which means input_scale={self._implied_scale(X.dtype):.6g}"
                f", but the model was fitted with {self.input_scale_:.6g}: convert X, or set "
                "input_scale to a number."
            )

    def _check_input(self, X: ArrayLike) -> NDArray[Any]:
        check_is_fitted(self)
        checked: NDArray[Any] = validate_data(self, X, dtype=INPUT_DTYPES, order="C", reset=False)
        self._check_input_scale(checked)
        return checked

    def _output(self, X: NDArray[Any]) -> NDArray[np.float32]:
        """Give what the network says: probabilities or values, one row for each of X."""
        out = np.empty((len(X), self.n_outputs_), dtype=np.float32)
        threads = check.n_threads(self.n_threads)
        self._network.predict(X, out, input_scale=self.input_scale_, n_threads=threads)
        return out

    # Fitted arrays.

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_trainer")

    def _list(self, name: str, read: Callable[[int], NDArray[np.float32]], n: int) -> Arrays:
        if not self.__sklearn_is_fitted__():
            raise AttributeError(f"{type(self).__name__} has no {name} before fit.")
        arrays = [read(layer) for layer in range(n)]
        for array in arrays:
            array.flags.writeable = False  # a write into a copy would be lost
        return arrays

    def _assign(
        self,
        name: str,
        values: Sequence[ArrayLike],
        write: Callable[[int, NDArray[np.float32]], None],
    ) -> None:
        old = getattr(self, name)
        if len(values) != len(old):
            raise ValueError(f"{name} has {len(old)} arrays, got {len(values)}.")
        new = [np.ascontiguousarray(value, dtype=np.float32) for value in values]
        for layer, (value, before) in enumerate(zip(new, old, strict=True)):
            if value.shape != before.shape:
                raise ValueError(
                    f"{name}[{layer}] must have shape {before.shape}, got {value.shape}."
                )
        for layer, value in enumerate(new):
            write(layer, value)

    @property
    def coefs_(self) -> Arrays:
        """Weights of each layer, read-only copies of shape (n_in, n_out); assign a whole list."""
        return self._list("coefs_", self._read_weights, self._n_matrices())

    @coefs_.setter
    def coefs_(self, values: Sequence[ArrayLike]) -> None:
        self._assign("coefs_", values, self._write_weights)

    def _read_weights(self, layer: int) -> NDArray[np.float32]:
        return self._network.weights(layer)

    def _write_weights(self, layer: int, value: NDArray[np.float32]) -> None:
        self._network.set_weights(layer, value)

    @property
    def intercepts_(self) -> Arrays:
        """Intercepts of each layer, read-only copies of shape (n_out,); assign a whole list."""
        return self._list("intercepts_", lambda i: self._network.biases(i), self._n_matrices())

    @intercepts_.setter
    def intercepts_(self, values: Sequence[ArrayLike]) -> None:
        self._assign("intercepts_", values, lambda i, value: self._network.set_biases(i, value))

    def _n_matrices(self) -> int:
        return getattr(self, "n_layers_", 1) - 1

    # Pickles, copies and files.

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if "_trainer" in state:
            state["_tensors"] = _saving.tensors(self)
            state["_step"] = self._trainer.step
            for name in _saving.LIVE:
                del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays, step = state.pop("_tensors", None), state.pop("_step", 0)
        super().__setstate__(state)
        if arrays is not None:
            _saving.restore(self, arrays, step)

    def save(self, path: str | os.PathLike[str], *, optimizer: bool = True) -> None:
        """Save the fitted model as a safetensors file, which `load` reads.

        The file holds ``coefs.0``, ``intercepts.0``, ... in float32, and can be read from PyTorch
        and JAX. It is written beside `path` and then renamed: an interrupted save leaves the old
        file whole.

        Parameters
        ----------
        path : str or path-like
            The file; one that exists is replaced.
        optimizer : bool, default=True
            Whether to save the optimizer's state, so that training can go on as if it had never
            stopped. Without it the file is smaller, and the optimizer starts anew.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If a parameter or a class label has a type that JSON does not have.
        OSError
            If the file cannot be written.

        Examples
        --------
        >>> import bpfree_fast as bf
        >>> X, y = [[0.0], [1.0]], ["no", "yes"]
        >>> clf = bf.BackpropClassifier((8,), random_state=0).fit(X, y)
        >>> clf.save("model.safetensors")
        >>> bool((bf.load("model.safetensors").predict(X) == clf.predict(X)).all())
        True
        """
        check_is_fitted(self)
        _saving.save(self, path, optimizer=optimizer)
