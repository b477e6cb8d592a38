# SPDX-License-Identifier: BSD-3-Clause
"""From the parameters of `EnsembleKalman` to checked options."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Floats
from .._ensemble import FORMS, LOCALIZATIONS, UPDATE_METHODS, noise_covariance
from .._validation import choice, flag, integer, real

F64 = NDArray[np.float64]
STEP_RULES = ("misfit", "norm")
_DEFAULT_ALPHAS = 4  # Emerick & Reynolds 2013
_MAX_ALPHAS = 2**32 - 1

# What a filter is made with, but for the ensemble, the noise, the seed and the threads.
PARAMETERS = (
    "method", "dt", "dt_scale", "max_time", "alphas", "prior_mean", "prior_cov", "inflation",
    "additive_inflation_std", "localization", "obs_localization", "form", "redraw_std", "dropout",
    "nesterov",
)  # fmt: skip


@dataclass(frozen=True)
class Prior:
    """What the parameters are taken for before any data: a mean, and variances or a covariance."""

    mean: F64
    cov: F64
    root: F64 | None  # as that of the noise


@dataclass(frozen=True)
class Options:
    """How an ensemble is updated."""

    noise_cov: F64
    noise_root: F64 | None  # of a matrix R = L L^T the inverse of L: made once, not in each step
    method: str
    dt: float | str
    dt_scale: float
    max_time: float  # infinite where steps have no end
    alphas: tuple[float, ...]  # of 'esmda'
    prior: Prior | None
    inflation: float
    additive_std: Floats | None  # of the members' type: one number or one of each parameter
    localization: str  # 'none', 'taper', 'sec', 'sec_fisher'
    taper: Floats | None
    obs_taper: F64 | None
    form: str
    redraw_std: Floats | None
    dropout: float
    nesterov: bool

    @property
    def is_perturbed(self) -> bool:
        """Whether each member is compared with data of its own."""
        return self.method in ("enkf", "esmda")

    def given_dt(self, iteration: int) -> float | None:
        """Give the length of a step where it does not depend on the outputs."""
        if self.alphas:
            return 1 / self.alphas[iteration]
        return None if isinstance(self.dt, str) else self.dt


def start(ensemble: object, *, copy: bool) -> Floats:
    """Check the first ensemble; float32 stays, everything else becomes float64."""
    array = np.asarray(ensemble)
    if array.dtype not in (np.float32, np.float64):
        if array.dtype.kind not in "fiu":
            raise TypeError(f"ensemble is {array.dtype}, expected real numbers.")
        array = array.astype(np.float64)
    if array.ndim != 2 or array.shape[0] < 2 or array.shape[1] == 0:
        raise ValueError(
            f"ensemble has shape {array.shape}, expected (n_ens, n_params) with at least two "
            f"members and one parameter."
        )
    check_finite(array)
    if not copy:
        if array is not ensemble or not (array.flags.c_contiguous and array.flags.writeable):
            raise ValueError(
                "copy=False is for a C-contiguous and writeable NumPy array of float32 or float64."
            )
        return cast("Floats", array)
    return cast("Floats", np.array(array, order="C"))


def floats(name: str, value: object) -> Floats:
    """Give numbers as they are where they are arrays of float32 or float64, else as float64."""
    if isinstance(value, np.ndarray) and value.dtype in (np.float32, np.float64):
        return value
    return real_array(name, value)


def check_finite(ensemble: NDArray[Any]) -> None:
    """Say which member is not finite."""
    wrong = np.flatnonzero(~np.isfinite(ensemble).all(axis=1))
    if wrong.size:
        raise ValueError(f"ensemble must be finite, got NaN or infinity in member {wrong[0]}.")


def build(members: Floats, noise: object, p: dict[str, Any]) -> Options:
    """Check the parameters for this ensemble."""
    n_ens, n_params = members.shape
    method = choice("method", p["method"], UPDATE_METHODS)
    dt = _dt(p["dt"])
    alphas = _alphas(method, p["alphas"])
    if alphas and dt != 1.0:
        raise ValueError(f"method 'esmda' takes its steps from alphas: dt must be 1, got {dt!r}.")
    dt_scale = real("dt_scale", p["dt_scale"], 0, open_low=True)
    if dt_scale != 1 and not isinstance(dt, str):
        raise ValueError(f"dt_scale is for dt='misfit' or 'norm', got {dt_scale} for {dt}.")
    max_time = _max_time(p["max_time"], dt)
    if alphas and p["max_time"] is not None:
        raise ValueError(f"max_time must be None for method 'esmda', got {p['max_time']!r}.")
    word, taper = _localization(p["localization"], members, copy=True)
    obs_taper = _obs_localization(p["obs_localization"], taper, n_ens)
    form = choice("form", p["form"], FORMS)
    prior = _prior(p["prior_mean"], p["prior_cov"], n_params)
    _check_localization(word, n_ens, method, form, prior)
    if form == "data" and method == "etki":
        raise ValueError("method 'etki' has the form 'ensemble' only, got form='data'.")
    inflation = real("inflation", p["inflation"], 1)
    additive = _deviations("additive_inflation_std", p["additive_inflation_std"], members, least=0)
    redraw = None
    if p["redraw_std"] is not None:
        redraw = _deviations("redraw_std", p["redraw_std"], members, least=None)
    dropout = real("dropout", p["dropout"], 0, 1, open_high=True)
    nesterov = flag("nesterov", p["nesterov"])
    if redraw is not None and (inflation != 1 or additive is not None or dropout or nesterov):
        raise ValueError(
            "redraw_std makes all members anew: inflation must be 1, additive_inflation_std and "
            "dropout 0, and nesterov False."
        )
    if dropout and nesterov:
        raise ValueError(f"dropout must be 0 where nesterov is True, got {dropout}.")
    noise_cov = covariance("obs_noise_cov", noise)
    return Options(
        noise_cov, whitening(noise_cov), method, dt, dt_scale, max_time, alphas, prior,
        inflation, additive, word, taper, obs_taper, form, redraw, dropout, nesterov,
    )  # fmt: skip


def of_step(
    options: Options, members: Floats, noise: object, localization: object, own: object
) -> Options:
    """Give the options of a step whose observations are others; None is as it was."""
    if noise is not None:
        noise_cov = covariance("obs_noise_cov", noise)
        options = replace(options, noise_cov=noise_cov, noise_root=whitening(noise_cov))
    word, taper = options.localization, options.taper
    if localization is not None:
        word, taper = _localization(localization, members, copy=False)
        _check_localization(word, len(members), options.method, options.form, options.prior)
    if localization is not None or own is not None:
        obs_taper = _obs_localization(own, taper, len(members))
        options = replace(options, localization=word, taper=taper, obs_taper=obs_taper)
    return options


def real_array(name: str, value: object) -> F64:
    """Give numbers as a new float64 array."""
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be real numbers, got {value!r}.")
    return np.array(array, np.float64, order="C")


def covariance(name: str, value: object, n: int | None = None) -> F64:
    """Check variances or a covariance: of n numbers, where that is known."""
    if isinstance(value, (bool, int, float, np.generic)):
        cov = noise_covariance(cast("Any", value), name)
    else:
        cov = noise_covariance(real_array(name, value), name)
    size = max(1, cov.shape[0]) if n is None else n
    if cov.shape not in ((1,), (size,), (size, size)):
        raise ValueError(
            f"{name} has shape {cov.shape}, expected a number, ({size},) or ({size}, {size})."
        )
    try:  # a factor is made, and thrown away
        _core.ensemble_moments(np.zeros((2, size)), np.zeros(size), cov)
    except ValueError as error:
        raise ValueError(str(error).replace("obs_noise_cov", name)) from None
    return cov


def whitening(cov: F64) -> F64 | None:
    """Give the inverse of the lower factor of a covariance that was checked; None for variances."""
    return cast("F64", np.linalg.inv(np.linalg.cholesky(cov))) if cov.ndim == 2 else None


def own_parameters(given: dict[str, Any]) -> dict[str, Any]:
    """Give the parameters out of what a caller gave, without arrays that may change later.

    A taper, which may be large, stays that of the caller: `build` makes the only copy.
    """
    own = {name: given[name] for name in PARAMETERS}
    alphas = own.pop("alphas")
    for name, value in own.items():
        if isinstance(value, (np.ndarray, list, tuple)) and name != "localization":
            own[name] = real_array(name, value)
    is_sequence = isinstance(alphas, Iterable) and not isinstance(alphas, str)
    return own | {"alphas": list(alphas) if is_sequence else alphas}


def _dt(value: object) -> float | str:
    if isinstance(value, str):
        return choice("dt", value, STEP_RULES)
    return real("dt", value, 0, open_low=True)


def _max_time(value: object, dt: float | str) -> float:
    if value is None:
        return 1.0 if dt == "misfit" else math.inf
    if isinstance(value, float) and value == math.inf:
        return value
    return real("max_time", value, 0, open_low=True)


def _alphas(method: str, value: object) -> tuple[float, ...]:
    if method != "esmda":
        if value is not None:
            raise ValueError(f"alphas are for method 'esmda', got {value!r} for {method!r}.")
        return ()
    if value is None:
        value = _DEFAULT_ALPHAS
    if not isinstance(value, Iterable):
        n = integer("alphas", value, 1, _MAX_ALPHAS)
        return (float(n),) * n
    alphas = tuple(real("each of alphas", alpha, 0, open_low=True) for alpha in value)
    total = sum(1 / alpha for alpha in alphas)
    if not abs(total - 1) <= 1e-3:
        raise ValueError(f"alphas must have the sum of 1 / alpha at 1, got {total:.6g}.")
    return tuple(alpha * total for alpha in alphas)


def _prior(mean: object, cov: object, n: int) -> Prior | None:
    if mean is None and cov is None:
        return None
    if mean is None or cov is None:
        missing = "prior_mean" if mean is None else "prior_cov"
        raise ValueError(f"a prior has a mean and a covariance: {missing} is None.")
    center = real_array("prior_mean", mean)
    if center.ndim == 0:
        center = np.full(n, center)
    if center.shape != (n,):
        raise ValueError(f"prior_mean has shape {center.shape}, expected a number or ({n},).")
    if not np.isfinite(center).all():
        raise ValueError("prior_mean must be finite.")
    own = covariance("prior_cov", cov, n)
    return Prior(center, own, whitening(own))


def _localization(value: object, members: Floats, *, copy: bool) -> tuple[str, Floats | None]:
    if value is None:
        return "none", None
    if isinstance(value, str):
        return choice("localization", value, LOCALIZATIONS), None
    given = floats("localization", value)
    n = members.shape[1]
    if given.ndim != 2 or given.shape[0] != n:
        raise ValueError(f"localization has shape {given.shape}, expected ({n}, n_obs).")
    make = np.array if copy and given is value else np.asarray
    with np.errstate(over="ignore"):
        taper = make(given, members.dtype, order="C")
    wrong = np.flatnonzero(~np.isfinite(taper).all(axis=1))
    if wrong.size:
        raise ValueError(f"localization must be finite, got NaN or infinity in row {wrong[0]}.")
    return "taper", cast("Floats", taper)


def _check_localization(word: str, n_ens: int, method: str, form: str, prior: Prior | None) -> None:
    if prior is not None and (word != "none" or form == "data"):
        raise ValueError(
            f"a prior is weighed in the ensemble's form, which is not localised: localization must "
            f"be None and form not 'data', got {word!r} and {form!r}."
        )
    if word == "none":
        return
    if method == "etki":
        raise ValueError("method 'etki' cannot be localised: localization must be None.")
    if word == "sec_fisher" and n_ens < 4:
        raise ValueError(f"localization 'sec_fisher' needs at least 4 members, got {n_ens}.")
    if form == "ensemble":
        raise ValueError("a localised update has the form 'data' only, got form='ensemble'.")


def _obs_localization(value: object, taper: Floats | None, n_ens: int) -> F64 | None:
    if value is None:
        if taper is not None and taper.shape[1] >= n_ens:
            raise ValueError(
                f"localization has {taper.shape[1]} outputs of {n_ens} members, expected "
                f"obs_localization beside it where outputs are not fewer than members."
            )
        return None
    if taper is None:
        raise ValueError("obs_localization is for a taper in localization: expected both.")
    own = real_array("obs_localization", value)
    n = taper.shape[1]
    if own.shape != (n, n):
        raise ValueError(f"obs_localization has shape {own.shape}, expected ({n}, {n}).")
    if not np.isfinite(own).all():
        raise ValueError("obs_localization must be finite, got NaN or infinity.")
    if not np.allclose(own, own.T, rtol=1e-6, atol=0):
        raise ValueError("obs_localization must be symmetric.")
    return own


def _deviations(name: str, value: object, members: Floats, *, least: int | None) -> Floats | None:
    """Check one deviation or one of each parameter; None where all of them may be and are 0."""
    std = real_array(name, value)
    n = members.shape[1]
    if std.ndim > 0 and std.shape != (n,):
        raise ValueError(f"{name} has shape {std.shape}, expected a number or ({n},).")
    low = std >= 0 if least == 0 else std > 0
    if not (low & (std < np.inf)).all():
        limit = "at least 0" if least == 0 else "above 0"
        raise ValueError(f"{name} must be {limit} and finite, got {value!r}.")
    if not std.any():
        return None
    return cast("Floats", std.astype(members.dtype))
