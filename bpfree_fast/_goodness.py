# SPDX-License-Identifier: BSD-3-Clause
"""Forward-Forward's kernels on plain arrays; public in `kernels`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import _core
from ._arrays import F32, Array, as_f32
from ._optimizer import SOLVERS, optimizer_keywords
from ._validation import choice, integer, real
from ._validation import n_threads as _threads

_KINDS = ("sum", "mean")
_LOSSES = ("logistic", "symba")


def goodness(
    h: Array,
    *,
    kind: str = "sum",
    row_factor: Array | None = None,
    out: Array | None = None,
    n_threads: int | None = None,
) -> F32:
    """Give the goodness of each row: the sum, or the mean, of its squares.

    Parameters
    ----------
    h : array of shape (batch, n), float32
        Output of a layer.
    kind : {'sum', 'mean'}, default='sum'
        Which of them.
    row_factor : array of shape (batch,), float32, default=None
        Gets ``1 / sqrt(mean of squares + 1e-8)``, by which the row has unit mean square: what
        Forward-Forward hides its goodness from the next layer with. NaN where the sum of squares
        is beyond float32.
    out : array of shape (batch,), float32, default=None
        Where the goodness goes. It may not overlap the others.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Returns
    -------
    out : ndarray of shape (batch,), float32
        A row does not depend on the rows beside it. `out` where it was given.

    Raises
    ------
    ValueError, TypeError
        If types, shapes or layouts do not fit, or arrays overlap.

    References
    ----------
    Hinton 2022, arXiv:2212.13345, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> bf.kernels.goodness(np.float32([[3, 4], [0, 1]]))
    array([25.,  1.], dtype=float32)
    """
    rows = as_f32("h", h)
    array = np.empty(rows.shape[:1], np.float32) if out is None else as_f32("out", out)
    _core.goodness(
        rows,
        array,
        choice("kind", kind, _KINDS),
        None if row_factor is None else as_f32("row_factor", row_factor),
        _threads(n_threads),
    )
    return array


def forward_forward_update(
    W: Array,
    b: Array | None,
    x: Array,
    n_positive: int,
    *,
    learning_rate: float,
    goodness: str = "sum",
    goodness_loss: str = "logistic",
    threshold: float | None = None,
    temperature: float = 1.0,
    symba_scale: float = 4.0,
    h_out: Array | None = None,
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
    """Do one Forward-Forward step of a layer in place.

    With ``r = 1 / sqrt(mean of a row's squares + 1e-8)``, ``h = relu(r (x W) + b)`` and its
    goodness g, delta is the derivative of the row's loss by h; `W` and `b` step along
    ``(r x)^T delta / n_samples`` and the column sums of ``delta / n_samples``. Neither the
    normalised rows nor delta nor the gradient of `W` is ever stored.

    Parameters
    ----------
    W : array of shape (n_in, n_out), float32
        Weights; changed.
    b : array of shape (n_out,), float32, or None
        Biases; changed. None where the layer has none.
    x : array of shape (batch, n_in), float32
        Inputs of the layer as they are, data first, then wrong data; they are normalised here.
    n_positive : int
        How many rows are data, from 0 to batch.
    learning_rate : float
        At least 0.
    goodness : {'sum', 'mean'}, default='sum'
        Sum or mean of the squares of a row of h.
    goodness_loss : {'logistic', 'symba'}, default='logistic'
        'logistic': softplus(-z) for data and softplus(z) for wrong data, with
        z = (g - threshold) / temperature. 'symba': softplus(-symba_scale (g - g')) of row i and
        row n_positive + i, of which there must be as many.
    threshold : float, default=None
        At least 0; None is the goodness of mean square 1: n_out for the sum, 1 for the mean.
    temperature : float, default=1.0
        Above 0.
    symba_scale : float, default=4.0
        At least 0.
    h_out : array of shape (batch, n_out), float32, default=None
        Gets h as it was before the step: the next layer's `x`.
    solver : {'sgd', 'adam', 'adamw', 'rmsprop'}, default='sgd'
        As in `dense_update`, and so are the parameters from here on.
    state : sequence of arrays, float32, default=()
        What the solver remembers; changed.
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
        What the sums are divided by, above 0; None takes `n_positive`, or without data the rows of
        `x`.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Returns
    -------
    loss : float
        Sum of the rows' losses before the step, divided by `n_samples`.

    Raises
    ------
    ValueError, TypeError
        If types, shapes or numbers do not fit, or arrays overlap; then nothing was changed.

    References
    ----------
    Hinton 2022, arXiv:2212.13345, section 2; differs: the derivative of the squares keeps its 2.
    Lee & Song 2023, arXiv:2303.08418 ('symba').

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> W, b = np.eye(2, dtype=np.float32), np.zeros(2, np.float32)
    >>> x = np.float32([[1, 0], [0, 1]])
    >>> losses = [
    ...     bf.kernels.forward_forward_update(W, b, x, 1, learning_rate=0.1) for _ in range(20)
    ... ]
    >>> losses[-1] < 0.5 * losses[0]
    True
    """
    weights, rows = as_f32("W", W), as_f32("x", x)
    return _core.forward_forward_update(
        weights,
        None if b is None else as_f32("b", b),
        rows,
        integer("n_positive", n_positive, 0, rows.shape[0] if rows.ndim else 0),
        [as_f32(f"state[{i}]", array) for i, array in enumerate(state)],
        choice("solver", solver, SOLVERS),
        real("learning_rate", learning_rate, 0),
        goodness=choice("goodness", goodness, _KINDS),
        goodness_loss=choice("goodness_loss", goodness_loss, _LOSSES),
        threshold=None if threshold is None else real("threshold", threshold, 0),
        temperature=real("temperature", temperature, 0, open_low=True),
        symba_scale=real("symba_scale", symba_scale, 0),
        h=None if h_out is None else as_f32("h_out", h_out),
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
