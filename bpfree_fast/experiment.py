# SPDX-License-Identifier: BSD-3-Clause
"""Train a classifier on a data set, and write down what happened."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import numpy as np

from . import _core, data, info
from .estimators import CLASSIFIERS, TrainingInfo, load
from .estimators._targets import NetworkClassifier
from .report import Result, peak_memory


@dataclass(frozen=True)
class Plan:
    """One training run.

    Parameters
    ----------
    method : str or None
        A key of `CLASSIFIERS`; None takes that of the model to resume, else 'dfa'.
    data : str or None
        What `data.load` takes.
    params : dict
        Parameters of the estimator that are not the default.
    resume : str or None
        A saved model to go on from.
    save : str or None
        Where to save the model.
    """

    method: str | None = None
    data: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    resume: str | None = None
    save: str | None = None


def run(plan: Plan) -> Result:
    """Train, test after every epoch, and save.

    Parameters
    ----------
    plan : Plan
        What to do.

    Returns
    -------
    result : dict
        The contents of result.json. `train_seconds` and the `seconds` of each epoch are training
        alone, without tests; `interrupted` says whether Ctrl-C ended it.

    Raises
    ------
    ValueError, TypeError, OSError
        If a parameter, the data or the saved model is refused.
    """
    classifier = prepare(plan)
    dataset = data.load(plan.data)
    epochs: list[dict[str, float]] = []
    seconds = 0.0
    samples_before = getattr(classifier, "t_", 0)

    def note(progress: TrainingInfo) -> None:
        nonlocal seconds
        seconds = progress.seconds
        if progress.epoch_ended:
            book(progress.epoch)

    def book(epoch: int) -> None:
        epochs.append(
            {
                "epoch": epoch,
                "train_loss": classifier.loss_curve_[epoch - 1],
                "test_accuracy": classifier.score(dataset.X_test, dataset.y_test),
                "seconds": seconds - sum(before["seconds"] for before in epochs),
            }
        )

    n_before = getattr(classifier, "n_iter_", 0)
    classifier.set_params(callback=note).fit(dataset.X_train, dataset.y_train)
    classifier.set_params(callback=None)
    if n_before + len(epochs) < classifier.n_iter_:
        book(classifier.n_iter_)  # Ctrl-C came while the last epoch was tested
    if plan.save is not None:
        classifier.save(plan.save)
    n_samples = classifier.t_ - samples_before
    return {
        "method": classifier.method,
        "dataset": {
            "name": dataset.name,
            "n_train": len(dataset.X_train),
            "n_test": len(dataset.X_test),
            "n_features": dataset.X_train.shape[1],
            "n_classes": len(classifier.classes_),
        },
        "n_params": classifier.n_params_,
        "test_accuracy": classifier.score(dataset.X_test, dataset.y_test),
        "train_seconds": seconds,
        "samples_per_second": n_samples / seconds if seconds else 0.0,
        "peak_memory_bytes": peak_memory(),
        "epochs": epochs,
        "interrupted": classifier.interrupted_,
        "config": {**_plain(classifier), "seed": classifier.seed_, "data": plan.data},
        "machine": _core.config(),
        "versions": info.versions(),
    }


def prepare(plan: Plan) -> NetworkClassifier:
    """Make the classifier of a plan, or load the one to go on from."""
    if plan.resume is None:
        cls = CLASSIFIERS[plan.method or "dfa"]
        _check_names(cls, plan.params)
        return cls(**plan.params)
    classifier = load(plan.resume)
    if not isinstance(classifier, NetworkClassifier):
        raise ValueError(f"{plan.resume} holds a {type(classifier).__name__}, not a classifier.")
    if plan.method not in (None, classifier.method):
        raise ValueError(f"{plan.resume} was trained by {classifier.method}, not {plan.method}.")
    _check_names(type(classifier), plan.params)
    classifier.set_params(warm_start=True, **plan.params)
    if classifier._is_done():
        raise ValueError(
            f"{plan.resume} has {classifier.n_iter_} epochs already: "
            f"ask for more than {classifier.max_iter}."
        )
    return classifier


def _check_names(cls: type[NetworkClassifier], params: dict[str, Any]) -> None:
    names = cls._get_param_names()
    for name, value in params.items():
        if name not in names:
            rate = cls._rate_name
            has_other = name == "learning_rate_init"
            instead = f": its first step is {rate} (--{rate})" if has_other else ""
            raise ValueError(f"{name}={value!r} means nothing to the method {cls.method}{instead}.")


def _plain(classifier: NetworkClassifier) -> dict[str, Any]:
    params: dict[str, Any] = classifier.get_params(deep=False)
    for name in ("callback", "random_state"):
        del params[name]
    return params


def compare(plans: Sequence[Plan]) -> list[Result]:
    """Run plans one after the other, each in a process of its own.

    A fresh process makes the peak memory that of the method, and leaves no warm caches.

    Parameters
    ----------
    plans : sequence of Plan
        What to do.

    Returns
    -------
    results : list of dict
        What `run` gives for each.

    Raises
    ------
    ValueError, TypeError, OSError
        As `run`.
    """
    results = []
    for plan in plans:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            results.append(pool.submit(run, plan).result())
    return results


def time_steps(
    classifier: NetworkClassifier, n_features: int, n_classes: int, seconds: float
) -> tuple[float, float]:
    """Time training steps on random pixels.

    Parameters
    ----------
    classifier : estimator
        Trained by `partial_fit`, with its own batch size.
    n_features, n_classes : int
        Shape of the problem, each at least 1.
    seconds : float
        How long to measure at least, in blocks of 16 steps, or fewer where these take longer.

    Returns
    -------
    step : float
        Median seconds of a step: gather, forward, loss, backward and update.
    spread : float
        Interquartile range over the median.
    """
    rng = np.random.default_rng(0)
    n_steps = 16
    n = n_steps * classifier.batch_size
    X = rng.integers(0, 256, (n, n_features), dtype=np.uint8)
    y = rng.integers(0, n_classes, n)
    blocks: list[float] = []

    def note(progress: TrainingInfo) -> None:
        if progress.epoch_ended:
            blocks.append(progress.seconds)

    classifier.set_params(callback=note).partial_fit(X, y, classes=np.arange(n_classes))
    if blocks[0] > seconds:
        n_steps = max(1, int(n_steps * seconds / blocks[0]))
        X, y = X[: n_steps * classifier.batch_size], y[: n_steps * classifier.batch_size]
    blocks.clear()  # the first block also warms up
    while sum(blocks) < seconds or len(blocks) < 3:
        classifier.partial_fit(X, y)
    low, middle, high = statistics.quantiles(blocks, n=4)
    return middle / n_steps, (high - low) / middle
