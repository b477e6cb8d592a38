# SPDX-License-Identifier: BSD-3-Clause
"""Fitted estimators as tensors and JSON: what files and pickles hold."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _core, io
from ..info import versions

if TYPE_CHECKING:
    from ._fitted import Arrays, FittedNetwork
    from ._targets import NetworkClassifier, NetworkRegressor

# Arrays of the network's size travel as tensors, everything else as JSON.
_WEIGHT_LISTS = ("_best_weights", "_last_weights")
LIVE = {"_network", "_trainer", *_WEIGHT_LISTS}


def tensors(estimator: FittedNetwork, *, optimizer: bool = True) -> io.Tensors:
    """Give the arrays of a fitted estimator by name."""
    est = estimator
    groups: dict[str, Arrays] = {name.strip("_"): getattr(est, name) for name in est._array_lists}
    groups["feedback"] = est._stored_feedback(est._trainer)
    if optimizer:
        groups["optimizer"] = est._trainer.optimizer_state()
        for name in _WEIGHT_LISTS:
            groups[name.strip("_")] = getattr(est, name) or []
    return {
        f"{group}.{i}": array for group, arrays in groups.items() for i, array in enumerate(arrays)
    }


def restore(estimator: FittedNetwork, arrays: io.Tensors, step: int) -> None:
    """Build the network and the trainer of an estimator whose attributes are there."""
    est = estimator
    est._network = est._new_network()
    est._trainer = _core.Trainer(est._network, **est._trainer_options)
    for name in est._array_lists:
        setattr(est, name, _group(arrays, name.strip("_")))
    est._set_stored_feedback(_group(arrays, "feedback"))
    state = _group(arrays, "optimizer")
    if state:
        est._trainer.set_optimizer_state(state)
    est._trainer.step = step
    for name in _WEIGHT_LISTS:
        setattr(est, name, _group(arrays, name.strip("_")) or None)


def save(estimator: FittedNetwork, path: str | os.PathLike[str], *, optimizer: bool) -> None:
    """Write a fitted estimator to a safetensors file."""
    params = estimator.get_params(deep=False)
    fitted = {
        name: value
        for name, value in vars(estimator).items()
        if name not in params and name not in LIVE
    }
    # A function has no place in a file, and what a generator drew is kept in seed_.
    params["callback"] = None
    if callable(params.get("loss")):
        name = getattr(params["loss"], "__name__", type(params["loss"]).__name__)
        params["loss"] = f"function {name}"
    if not isinstance(params["random_state"], (int, np.integer, type(None))):
        params["random_state"] = estimator.seed_
    description = {
        "class": type(estimator).__name__,
        "params": params,
        "fitted": fitted,
        # Without its state the optimizer starts anew, and so does its clock.
        "step": estimator._trainer.step if optimizer else 0,
        "config": {**_core.config(), "versions": versions()},
    }
    io.write(path, tensors(estimator, optimizer=optimizer), io.dumps(description))


def load(path: str | os.PathLike[str]) -> NetworkClassifier | NetworkRegressor:
    """Load a model that an estimator's `save` has written.

    With ``warm_start=True``, `fit` then goes on at epoch ``n_iter_`` up to `max_iter`, and gives
    the same bits as training that never stopped.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    estimator : estimator
        The fitted estimator, of the class that was saved.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated, corrupt, or no model of this library.

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> X, y = [[0.0], [1.0]], ["no", "yes"]
    >>> bf.DFAClassifier((8,), max_iter=5, random_state=0).fit(X, y).save("half.safetensors")
    >>> clf = bf.load("half.safetensors").set_params(max_iter=10, warm_start=True)
    >>> clf.fit(X, y).n_iter_
    10
    """
    from . import ESTIMATORS  # they are built on this module

    arrays, description = io.read(path)
    name = description.get("class")
    cls = ESTIMATORS.get(name) if isinstance(name, str) else None
    if cls is None:
        raise ValueError(f"{path} holds a model of the class {name!r}, which is not known here.")
    try:
        params = description["params"]
        if isinstance(params["hidden_layer_sizes"], list):
            params["hidden_layer_sizes"] = tuple(params["hidden_layer_sizes"])
        estimator = cls(**params)
        estimator.__dict__.update(description["fitted"])
        restore(estimator, arrays, description["step"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is corrupt: {error}.") from None
    return estimator


def _group(arrays: io.Tensors, name: str) -> list[NDArray[Any]]:
    prefix = name + "."
    found = {
        int(key[len(prefix) :]): value for key, value in arrays.items() if key.startswith(prefix)
    }
    return [np.ascontiguousarray(found[i]) for i in range(len(found))]
