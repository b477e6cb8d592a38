# SPDX-License-Identifier: BSD-3-Clause
"""Ask, evaluate, tell, until something says stop."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._search.objective import Function
from .._search.pool import MakesExecutor
from .._validation import flag, integer, real
from .forward import Forward, Workers, outputs_here
from .options import F64
from .step import misfit_of_mean
from .told import data_of, succeeded

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..ensemble_kalman import EnsembleKalman


@dataclass(frozen=True)
class KalmanReport:
    """What an iteration came to: given by ``tell``, and the argument of ``callback``.

    Parameters
    ----------
    iteration : int
        Iterations so far, this one included.
    misfit : float
        Before the step: half the squared distance of the outputs' mean from the data, in deviations
        of the noise. About half the number of observations where nothing but noise is left.
    misfits : ndarray of shape (n_ens,)
        The same of each member; NaN for those that failed.
    spread : float
        After the step: the root of the mean over the parameters of the members' variances.
    dt : float
        Length of the step.
    time : float
        Sum of all lengths so far.
    effective_rank : float
        How many directions the outputs' spread had before the step: ``trace(K)**2 / sum(K**2)`` for
        its Gram matrix K. At most ``n_ens - 1``.
    form : {'ensemble', 'data'}
        Whether matrices of members or of outputs were solved with.
    n_failed : int
        Members of this iteration whose outputs were not finite.

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> kalman = bf.EnsembleKalman(np.random.default_rng(0).normal(size=(20, 2)), 0.01)
    >>> report = kalman.tell(kalman.ask(), [1.0, 2.0])
    >>> report.iteration, report.dt, report.spread < 0.2
    (1, 1.0, True)
    """

    iteration: int
    misfit: float
    misfits: F64
    spread: float
    dt: float
    time: float
    effective_rank: float
    form: str
    n_failed: int


@dataclass(frozen=True)
class KalmanResult:
    """What `EnsembleKalman.minimize` found; the members are the filter's `ensemble`.

    Parameters
    ----------
    mean : ndarray of shape (n_params,)
        The members' mean, in float64.
    spread : float
        The root of the mean over the parameters of the members' variances.
    misfit : float
        Half the squared distance of the outputs' mean from the data, in deviations of the noise,
        where it was evaluated last: before the last step, or where no step followed.
    n_iterations, n_evaluations, n_failed : int
        Steps and members of this call, and those of the members without finite outputs.
    reason : str
        Why it ended.
    """

    mean: F64
    spread: float
    misfit: float
    n_iterations: int
    n_evaluations: int
    n_failed: int
    reason: str


def run(
    kalman: EnsembleKalman,
    forward: Function,
    y: ArrayLike,
    *,
    n_iterations: int | None,
    discrepancy: float | None,
    executor: Executor | MakesExecutor | None,
    chunk_size: int | None,
    vectorized: bool,
    callback: Callable[[KalmanReport], object] | None,
) -> KalmanResult:
    """Do what `EnsembleKalman.minimize` says."""
    if not callable(forward):
        raise TypeError(f"the forward model must be callable, got {forward!r}.")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be None or callable, got {callback!r}.")
    limit = None if n_iterations is None else integer("n_iterations", n_iterations, 1)
    tau = None if discrepancy is None else real("discrepancy", discrepancy, 0, open_low=True)
    if limit is None and tau is None and callback is None and not kalman._has_end:
        raise ValueError(
            "nothing would end the iteration: give n_iterations, discrepancy or callback."
        )
    kalman._check_unfinished()
    chunk = None if chunk_size is None else integer("chunk_size", chunk_size, 1)
    data = data_of(y, kalman._options.noise_cov)
    model = Forward(forward, flag("vectorized", vectorized), data.size)
    workers = None if executor is None else Workers(executor, model)
    first, n_failed, n_evaluations = kalman.iteration, kalman.n_failed, 0
    misfit, reason = float("nan"), ""
    try:
        while not reason:
            if workers is None:
                g = outputs_here(model, kalman._asked, chunk)
            else:
                g = workers.outputs(kalman._asked, chunk)
            n_evaluations += len(g)
            if tau is not None:
                good, _ = succeeded(g, kalman.iteration)
                misfit = misfit_of_mean(good, data, kalman._options, kalman._n_threads)
                # The distance is tau times that of noise alone, or less.
                if 2 * misfit <= tau * tau * data.size:
                    reason = "the data are met as far as their noise allows"
                    break
            report = kalman._tell(g, data, kalman._options)
            misfit = report.misfit
            if callback is not None and callback(report):
                reason = "the callback said so"
            elif kalman.finished:
                reason = "the last step is done"
            elif limit is not None and kalman.iteration - first >= limit:
                reason = "the last iteration is done"
    finally:
        if workers is not None:
            workers.close()
    return KalmanResult(
        kalman.mean, kalman.spread, misfit, kalman.iteration - first, n_evaluations,
        kalman.n_failed - n_failed, reason,
    )  # fmt: skip
