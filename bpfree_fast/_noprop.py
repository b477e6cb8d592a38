# SPDX-License-Identifier: BSD-3-Clause
"""NoProp's coefficients, its head and its last layer, on plain arrays; public in `kernels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from ._arrays import Array, as_array, as_f32
from ._optimizer import SOLVERS, optimizer_keywords
from ._validation import choice, real
from ._validation import n_threads as _threads


def posterior_coefficients(alpha_bar: ArrayLike) -> NDArray[np.float64]:
    """Give the coefficients by which NoProp's blocks turn noise into a label.

    Block t makes ``z_t = a u + b z_{t-1}`` from its estimate u, or with ``sqrt(c)`` times normal
    noise a draw from the posterior: given the true embedding for u, z_t then has the mean
    ``sqrt(alpha_bar_t) u`` and the variance ``1 - alpha_bar_t``.

    Parameters
    ----------
    alpha_bar : array-like of shape (n_blocks + 1,)
        Share of the label's variance before the first and after each block, of at least 2: rising,
        from 0 or more to at most 1.

    Returns
    -------
    table : ndarray of shape (n_blocks, 3), float64
        a, b and c of each block. Where alpha_bar ends at 1 the last block has 1, 0 and 0.

    Raises
    ------
    ValueError
        If there are too few values, or they do not rise within 0 and 1.

    References
    ----------
    Li, Teh & Pascanu 2025, arXiv:2503.24322, equation 3.

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> bf.kernels.posterior_coefficients([0.0, 0.5, 1.0])[-1].tolist()
    [1.0, 0.0, 0.0]
    """
    values = np.asarray(alpha_bar, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"alpha_bar must have one dimension, got shape {values.shape}.")
    return _core.posterior_coefficients([float(value) for value in values])


def _labels(y: Array) -> NDArray[np.int32]:
    return cast("NDArray[np.int32]", as_array("y", y))


def denoising_head(
    logits: Array,
    y: Array,
    *,
    embedding: Array | None = None,
    weight: float = 1.0,
    sample_weight: Array | None = None,
    out: Array | None = None,
    n_threads: int | None = None,
) -> NDArray[np.float32]:
    """Give the derivative by the logits of ``weight * |softmax(logits) @ embedding - u_y| ** 2``.

    Parameters
    ----------
    logits : array of shape (batch, n_classes), float32
        Of at least 2 classes.
    y : array of shape (batch,), int32
        Class indices.
    embedding : array of shape (n_classes, dim), float32, default=None
        The vectors that stand for the classes, u_y row y; None is one-hot, the identity.
    weight : float, default=1.0
        Of the loss, at least 0.
    sample_weight : array of shape (batch,), float32, default=None
        At least 0 each; None is 1.
    out : array of shape (batch, n_classes), float32, default=None
        Where the result goes; may be `logits`.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Returns
    -------
    out : ndarray of shape (batch, n_classes), float32
        ``p * (s - sum(p * s))`` with ``s = 2 weight (p @ embedding - u_y) @ embedding.T``, times
        the sample weights. `out` where it was given.

    Raises
    ------
    ValueError, TypeError
        If types, shapes or numbers do not fit, or arrays overlap.

    References
    ----------
    Li, Teh & Pascanu 2025, arXiv:2503.24322, equation 8.

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> logits, y = np.zeros((1, 2), np.float32), np.int32([0])
    >>> bf.kernels.denoising_head(logits, y)
    array([[-0.5,  0.5]], dtype=float32)
    """
    rows = as_f32("logits", logits)
    array = np.empty(rows.shape, np.float32) if out is None else as_f32("out", out)
    _core.denoising_head(
        array,
        rows,
        _labels(y),
        None if embedding is None else as_f32("embedding", embedding),
        None if sample_weight is None else as_f32("sample_weight", sample_weight),
        real("weight", weight, 0),
        _threads(n_threads),
    )
    return array


def noprop_update(
    W: Array,
    b: Array | None,
    h: Array,
    y: Array,
    *,
    learning_rate: float,
    embedding: Array | None = None,
    weight: float = 1.0,
    sample_weight: Array | None = None,
    error: Array | None = None,
    solver: str = "sgd",
    state: Sequence[Array] = (),
    step: int = 1,
    momentum: float = 0.0,
    nesterov: bool = True,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    alpha: float = 0.0,
    weight_decay: float = 0.0,
    n_samples: float | None = None,
    n_threads: int | None = None,
) -> float:
    """Do one step of the last layer of a NoProp block on its denoising loss, in place.

    With ``e = denoising_head(h W + b, y)`` the layer steps along ``h^T e``. What the layers of the
    block below need is `error`: times W^T as it was before, or times fixed feedback
    (`project_feedback`), it is their own.

    Parameters
    ----------
    W : array of shape (n_in, n_classes), float32
        Weights; changed.
    b : array of shape (n_classes,), float32, or None
        Biases; changed. None where the layer has none.
    h : array of shape (batch, n_in), float32
        Inputs of the layer.
    y : array of shape (batch,), int32
        Class indices.
    learning_rate : float
        At least 0.
    embedding, weight, sample_weight
        As in `denoising_head`; `weight` is the step of the signal-to-noise ratio in the paper.
    error : array of shape (batch, n_classes), float32, default=None
        Where e goes, if anywhere.
    solver : {'sgd', 'adam', 'adamw', 'rmsprop'}, default='sgd'
        As in `dense_update`, and so are the parameters from here on.
    state : sequence of arrays, float32, default=()
        What the solver remembers of `W` and `b`; changed.
    step : int, default=1
        Number of this step, from 1.
    momentum : float, default=0.0
        Of 'sgd', in [0, 1).
    nesterov : bool, default=True
        Whether the momentum of 'sgd' is Nesterov's.
    beta_1, beta_2 : float, default=0.9 and 0.999
        Decay of the moments, in [0, 1).
    epsilon : float, default=1e-8
        Added to the root of the second moment, at least 0.
    alpha : float, default=0.0
        L2 penalty, at least 0.
    weight_decay : float, default=0.0
        Decoupled, at least 0.
    n_samples : float, default=None
        What the sums over rows are divided by, above 0; None takes the sum of sample weights.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Returns
    -------
    loss : float
        The mean loss before the step. With `n_samples` given, times the sum of sample weights and
        divided by it, as the gradients are.

    Raises
    ------
    ValueError, TypeError
        If types, shapes or numbers do not fit, or arrays overlap; then nothing was changed.

    References
    ----------
    Li, Teh & Pascanu 2025, arXiv:2503.24322, equation 8.

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> h = bf.kernels.normal(seed=0, n=64 * 8).reshape(64, 8)
    >>> y = (h[:, 0] > 0).astype(np.int32)
    >>> W, b = np.zeros((8, 2), np.float32), np.zeros(2, np.float32)
    >>> losses = [bf.kernels.noprop_update(W, b, h, y, learning_rate=1.0) for _ in range(50)]
    >>> losses[-1] < 0.5 * losses[0]
    True
    """
    return _core.noprop_update(
        as_f32("W", W),
        None if b is None else as_f32("b", b),
        as_f32("h", h),
        _labels(y),
        [as_f32(f"state[{i}]", array) for i, array in enumerate(state)],
        choice("solver", solver, SOLVERS),
        real("learning_rate", learning_rate, 0),
        embedding=None if embedding is None else as_f32("embedding", embedding),
        weight=real("weight", weight, 0),
        sample_weight=None if sample_weight is None else as_f32("sample_weight", sample_weight),
        error=None if error is None else as_f32("error", error),
        **optimizer_keywords(
            step=step,
            momentum=momentum,
            nesterov=nesterov,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            alpha=alpha,
            weight_decay=weight_decay,
            n_samples=n_samples,
        ),
        n_threads=_threads(n_threads),
    )
