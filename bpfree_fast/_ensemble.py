# SPDX-License-Identifier: BSD-3-Clause
"""The kernels of ensemble Kalman methods on plain arrays; public in `kernels`."""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._arrays import Array, DType, Floats, as_array, product_type
from ._validation import choice, flag, integer, real, seed
from ._validation import n_threads as _threads

UPDATE_METHODS = ("eki", "enkf", "esmda", "etki", "denkf")
FORMS = ("auto", "ensemble", "data")
LOCALIZATIONS = ("sec", "sec_fisher")
_MAX_COUNTER = 2**32 - 1


class UpdateReport(NamedTuple):
    """What an update found: its form, the rank of the outputs' spread, the members' misfits."""

    form: str
    effective_rank: float
    misfit: NDArray[np.float64]


def ensemble_covariance(
    a: Array,
    b: Array | None = None,
    *,
    localization: Array | str | None = None,
    out: Array | None = None,
    n_threads: int | None = None,
) -> Floats:
    """Give the sample covariances of an ensemble's columns with those of another.

    Means over the members are subtracted as the columns are packed, members being measured from the
    first one, so that a mean far from 0 costs no accuracy.

    Parameters
    ----------
    a : array of shape (n_ens, p), float32 or float64
        One row for each member, at least two.
    b : array of shape (n_ens, q), default=None
        Of the same type and for the same members. None takes `a`: then half of the result is
        computed and written twice.
    localization : array of shape (p, q), or {'sec', 'sec_fisher'}, default=None
        What each covariance is multiplied with: a taper of the type of `a`; or from the correlation
        r of the two columns, ``abs(r)`` ('sec'), or ``Q**2 / (1 + Q**2)`` with Q = r over its
        standard error ('sec_fisher', at least 4 members). A column that does not vary has r = 0.
    out : array of shape (p, q), default=None
        Where the covariances go, of the type of `a`. It may not overlap the inputs.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Returns
    -------
    out : ndarray of shape (p, q)
        Divided by ``n_ens - 1``; symmetric to the bit without `b` and without a taper. The same
        bits for any number of threads. `out` where it was given.

    Raises
    ------
    ValueError, TypeError
        If arrays do not fit or overlap; then nothing was changed.

    References
    ----------
    Lee 2021, arXiv:2105.11341 ('sec'). 'sec_fisher' takes half the distance between
    ``tanh(arctanh(r) - h)`` and ``tanh(arctanh(r) + h)`` for the standard error of r, with Fisher's
    ``h = 1 / sqrt(n_ens - 3)``.

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> a = np.array([[1.0, 2], [3, 2], [5, 5]])
    >>> bf.kernels.ensemble_covariance(a)
    array([[4., 3.],
           [3., 3.]])
    """
    left = _members("a", a)
    right = None if b is None else _members("b", b)
    word, taper = _localization(localization)
    if out is None:
        columns = left.shape[-1:] if right is None else right.shape[-1:]
        array = cast("Floats", np.empty((*left.shape[-1:], *columns), left.dtype))
    else:
        array = cast("Floats", as_array("out", out))
    _core.ensemble_covariance(left, right, array, word, taper, _threads(n_threads))
    return array


def ensemble_transform(
    theta: Array,
    transform: Array,
    *,
    dtype: DType | None = None,
    out: Array | None = None,
    n_threads: int | None = None,
) -> Floats:
    """Move an ensemble within its own span: theta + transform @ (theta - mean).

    Parameters
    ----------
    theta : array of shape (n_ens, n_params), float32 or float64
        The members, each of them contiguous; at least two.
    transform : array of shape (n_ens, n_ens), float32 or float64
        Row j says how much of each member's anomaly is added to member j.
    dtype : {'float32', 'float64', 'bfloat16'}, default=None
        What `transform` and the anomalies are rounded to before they are multiplied; None is the
        type of `theta`. 'bfloat16' takes float32 members, which are read and written in float32,
        and adds up in float32.
    out : array of shape (n_ens, n_params), default=None
        Where the members go, of the type of `theta`; it may be `theta` itself. It may not overlap
        otherwise.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Returns
    -------
    out : ndarray of shape (n_ens, n_params)
        The same bits for any number of threads. `out` where it was given.

    Raises
    ------
    ValueError, TypeError
        If arrays do not fit or overlap; then nothing was changed.

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> theta = np.float32([[1, 2], [3, 4], [5, 6]])
    >>> bf.kernels.ensemble_transform(theta, -0.5 * np.eye(3))  # half the spread
    array([[2., 3.],
           [3., 4.],
           [4., 5.]], dtype=float32)
    """
    members = _members("theta", theta)
    wanted = members.dtype.name if dtype is None else product_type(dtype)
    if wanted != members.dtype.name and (wanted, members.dtype.name) != ("bfloat16", "float32"):
        raise TypeError(f"theta is {members.dtype}, but dtype is {wanted!r}: nothing is converted.")
    array = _out(members, out)
    _core.ensemble_transform(
        members, array, _algebra("transform", transform), wanted == "bfloat16", _threads(n_threads)
    )
    return array


def ensemble_weights(
    g: Array,
    y: Array | None,
    obs_noise_cov: Array | float,
    *,
    method: str = "eki",
    dt: float = 1.0,
    score: Array | None = None,
    softmax_classes: int = 0,
    random_state: int | np.random.Generator | np.random.RandomState | None = None,
    iteration: int = 0,
    n_threads: int | None = None,
) -> NDArray[np.float64]:
    """Give the transform of an ensemble Kalman step, out of the members' outputs alone.

    `ensemble_transform` moves members with it, of as many arrays as there are: one of each layer,
    say. With a `score` the step is one for a loss that is no squared error.

    Parameters
    ----------
    g : array of shape (n_ens, n_obs), float32 or float64
        What each member predicts for the data; finite, of at least two members.
    y : array of shape (n_obs,), float32 or float64, or None
        The data. None where there is a `score`, which takes their place.
    obs_noise_cov : float, or array of shape (n_obs,) or (n_obs, n_obs)
        The noise of the data: one variance, a variance of each, or their covariance R, which is
        symmetric and positive definite. Variances, not standard deviations.
    method : {'eki', 'enkf', 'etki', 'denkf', 'esmda'}, default='eki'
        See `ensemble_update`. Not 'enkf' or 'esmda' with a score.
    dt : float, default=1.0
        Length of the step, above 0; the noise's covariance is divided by it.
    score : array of shape (n_ens, n_obs), float32 or float64, default=None
        Minus the derivative of the loss by g, of each member: it stands for ``R^-1 (y - g)``.
    softmax_classes : int, default=0
        With a score, the number of logits of a sample: g are logits of ``n_obs / softmax_classes``
        samples, and the Hessian of cross-entropy at the members' mean, over the variances
        `obs_noise_cov`, takes the place of ``R^-1`` in the outputs' Gram matrix. A sample's logits
        share a variance. 0 is none.
    random_state : int, Generator or RandomState, default=None
        Seed of the perturbations of 'enkf' and 'esmda'; None takes one of the system's.
    iteration : int, default=0
        From 0 to 2**32 - 1; each has perturbations of its own.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Returns
    -------
    transform : ndarray of shape (n_ens, n_ens)
        In float64. Row j says how much of each member's anomaly is added to member j. The same bits
        for any number of threads.

    Raises
    ------
    ValueError, TypeError
        If an array or a number does not fit or is not finite, the covariance is not positive
        definite, or 1 is lost beside dt times the outputs' spread over the noise.

    References
    ----------
    As for `ensemble_update`. Kovachki & Stuart 2019, arXiv:1808.03620, have steps for any loss.

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> theta = np.random.default_rng(0).normal(size=(20, 3))
    >>> g, y = np.tanh(theta), np.zeros(3)
    >>> transform = bf.kernels.ensemble_weights(g, y, 0.5)
    >>> moved = bf.kernels.ensemble_transform(theta, transform)
    >>> bool(np.allclose(moved, bf.kernels.ensemble_update(theta, g, y, 0.5)))
    True
    """
    number = 0
    perturbed = choice("method", method, UPDATE_METHODS) in ("enkf", "esmda")
    if perturbed:
        number = seed(random_state)
    threads = _threads(n_threads)
    length = real("dt", dt, 0, open_low=True)
    gram, cross, noise, _ = _core.ensemble_moments(
        _members("g", g),
        None if y is None else _algebra("y", y),
        noise_covariance(obs_noise_cov),
        None if score is None else _members("score", score),
        integer("softmax_classes", softmax_classes, 0),
        perturbed,
        number,
        integer("iteration", iteration, 0, _MAX_COUNTER),
        threads,
    )
    return _core.ensemble_weights(gram, cross, noise, method, length, threads)[0]


def ensemble_update(
    theta: Array,
    g: Array,
    y: Array,
    obs_noise_cov: Array | float,
    *,
    method: str = "eki",
    dt: float = 1.0,
    random_state: int | np.random.Generator | np.random.RandomState | None = None,
    iteration: int = 0,
    localization: Array | str | None = None,
    obs_localization: Array | None = None,
    form: str = "auto",
    out: Array | None = None,
    n_threads: int | None = None,
    return_report: bool = False,
) -> Floats | tuple[Floats, UpdateReport]:
    """Update an ensemble by what its outputs differ from the data: one ensemble Kalman step.

    With C the covariances of the ensemble (over ``n_ens - 1``) and the noise's covariance R,
    member j becomes
    ``theta_j + C_theta_g (C_gg + R / dt)^-1 (y + xi_j - g_j)``. Nothing of the size of parameters
    times outputs is stored, and the members may be updated in place.

    Parameters
    ----------
    theta : array of shape (n_ens, n_params), float32 or float64
        The members, each of them contiguous; at least two.
    g : array of shape (n_ens, n_obs), float32 or float64
        What each member predicts for the data; finite.
    y : array of shape (n_obs,), float32 or float64
        The data.
    obs_noise_cov : float, or array of shape (n_obs,) or (n_obs, n_obs)
        The noise of the data: one variance, a variance of each, or their covariance, which is
        symmetric and positive definite. Variances, not standard deviations.
    method : {'eki', 'enkf', 'esmda', 'etki', 'denkf'}, default='eki'
        - 'eki': xi is zero.
        - 'enkf', 'esmda': xi_j is drawn from N(0, R / dt), for each member. A step of ES-MDA with
          its alpha is ``dt = 1 / alpha``.
        - 'etki': the mean moves as with 'eki', and the anomalies are multiplied by the symmetric
          square root that gives the covariance of Kalman's formula exactly.
        - 'denkf': xi is zero, and anomalies move with half the gain.
    dt : float, default=1.0
        Length of the step, above 0; the noise's covariance is divided by it.
    random_state : int, Generator or RandomState, default=None
        Seed of xi; None takes one of the system's. Other methods do not look at it.
    iteration : int, default=0
        From 0 to 2**32 - 1; each has a xi of its own.
    localization : array of shape (n_params, n_obs), or {'sec', 'sec_fisher'}, default=None
        What each covariance of a parameter and an output is multiplied with: a taper of the type of
        `theta`; or from their sample correlation r, ``abs(r)`` ('sec'), or ``Q**2 / (1 + Q**2)``
        with Q = r over its standard error ('sec_fisher', at least 4 members). Not with 'etki'. With
        'sec' and 'sec_fisher' the covariance of two outputs is multiplied with ``r**2``: no factor
        nearer to ``abs(r)`` leaves a covariance of outputs positive semidefinite.
    obs_localization : array of shape (n_obs, n_obs), default=None
        Beside a taper in `localization`, that of the outputs among themselves: symmetric and
        positive semidefinite. None leaves their covariance whole, for fewer outputs than members
        only: with as many or more the steps would diverge.
    form : {'auto', 'ensemble', 'data'}, default='auto'
        Whether matrices of members or of outputs are solved with: the same result up to rounding,
        and 'auto' takes what needs fewer operations. 'etki' has the first only, localised updates
        the second.
    out : array of shape (n_ens, n_params), default=None
        Where the members go, of the type of `theta`; it may be `theta` itself. It may not overlap
        otherwise.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.
    return_report : bool, default=False
        Whether to give a report as well.

    Returns
    -------
    out : ndarray of shape (n_ens, n_params)
        The same bits for any number of threads. `out` where it was given.
    report : UpdateReport
        With `return_report`: the ``form`` that was taken; the ``effective_rank`` of the outputs'
        spread, ``trace(K)**2 / sum(K**2)`` for its Gram matrix K; and each member's ``misfit``
        before the step, half the squared distance from `y` in deviations of the noise.

    Raises
    ------
    ValueError, TypeError
        If an array or a number does not fit, `g` or `y` is not finite, the covariance is not
        positive definite, or the noise is so small that 1 is lost beside the outputs' spread over
        it; then nothing was changed.

    References
    ----------
    Evensen 2003, Ocean Dynamics 53 ('enkf'). Iglesias, Law & Stuart 2013, arXiv:1209.2736 ('eki').
    Emerick & Reynolds 2013, Comput. Geosci. 55 ('esmda'). Hunt, Kostelich & Szunyogh 2007,
    arXiv:physics/0511236 ('etki'). Sakov & Oke 2008, Tellus 60A ('denkf'). Lee 2021,
    arXiv:2105.11341 ('sec').

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> theta = np.random.default_rng(0).normal(size=(40, 3))
    >>> A, truth = np.array([[1.0, 2, 0], [0, 1, 1]]), np.array([1.0, -1, 2])
    >>> for i in range(10):
    ...     theta = bf.kernels.ensemble_update(theta, theta @ A.T, A @ truth, 0.01)
    >>> bool(np.allclose(theta @ A.T, A @ truth, atol=0.2))
    True
    """
    wants_report = flag("return_report", return_report)
    members, outputs = _members("theta", theta), _members("g", g)
    word, taper = _localization(localization)
    number = 0
    if choice("method", method, UPDATE_METHODS) in ("enkf", "esmda"):
        number = seed(random_state)
    array = _out(members, out)
    report = _core.ensemble_update(
        members,
        array,
        outputs,
        _algebra("y", y),
        noise_covariance(obs_noise_cov),
        method,
        real("dt", dt, 0, open_low=True),
        number,
        integer("iteration", iteration, 0, _MAX_COUNTER),
        word,
        taper,
        None if obs_localization is None else _algebra("obs_localization", obs_localization),
        choice("form", form, FORMS),
        _threads(n_threads),
    )
    return (array, UpdateReport(*report)) if wants_report else array


def noise_covariance(value: Array | float, name: str = "obs_noise_cov") -> NDArray[np.float64]:
    """Give the noise as float64: one variance or several in one dimension, or a matrix."""
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        return np.full(1, real(name, float(value), 0, open_low=True))
    array = _algebra(name, value)
    if array.ndim == 0:
        return array.reshape(1)
    if array.ndim > 2:
        raise ValueError(
            f"{name} has {array.ndim} dimensions, expected a number, variances or a matrix."
        )
    return array


def _localization(value: Array | str | None) -> tuple[str, Floats | None]:
    if value is None:
        return "none", None
    if isinstance(value, str):
        return choice("localization", value, LOCALIZATIONS), None
    return "taper", cast("Floats", as_array("localization", value))


def _members(name: str, value: Array) -> Floats:
    # What does not fit is told by the core, which looks at type, shape and order anyway.
    return cast("Floats", as_array(name, value))


def _out(members: Floats, out: Array | None) -> Floats:
    if out is None:
        return np.empty_like(members, order="C", subok=False)
    return cast("Floats", as_array("out", out))


def _algebra(name: str, value: object) -> NDArray[np.float64]:
    """Give an array of the algebra in float64; it is small beside the members."""
    array = as_array(name, cast("Array", value))
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} is {array.dtype}, expected float32 or float64.")
    return np.ascontiguousarray(array, np.float64) if array.ndim else array.astype(np.float64)
