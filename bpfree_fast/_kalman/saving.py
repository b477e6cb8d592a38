# SPDX-License-Identifier: BSD-3-Clause
"""The state of an ensemble as plain arrays and JSON: in files, in pickles, and back."""

from __future__ import annotations

import os
from abc import abstractmethod
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import Floats
from .._search import files
from .._validation import integer
from .loop import KalmanReport
from .options import PARAMETERS, Options, start

if TYPE_CHECKING:
    from typing_extensions import Self

_KIND = "ensemble of Kalman's"
_COUNTS = ("iteration", "n_failed")


class SavedEnsemble:
    """What of an ensemble is kept, and how it comes back."""

    iteration: int
    time: float
    n_failed: int
    report: KalmanReport | None
    seed_: int
    _parameters: dict[str, Any]
    _options: Options
    _members: Floats
    _asked: Floats
    _theta: float
    _has_warned: bool
    _n_threads: int

    @abstractmethod
    def _begin(self, members: Floats, noise_cov: object, n_threads: int | None) -> None:
        """Start with these members, the parameters and the seed."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the ensemble to a file, from which it goes on with the same bits.

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
        kalman : EnsembleKalman
            The ensemble as it was.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is truncated, corrupt or not one of ours.
        """
        kalman = cls.__new__(cls)
        state, arrays = files.read(path, _KIND)
        try:
            kalman._from_plain(state, arrays, n_threads)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no saved {_KIND} ({error!r}).") from None
        return kalman

    def __getstate__(self) -> dict[str, Any]:
        state, arrays = self._to_plain()
        return {"state": state, "arrays": arrays, "n_threads": self._n_threads or None}

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        self._from_plain(pickled["state"], pickled["arrays"], pickled["n_threads"])

    def _to_plain(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        arrays: dict[str, NDArray[Any]] = {
            "ensemble": self._members,
            "obs_noise_cov": self._options.noise_cov,
        }
        if self._asked is not self._members:
            arrays["asked"] = self._asked
        plain: dict[str, object] = {}
        for name, value in self._parameters.items():
            if np.ndim(value) > 0 and name != "alphas":
                arrays[f"parameter_{name}"] = np.asarray(value)
            else:
                plain[name] = _plain(value)
        report = None
        if self.report is not None:
            report = asdict(self.report)
            arrays["misfits"] = report.pop("misfits")
        state = {
            "parameters": plain,
            "seed": self.seed_,
            "iteration": self.iteration,
            "time": self.time,
            "n_failed": self.n_failed,
            "theta": self._theta,
            "has_warned": self._has_warned,
            "report": report,
        }
        return state, arrays

    def _from_plain(
        self, state: dict[str, Any], arrays: dict[str, NDArray[Any]], n_threads: int | None
    ) -> None:
        parameters = dict(state["parameters"])
        for name, array in arrays.items():
            if name.startswith("parameter_"):
                parameters[name.removeprefix("parameter_")] = array
        self._parameters = {name: parameters[name] for name in PARAMETERS}
        self.seed_ = integer("seed", state["seed"], 0)
        self._begin(start(arrays["ensemble"], copy=True), arrays["obs_noise_cov"], n_threads)
        for name in _COUNTS:
            setattr(self, name, integer(name, state[name], 0))
        self.time, self._theta = float(state["time"]), float(state["theta"])
        self._has_warned = bool(state["has_warned"])
        if self._asked is not self._members:
            asked = arrays["asked"]
            if asked.shape != self._asked.shape or asked.dtype != self._asked.dtype:
                raise ValueError(f"asked is {asked.dtype} of shape {asked.shape}")
            self._asked[:] = asked
        if state["report"] is not None:
            self.report = KalmanReport(misfits=arrays["misfits"], **state["report"])


def _plain(value: object) -> object:
    """Give a parameter as JSON has it."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
