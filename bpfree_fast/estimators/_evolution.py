# SPDX-License-Identifier: BSD-3-Clause
"""Evolution strategies: their parameters, losses that a user wrote, and what a generation did."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .. import _validation as check
from ._base import NetworkEstimator, RandomState
from ._parameters import ACTIVATIONS, Settings
from ._progress import TrainingInfo
from ._training import Samples

PERTURBATIONS = ("gaussian", "rademacher", "low_rank")
SHAPINGS = ("centered_rank", "z_score", "nes", "pair", "top_k", "group")
FITNESSES = ("loss", "accuracy")

Loss = Callable[..., float]

# Columns of what the core reports of each generation.
_REPORT = np.dtype(
    [
        (name, np.float64)
        for name in (
            "fitness_mean",
            "fitness_min",
            "fitness_max",
            "fitness_std",
            "gradient_norm",
            "n_not_finite",
            "cosine",
        )
    ]
)
# Outputs that a loss of the user's is given at a time, in numbers: memory does not grow with the
# population.
_CHUNK_NUMBERS = 2**20
# As often as the core tells of its progress.
_EVENT_SECONDS = 0.1


class EvolutionEstimator(NetworkEstimator):
    """A network that learns from the fitness of a population around it."""

    method: ClassVar[str] = "es"
    _core_method: ClassVar[str] = "evolution"
    _activations: ClassVar[tuple[str, ...]] = (*ACTIVATIONS, "step", "sign")

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (64,),
        activation: str = "relu",
        *,
        population_size: int = 256,
        std: float = 0.05,
        std_decay: float = 1.0,
        perturbation: str = "gaussian",
        rank: int = 1,
        antithetic: bool = True,
        fitness_shaping: str = "centered_rank",
        n_top: int | None = None,
        group_size: int | None = None,
        fitness: str = "loss",
        loss: Loss | None = None,
        report_cosine: bool = False,
        solver: str = "adam",
        alpha: float = 0.0,
        batch_size: int = 128,
        learning_rate: str = "cosine",
        learning_rate_init: float = 3e-2,
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
        initializer: str = "uniform",
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
        self.population_size = population_size
        self.std = std
        self.std_decay = std_decay
        self.perturbation = perturbation
        self.rank = rank
        self.antithetic = antithetic
        self.fitness_shaping = fitness_shaping
        self.n_top = n_top
        self.group_size = group_size
        self.fitness = fitness
        self.loss = loss
        self.report_cosine = report_cosine

    # Parameters.

    def _method_options(self) -> dict[str, Any]:
        antithetic = check.flag("antithetic", self.antithetic)
        population = check.integer("population_size", self.population_size, 2)
        if antithetic and population % 2:
            raise ValueError(
                f"population_size must be even with antithetic=True, got {self.population_size!r}."
            )
        shaping = check.choice("fitness_shaping", self.fitness_shaping, SHAPINGS)
        if shaping in ("pair", "top_k") and not antithetic:
            raise ValueError(f"fitness_shaping={shaping!r} is of pairs: it needs antithetic=True.")
        self._check_fitness()
        return {
            "method": self._core_method,
            "population_size": population,
            "std": check.real("std", self.std, 0, open_low=True),
            "std_decay": check.real("std_decay", self.std_decay, 0, 1, open_low=True),
            "perturbation": check.choice("perturbation", self.perturbation, PERTURBATIONS),
            "rank": check.integer("rank", self.rank, 1),
            "antithetic": antithetic,
            "fitness_shaping": shaping,
            "top_k": self._top_k(shaping, population // 2),
            "group_size": self._group_size(shaping, population),
            "fitness": self.fitness,
        }

    def _top_k(self, shaping: str, n_pairs: int) -> int:
        if shaping == "top_k":
            return n_pairs if self.n_top is None else check.integer("n_top", self.n_top, 1, n_pairs)
        if self.n_top is not None:
            raise ValueError(
                f"n_top is for fitness_shaping='top_k', got {self.n_top!r} for {shaping!r}."
            )
        return 0

    def _group_size(self, shaping: str, population: int) -> int:
        if (self.group_size is not None) != (shaping == "group"):
            state = "is missing" if self.group_size is None else "was given"
            raise ValueError(f"group_size {state}, but fitness_shaping is {shaping!r}.")
        if self.group_size is None:
            return 0
        size = check.integer("group_size", self.group_size, 1, population)
        if population % size:
            raise ValueError(f"group_size must divide population_size {population}, got {size}.")
        return size

    def _check_fitness(self) -> None:
        check.choice("fitness", self.fitness, FITNESSES)
        if self._numeric_target and self.fitness == "accuracy":
            raise ValueError("fitness='accuracy' counts right classes: a regressor has none.")
        if isinstance(self.loss, str):
            raise ValueError(
                f"loss is {self.loss!r}, which a file cannot hold: set it to the function anew, or "
                "to None."
            )
        if self.loss is not None and not callable(self.loss):
            raise TypeError(f"loss must be None or a function, got {self.loss!r}.")
        if self.loss is not None and self.fitness != "loss":
            raise ValueError(f"fitness is {self.fitness!r}, but loss says what fitness is.")
        if check.flag("report_cosine", self.report_cosine):
            if self.loss is not None:
                raise ValueError(
                    "report_cosine=True compares with the gradient of the network's own loss: "
                    "it needs loss=None."
                )
            if self.activation in ("step", "sign"):
                raise ValueError(
                    f"report_cosine=True needs a gradient, and activation={self.activation!r} has "
                    "no derivative."
                )

    # Training.

    def _merges_equal_samples(self) -> bool:
        # A loss of the user's sees the rows as they are, and weights only where some were given.
        return self.loss is None

    def _start(self, settings: Settings, dtype: np.dtype[Any], loss: str) -> None:
        super()._start(settings, dtype, loss)
        self.evolution_curve_: list[dict[str, float | None]] = []

    def _fit(self, *arguments: Any, **keywords: Any) -> None:
        self._n_losses = self._n_not_finite = 0
        super()._fit(*arguments, **keywords)
        if self._n_not_finite:
            warnings.warn(
                f"{self._n_not_finite} of {self._n_losses} losses were not finite, and counted "
                "as the worst.",
                RuntimeWarning,
                stacklevel=3,
            )

    def _stages(self, settings: Settings, incremental: bool) -> Iterator[int]:
        self._trainer.set_report_cosine(bool(self.report_cosine))
        yield from super()._stages(settings, incremental)

    def _run_epoch(
        self, samples: Samples, on_event: Callable[[int, int, float], bool], **options: Any
    ) -> float:
        population: int = self._trainer_options["population_size"]
        if self.loss is None:
            try:
                value = super()._run_epoch(samples, on_event, **options)
            except ValueError:
                if not (self.generations_["n_not_finite"] == population).any():
                    raise
                return math.nan  # the network's own loss: it is the training that diverged
        else:
            value = self._run_own_epoch(self.loss, samples, on_event, **options)
        found = self.generations_
        self._n_losses += len(found) * population
        self._n_not_finite += int(found["n_not_finite"].sum())
        return value

    def _run_own_epoch(
        self,
        loss: Loss,
        samples: Samples,
        on_event: Callable[[int, int, float], bool],
        **options: Any,
    ) -> float:
        """Train one epoch by the user's function, a generation at a time."""
        trainer, weight = self._trainer, samples.weight
        trainer.begin_epoch(samples.x, samples.y, weight, input_scale=self.input_scale_, **options)
        n_steps = math.ceil(len(samples) / self._trainer_options["batch_size"])
        step, loss_sum, weight_sum = 0, 0.0, 0.0
        told = time.perf_counter()
        while (rows := trainer.next_batch()) is not None:
            losses = self._own_losses(loss, samples, rows)
            trainer.update(-losses)
            step += 1
            of_batch = len(rows) if weight is None else float(weight[rows].sum())
            loss_sum += of_batch * losses[np.isfinite(losses)].mean()
            weight_sum += of_batch
            if time.perf_counter() - told >= _EVENT_SECONDS:
                if on_event(step, n_steps, loss_sum / weight_sum):
                    break
                told = time.perf_counter()
        return loss_sum / weight_sum

    def _own_losses(
        self, loss: Loss, samples: Samples, rows: NDArray[np.uint32]
    ) -> NDArray[np.float64]:
        """Give every member's loss on the coming minibatch by the user's function."""
        population: int = self._trainer_options["population_size"]
        threads = self._trainer_options["n_threads"] or _core.default_threads()
        target = self._own_target(samples, rows)
        arguments = [target] if samples.weight is None else [target, samples.weight[rows]]
        for array in arguments:
            array.flags.writeable = False  # the next member sees the same
        # Whole pairs, and enough of them for every thread.
        chunk = 2 * max(threads, _CHUNK_NUMBERS // (2 * len(rows) * self.n_outputs_))
        outputs = np.empty((min(chunk, population), len(rows), self.n_outputs_), np.float32)
        losses = np.empty(population)
        for first in range(0, population, len(outputs)):
            part = outputs[: population - first]
            self._trainer.evaluate(first, part)
            for i, output in enumerate(part, first):
                value = loss(target, self._own_output(output), *arguments[1:])
                try:
                    losses[i] = float(value)
                except (TypeError, ValueError):
                    raise TypeError(f"loss must give one number, got {value!r}.") from None
        return losses

    def _own_target(self, samples: Samples, rows: NDArray[np.uint32]) -> NDArray[Any]:
        """Give the targets of some rows as the user's loss takes them, copied."""
        chosen: NDArray[Any] = samples.y[rows]
        return chosen

    def _own_output(self, output: NDArray[np.float32]) -> NDArray[Any]:
        """Give one member's outputs as the user's loss takes them."""
        return output

    # What the generations did.

    @property
    def generations_(self) -> NDArray[Any]:
        """Report of each generation of the last epoch, or of the running one so far."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError(f"{type(self).__name__} has no generations_ before fit.")
        found = np.ascontiguousarray(self._trainer.evolution_reports())
        return found.view(_REPORT).reshape(-1)

    def _after_epoch(self, samples: Samples) -> None:
        found = self.generations_
        cosine = found["cosine"]
        self.evolution_curve_.append(
            {
                **{
                    name: float(found[name].mean())
                    for name in ("fitness_mean", "fitness_std", "gradient_norm")
                },
                "n_not_finite": float(found["n_not_finite"].sum()),
                "cosine": None if np.isnan(cosine).any() else float(cosine.mean()),
            }
        )
