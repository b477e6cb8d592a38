# SPDX-License-Identifier: BSD-3-Clause
"""A dense layer of a population with noise of low rank; public in `kernels`."""

from __future__ import annotations

import numpy as np

from . import _core
from ._arrays import F32, Array, as_f32, dimensions
from ._validation import ACTIVATIONS, MAX_SEED, choice, flag, integer, real
from ._validation import n_threads as _threads

_MAX_COUNTER = 2**32 - 1
_MAX_TENSOR = 2**24 - 2  # that of the biases is one more


def low_rank_forward(
    x: Array,
    W: Array,
    b: Array | None = None,
    *,
    seed: int,
    generation: int = 0,
    n_members: int,
    std: float,
    rank: int = 1,
    tensor: int = 0,
    first_member: int = 0,
    antithetic: bool = False,
    activation: str = "identity",
    out: Array | None = None,
    n_threads: int | None = None,
) -> F32:
    """Give the outputs of a dense layer for each member of a population.

    Member i has the weights ``W + std * E_i`` and the biases ``b + std * e_i``, with the noise that
    `perturb` adds for ``kind='low_rank'``: E_i is the sum of ``outer(a_q, b_q) / sqrt(rank)``. No
    member's weights are formed. Where all members see the same `x`, one product with `W` serves
    the whole population, and the rest costs ``rank * (n_in + n_out)`` for each row and member.

    Parameters
    ----------
    x : array of shape (batch, n_in) or (n_members, batch, n_in), float32
        Inputs of all members, or of each.
    W : array of shape (n_in, n_out), float32
        Weights that the population lies around.
    b : array of shape (n_out,), float32, default=None
        Biases; None adds neither biases nor noise of biases.
    seed : int
        Names the noise, from 0 to 2**64 - 1.
    generation : int, default=0
        From 0 to 2**32 - 1.
    n_members : int
        How many members, at least 0.
    std : float
        Above 0.
    rank : int, default=1
        At least 1.
    tensor : int, default=0
        The place of `W` among the `shapes` of `perturb`, from 0 to 2**24 - 2; that of `b` is the
        next. Layer l of an estimator has 2 l.
    first_member : int, default=0
        The member of ``out[0]``; all are below 2**32.
    antithetic : bool, default=False
        Whether members 2k and 2k + 1 are a pair: the same noise, added and subtracted.
    activation : {'identity', 'relu', 'leaky_relu', 'tanh', 'logistic', 'gelu', 'step', 'sign'}, \
            default='identity'
        The function f, as in `dense_forward`.
    out : array of shape (n_members, batch, n_out), float32, default=None
        Where the outputs go. It may not overlap the inputs.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Returns
    -------
    out : ndarray of shape (n_members, batch, n_out), float32
        A row depends neither on the rows beside it nor on which members were asked for. `out` where
        it was given.

    Raises
    ------
    ValueError, TypeError
        If a number is out of range, or arrays do not fit or overlap; then nothing was changed.

    References
    ----------
    Sarkar et al. 2025, arXiv:2511.16652, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> x, W = np.eye(3, dtype=np.float32), np.zeros((3, 2), np.float32)
    >>> source = dict(seed=0, std=0.5, antithetic=True)
    >>> h = bf.kernels.low_rank_forward(x, W, n_members=4, **source)
    >>> members = bf.kernels.perturb(W.ravel(), member=range(4), kind="low_rank", shapes=[(3, 2)],
    ...                              **source)
    >>> bool(np.allclose(h, members.reshape(4, 3, 2)))
    True
    """
    rows, weights = as_f32("x", x), as_f32("W", W)
    count = integer("n_members", n_members, 0, _MAX_COUNTER + 1)
    if rows.ndim not in (2, 3) or weights.ndim != 2:
        held = f"x has {dimensions(rows)} and W has {dimensions(weights)}"
        raise ValueError(f"{held}, expected 2 or 3 of x and 2 of W.")
    if out is None:
        array = np.empty((count, rows.shape[-2], weights.shape[1]), np.float32)
    else:
        array = as_f32("out", out)
    _core.low_rank_forward(
        rows,
        weights,
        None if b is None else as_f32("b", b),
        array,
        count,
        real("std", std, 0, open_low=True),
        integer("seed", seed, 0, MAX_SEED),
        integer("generation", generation, 0, _MAX_COUNTER),
        flag("antithetic", antithetic),
        integer("rank", rank, 1),
        integer("tensor", tensor, 0, _MAX_TENSOR),
        integer("first_member", first_member, 0, _MAX_COUNTER),
        choice("activation", activation, ACTIVATIONS),
        _threads(n_threads),
    )
    return array
