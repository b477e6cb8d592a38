# SPDX-License-Identifier: BSD-3-Clause
"""What a callback is told, and the progress bar of ``verbose=1``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._extras import require

if TYPE_CHECKING:
    from ._targets import NetworkClassifier, NetworkRegressor


@dataclass(frozen=True)
class TrainingInfo:
    """How far a `fit` has come: the argument of ``callback``.

    Parameters
    ----------
    epoch : int
        The epoch that runs or has just ended, from 1; ``n_iter_`` once it has ended.
    n_epochs : int
        The epoch after which `fit`, or the running stage of a greedy one, ends at the latest.
    step : int
        Minibatches of this epoch that are done.
    n_steps : int
        Minibatches of one epoch.
    loss : float
        Mean training loss of this epoch so far.
    seconds : float
        Training time of this `fit` so far, without callbacks and validation.
    epoch_ended : bool
        True at the end of an epoch, when the attributes of the estimator are up to date.
    estimator : estimator
        The estimator that is being fitted. It can predict when `epoch_ended`.

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> def stop_at(info):
    ...     return info.epoch_ended and info.loss < 1.0
    >>> clf = bf.DFAClassifier((64,), max_iter=50, callback=stop_at, random_state=0)
    >>> clf.fit(X / 16, y).n_iter_ < 50
    True
    """

    epoch: int
    n_epochs: int
    step: int
    n_steps: int
    loss: float
    seconds: float
    epoch_ended: bool
    estimator: NetworkClassifier | NetworkRegressor


class ProgressBar:
    """One line on standard error for all epochs of a fit; nothing when not `shown`."""

    def __init__(self, shown: bool, first_epoch: int, n_epochs: int, n_steps: int) -> None:
        self._bar: Any = None
        if shown:
            self._bar = require("tqdm").tqdm(
                total=n_epochs * n_steps,
                initial=first_epoch * n_steps,
                unit="step",
                dynamic_ncols=True,
            )

    def show(self, info: TrainingInfo) -> None:
        """Move the bar to where the training is."""
        if self._bar is None:
            return
        self._bar.set_description(f"epoch {info.epoch}/{info.n_epochs}", refresh=False)
        self._bar.set_postfix_str(f"loss {info.loss:.4f}", refresh=False)
        self._bar.update((info.epoch - 1) * info.n_steps + info.step - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
