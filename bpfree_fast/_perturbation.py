# SPDX-License-Identifier: BSD-3-Clause
"""The kernels of evolution strategies on plain arrays; public in `kernels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._arrays import F32, Array, Floats, as_array, as_f32
from ._validation import MAX_SEED, choice, flag, integer, real
from ._validation import n_threads as _threads

NOISE_KINDS = ("gaussian", "rademacher", "low_rank")
SHAPING_KINDS = ("centered_rank", "nes", "z_score", "group", "pair", "top_k")
_MAX_MEMBER = 2**32 - 1


def perturb(
    theta: Array,
    *,
    seed: int,
    generation: int = 0,
    member: int | Sequence[int],
    std: float,
    kind: str = "gaussian",
    shapes: Sequence[Sequence[int]] | None = None,
    antithetic: bool = False,
    rank: int = 1,
    out: Array | None = None,
    n_threads: int | None = None,
) -> F32:
    """Give one member of a population, or several: theta + std * noise.

    The noise is a function of the seed, the generation and the member: it is made where it is
    added, and neither stored nor sent. Subtracting it again would not restore `theta`, because of
    rounding; keep `theta` instead.

    Parameters
    ----------
    theta : array of shape (n_params,), float32
        The parameters that the population lies around.
    seed : int
        Names the noise, from 0 to 2**64 - 1.
    generation : int, default=0
        From 0 to 2**32 - 1.
    member : int or sequence of int
        Which member, from 0 to 2**32 - 1. A sequence or a range gives one row for each; where both
        of a pair stand side by side, their noise is made once.
    std : float
        Above 0.
    kind : {'gaussian', 'rademacher', 'low_rank'}, default='gaussian'
        Standard normal, +1 or -1, or for matrices ``sum_q outer(a_q, b_q) / sqrt(rank)`` with
        normal a and b (vectors then get standard normal noise).
    shapes : sequence of tuples, default=None
        Shapes of the tensors that lie one after the other in `theta`: ``(n,)`` or ``(m, n)``. Each
        has noise of its own. None is one vector of all parameters.
    antithetic : bool, default=False
        Whether members come in pairs: 2k is theta + std * noise, 2k + 1 theta - std * noise.
    rank : int, default=1
        Of 'low_rank', at least 1.
    out : array of shape (n_params,) or (len(member), n_params), float32, default=None
        Where the members go. For a single member it may be `theta` itself; it may not overlap
        otherwise.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Returns
    -------
    out : ndarray of shape (n_params,) or (len(member), n_params), float32
        The same bits on every machine. `out` where it was given.

    Raises
    ------
    ValueError, TypeError
        If a number is out of range, shapes do not hold `theta`, or arrays do not fit or overlap;
        then nothing was changed.

    References
    ----------
    Salimans et al. 2017, arXiv:1703.03864, section 2. Sarkar et al. 2025, arXiv:2511.16652
    ('low_rank').

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> theta = np.zeros(1000, np.float32)
    >>> plus, minus = bf.kernels.perturb(theta, seed=0, member=[6, 7], std=0.1, antithetic=True)
    >>> bool((plus == -minus).all()), round(float(plus.std()), 2)
    (True, 0.1)
    """
    center = as_f32("theta", theta)
    single = not isinstance(member, (Sequence, range, np.ndarray))
    chosen = cast("Sequence[int]", [member] if single else member)
    members = [integer("member", number, 0, _MAX_MEMBER) for number in chosen]
    if out is None:
        array = np.empty(
            center.shape[:1] if single else (len(members), *center.shape[:1]), np.float32
        )
    else:
        array = as_f32("out", out)
        if array.ndim != (1 if single else 2):
            wanted = "1 dimension for one member" if single else "2 for a sequence of members"
            raise ValueError(f"out has shape {array.shape}, expected {wanted}.")
    _core.perturb(
        center,
        array,
        members,
        real("std", std, 0, open_low=True),
        *_noise(seed, generation, kind, shapes, antithetic, rank),
        n_threads=_threads(n_threads),
    )
    return array


def perturbation_gradient(
    utilities: Array,
    n_params: int,
    *,
    seed: int,
    generation: int = 0,
    kind: str = "gaussian",
    shapes: Sequence[Sequence[int]] | None = None,
    antithetic: bool = False,
    rank: int = 1,
    first_member: int = 0,
    out: Array | None = None,
    n_threads: int | None = None,
) -> F32:
    """Give the sum of the members' noise, each times its utility.

    With the utilities of n members, this divided by ``n * std`` estimates the gradient of the
    expected utility. The noise of `perturb` is made again, in registers, where it is added up: no
    array of the size of members times parameters exists.

    Parameters
    ----------
    utilities : array of shape (n_members,), float32 or float64
        Of members first_member, first_member + 1, ...; with `antithetic` an even number.
    n_params : int
        Number of parameters, at least 0.
    seed : int
        As in `perturb`, and so are the other parameters.
    generation : int, default=0
        From 0 to 2**32 - 1.
    kind : {'gaussian', 'rademacher', 'low_rank'}, default='gaussian'
        The noise. Of 'low_rank', a tensor's sum is one product of the members' factors.
    shapes : sequence of tuples, default=None
        Shapes of the tensors; None is one vector.
    antithetic : bool, default=False
        Whether members come in pairs: then the sum is that of
        ``(utilities[2k] - utilities[2k + 1]) * noise of pair k``.
    rank : int, default=1
        Of 'low_rank', at least 1.
    first_member : int, default=0
        The member of ``utilities[0]``, with `antithetic` an even number.
    out : array of shape (n_params,), float32, default=None
        Where the sum goes. It may not overlap `utilities`.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Returns
    -------
    out : ndarray of shape (n_params,), float32
        Without ``1 / n`` and ``1 / std``. The same bits for any number of threads, on every machine
        but for 'low_rank'. `out` where it was given.

    Raises
    ------
    ValueError, TypeError
        If a number is out of range, shapes do not hold the parameters, or arrays do not fit.

    References
    ----------
    Salimans et al. 2017, arXiv:1703.03864, algorithm 1. Sarkar et al. 2025, arXiv:2511.16652
    ('low_rank').

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> theta, step = np.ones(50, np.float32), dict(seed=0, antithetic=True)
    >>> for generation in range(100):
    ...     step["generation"] = generation
    ...     loss = np.sum(bf.kernels.perturb(theta, member=range(20), std=0.1, **step) ** 2, axis=1)
    ...     utilities = bf.kernels.fitness_shaping(loss, maximize=False)
    ...     theta += 0.02 * bf.kernels.perturbation_gradient(utilities, 50, **step)
    >>> bool(np.sum(theta**2) < 1)
    True
    """
    weights = _population("utilities", utilities)
    size = integer("n_params", n_params, 0)
    if out is None:
        array = np.empty(size, np.float32)
    else:
        array = as_f32("out", out)
        if array.shape != (size,):
            raise ValueError(f"out has shape {array.shape}, expected ({size},).")
    _core.perturbation_gradient(
        weights,
        array,
        *_noise(seed, generation, kind, shapes, antithetic, rank),
        first_member=integer("first_member", first_member, 0, _MAX_MEMBER),
        n_threads=_threads(n_threads),
    )
    return array


def fitness_shaping(
    fitness: Array,
    *,
    maximize: bool,
    kind: str = "centered_rank",
    top_k: int | None = None,
    group_size: int | None = None,
    out: Array | None = None,
) -> Floats:
    """Give each member's utility: what its noise counts in the gradient estimate.

    A larger utility is a better member. Fitness that is NaN or infinite is worst: of the ranks it
    takes the lowest, elsewhere the place of the worst finite value.

    Parameters
    ----------
    fitness : array of shape (n_members,), float32 or float64
        At least one value is finite.
    maximize : bool
        Whether a larger fitness is better (a reward), or a smaller one (a loss).
    kind : {'centered_rank', 'nes', 'z_score', 'group', 'pair', 'top_k'}, default='centered_rank'
        With f the fitness, negated where it is minimised:

        - 'centered_rank': ranks from -1/2 (worst) to 1/2; ties get the mean of their ranks.
        - 'nes': ``max(0, log(n / 2 + 1) - log(rank))`` over its sum, less ``1 / n``; rank 1 is the
          best, ties get the mean.
        - 'z_score': ``(f - mean) / sqrt(variance + 1e-5)``.
        - 'group': the same with the mean of each `group_size` consecutive members, and one variance
          for all.
        - 'pair': members 2k and 2k + 1 get plus and minus ``d / (2 r)``, with d their difference
          and ``r = sqrt(mean(d**2) + 1e-5)`` over all pairs.
        - 'top_k': members of the `top_k` pairs whose better member is best get
          ``(f - mean) / deviation * n_pairs / top_k``, with mean and deviation over these members;
          all others get 0, and so do all where no two differ.
    top_k : int, default=None
        For 'top_k', from 1 to the number of pairs.
    group_size : int, default=None
        For 'group', a divisor of the number of members.
    out : array of shape (n_members,), default=None
        Where the utilities go, of the type of `fitness`; it may be `fitness`.

    Returns
    -------
    out : ndarray of shape (n_members,)
        Of the type of `fitness`. `out` where it was given.

    Raises
    ------
    ValueError, TypeError
        If no fitness is finite, or a number or an array does not fit.

    References
    ----------
    Salimans et al. 2017, arXiv:1703.03864 ('centered_rank'). Wierstra et al. 2014 ('nes').
    Mania et al. 2018, arXiv:1803.07055, algorithm 2 ('top_k'); differs: dividing the sum by the
    number of members gives the mean of those used. Sarkar et al. 2025, arXiv:2511.16652 ('group').

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> loss = np.float32([3, 1, np.nan, 1, 2])
    >>> bf.kernels.fitness_shaping(loss, maximize=False)
    array([-0.25 ,  0.375, -0.5  ,  0.375,  0.   ], dtype=float32)
    """
    values = as_array("fitness", fitness)
    exact = _population("fitness", fitness)
    what = choice("kind", kind, SHAPING_KINDS)
    for name, given in (("top_k", top_k), ("group_size", group_size)):
        if (given is not None) != (what == name.removesuffix("_size")):
            state = "is missing" if given is None else "was given"
            raise ValueError(f"{name} {state}, but kind is {what!r}.")
    if out is not None:
        array = as_array("out", out)
        if array.dtype != values.dtype or array.shape != values.shape or not array.flags.writeable:
            held = f"{array.dtype} of shape {array.shape}"
            wanted = f"{values.dtype} of shape {values.shape} that can be written to"
            raise ValueError(f"out is {held}, expected {wanted}.")
    utilities = np.empty(exact.shape, np.float64)
    _core.fitness_shaping(
        exact,
        utilities,
        flag("maximize", maximize),
        what,
        integer("top_k", top_k or 0, 0),
        integer("group_size", group_size or 0, 0),
    )
    if out is None:
        return cast("Floats", utilities.astype(values.dtype, copy=False))
    array[...] = utilities
    return cast("Floats", array)


def _noise(
    seed: int,
    generation: int,
    kind: str,
    shapes: Sequence[Sequence[int]] | None,
    antithetic: bool,
    rank: int,
) -> tuple[int, int, str, list[list[int]] | None, bool, int]:
    sizes = None
    if shapes is not None:
        sizes = [
            [integer(f"shapes[{i}]", size, 0) for size in shape] for i, shape in enumerate(shapes)
        ]
    return (
        integer("seed", seed, 0, MAX_SEED),
        integer("generation", generation, 0, 2**32 - 1),
        choice("kind", kind, NOISE_KINDS),
        sizes,
        flag("antithetic", antithetic),
        integer("rank", rank, 1),
    )


def _population(name: str, value: Array) -> NDArray[np.float64]:
    """Give one number for each member in float64; it is small, so float32 is widened."""
    array = as_array(name, value)
    if array.dtype not in (np.float32, np.float64) or array.ndim != 1:
        held = f"{array.dtype} of shape {array.shape}"
        raise TypeError(f"{name} is {held}, expected float32 or float64 of shape (n_members,).")
    return np.ascontiguousarray(array, np.float64)
