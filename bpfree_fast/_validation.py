# SPDX-License-Identifier: BSD-3-Clause
"""Checks of parameters: each refusal is one sentence that names the offending value."""

from __future__ import annotations

import math
import numbers
import secrets
from collections.abc import Collection, Iterable

import numpy as np

MAX_SEED = 2**64 - 1
ACTIVATIONS = (
    "identity",
    "relu",
    "leaky_relu",
    "tanh",
    "logistic",
    "sigmoid",
    "gelu",
    "step",
    "sign",
)


def choice(name: str, value: object, allowed: Collection[str]) -> str:
    """Give `value` back if it is one of the `allowed` words."""
    if isinstance(value, str) and value in allowed:
        return value
    words = ", ".join(repr(word) for word in allowed)
    raise ValueError(f"{name} must be one of {words}, got {value!r}.")


def flag(name: str, value: object) -> bool:
    """Give a truth value back as bool."""
    if type(value) is bool:
        return value
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {value!r}.")


def integer(name: str, value: object, low: int, high: int | None = None) -> int:
    """Give a whole number back as int, at least `low` and at most `high`."""
    # Asking for the abstract type takes longer than a small product.
    if type(value) is int:
        number = value
    elif isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}.")
    else:
        number = int(value)
    if number < low or (high is not None and number > high):
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be {limits}, got {value!r}.")
    return number


def real(
    name: str,
    value: object,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Give a finite number back as float, in the range from `low` to `high`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    number = float(value)
    too_low = number <= low if open_low else number < low
    too_high = number >= high if open_high else number > high
    if not math.isfinite(number) or too_low or too_high:
        lower = f"above {low:g}" if open_low else f"at least {low:g}"
        upper = f" and {'below' if open_high else 'at most'} {high:g}" if high < math.inf else ""
        raise ValueError(f"{name} must be {lower}{upper} and finite, got {value!r}.")
    return number


def layer_sizes(name: str, value: object) -> tuple[int, ...]:
    """Give the sizes of the hidden layers as a tuple; one whole number is one layer."""
    if isinstance(value, numbers.Integral):
        return (integer(name, value, 1),)
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be a whole number or a list of them, got {value!r}.")
    return tuple(integer(f"each of {name}", size, 1) for size in value)


def n_threads(value: object) -> int:
    """Give the number of threads; 0 leaves the choice to the core."""
    return 0 if value is None else integer("n_threads", value, 1)


def seed(random_state: object) -> int:
    """Give a 64-bit seed: the number itself, or one drawn from a generator or the system."""
    if random_state is None:
        return secrets.randbits(32)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(0, 2**32, dtype=np.uint64))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(0, 2**32))
    if isinstance(random_state, numbers.Integral):
        return integer("random_state", random_state, 0, MAX_SEED)
    raise TypeError(
        f"random_state must be None, a whole number or a NumPy generator, got {random_state!r}."
    )
