# SPDX-License-Identifier: BSD-3-Clause
"""One call of fit: the loop over epochs, its callbacks, and when it stops."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from ._progress import ProgressBar, TrainingInfo

if TYPE_CHECKING:
    from ._base import NetworkEstimator
    from ._parameters import Settings

# 'adaptive' divides the learning rate by this, and stops below the least rate: as scikit-learn.
_ADAPTIVE_DIVISOR = 5.0
_LEAST_LEARNING_RATE = 1e-6
# Above so many samples or numbers the order of the sums is left as it is: sorting would cost.
_MAX_MERGED_SAMPLES = 256
_MAX_MERGED_NUMBERS = 2**20


@dataclass
class Samples:
    """Rows, targets and weights, as the core takes them."""

    x: NDArray[Any]
    y: NDArray[Any]
    weight: NDArray[np.float32] | None
    # Rows that are contrasted with those of x, one for one.
    negative: NDArray[Any] | None = None
    # Targets before they were scaled, where a method wants them.
    raw: NDArray[Any] | None = None

    def take(self, index: NDArray[np.intp]) -> Samples:
        """Give some of the samples, copied."""
        weight = None if self.weight is None else self.weight[index]
        negative = None if self.negative is None else self.negative[index]
        raw = None if self.raw is None else self.raw[index]
        return Samples(self.x[index], self.y[index], weight, negative, raw)

    def __len__(self) -> int:
        return len(self.x)


def merge_equal(samples: Samples) -> Samples:
    """Sort the samples of a single minibatch and join equal ones into one with their weight.

    The order of the samples of one minibatch, and whether a sample is repeated or has weight 2,
    means nothing to its gradient; after this it does not even change the rounding.
    """
    if len(samples) > _MAX_MERGED_SAMPLES or samples.x.size > _MAX_MERGED_NUMBERS:
        return samples
    columns = samples.y.reshape(len(samples), -1)
    parts = [part for part in (samples.x, columns, samples.negative) if part is not None]
    table = np.column_stack(parts).astype(np.float64)
    _, first, group = np.unique(table, axis=0, return_index=True, return_inverse=True)
    weight = np.bincount(group.reshape(-1), weights=samples.weight).astype(np.float32)
    merged = samples.take(first)
    merged.weight = None if np.all(weight == 1) else weight
    return merged


class Training:
    """The loop of one `fit` or `partial_fit`."""

    def __init__(
        self,
        estimator: NetworkEstimator,
        settings: Settings,
        samples: Samples,
        validation: Samples | None,
        *,
        n_epochs: int,
        incremental: bool,
        seconds: float,
    ) -> None:
        self.estimator = estimator
        self.trainer = estimator._trainer
        self.settings = settings
        self.samples = samples
        self.validation = validation
        self.n_epochs = n_epochs
        self.incremental = incremental
        self.n_steps = math.ceil(len(samples) / estimator._trainer_options["batch_size"])
        # From where the steps are: exact for whole epochs, and ends at 0 after an interruption.
        self.total_steps = self.trainer.step + (n_epochs - estimator.n_iter_) * self.n_steps
        # Of the stages before this one too: one clock for one call of fit.
        self.seconds = seconds
        self.asked_to_stop = False
        self.stopped = False

    def run(self, n_seen: int) -> None:
        """Run the epochs; Ctrl-C ends them, and leaves the estimator usable."""
        est = self.estimator
        shown = self.settings.verbose
        self.bar = ProgressBar(shown, est.n_iter_, self.n_epochs, self.n_steps)
        est.interrupted_ = False
        try:
            while est.n_iter_ < self.n_epochs:
                if not self._run_epoch():
                    break
                est.t_ += n_seen
                if self._end_epoch():
                    break
        except KeyboardInterrupt:
            est.interrupted_ = True
        finally:
            self.bar.close()
            if self.validation is not None:
                est._keep_best()

    def _run_epoch(self) -> bool:
        """Train one epoch; False if the callback stopped it before its end."""
        est, settings = self.estimator, self.settings
        schedule = settings.schedule
        # The adaptive rate is lowered here, and the end of parts that come one by one is unknown.
        if schedule == "adaptive" or (self.incremental and schedule == "cosine"):
            schedule = "constant"
        rate = est._learning_rate
        if schedule == "step" and est._stage_start > 0:
            # The core counts epochs from 0, and every stage begins with the full rate.
            schedule = "constant"
            rate *= settings.gamma ** ((est.n_iter_ - est._stage_start) // settings.step_size)
        self.started = time.perf_counter()
        self.stopped = False
        loss = est._run_epoch(
            self.samples,
            self._on_event,
            epoch=est.n_iter_,
            shuffle=settings.shuffle,
            learning_rate=rate,
            schedule=schedule,
            total_steps=self.total_steps,
            step_size=settings.step_size,
            gamma=settings.gamma,
            power_t=settings.power_t,
        )
        self.seconds += time.perf_counter() - self.started
        if not math.isfinite(loss):
            raise ValueError(
                f"Training diverged in epoch {est.n_iter_ + 1}: the loss is {loss}; lower "
                f"{est._rate_name} ({settings.learning_rate:g}) or scale X."
            )
        if self.stopped:
            if not est.loss_curve_:
                est.loss_ = loss
            return False
        est.loss_ = loss
        est.n_iter_ += 1
        est.loss_curve_.append(loss)
        return True

    def _on_event(self, step: int, n_steps: int, loss: float) -> bool:
        # The end of an epoch is told later, when the attributes are up to date.
        if step >= n_steps:
            return False
        self.seconds += time.perf_counter() - self.started
        if not self.estimator.loss_curve_:
            self.estimator.loss_ = loss
        self._tell(self.estimator.n_iter_ + 1, step, loss, epoch_ended=False)
        self.started = time.perf_counter()
        self.stopped = self.asked_to_stop
        return self.stopped

    def _tell(self, epoch: int, step: int, loss: float, *, epoch_ended: bool) -> None:
        info = TrainingInfo(
            epoch=epoch,
            n_epochs=self.n_epochs,
            step=step,
            n_steps=self.n_steps,
            loss=loss,
            seconds=self.seconds,
            epoch_ended=epoch_ended,
            estimator=self.estimator,
        )
        self.bar.show(info)
        if self.settings.callback is not None and self.settings.callback(info):
            self.asked_to_stop = True

    def _end_epoch(self) -> bool:
        """Book what the epoch brought; True if it was the last."""
        est = self.estimator
        est._after_epoch(self.samples)
        # Whoever goes on from here must find the rate lowered: before anybody is told.
        given_up = self._count_improvement() and self._give_up()
        self._tell(est.n_iter_, self.n_steps, est.loss_, epoch_ended=True)
        if self.asked_to_stop or given_up:
            return True
        if est.n_iter_ == self.n_epochs and self._tol_counts() and not self.incremental:
            warnings.warn(
                f"The loss still fell after max_iter={self.n_epochs} epochs: "
                "raise max_iter, or take learning_rate='cosine'.",
                ConvergenceWarning,
                stacklevel=5,
            )
        return False

    def _tol_counts(self) -> bool:
        return self.settings.schedule in ("constant", "adaptive")

    def _count_improvement(self) -> bool:
        """Compare this epoch with the best one; True after too many without improvement."""
        est, settings = self.estimator, self.settings
        if est.validation_scores_ is not None and self.validation is not None:
            score = est._score_samples(self.validation)
            best = -math.inf if est.best_validation_score_ is None else est.best_validation_score_
            est.validation_scores_.append(score)
            improved = score >= best + settings.tol
            if score > best:
                est.best_validation_score_ = score
                est._best_weights = est._weights()
        else:
            lowest = math.inf if est.best_loss_ is None else est.best_loss_
            improved = est.loss_ <= lowest - settings.tol
            est.best_loss_ = min(lowest, est.loss_)
            if not self._tol_counts():
                return False
        est._no_improvement_count = 0 if improved else est._no_improvement_count + 1
        return est._no_improvement_count > settings.n_iter_no_change

    def _give_up(self) -> bool:
        """Lower the adaptive learning rate, or say that the training is over."""
        est = self.estimator
        if self.settings.schedule != "adaptive" or est._learning_rate <= _LEAST_LEARNING_RATE:
            return True
        est._learning_rate /= _ADAPTIVE_DIVISOR
        est._no_improvement_count = 0
        return False
