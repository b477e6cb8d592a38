# SPDX-License-Identifier: BSD-3-Clause
"""What every estimator of a dense network shares: its life from parameters to fitted arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import _check_sample_weight, validate_data

from .. import _core
from .. import _validation as check
from ._fitted import INPUT_DTYPES, FittedNetwork
from ._parameters import ACTIVATIONS, Settings, check_parameters
from ._progress import TrainingInfo
from ._training import Samples, Training, merge_equal

RandomState = int | np.random.RandomState | np.random.Generator | None


class NetworkEstimator(FittedNetwork, ABC):
    """A dense network, trained by the core."""

    # The name on the command line, and the core's name of the method.
    method: ClassVar[str]
    _core_method: ClassVar[str]
    _numeric_target: ClassVar[bool]
    _activations: ClassVar[tuple[str, ...]] = ACTIVATIONS

    # The parameter that is the first learning rate.
    _rate_name: ClassVar[str] = "learning_rate_init"

    # The epoch at which the running stage began, in training that has stages.
    _stage_start = 0

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (256, 256),
        activation: str = "relu",
        *,
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
        weight_decay: float | None = 0.0,
        initializer: str = "uniform",
        input_scale: str | float | None = "auto",
        dtype: str = "float32",
        n_threads: int | None = None,
        callback: Callable[[TrainingInfo], bool | None] | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.step_size = step_size
        self.gamma = gamma
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.weight_decay = weight_decay
        self.initializer = initializer
        self.input_scale = input_scale
        self.dtype = dtype
        self.n_threads = n_threads
        self.callback = callback

    # What a kind of target says (see _targets.py).

    @abstractmethod
    def _learn_target(self, y: NDArray[Any], classes: ArrayLike | None) -> str:
        """Keep what the kind of target is, and name the loss."""

    @abstractmethod
    def _encode_target(self, y: NDArray[Any]) -> NDArray[Any]:
        """Give targets as class numbers, or as columns."""

    def _scale_target(self, samples: Samples, going_on: bool) -> None:
        """Bring the columns to the scale that the network is trained on."""

    @abstractmethod
    def _score_samples(self, samples: Samples) -> float:
        """Score encoded samples."""

    # What a method says (see backprop.py, feedback.py and forward_forward.py).

    def _method_options(self) -> dict[str, Any]:
        """Check the method's own parameters, and name them for the core's trainer."""
        return {"method": self._core_method}

    def _first_rate(self) -> float:
        """Check the parameter that is the first learning rate."""
        return check.real(self._rate_name, getattr(self, self._rate_name), 0, open_low=True)

    def _architecture_of(self, settings: Settings) -> dict[str, Any]:
        """Give what cannot change while training goes on, in types that JSON has."""
        return {
            "hidden_layer_sizes": list(settings.hidden),
            "activation": settings.activation,
            "dtype": settings.dtype,
        }

    def _check_negative(self, X_negative: ArrayLike | None, X: NDArray[Any]) -> NDArray[Any] | None:
        """Check the rows that a method contrasts with those of X."""
        return None

    def _stages(self, settings: Settings, incremental: bool) -> Iterator[int]:
        """Bring the trainer to one stage of the training after the other; give each one's end."""
        yield self.n_iter_ + 1 if incremental else settings.max_iter

    def _is_done(self) -> bool:
        """Say whether `fit` has nothing left to do for a fitted model that it goes on from."""
        return self.n_iter_ >= self.max_iter

    def _merges_equal_samples(self) -> bool:
        """Say whether one minibatch's samples may be sorted, and equal ones joined."""
        return True

    def _run_epoch(
        self, samples: Samples, on_event: Callable[[int, int, float], bool], **options: Any
    ) -> float:
        """Train one epoch, or until `on_event` says to stop; give the mean loss."""
        return self._trainer.run_epoch(
            samples.x,
            samples.y,
            samples.weight,
            input_scale=self.input_scale_,
            on_event=on_event,
            x_negative=samples.negative,
            **options,
        )

    def _after_epoch(self, samples: Samples) -> None:
        """Book what a method wants to know at the end of an epoch."""

    # Training.

    def _fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        *,
        incremental: bool = False,
        classes: ArrayLike | None = None,
        X_negative: ArrayLike | None = None,
    ) -> None:
        settings = check_parameters(self)
        options = self._method_options()
        if incremental and settings.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True.")
        going_on = self.__sklearn_is_fitted__() and (incremental or settings.warm_start)
        if going_on:
            self._check_architecture(settings)
        checked_X, checked_y = validate_data(
            self,
            X,
            y,
            dtype=INPUT_DTYPES,
            order="C",
            multi_output=True,
            y_numeric=self._numeric_target,
            reset=not going_on,
        )
        negative = self._check_negative(X_negative, checked_X)
        samples = _drop_weightless(Samples(checked_X, checked_y, None, negative), sample_weight)
        if going_on:
            self._check_input_scale(samples.x)
            samples.y = self._encode_target(samples.y)
        else:
            loss = self._learn_target(samples.y, classes)
            samples.y = self._encode_target(samples.y)
            self._start(settings, samples.x.dtype, loss)
        validation = None
        if settings.early_stopping:
            samples, validation = self._split(samples, settings)
        n_seen = len(samples)
        batch_size = min(settings.batch_size, n_seen)
        alone = settings.shuffle and n_seen == batch_size and not incremental
        if alone and self._merges_equal_samples():
            samples = merge_equal(samples)
        if going_on:
            # Parts smaller than the last one need no new trainer: they are one minibatch each.
            before: int = self._trainer_options["batch_size"]
            batch_size = min(settings.batch_size, max(batch_size, before))
        self._scale_target(samples, going_on)
        if validation is not None:
            self._scale_target(validation, True)
        if settings.schedule != "adaptive":
            self._learning_rate = settings.learning_rate
        self._make_trainer(options, settings, batch_size)
        self._restore_last()
        seconds = 0.0
        for last in self._stages(settings, incremental):
            training = Training(
                self,
                settings,
                samples,
                validation,
                n_epochs=last,
                incremental=incremental,
                seconds=seconds,
            )
            training.run(n_seen)
            seconds = training.seconds
            if self.interrupted_ or training.asked_to_stop:
                break

    def _start(self, settings: Settings, dtype: np.dtype[Any], loss: str) -> None:
        """Make a new network, and forget the old one."""
        self.seed_ = check.seed(self.random_state)
        self.input_scale_ = self._implied_scale(dtype)
        self._architecture = self._architecture_of(settings)
        self._loss = loss
        self._network = self._new_network()
        self._network.initialize(self.seed_, settings.initializer)
        self.__dict__.pop("_trainer", None)
        self.n_layers_ = len(settings.hidden) + 2
        self.n_params_ = self._network.n_params
        self.out_activation_ = {
            "softmax_cross_entropy": "softmax",
            "binary_cross_entropy": "logistic",
            "squared_error": "identity",
        }[loss]
        self.n_iter_ = 0
        self.t_ = 0
        self.loss_ = np.nan
        self.loss_curve_: list[float] = []
        self.best_loss_: float | None = None if settings.early_stopping else np.inf
        self.validation_scores_: list[float] | None = [] if settings.early_stopping else None
        self.best_validation_score_: float | None = -np.inf if settings.early_stopping else None
        self.interrupted_ = False
        self._no_improvement_count = 0
        self._learning_rate = settings.learning_rate
        self._best_weights = None
        self._last_weights = None

    def _check_architecture(self, settings: Settings) -> None:
        for name, new in self._architecture_of(settings).items():
            old = self._architecture[name]
            if new != old:
                raise ValueError(f"{name} is {new!r}, but the model to go on from has {old!r}.")
        if settings.early_stopping != (self.validation_scores_ is not None):
            raise ValueError("early_stopping cannot change when training goes on.")

    def _split(self, samples: Samples, settings: Settings) -> tuple[Samples, Samples]:
        """Keep some samples apart, the same ones whenever training goes on."""
        stratify = samples.y if samples.y.ndim == 1 else None
        train, apart = train_test_split(
            np.arange(len(samples)),
            test_size=settings.validation_fraction,
            random_state=self.seed_ % 2**32,
            stratify=stratify,
        )
        if len(apart) < 2:
            raise ValueError(
                f"The validation set has {len(apart)} sample: raise validation_fraction "
                f"({settings.validation_fraction:g}) or give more samples."
            )
        return samples.take(train), samples.take(apart)

    def _make_trainer(self, method: dict[str, Any], settings: Settings, batch_size: int) -> None:
        """Make the core's trainer anew when its options changed; its state moves along."""
        options = {
            "weight_decay": settings.weight_decay,
            **method,
            "solver": settings.solver,
            "momentum": settings.momentum,
            "nesterov": settings.nesterov,
            "beta_1": settings.beta_1,
            "beta_2": settings.beta_2,
            "epsilon": settings.epsilon,
            "alpha": settings.alpha,
            "batch_size": batch_size,
            "seed": self.seed_,
            "n_threads": settings.n_threads,
        }
        old = getattr(self, "_trainer", None)
        if old is None:
            self._trainer = _core.Trainer(self._network, **options)
            self._trainer_options = options
            return
        before = self._trainer_options
        if options == before:
            return
        self._trainer = _core.Trainer(self._network, **options)
        self._trainer_options = options
        self._trainer.step = old.step
        same_rule = options.get("feedback") == before.get("feedback")
        if same_rule:
            self._take_over(old)
        same_slots = all(
            (options.get(name, 0) == 0) == (before.get(name, 0) == 0)
            for name in ("momentum", "peer_normalization")
        ) and all(options.get(name) == before.get(name) for name in ("n_ens", "redraw"))
        if same_rule and same_slots and options["solver"] == before["solver"]:
            self._trainer.set_optimizer_state(old.optimizer_state())


def _drop_weightless(samples: Samples, sample_weight: ArrayLike | None) -> Samples:
    """Give the samples their weights, and leave out those of weight 0 as if they were not there."""
    if sample_weight is None:
        return samples
    weight = _check_sample_weight(
        sample_weight, samples.x, dtype=np.float32, ensure_non_negative=True
    )
    used = weight > 0
    if not used.any():
        raise ValueError("Every sample_weight is 0: there is no sample to learn from.")
    samples.weight = np.ascontiguousarray(weight)
    return samples if used.all() else samples.take(np.flatnonzero(used))
