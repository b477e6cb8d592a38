# SPDX-License-Identifier: BSD-3-Clause
"""Local losses: their parameters, what they learn besides the network, and how they predict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _core
from .. import _validation as check
from ._base import RandomState
from ._fitted import Arrays
from ._layer_local import LayerLocalEstimator
from ._norms import NormalizedNetwork
from ._parameters import Settings
from ._progress import TrainingInfo

LOCAL_LOSSES = ("pred", "sim", "predsim")
PREDICTIONS = ("last", "sum")


class LocalLossEstimator(NormalizedNetwork, LayerLocalEstimator):
    """Hidden layers that learn from losses of their own: a head's, or their rows' similarity."""

    method: ClassVar[str] = "local"
    _core_method: ClassVar[str] = "local_loss"
    _array_lists: ClassVar[tuple[str, ...]] = (
        "coefs_",
        "intercepts_",
        "head_coefs_",
        "head_intercepts_",
        "projection_coefs_",
        *NormalizedNetwork._norm_lists,
    )

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (256, 256),
        activation: str = "relu",
        *,
        local_loss: str = "pred",
        similarity_weight: float = 0.99,
        sim_projection: bool = False,
        predict_with: str = "last",
        schedule: str = "simultaneous",
        cache_inputs: bool = True,
        batch_normalization: bool = False,
        dropout: float = 0.0,
        solver: str = "adam",
        alpha: float = 0.0,
        batch_size: int = 128,
        learning_rate: str = "cosine",
        learning_rate_init: float = 1e-3,
        power_t: float = 0.5,
        step_size: int = 10,
        gamma: float = 0.1,
        max_iter: int = 20,
        shuffle: bool = True,
        random_state: RandomState = None,
        tol: float = 1e-4,
        verbose: bool | int = 0,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int = 10,
        weight_decay: float = 0.0,
        initializer: str = "he_uniform",
        input_scale: str | float | None = "auto",
        dtype: str = "float32",
        n_threads: int | None = None,
        callback: Callable[[TrainingInfo], bool | None] | None = None,
    ) -> None:
        super().__init__(
            hidden_layer_sizes,
            activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            step_size=step_size,
            gamma=gamma,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            weight_decay=weight_decay,
            initializer=initializer,
            input_scale=input_scale,
            dtype=dtype,
            n_threads=n_threads,
            callback=callback,
        )
        self.local_loss = local_loss
        self.similarity_weight = similarity_weight
        self.sim_projection = sim_projection
        self.predict_with = predict_with
        self.schedule = schedule
        self.cache_inputs = cache_inputs
        self.batch_normalization = batch_normalization
        self.dropout = dropout

    # Parameters.

    def _method_options(self) -> dict[str, Any]:
        check.choice("predict_with", self.predict_with, PREDICTIONS)
        check.flag("cache_inputs", self.cache_inputs)
        self._check_schedule()
        return {
            "method": self._core_method,
            "local_loss": check.choice("local_loss", self.local_loss, LOCAL_LOSSES),
            "similarity_weight": check.real("similarity_weight", self.similarity_weight, 0, 1),
            "sim_projection": check.flag("sim_projection", self.sim_projection),
            "batch_normalization": check.flag("batch_normalization", self.batch_normalization),
            "dropout": check.real("dropout", self.dropout, 0, 1, open_high=True),
        }

    def _architecture_of(self, settings: Settings) -> dict[str, Any]:
        return {
            **super()._architecture_of(settings),
            "local_loss": self.local_loss,
            "sim_projection": bool(self.sim_projection),
            "batch_normalization": bool(self.batch_normalization),
        }

    def _first_head(self) -> int | None:
        return None if self._architecture["local_loss"] == "sim" else 0

    def _start(self, settings: Settings, dtype: np.dtype[Any], loss: str) -> None:
        if self.local_loss != "pred" and self.n_outputs_ < 2:
            raise ValueError(
                f"local_loss={self.local_loss!r} compares rows of at least 2 outputs, and y has "
                f"{self.n_outputs_}: take 'pred'."
            )
        super()._start(settings, dtype, loss)
        if self.local_loss != "pred" and self.sim_projection:
            self.n_params_ += sum(n * n for n in settings.hidden)
        if self.batch_normalization:
            self.n_params_ += 2 * sum(settings.hidden)

    # Training.

    def _fit(self, *arguments: Any, **keywords: Any) -> None:
        try:
            super()._fit(*arguments, **keywords)
        finally:
            # What was kept belongs to the samples of this call.
            if self.__sklearn_is_fitted__():
                self._trainer.drop_cache()

    def _stages(self, settings: Settings, incremental: bool) -> Iterator[int]:
        self._trainer.drop_cache()
        for end in super()._stages(settings, incremental):
            # The first epoch fills the cache: it pays from the second on.
            self._trainer.set_cache(self.cache_inputs and end - self.n_iter_ > 1)
            yield end

    # What the trainer holds besides the network: projections, then four arrays of each layer.

    def _trainer_arrays(self, trainer: _core.Trainer) -> Arrays:
        projections = [trainer.projection(layer) for layer in range(trainer.n_projections)]
        return projections + self._norm_arrays(trainer)

    def _set_trainer_arrays(self, arrays: Arrays) -> None:
        trainer, n = self._trainer, self._trainer.n_projections
        for layer, value in enumerate(arrays[:n]):
            trainer.set_projection(layer, value)
        self._set_norm_arrays(arrays[n:])

    def _take_over(self, old: _core.Trainer) -> None:
        self._set_trainer_arrays(self._trainer_arrays(old))

    def _weights(self) -> Arrays:
        return super()._weights() + self._trainer_arrays(self._trainer)

    def _set_weights(self, arrays: Arrays) -> None:
        n = len(arrays) - self._trainer.n_projections - 4 * self._trainer.n_norms
        super()._set_weights(arrays[:n])
        self._set_trainer_arrays(arrays[n:])

    # The fitted network.

    def _output(self, X: NDArray[Any]) -> NDArray[np.float32]:
        adds_up = check.choice("predict_with", self.predict_with, PREDICTIONS) == "sum"
        out = np.empty((len(X), self.n_outputs_), dtype=np.float32)
        self._trainer.predict_by(
            X,
            out,
            sum_of_heads=adds_up,
            input_scale=self.input_scale_,
            n_threads=check.n_threads(self.n_threads),
        )
        if adds_up and self.out_activation_ == "identity":
            # Each head gives the value itself, not evidence that adds up.
            out /= len(self._heads())
        return out

    @property
    def projection_coefs_(self) -> Arrays:
        """Maps of each layer before its similarity, with `sim_projection`; assign a whole list."""
        n = self._trainer.n_projections if self.__sklearn_is_fitted__() else 0
        return self._list("projection_coefs_", lambda i: self._trainer.projection(i), n)

    @projection_coefs_.setter
    def projection_coefs_(self, values: Sequence[ArrayLike]) -> None:
        def write(layer: int, value: NDArray[np.float32]) -> None:
            self._trainer.set_projection(layer, value)

        self._assign("projection_coefs_", values, write)
