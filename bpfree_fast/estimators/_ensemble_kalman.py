# SPDX-License-Identifier: BSD-3-Clause
"""Ensemble Kalman training: its parameters, and what an iteration did."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import _validation as check
from ._base import NetworkEstimator, RandomState
from ._parameters import ACTIVATIONS, Settings
from ._progress import TrainingInfo
from ._training import Samples

UPDATES = ("eki", "etki", "denkf", "enkf")
LOSSES = ("cross_entropy", "squared_error")
CURVATURES = ("bound", "gauss_newton")
# The first dt of an ensemble that shrinks by it.
_KEPT_STEP = 1.0
# What the core says where a step cannot be solved for.
_UNSOLVABLE = "is lost to rounding"

# Columns of what the core reports of each iteration.
_FIELDS = (
    "misfit_mean", "misfit_min", "misfit_max", "spread", "dt", "effective_rank", "n_failed",
)  # fmt: skip
_REPORT = np.dtype([(name, np.float64) for name in _FIELDS])


class EnsembleKalmanEstimator(NetworkEstimator):
    """A network that is the mean of an ensemble, which its members' outputs move."""

    method: ClassVar[str] = "enkf"
    _core_method: ClassVar[str] = "ensemble_kalman"
    _activations: ClassVar[tuple[str, ...]] = (*ACTIVATIONS, "step", "sign")
    _rate_name: ClassVar[str] = "dt"

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (64,),
        activation: str = "relu",
        *,
        n_ens: int = 256,
        update: str = "eki",
        dt: float | None = None,
        obs_noise_var: float = 1.0,
        redraw_spread: float = 0.1,
        init_spread: float = 1.0,
        batch_size: int = 128,
        learning_rate: str = "cosine",
        power_t: float = 0.5,
        step_size: int = 10,
        gamma: float = 0.1,
        max_iter: int = 20,
        shuffle: bool = True,
        random_state: RandomState = None,
        tol: float = 1e-4,
        verbose: bool | int = 0,
        warm_start: bool = False,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        initializer: str = "uniform",
        input_scale: str | float | None = "auto",
        dtype: str = "float32",
        n_threads: int | None = None,
        callback: Callable[[TrainingInfo], bool | None] | None = None,
    ) -> None:
        super().__init__(
            hidden_layer_sizes,
            activation,
            batch_size=batch_size,
            learning_rate=learning_rate,
            power_t=power_t,
            step_size=step_size,
            gamma=gamma,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            initializer=initializer,
            input_scale=input_scale,
            dtype=dtype,
            n_threads=n_threads,
            callback=callback,
        )
        self.n_ens = n_ens
        self.update = update
        self.dt = dt
        self.obs_noise_var = obs_noise_var
        self.redraw_spread = redraw_spread
        self.init_spread = init_spread

    # Parameters.

    def _squares_errors(self) -> bool:
        """Say whether the squared error of the outputs is what is minimised."""
        return True

    @abstractmethod
    def _redrawn_step(self) -> float:
        """Give the first dt of redrawn members, where none is given."""

    def _first_rate(self) -> float:
        if self.dt is not None:
            return super()._first_rate()
        redraws = check.real("redraw_spread", self.redraw_spread, 0) > 0
        return self._redrawn_step() if redraws else _KEPT_STEP

    def _method_options(self) -> dict[str, Any]:
        squared = self._squares_errors()
        update = check.choice("update", self.update, UPDATES)
        redraw = check.real("redraw_spread", self.redraw_spread, 0)
        init = check.real("init_spread", self.init_spread, 0, open_low=True)
        if redraw > 0 and update != "eki":
            raise ValueError(
                f"update={update!r} needs redraw_spread=0: of members that are redrawn only the "
                "mean is kept, and 'eki' moves it as they all do."
            )
        if update == "enkf" and not squared:
            raise ValueError(
                "update='enkf' perturbs what is observed, and classes have no noise to add: it "
                "needs loss='squared_error'."
            )
        return {
            "method": self._core_method,
            "n_ens": check.integer("n_ens", self.n_ens, 2),
            "update": update,
            "squared_error": squared,
            "obs_noise_var": check.real("obs_noise_var", self.obs_noise_var, 0, open_low=True),
            "spread": redraw or init,
            "redraw": redraw > 0,
        }

    # Training.

    def _start(self, settings: Settings, dtype: np.dtype[Any], loss: str) -> None:
        super()._start(settings, dtype, loss)
        self.kalman_curve_: list[dict[str, float]] = []

    def _run_epoch(
        self, samples: Samples, on_event: Callable[[int, int, float], bool], **options: Any
    ) -> float:
        try:
            return super()._run_epoch(samples, on_event, **options)
        except ValueError as error:
            found = self.iterations_
            if len(found) > 0 and not math.isfinite(found["misfit_mean"][-1]):
                return math.nan  # it is the training that diverged
            if _UNSOLVABLE not in str(error):
                raise
            spread = "redraw_spread" if self.redraw_spread > 0 else "init_spread"
            raise ValueError(
                f"In epoch {self.n_iter_ + 1} the members' outputs differ by too much for a step "
                f"of dt ({found['dt'][-1]:g}) at obs_noise_var ({self.obs_noise_var:g}), which is "
                f"lost to rounding: scale X, or lower dt or {spread} ({getattr(self, spread):g})."
            ) from None

    @property
    def iterations_(self) -> NDArray[Any]:
        """Report of each iteration of the last epoch, or of the running one so far."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError(f"{type(self).__name__} has no iterations_ before fit.")
        found = np.ascontiguousarray(self._trainer.kalman_reports())
        return found.view(_REPORT).reshape(-1)

    def _after_epoch(self, samples: Samples) -> None:
        found = self.iterations_
        n_failed = int(found["n_failed"].sum())
        if n_failed > 0 and not any(entry["n_failed"] for entry in self.kalman_curve_):
            warnings.warn(
                f"{n_failed} members of the {len(found)} iterations of epoch {self.n_iter_} had "
                f"outputs that are not finite, and no part in the steps; n_failed of iterations_ "
                f"and kalman_curve_ counts those that follow.",
                RuntimeWarning,
                stacklevel=6,
            )
        means = ("misfit_mean", "spread", "dt", "effective_rank")
        self.kalman_curve_.append(
            {name: float(found[name].mean()) for name in means} | {"n_failed": n_failed}
        )
