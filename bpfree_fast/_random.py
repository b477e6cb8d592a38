# SPDX-License-Identifier: BSD-3-Clause
"""Random numbers by position, as `bpfree_fast.kernels` shows them."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._arrays import Array, DType, Floats, float_type, vector
from ._validation import MAX_SEED, integer
from ._validation import n_threads as _threads


def random_bits(
    seed: int,
    n: int,
    *,
    stream: int = 0,
    offset: int = 0,
    out: Array | None = None,
    n_threads: int | None = None,
) -> NDArray[np.uint32]:
    """Give words of 32 random bits, each by its position in a stream.

    Parameters
    ----------
    seed : int
        Names the generator, from 0 to 2**64 - 1.
    n : int
        How many words, at least 0.
    stream : int, default=0
        Names one of the seed's streams, from 0 to 2**64 - 1.
    offset : int, default=0
        Position of the first word: ``random_bits(seed, n, offset=k)`` equals
        ``random_bits(seed, n + k)[k:]``.
    out : array of shape (n,), uint32, default=None
        Where the words go.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Returns
    -------
    out : ndarray of shape (n,), uint32
        `out` where it was given.

    Raises
    ------
    ValueError, TypeError
        If a number is out of range, or `out` does not fit.

    References
    ----------
    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox4x32-10).

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> bf.kernels.random_bits(0, 3, offset=1).tolist() == bf.kernels.random_bits(0, 4)[1:].tolist()
    True
    """
    position = _position(seed, stream, offset)
    array = cast("NDArray[np.uint32]", vector(n, np.dtype(np.uint32), out))
    _core.random_bits(array, *position, _threads(n_threads))
    return array


def uniform(
    seed: int,
    n: int,
    *,
    stream: int = 0,
    offset: int = 0,
    dtype: DType = "float32",
    out: Array | None = None,
    n_threads: int | None = None,
) -> Floats:
    """Give random numbers in [0, 1), each by its position in a stream.

    Parameters
    ----------
    seed : int
        Names the generator, from 0 to 2**64 - 1.
    n : int
        How many numbers, at least 0.
    stream : int, default=0
        Names one of the seed's streams, from 0 to 2**64 - 1.
    offset : int, default=0
        Position of the first number.
    dtype : {'float32', 'float64'}, default='float32'
        'float64' gives the same values, widened.
    out : array of shape (n,), default=None
        Where the numbers go; its type must be `dtype`.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Returns
    -------
    out : ndarray of shape (n,)
        Multiples of 2**-24. `out` where it was given.

    Raises
    ------
    ValueError, TypeError
        If a number is out of range, or `out` does not fit.

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> x = bf.kernels.uniform(0, 1000)
    >>> bool((0 <= x).all() and (x < 1).all())
    True
    """
    position = _position(seed, stream, offset)
    array = cast("Floats", vector(n, float_type(dtype), out))
    _core.uniform(array, *position, _threads(n_threads))
    return array


def normal(
    seed: int,
    n: int,
    *,
    stream: int = 0,
    offset: int = 0,
    dtype: DType = "float32",
    out: Array | None = None,
    n_threads: int | None = None,
) -> Floats:
    """Give standard normal random numbers, each by its position in a stream.

    Parameters
    ----------
    seed : int
        Names the generator, from 0 to 2**64 - 1.
    n : int
        How many numbers, at least 0.
    stream : int, default=0
        Names one of the seed's streams, from 0 to 2**64 - 1.
    offset : int, default=0
        Position of the first number.
    dtype : {'float32', 'float64'}, default='float32'
        'float64' gives the same values, widened.
    out : array of shape (n,), default=None
        Where the numbers go; its type must be `dtype`.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Returns
    -------
    out : ndarray of shape (n,)
        The same bits on every machine; absolute values are at most 6.56. `out` where it was given.

    Raises
    ------
    ValueError, TypeError
        If a number is out of range, or `out` does not fit.

    References
    ----------
    Box & Muller 1958, "A note on the generation of random normal deviates".

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> whole = bf.kernels.normal(seed=7, n=100)
    >>> bool((bf.kernels.normal(seed=7, n=40, offset=60) == whole[60:]).all())
    True
    """
    position = _position(seed, stream, offset)
    array = cast("Floats", vector(n, float_type(dtype), out))
    _core.normal(array, *position, _threads(n_threads))
    return array


def sign(
    seed: int,
    n: int,
    *,
    stream: int = 0,
    offset: int = 0,
    dtype: DType = "float32",
    out: Array | None = None,
    n_threads: int | None = None,
) -> Floats:
    """Give random signs, +1 or -1, each by its position in a stream.

    Parameters
    ----------
    seed : int
        Names the generator, from 0 to 2**64 - 1.
    n : int
        How many signs, at least 0.
    stream : int, default=0
        Names one of the seed's streams, from 0 to 2**64 - 1.
    offset : int, default=0
        Position of the first sign.
    dtype : {'float32', 'float64'}, default='float32'
        Type of the result.
    out : array of shape (n,), default=None
        Where the signs go; its type must be `dtype`.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Returns
    -------
    out : ndarray of shape (n,)
        `out` where it was given.

    Raises
    ------
    ValueError, TypeError
        If a number is out of range, or `out` does not fit.

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> set(bf.kernels.sign(0, 100).tolist()) == {-1.0, 1.0}
    True
    """
    position = _position(seed, stream, offset)
    array = cast("Floats", vector(n, float_type(dtype), out))
    _core.sign(array, *position, _threads(n_threads))
    return array


def _position(seed: int, stream: int, offset: int) -> tuple[int, int, int]:
    return (
        integer("seed", seed, 0, MAX_SEED),
        integer("stream", stream, 0, MAX_SEED),
        integer("offset", offset, 0, MAX_SEED),
    )
