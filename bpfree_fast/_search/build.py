# SPDX-License-Identifier: BSD-3-Clause
"""From the parameters of `EvolutionStrategy` to a method: names, limits and defaults."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import Floats
from .._validation import choice, flag, integer, real
from .bounds import Bounds, bounds_of
from .covariance import MAX_XNES, CmaConstants, SepCma, Xnes
from .methods import Ars, Gradient, Method, Pgpe, Rates, Snes
from .noise import KINDS, Noise, Shapes
from .optimizers import OPTIMIZERS, Optimizer
from .shaping import SHAPINGS

METHODS = ("openai_es", "pgpe", "snes", "xnes", "ars", "sep_cma_es", "spsa")
_PAIRED = ("pgpe", "ars", "spsa")
_WITH_OPTIMIZER = ("openai_es", "pgpe", "ars", "spsa")
_WITH_STD_RATE = ("pgpe", "snes", "xnes")
_ANY_NOISE = ("openai_es", "ars", "spsa")
_DEFAULT_SHAPING = {"spsa": "none", "snes": "nes", "xnes": "nes"}
_DEFAULT_OPTIMIZER = {"openai_es": "adam", "pgpe": "clipup", "ars": "sgd", "spsa": "sgd"}


@dataclass
class Search:
    """A method with what surrounds it."""

    method: Method
    shaping: str | None  # None: sep-CMA-ES has weights of its own
    shaping_size: int | None  # pairs that count, or members of a group
    bounds: Bounds | None


def start(x0: ArrayLike) -> Floats:
    """Check and copy the start: float32 stays, everything else becomes float64."""
    array = np.asarray(x0)
    if array.dtype != np.float32:
        if array.dtype.kind not in "fiu":
            raise TypeError(f"x0 is {array.dtype}, expected real numbers.")
        array = array.astype(np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"x0 has shape {array.shape}, expected (n_params,) with n_params > 0.")
    wrong = np.flatnonzero(~np.isfinite(array))
    if wrong.size:
        raise ValueError(f"x0 must be finite, got {array[wrong[0]]} at {wrong[0]}.")
    return np.array(array)


def build(x0: Floats, seed: int, n_threads: int | None, p: dict[str, Any]) -> Search:
    """Check the parameters and make the method that they name."""
    name = choice("method", p["method"], METHODS)
    gradient = name in _WITH_OPTIMIZER
    if not gradient:
        x0 = x0.astype(np.float64)
    n = x0.size
    if name == "xnes" and n > MAX_XNES:
        raise ValueError(
            f"method 'xnes' holds a matrix of all parameters, and is for at most {MAX_XNES} of "
            f"them, got {n}: method 'snes' has its diagonal."
        )
    antithetic = _antithetic(name, p["antithetic"])
    population = _population(name, p["population_size"], n, antithetic)
    kind = choice("perturbation", p["perturbation"], KINDS)
    if kind != "gaussian" and name not in _ANY_NOISE:
        raise ValueError(f"method {name!r} needs perturbation='gaussian', got {kind!r}.")
    shapes = _shapes(p["shapes"], n)
    if shapes is not None and name not in _ANY_NOISE:
        raise ValueError(f"shapes have no meaning for method {name!r}, got {p['shapes']!r}.")
    rank = integer("rank", p["rank"], 1, 2**32 - 1)
    if kind == "low_rank" and shapes is None:
        raise ValueError("perturbation 'low_rank' is of matrices: shapes must say which, got None.")
    if kind != "low_rank" and rank > 1:
        raise ValueError(f"rank is for perturbation 'low_rank', got {rank} for {kind!r}.")
    noise = Noise(seed, kind, antithetic, shapes, rank, n_threads)
    deviations = _deviations(name, p["std"], n)
    std = float(deviations) if deviations.ndim == 0 else math.sqrt(float(np.mean(deviations**2)))
    relative = np.ones(n)
    if deviations.ndim > 0:
        relative = (deviations / std).astype(np.float64)
    rates = Rates(
        real("std_decay", p["std_decay"], 0, 1, open_low=True),
        real("learning_rate_decay", p["learning_rate_decay"], 0, 1, open_low=True),
        _for_gradients(name, "noise_reuse", p["noise_reuse"]),
        _for_gradients(name, "persistence", p["persistence"]),
    )
    if rates.noise_reuse > 1 and rates.persistence > 1:
        raise ValueError(
            f"noise_reuse keeps the noise and persistence adds new noise: one of them must be 1, "
            f"got {rates.noise_reuse} and {rates.persistence}."
        )
    optimizer, rate = _optimizer(name, p, std, n)
    common = (noise, rates, population, x0, rate, std)
    std_rate = _std_rate(name, p["std_learning_rate"], n)
    method: Method
    if gradient:
        slots = optimizer.slots(n, x0.dtype)
        if name == "pgpe":
            of_type = cast("Floats", relative.astype(x0.dtype))
            method = Pgpe(*common, optimizer, slots, of_type, std_rate)
        elif name == "ars":
            method = Ars(*common, optimizer, slots)
        else:
            method = Gradient(*common, optimizer, slots)
    elif name == "snes":
        method = Snes(*common, relative, std_rate)
    elif name == "xnes":
        # The determinant of B is 1: the step size has the rest.
        level = float(np.exp(np.mean(np.log(relative))))
        method = Xnes(*common[:-1], std * level, np.diag(relative / level), std_rate, std_rate)
    else:
        constants = CmaConstants.of(n, population)
        method = SepCma(*common, constants, relative, np.zeros(n), np.zeros(n))
    shaping, size = _shaping(name, p, population, antithetic)
    bounds = bounds_of(p["bounds"], p["bound_handling"], x0)
    return Search(method, shaping, size, bounds)


def _antithetic(name: str, value: object) -> bool:
    if value is None:
        return name == "openai_es" or name in _PAIRED
    antithetic = flag("antithetic", value)
    if not antithetic and name in _PAIRED:
        raise ValueError(f"method {name!r} compares members in pairs: antithetic must be True.")
    if antithetic and name == "sep_cma_es":
        # The mean of the chosen half of a mirrored population is short: the step size collapses.
        raise ValueError(
            "method 'sep_cma_es' takes the length of its path for a random walk's, which mirrored "
            "members shorten: antithetic must be False."
        )
    return antithetic


def _population(name: str, value: object, n: int, antithetic: bool) -> int:
    if value is None:
        if name == "spsa":
            return 2
        size = 4 + int(3 * math.log(n))
        return 2 * size if name in _WITH_OPTIMIZER else size + (size % 2 if antithetic else 0)
    size = integer("population_size", value, 2, 2**32 - 1)
    if antithetic and size % 2 == 1:
        raise ValueError(f"population_size must be even, since members are pairs, got {size}.")
    return size


def _shapes(value: Sequence[Sequence[int]] | None, n: int) -> Shapes | None:
    if value is None:
        return None
    try:
        sizes = [tuple(shape) for shape in value]
    except TypeError:
        raise TypeError(f"shapes must hold (n,) or (m, n) of each part, got {value!r}.") from None
    shapes = tuple(tuple(integer("each size in shapes", s, 1) for s in shape) for shape in sizes)
    if any(len(shape) not in (1, 2) for shape in shapes):
        raise ValueError(f"shapes must have one or two sizes each, got {value!r}.")
    total = sum(math.prod(shape) for shape in shapes)
    if total != n:
        raise ValueError(f"shapes have {total} elements together, but x0 has {n}.")
    return shapes


def _deviations(name: str, value: object, n: int) -> Floats:
    if np.ndim(value) == 0:  # type: ignore[arg-type]
        return np.array(real("std", value, 0, open_low=True))
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"std must be a number or an array of numbers, got {value!r}.") from None
    if name in _ANY_NOISE:
        raise ValueError(f"method {name!r} has one std, got an array of shape {array.shape}.")
    if array.shape != (n,):
        raise ValueError(f"std has shape {array.shape}, expected a number or ({n},).")
    wrong = np.flatnonzero(~((array > 0) & (array < np.inf)))
    if wrong.size:
        raise ValueError(f"std must be above 0 and finite, got {array[wrong[0]]} at {wrong[0]}.")
    return array


def _for_gradients(name: str, what: str, value: object) -> int:
    number = integer(what, value, 1, 2**32 - 1)
    if number > 1 and name not in _ANY_NOISE:
        raise ValueError(f"{what} must be 1 for method {name!r}, got {number}.")
    return number


def _optimizer(name: str, p: dict[str, Any], std: float, n: int) -> tuple[Optimizer, float]:
    given = p["optimizer"]
    if given is not None and name not in _WITH_OPTIMIZER:
        raise ValueError(f"method {name!r} has a step of its own: optimizer must be None.")
    kind = choice("optimizer", given or _DEFAULT_OPTIMIZER.get(name, "sgd"), OPTIMIZERS)
    # The deviation's norm is fifteen times the largest step (Toklu et al. 2020, section 4).
    speed = std * math.sqrt(n) / 15
    if p["max_speed"] is not None:
        if kind != "clipup" or name not in _WITH_OPTIMIZER:
            raise ValueError(f"max_speed is for optimizer 'clipup', got {p['max_speed']!r}.")
        speed = real("max_speed", p["max_speed"], 0, open_low=True)
    decay = real("weight_decay", p["weight_decay"], 0)
    if decay > 0 and name not in _WITH_OPTIMIZER:
        raise ValueError(f"weight_decay must be 0 for method {name!r}, got {decay}.")
    defaults = {"adam": std / 2, "clipup": speed / 2, "sgd": std * std, "momentum": std * std / 10}
    rate = defaults[kind] if name in _WITH_OPTIMIZER else 1.0
    if name == "ars":
        rate = {"sgd": std / 2, "momentum": std / 20}.get(kind, rate)
    if p["learning_rate"] is not None:
        rate = real("learning_rate", p["learning_rate"], 0, open_low=True)
    optimizer = Optimizer(
        kind,
        real("momentum", p["momentum"], 0, 1, open_high=True),
        real("beta_1", p["beta_1"], 0, 1, open_high=True),
        real("beta_2", p["beta_2"], 0, 1, open_high=True),
        real("epsilon", p["epsilon"], 0),
        speed,
        decay,
    )
    return optimizer, rate


def _std_rate(name: str, value: object, n: int) -> float:
    if value is not None:
        if name not in _WITH_STD_RATE:
            raise ValueError(f"std_learning_rate must be None for method {name!r}, got {value!r}.")
        return real("std_learning_rate", value, 0)
    if name == "snes":
        return (3 + math.log(n)) / (5 * math.sqrt(n))
    if name == "xnes":
        return (9 + 3 * math.log(n)) / (5 * n * math.sqrt(n))
    return 0.1


def _shaping(
    name: str, p: dict[str, Any], population: int, antithetic: bool
) -> tuple[str | None, int | None]:
    kind, n_top, group_size = p["fitness_shaping"], p["n_top"], p["group_size"]
    if name in ("sep_cma_es", "ars"):
        if kind is not None:
            raise ValueError(f"fitness_shaping must be None for method {name!r}, got {kind!r}.")
    elif kind is None:
        kind = _DEFAULT_SHAPING.get(name, "centered_rank")
    else:
        kind = choice("fitness_shaping", kind, SHAPINGS)
    if kind in ("pair", "top_k") and not antithetic:
        raise ValueError(f"fitness_shaping {kind!r} is of pairs, but antithetic is False.")
    if name == "ars":
        kind = "top_k"
    if n_top is not None and kind != "top_k":
        raise ValueError(
            f"n_top is for method 'ars' or fitness_shaping 'top_k', got {n_top!r} for {name!r}."
        )
    if (group_size is not None) != (kind == "group"):
        state = "is missing" if group_size is None else "was given"
        raise ValueError(f"group_size {state}, but fitness_shaping is {kind!r}.")
    if kind == "group":
        size = integer("group_size", group_size, 1, population)
        if population % size:
            raise ValueError(f"group_size must divide population_size {population}, got {size}.")
        return kind, size
    if kind == "top_k":
        pairs = population // 2
        return "top_k", pairs if n_top is None else integer("n_top", n_top, 1, pairs)
    return kind, None
