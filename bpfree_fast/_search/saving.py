# SPDX-License-Identifier: BSD-3-Clause
"""The state of a strategy as plain arrays and JSON: in files, in pickles, and back."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._arrays import Floats
from .._validation import integer
from . import files
from .build import Search, start

if TYPE_CHECKING:
    from typing_extensions import Self

_KIND = "evolution strategy"
# What a strategy is made with, but for the start, the seed and the threads.
PARAMETERS = (
    "std", "method", "population_size", "maximize", "antithetic", "perturbation", "shapes", "rank",
    "fitness_shaping", "n_top", "group_size", "optimizer", "learning_rate", "learning_rate_decay",
    "std_learning_rate", "std_decay", "momentum", "beta_1", "beta_2", "epsilon", "max_speed",
    "weight_decay", "noise_reuse", "persistence", "bounds", "bound_handling",
)  # fmt: skip


def own_parameters(given: dict[str, Any]) -> dict[str, Any]:
    """Give the parameters out of what a caller gave, without arrays that may change later."""
    own = {name: given[name] for name in PARAMETERS}
    shapes = own["shapes"]
    if isinstance(shapes, Iterable) and not isinstance(shapes, str):
        own["shapes"] = [tuple(s) if isinstance(s, Iterable) else s for s in shapes]
    if np.ndim(own["std"]) > 0:
        own["std"] = np.array(own["std"])
    return own


class Best(NamedTuple):
    """The best member that a strategy was told of.

    Parameters
    ----------
    x : ndarray of shape (n_params,)
        The member, within the bounds.
    value : float
        What was told for it.
    generation : int
        Its generation, from 0.
    member : int
        Which of that generation, from 0.
    """

    x: Floats
    value: float
    generation: int
    member: int


class SavedSearch:
    """What of a strategy is kept, and how it comes back."""

    generation: int
    n_evaluations: int
    n_failed: int
    gradient_norm: float
    seed_: int
    _parameters: dict[str, Any]
    _search: Search
    _best: Best | None
    _has_warned: bool
    _n_threads: int

    @abstractmethod
    def _begin(self, x0: Floats, n_threads: int | None) -> None:
        """Start at x0 with the parameters and the seed."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the search to a file, from which it goes on with the same bits.

        Parameters
        ----------
        path : str or path-like
            An npz of plain arrays and JSON; one that exists is replaced in one step.
        """
        state, arrays = self._to_plain()
        files.write(path, _KIND, state, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, n_threads: int | None = None) -> Self:
        """Read what `save` wrote.

        Parameters
        ----------
        path : str or path-like
            The file.
        n_threads : int, default=None
            At least 1; None takes the default of the machine.

        Returns
        -------
        es : EvolutionStrategy
            The search as it was.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is truncated, corrupt or not one of ours.
        """
        strategy = cls.__new__(cls)
        state, arrays = files.read(path, _KIND)
        try:
            strategy._from_plain(state, arrays, n_threads)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no saved {_KIND} ({error!r}).") from None
        return strategy

    def __getstate__(self) -> dict[str, Any]:
        state, arrays = self._to_plain()
        return {"state": state, "arrays": arrays, "n_threads": self._n_threads or None}

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        self._from_plain(pickled["state"], pickled["arrays"], pickled["n_threads"])

    def _to_plain(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        method, best = self._search.method, self._best
        arrays: dict[str, NDArray[Any]] = dict(method.arrays())
        parameters = dict(self._parameters)
        if np.ndim(parameters["std"]):
            arrays["parameter_std"] = np.array(parameters.pop("std"), np.float64)
        bounds = self._search.bounds
        if bounds is not None:
            del parameters["bounds"]
            arrays["parameter_low"], arrays["parameter_high"] = bounds.low, bounds.high
        state = {
            "parameters": {name: _plain(value) for name, value in parameters.items()},
            "seed": self.seed_,
            "generation": self.generation,
            "n_evaluations": self.n_evaluations,
            "n_failed": self.n_failed,
            "gradient_norm": self.gradient_norm,
            "has_warned": self._has_warned,
            "std": method.std,
            "learning_rate": method.learning_rate,
            "best": None if best is None else list(best[1:]),
        }
        if best is not None:
            arrays["best"] = best.x
        return state, arrays

    def _from_plain(
        self, state: dict[str, Any], arrays: dict[str, NDArray[Any]], n_threads: int | None
    ) -> None:
        parameters = dict(state["parameters"])
        if "parameter_std" in arrays:
            parameters["std"] = arrays["parameter_std"]
        if "parameter_low" in arrays:
            parameters["bounds"] = (arrays["parameter_low"], arrays["parameter_high"])
        self._parameters = {name: parameters[name] for name in PARAMETERS}
        self.seed_ = integer("seed", state["seed"], 0)
        self._begin(start(arrays["mean"]), n_threads)
        method = self._search.method
        for name, array in method.arrays().items():
            if arrays[name].shape != array.shape or arrays[name].dtype != array.dtype:
                raise ValueError(f"{name} is {arrays[name].dtype} of shape {arrays[name].shape}")
            array[:] = arrays[name]
        method.std, method.learning_rate = float(state["std"]), float(state["learning_rate"])
        self.generation = integer("generation", state["generation"], 0)
        self.n_evaluations = integer("n_evaluations", state["n_evaluations"], 0)
        self.n_failed = integer("n_failed", state["n_failed"], 0)
        self.gradient_norm = float(state["gradient_norm"])
        self._has_warned = bool(state["has_warned"])
        if state["best"] is not None:
            value, generation, member = state["best"]
            if arrays["best"].shape != method.mean.shape:
                raise ValueError(f"best has shape {arrays['best'].shape}")
            arrays["best"].flags.writeable = False
            self._best = Best(arrays["best"], float(value), int(generation), int(member))


def _plain(value: object) -> object:
    """Give a parameter as JSON has it."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
