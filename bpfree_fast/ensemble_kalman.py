# SPDX-License-Identifier: BSD-3-Clause
"""Ensemble Kalman inversion and filtering by ask and tell, for any forward model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import Floats
from ._kalman import step
from ._kalman.draws import Draws
from ._kalman.loop import KalmanReport, KalmanResult, run
from ._kalman.options import (
    F64,
    Options,
    build,
    check_finite,
    floats,
    of_step,
    own_parameters,
    start,
)  # fmt: skip
from ._kalman.rows import mean_of, move_back, move_together, others
from ._kalman.saving import SavedEnsemble
from ._kalman.told import data_of, outputs_of, succeeded
from ._search.objective import Function
from ._search.pool import MakesExecutor
from ._validation import flag, real, seed
from ._validation import n_threads as _threads

__all__ = ["EnsembleKalman", "KalmanReport", "KalmanResult"]


class EnsembleKalman(SavedEnsemble):
    """Ensemble Kalman methods for any forward model: members are asked for, outputs are told.

    With C the covariances of the ensemble (over ``n_ens - 1``) and R that of the noise, a step of
    length dt moves member j by ``C_theta_g (C_gg + R / dt)^-1 (y + xi_j - g_j)``. No derivative
    of the forward model is taken, and nothing of the size of parameters times outputs is stored.

    Parameters
    ----------
    ensemble : array_like of shape (n_ens, n_params)
        The first members, at least two, drawn from what is known of the parameters. float32 is
        updated in float32, everything else in float64.
    obs_noise_cov : float, or array_like of shape (n_obs,) or (n_obs, n_obs)
        The noise of the data: one variance, a variance of each, or their covariance, which is
        symmetric and positive definite. Variances, not standard deviations.
    method : {'eki', 'enkf', 'etki', 'denkf', 'esmda'}, default='eki'
        - 'eki': every member is compared with the data, xi is zero.
        - 'enkf': with data that are perturbed by xi_j from N(0, R / dt), for each member.
        - 'etki': the mean moves as with 'eki', and anomalies are multiplied by the symmetric root
          that gives the covariance of Kalman's formula.
        - 'denkf': xi is zero, and anomalies move with half the gain.
        - 'esmda': the steps of 'enkf' with ``dt = 1 / alpha`` for each of `alphas`.
    dt : float or {'misfit', 'norm'}, default=1.0
        Length of a step, above 0. With M observations and the members' misfits F, each half a
        squared distance from the data in deviations of the noise, 'misfit' takes
        ``max(M / (2 mean(F)), sqrt(M / (2 var(F))))``. 'norm' takes 1 over the Frobenius norm
        of D, where ``D[k, j] = (g_k - mean) . R^-1 (g_j - y) / (n_ens - 1)``. For 'esmda' it is 1.
    dt_scale : float, default=1.0
        What 'misfit' and 'norm' are multiplied by; above 0.
    max_time : float, default=None
        Where the steps end: the last of them is cut so that their sum is this. At 1 the data have
        been weighed once, which gives the posterior with 'etki', 'enkf' and 'esmda'; beyond it the
        data are fitted ever closer. None is 1 for ``dt='misfit'``, and no end otherwise;
        ``math.inf`` is no end.
    alphas : int or sequence of float, default=None
        Of 'esmda': how many steps of equal length, or the alpha of each, each above 0, with
        ``sum(1 / alpha)`` at 1 to a thousandth, and then made 1. None is 4.
    prior_mean : float or array_like of shape (n_params,), default=None
        With `prior_cov`: the parameters are taken for observations of this mean too (Tikhonov's
        regularisation). A method that runs long then goes to the penalised minimum. With members
        that were drawn from it, it counts twice at time 1. In 'misfit' and 'norm', M and the
        distances include it.
    prior_cov : float, or array_like of shape (n_params,) or (n_params, n_params), default=None
        Variance, variances or covariance of `prior_mean`.
    inflation : float, default=1.0
        What anomalies are multiplied by after each step; at least 1. May be set between steps.
    additive_inflation_std : float or array_like of shape (n_params,), default=0.0
        Deviation of noise that is added to each member after each step, before momentum; its mean
        over the members is taken away. At least 0.
    localization : {'sec', 'sec_fisher'} or array_like of shape (n_params, n_obs), default=None
        What each covariance of a parameter and an output is multiplied with: see
        `kernels.ensemble_update`. Not with 'etki' or a prior.
    obs_localization : array_like of shape (n_obs, n_obs), default=None
        Beside a taper in `localization`, that of the outputs among themselves: symmetric, positive
        semidefinite. It is needed where outputs are not fewer than members.
    form : {'auto', 'ensemble', 'data'}, default='auto'
        Whether matrices of members or of outputs are solved with; 'auto' takes what needs fewer
        operations, and with a prior or `redraw_std` the first.
    redraw_std : float or array_like of shape (n_params,), default=None
        After each step all members are drawn anew, with this deviation around their mean, and with
        exactly that mean. It leaves the span of the members before, and keeps no posterior.
    dropout : float, default=0.0
        Share of the parameters, chosen anew for each step, that all members have at the mean when
        they are asked for; only the others move. In [0, 1). It leaves the span of the members.
    nesterov : bool, default=False
        Whether members are asked for ahead of where they are, by Nesterov's momentum.
    copy : bool, default=True
        Whether the ensemble is copied. False updates the array that was given, which must be
        C-contiguous; not with `nesterov`, which has two arrays that change places.
    random_state : int, RandomState, Generator or None, default=None
        A number is the seed, 0 too; None draws one. It is kept in `seed_`.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Attributes
    ----------
    seed_ : int
        The seed.
    iteration : int
        Steps so far.
    time : float
        Sum of their lengths.
    n_failed : int
        Members so far whose outputs were not finite; they were replaced.
    report : KalmanReport or None
        What the last step came to.

    Raises
    ------
    ValueError, TypeError
        If a parameter is out of range, or means nothing to the method.

    References
    ----------
    Iglesias, Law & Stuart 2013, arXiv:1209.2736 ('eki'); Evensen 2003, Ocean Dynamics 53 ('enkf');
    Hunt, Kostelich & Szunyogh 2007, arXiv:physics/0511236 ('etki'); Sakov & Oke 2008, Tellus 60A
    ('denkf'); Emerick & Reynolds 2013, Comput. Geosci. 55 ('esmda'); Iglesias & Yang 2021, Inverse
    Problems 37, arXiv:2006.12135 ('misfit'); Kovachki & Stuart 2019, arXiv:1808.03620 ('norm',
    `redraw_std`, `nesterov`); Chada, Stuart & Tong 2020, arXiv:1901.10331 (`prior_mean`); Liu,
    Reich & Tong 2023, arXiv:2308.16784 (`dropout`).

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> def decay(theta):
    ...     return theta[0] * np.exp(-np.exp(theta[1]) * np.array([0.5, 1.0, 2.0, 4.0]))
    >>> members = np.random.default_rng(0).normal([1.0, 0.0], 1.0, size=(40, 2))
    >>> kalman = bf.EnsembleKalman(members, 0.01**2, dt="misfit", random_state=0)
    >>> result = kalman.minimize(decay, decay([2.0, -1.0]))
    >>> result.reason
    'the last step is done'
    >>> np.round(result.mean, 1)
    array([ 2., -1.])
    """

    def __init__(
        self,
        ensemble: ArrayLike,
        obs_noise_cov: float | ArrayLike,
        *,
        method: str = "eki",
        dt: float | str = 1.0,
        dt_scale: float = 1.0,
        max_time: float | None = None,
        alphas: int | Sequence[float] | None = None,
        prior_mean: float | ArrayLike | None = None,
        prior_cov: float | ArrayLike | None = None,
        inflation: float = 1.0,
        additive_inflation_std: float | ArrayLike = 0.0,
        localization: str | ArrayLike | None = None,
        obs_localization: ArrayLike | None = None,
        form: str = "auto",
        redraw_std: float | ArrayLike | None = None,
        dropout: float = 0.0,
        nesterov: bool = False,
        copy: bool = True,
        random_state: int | np.random.RandomState | np.random.Generator | None = None,
        n_threads: int | None = None,
    ) -> None:
        self._parameters = own_parameters(locals())
        members = start(ensemble, copy=flag("copy", copy))
        if not copy and nesterov:
            raise ValueError("nesterov has two arrays that change places: copy must be True.")
        self.seed_ = seed(random_state)
        self._begin(members, obs_noise_cov, n_threads)

    def _begin(self, members: Floats, noise_cov: object, n_threads: int | None) -> None:
        self._n_threads = _threads(n_threads)
        self._options = build(members, noise_cov, self._parameters)
        if self._options.taper is not None:
            self._parameters["localization"] = self._options.taper
        self._draws = Draws(self.seed_, self._n_threads)
        self.iteration = self.n_failed = 0
        self.time = 0.0
        self.report = None
        self._has_warned = False
        self._members = self._asked = members
        if self._options.nesterov or self._options.dropout:
            self._asked = members.copy()
        self._ask_anew()

    @property
    def n_ens(self) -> int:
        """How many members there are."""
        return len(self._members)

    @property
    def n_params(self) -> int:
        """How many parameters a member has."""
        return int(self._members.shape[1])

    @property
    def ensemble(self) -> Floats:
        """The members as they are held, read-only: the next step changes them.

        May be set between steps, say to a forecast; momentum then begins anew.
        """
        view = self._members.view()
        view.flags.writeable = False
        return cast("Floats", view)

    @ensemble.setter
    def ensemble(self, value: ArrayLike) -> None:
        given = floats("ensemble", value)
        if given.shape != self._members.shape:
            raise ValueError(
                f"ensemble has shape {given.shape}, expected {self._members.shape} as before."
            )
        with np.errstate(over="ignore"):
            members = given.astype(self._members.dtype, copy=False)
        check_finite(members)
        self._members[:] = members
        if self._options.nesterov:
            self._asked[:] = members
        self._ask_anew()

    @property
    def mean(self) -> F64:
        """The members' mean, of shape (n_params,), in float64."""
        return mean_of(self._members)

    @property
    def spread(self) -> float:
        """The root of the mean over the parameters of the members' variances."""
        return step.spread(self._members)

    @property
    def dt(self) -> float | str:
        """The length of a step, or the rule for it; may be set between steps."""
        return self._options.dt

    @dt.setter
    def dt(self, value: float) -> None:
        if self._options.alphas or isinstance(self._options.dt, str):
            rule = "alphas" if self._options.alphas else f"dt={self._options.dt!r}"
            raise ValueError(f"steps follow from {rule}: dt cannot be set, got {value!r}.")
        number = real("dt", value, 0, open_low=True)
        self._parameters["dt"] = number
        self._options = replace(self._options, dt=number)

    @property
    def inflation(self) -> float:
        """What anomalies are multiplied by after each step; may be set between steps."""
        return self._options.inflation

    @inflation.setter
    def inflation(self, value: float) -> None:
        number = real("inflation", value, 1)
        if self._options.redraw_std is not None and number != 1:
            raise ValueError(f"redraw_std makes all members anew: inflation is 1, got {value!r}.")
        self._parameters["inflation"] = number
        self._options = replace(self._options, inflation=number)

    @property
    def finished(self) -> bool:
        """Whether the last step is done: that of `alphas`, or the one that ends at `max_time`."""
        if self._options.alphas:
            return self.iteration >= len(self._options.alphas)
        return self.time >= self._options.max_time

    def ask(self, *, out: NDArray[Any] | None = None) -> Floats:
        """Give the points where the forward model is wanted, as often as they are asked for.

        Parameters
        ----------
        out : ndarray of shape (n_ens, n_params), default=None
            Where they go: C-contiguous, of the ensemble's type.

        Returns
        -------
        x : ndarray of shape (n_ens, n_params)
            A copy of the members; with `nesterov` points ahead of them, with `dropout` members of
            which some parameters are at the mean. `out` where it was given.

        Raises
        ------
        ValueError, TypeError
            If `out` does not fit.
        """
        if out is None:
            return cast("Floats", self._asked.copy())
        if not isinstance(out, np.ndarray):
            raise TypeError(f"out must be a NumPy array, got {type(out).__name__}.")
        dtype, shape = self._asked.dtype, self._asked.shape
        fits = out.dtype == dtype and out.shape == shape and out.flags.c_contiguous
        if not fits or not out.flags.writeable:
            held = f"{out.dtype} of shape {out.shape}"
            raise ValueError(
                f"out is {held}, expected {dtype} of shape {shape}, C-contiguous and writeable."
            )
        out[:] = self._asked
        return cast("Floats", out)

    def tell(
        self,
        g: ArrayLike,
        y: ArrayLike,
        *,
        obs_noise_cov: float | ArrayLike | None = None,
        localization: str | ArrayLike | None = None,
        obs_localization: ArrayLike | None = None,
    ) -> KalmanReport:
        """Take the outputs of all that was asked for, and make a step towards the data.

        Parameters
        ----------
        g : array_like of shape (n_ens, n_obs)
            What the forward model gave for each row of `ask`. A member with NaN or infinity has
            failed: the others make the step, and a draw around their mean, with their covariance,
            takes its place. The first of it is told by a RuntimeWarning, all of it counted in
            `n_failed`.
        y : array_like of shape (n_obs,)
            The data. They may be others in each step, such as those of a minibatch.
        obs_noise_cov : float, or array_like of shape (n_obs,) or (n_obs, n_obs), default=None
            The noise of these data, for this step alone; None is what the filter was made with.
        localization : {'sec', 'sec_fisher'} or array_like of shape (n_params, n_obs), default=None
            How this step is localised; None is as the filter was made.
        obs_localization : array_like of shape (n_obs, n_obs), default=None
            Beside a taper; None is as the filter was made, or with `localization` none.

        Returns
        -------
        report : KalmanReport
            What the step came to.

        Raises
        ------
        ValueError, TypeError
            If arrays do not fit, the data are not finite, a covariance is none, fewer than two
            members have finite outputs, or the last step is done; then nothing was changed.
        FloatingPointError
            If the step leaves the range of the numbers; then the ensemble cannot go on.
        """
        self._check_unfinished()
        options = of_step(
            self._options, self._members, obs_noise_cov, localization, obs_localization
        )
        data = data_of(y, options.noise_cov)
        return self._tell(outputs_of(g, self._asked), data, options)

    def minimize(
        self,
        forward: Function,
        y: ArrayLike,
        *,
        n_iterations: int | None = None,
        discrepancy: float | None = None,
        executor: Executor | MakesExecutor | None = None,
        chunk_size: int | None = None,
        vectorized: bool = False,
        callback: Callable[[KalmanReport], object] | None = None,
    ) -> KalmanResult:
        """Ask, evaluate and tell until something says stop.

        Parameters
        ----------
        forward : callable
            Takes a member, an array of shape (n_params,), and gives its outputs, an array of shape
            (n_obs,). A member fails with NaN or infinity; an exception ends the run.
        y : array_like of shape (n_obs,)
            The data.
        n_iterations : int, default=None
            Most steps of this call, at least 1.
        discrepancy : float, default=None
            Above 0, say 1: no further step is made where the outputs' mean is no farther from the
            data than this times what their noise is expected to be, ``sqrt(n_obs)`` of its
            deviations. None goes on.
        executor : concurrent.futures.Executor or callable that makes one, default=None
            Who evaluates: threads, processes, dask's ``Client.get_executor()``, mpi4py's pool. The
            result has the same bits for any number of workers. If workers are lost, their members
            are evaluated again: by a new executor from the callable, or in this process, with a
            warning. None is this process.
        chunk_size : int, default=None
            Members of a task, or in this process of an array. None is a quarter of a worker's
            share; with `vectorized` 32, from 1024 members on a 32nd of them, or 16 MB if that is
            less, whoever evaluates them: a model's own rounding may depend on the rows of a call.
        vectorized : bool, default=False
            Whether the model takes an array of shape (n, n_params), and gives one of (n, n_obs).
        callback : callable, default=None
            ``callback(report)`` with a `KalmanReport` after each step; the run ends when it gives
            something true.

        Returns
        -------
        result : KalmanResult
            The mean, and why the run ended.

        Raises
        ------
        ValueError, TypeError
            If a parameter is out of range, or nothing would end the run.
        RuntimeError
            If three executors of the callable break before a member was evaluated.

        Examples
        --------
        >>> import numpy as np
        >>> import bpfree_fast as bf
        >>> members = np.random.default_rng(0).normal(size=(30, 3))
        >>> kalman = bf.EnsembleKalman(members, 1e-4, random_state=0)
        >>> result = kalman.minimize(np.cumsum, [1.0, 3.0, 6.0], discrepancy=1.0)
        >>> result.reason, np.round(result.mean, 1)
        ('the data are met as far as their noise allows', array([1., 2., 3.]))
        """
        return run(
            self, forward, y, n_iterations=n_iterations, discrepancy=discrepancy,
            executor=executor, chunk_size=chunk_size, vectorized=vectorized, callback=callback,
        )  # fmt: skip

    def __repr__(self) -> str:
        return (
            f"EnsembleKalman(method={self._options.method!r}, n_ens={self.n_ens}, "
            f"n_params={self.n_params}, iteration={self.iteration})"
        )

    @property
    def _has_end(self) -> bool:
        return bool(self._options.alphas) or self._options.max_time < math.inf

    def _check_unfinished(self) -> None:
        if self.finished:
            which = "of alphas" if self._options.alphas else f"to time {self._options.max_time:g}"
            raise ValueError(f"the last step {which} is done, after {self.iteration} iterations.")

    def _tell(self, g: Floats, y: F64, options: Options) -> KalmanReport:
        if g.shape != (self.n_ens, y.size):
            raise ValueError(
                f"g has shape {g.shape}, expected ({self.n_ens}, {y.size}): an output of each "
                f"member for each of y."
            )
        outputs, failed = succeeded(g, self.iteration)
        misfit = step.misfit_of_mean(outputs, y, options, self._n_threads)
        remaining = options.max_time - self.time
        found = self._update(outputs, y, options, failed, remaining)
        self._finish_members(options, found, failed)
        deviation = step.spread(self._members)
        if not math.isfinite(deviation):
            raise FloatingPointError(
                f"the step of iteration {self.iteration} is too large for {self._members.dtype}: "
                f"the ensemble cannot go on."
            )
        self.iteration += 1
        self.time = self.time + found.dt if found.dt < remaining else options.max_time
        self.n_failed += failed.size
        misfits = np.full(self.n_ens, np.nan)
        misfits[others(self.n_ens, failed)] = found.misfits
        report = KalmanReport(
            self.iteration, misfit, misfits, deviation, found.dt, self.time,
            found.effective_rank, found.form, failed.size,
        )  # fmt: skip
        self.report = report
        self._ask_anew(momentum=False)
        self._warn_of(failed.size)
        return report

    def _update(
        self, g: Floats, y: F64, options: Options, failed: NDArray[np.intp], remaining: float
    ) -> step.Found:
        """Move those of what was asked that did not fail."""
        asked, rows = self._asked, self._asked
        if failed.size:
            kept = asked[failed]
            rows = move_together(asked, failed)
        try:
            return step.update(
                rows, g, y, options, seed=self.seed_, iteration=self.iteration,
                remaining=remaining, n_threads=self._n_threads,
            )  # fmt: skip
        finally:
            if failed.size:
                move_back(asked, failed)
                asked[failed] = kept

    def _finish_members(
        self, options: Options, found: step.Found, failed: NDArray[np.intp]
    ) -> None:
        """Make the members out of what was asked and moved."""
        moved = self._asked
        if options.redraw_std is not None:
            assert found.mean is not None
            self._draws.redraw(moved, found.mean, options.redraw_std, self.iteration)
            return
        if options.dropout:  # what was dropped has not moved
            np.copyto(self._members, moved, where=self._kept())
            moved = self._members
        if failed.size:
            self._draws.replace(moved, failed, self.iteration)
        if options.additive_std is not None:
            self._draws.spread_out(moved, options.additive_std, self.iteration)
        if options.nesterov:
            self._extrapolate(failed)

    def _warn_of(self, n_failed: int) -> None:
        if n_failed and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{n_failed} of {self.n_ens} members of iteration {self.iteration - 1} have "
                f"outputs that are not finite and are drawn anew; n_failed counts those that "
                f"follow.",
                RuntimeWarning,
                stacklevel=4,
            )

    def _extrapolate(self, failed: NDArray[np.intp]) -> None:
        """Go on from the members before to those of this step, and ask beyond them."""
        before, after = self._members, self._asked
        before[failed] = after[failed]  # a draw comes from nowhere
        theta = self._theta * (math.sqrt(self._theta**2 + 4) - self._theta) / 2
        np.subtract(after, before, out=before)
        before *= theta * (1 / self._theta - 1)
        before += after
        self._members, self._asked, self._theta = after, before, theta

    def _ask_anew(self, *, momentum: bool = True) -> None:
        """Make what is asked for next out of the members; `momentum` begins anew."""
        if momentum:
            self._theta = 1.0
        if self._options.dropout:
            self._asked[:] = self.mean
            np.copyto(self._asked, self._members, where=self._kept())

    def _kept(self) -> NDArray[np.bool_]:
        """Say which parameters this iteration does not drop."""
        return self._draws.kept(self.n_params, self._options.dropout, self.iteration)
