# SPDX-License-Identifier: BSD-3-Clause
"""Single kernels on plain arrays.

Arrays are NumPy arrays or anything that speaks DLPack on the CPU (PyTorch, JAX); they are read and
written where they lie, never copied and never converted. The result goes into `out` where it is
given; otherwise an array is made. The GIL is released, and the result has the same bits for any
number of threads. NaN is no error: it goes where the arithmetic takes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from . import _core
from ._arrays import (
    F32,
    Array,
    DType,
    Floats,
    as_array,
    as_f32,
    dimensions,
    matrix,
    operand,
    product_type,
)
from ._ensemble import ensemble_covariance, ensemble_transform, ensemble_update, ensemble_weights
from ._goodness import forward_forward_update, goodness
from ._local_loss import local_loss_update
from ._low_rank import low_rank_forward
from ._noprop import denoising_head, noprop_update, posterior_coefficients
from ._optimizer import SOLVERS, optimizer_keywords
from ._perturbation import fitness_shaping, perturb, perturbation_gradient
from ._random import normal, random_bits, sign, uniform
from ._validation import ACTIVATIONS, MAX_SEED, choice, flag, integer, real
from ._validation import n_threads as _threads

__all__ = [
    "denoising_head",
    "dense_forward",
    "dense_update",
    "ensemble_covariance",
    "ensemble_transform",
    "ensemble_update",
    "ensemble_weights",
    "feedback_matrix",
    "fitness_shaping",
    "forward_forward_update",
    "goodness",
    "local_loss_update",
    "low_rank_forward",
    "noprop_update",
    "normal",
    "perturb",
    "perturbation_gradient",
    "posterior_coefficients",
    "product",
    "project_feedback",
    "random_bits",
    "sign",
    "uniform",
]

_DISTRIBUTIONS = ("uniform", "normal", "sign")


def product(
    a: Array,
    b: Array,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    dtype: DType | None = None,
    out: Array | None = None,
    n_threads: int | None = None,
) -> Floats:
    """Give the matrix product of two arrays.

    Parameters
    ----------
    a : array of shape (m, k)
        float32, float64, or bfloat16: of the type in `ml_dtypes`, or the bits as uint16 with
        ``dtype='bfloat16'``. C order, or the transpose of an array in C order.
    b : array of shape (k, n)
        Of the same type.
    transpose_a, transpose_b : bool, default=False
        Whether the array is given transposed: `a` as (k, m), `b` as (n, k).
    dtype : {'float32', 'float64', 'bfloat16'}, default=None
        What the arrays hold; None asks the arrays. It never converts.
    out : array of shape (m, n), default=None
        Where the product goes: float64 for float64, else float32. It may not overlap the inputs.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Returns
    -------
    out : ndarray of shape (m, n)
        ``|error| <= (k + 2) u (|a| @ |b|)`` with u = 2**-24, for float64 2**-53. `out` where it
        was given.

    Raises
    ------
    ValueError, TypeError
        If types, shapes or layouts do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> a = np.arange(6, dtype=np.float32).reshape(2, 3)
    >>> bf.kernels.product(a, a, transpose_b=True)
    array([[ 5., 14.],
           [14., 50.]], dtype=float32)
    """
    wanted = None if dtype is None else product_type(dtype)
    left: Any = operand("a", a, wanted)
    right: Any = operand("b", b, wanted)
    transposed_a, transposed_b = flag("transpose_a", transpose_a), flag("transpose_b", transpose_b)
    result: Any
    if out is None:
        if left.ndim != 2 or right.ndim != 2:
            shapes = f"a has {dimensions(left)} and b has {dimensions(right)}"
            raise ValueError(f"{shapes}, but each of them must be a matrix, with 2.")
        shape = (left.shape[int(transposed_a)], right.shape[1 - int(transposed_b)])
        result = np.empty(shape, np.float64 if left.dtype == np.float64 else np.float32)
    else:
        result = as_array("out", out)
    _core.product(left, right, result, transposed_a, transposed_b, _threads(n_threads))
    return cast("Floats", result)


def dense_forward(
    x: Array,
    W: Array,
    b: Array | None = None,
    *,
    activation: str = "identity",
    preactivation: Array | None = None,
    out: Array | None = None,
    n_threads: int | None = None,
) -> F32:
    """Give the output of a dense layer, h = f(x W + b).

    Parameters
    ----------
    x : array of shape (batch, n_in), float32
        Inputs.
    W : array of shape (n_in, n_out), float32
        Weights.
    b : array of shape (n_out,), float32, default=None
        Biases; None adds nothing.
    activation : {'identity', 'relu', 'leaky_relu', 'tanh', 'logistic', 'gelu', 'step', 'sign'}, \
            default='identity'
        The function f. The slope of 'leaky_relu' is 0.01; 'gelu' is the form with erf; 'sigmoid' is
        another name of 'logistic'; 'step' is 1 above 0 and 0 elsewhere, 'sign' is -1, 0 or 1.
    preactivation : array of shape (batch, n_out), float32, default=None
        Gets x W + b. For 'gelu' only: the others have their derivatives from h.
    out : array of shape (batch, n_out), float32, default=None
        Where h goes. It may not overlap the inputs.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Returns
    -------
    out : ndarray of shape (batch, n_out), float32
        A row does not depend on the rows beside it. `out` where it was given.

    Raises
    ------
    ValueError, TypeError
        If types, shapes or layouts do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> x = np.array([[1, 2], [3, 4]], dtype=np.float32)
    >>> W, b = np.eye(2, dtype=np.float32), np.float32([0, -3])
    >>> bf.kernels.dense_forward(x, W, b, activation="relu")
    array([[1., 0.],
           [3., 1.]], dtype=float32)
    """
    kind = choice("activation", activation, ACTIVATIONS)
    rows, weights = as_f32("x", x), as_f32("W", W)
    array = matrix(out, rows, 0, weights, 1)
    _core.dense_forward(
        rows,
        weights,
        None if b is None else as_f32("b", b),
        kind,
        array,
        None if preactivation is None else as_f32("preactivation", preactivation),
        _threads(n_threads),
    )
    return array


def dense_update(
    W: Array,
    b: Array | None,
    x: Array,
    delta: Array,
    *,
    learning_rate: float,
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
) -> None:
    """Do one optimizer step of a dense layer in place.

    The gradients are x^T delta / n_samples and the column sums of delta / n_samples. That of `W` is
    never stored: each tile of the product is stepped on while it is in registers.

    Parameters
    ----------
    W : array of shape (n_in, n_out), float32
        Weights; changed.
    b : array of shape (n_out,), float32, or None
        Biases; changed. None where the layer has none.
    x : array of shape (batch, n_in), float32
        Inputs of the layer.
    delta : array of shape (batch, n_out), float32
        Derivative of the loss by the layer's pre-activation, or what stands in for it.
    learning_rate : float
        At least 0.
    solver : {'sgd', 'adam', 'adamw', 'rmsprop'}, default='sgd'
        'adamw' is 'adam'; what makes it so is `weight_decay`.
    state : sequence of arrays, float32, default=()
        What the solver remembers; changed. For each slot an array of W's shape, then, where there
        is `b`, one of b's; zeros before the first step. 'adam' has two slots (first and second
        moment), 'rmsprop' one, 'sgd' one with momentum, else none.
    step : int, default=1
        Number of this step, from 1: 'adam' corrects its first steps by it.
    momentum : float, default=0.0
        Of 'sgd', in [0, 1).
    nesterov : bool, default=True
        Whether the momentum of 'sgd' is Nesterov's.
    beta_1, beta_2 : float, default=0.9 and 0.999
        Decay of the moments, in [0, 1); 'rmsprop' has the second.
    epsilon : float, default=1e-8
        Added to the root of the second moment, at least 0.
    alpha : float, default=0.0
        L2 penalty: adds alpha W / n_samples to the gradient of `W`; at least 0.
    weight_decay : float, default=0.0
        Decoupled: `W` shrinks by learning_rate * weight_decay; at least 0.
    n_samples : float, default=None
        What the sums are divided by, above 0; None takes the rows of `x`.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Raises
    ------
    ValueError, TypeError
        If types, shapes or numbers do not fit, or arrays overlap; then nothing was changed.

    References
    ----------
    Kingma & Ba 2014, arXiv:1412.6980, algorithm 1; differs: epsilon is outside the corrected root.
    Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> W, b = np.ones((2, 1), np.float32), np.zeros(1, np.float32)
    >>> x, delta = np.float32([[1, 2], [3, 4]]), np.float32([[1], [1]])
    >>> bf.kernels.dense_update(W, b, x, delta, learning_rate=0.5)
    >>> W.ravel(), b
    (array([ 0. , -0.5], dtype=float32), array([-0.5], dtype=float32))
    """
    _core.dense_update(
        as_f32("W", W),
        None if b is None else as_f32("b", b),
        as_f32("x", x),
        as_f32("delta", delta),
        [as_f32(f"state[{i}]", array) for i, array in enumerate(state)],
        choice("solver", solver, SOLVERS),
        real("learning_rate", learning_rate, 0),
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


def feedback_matrix(
    n_outputs: int,
    n_hidden: int,
    *,
    seed: int,
    layer: int = 0,
    distribution: str = "uniform",
    scale: float = 1.0,
    out: Array | None = None,
    n_threads: int | None = None,
) -> F32:
    """Give the fixed random matrix that carries the output error to a hidden layer.

    `DFAClassifier` with ``random_state=seed`` has the same in ``feedback_[layer]``.

    Parameters
    ----------
    n_outputs : int
        Rows, at least 0.
    n_hidden : int
        Columns, at least 0.
    seed : int
        From 0 to 2**64 - 1.
    layer : int, default=0
        Which hidden layer, from 0; below 2**24.
    distribution : {'uniform', 'normal', 'sign'}, default='uniform'
        Uniform within +-scale / sqrt(n_outputs), normal with that deviation, or one of the two
        values.
    scale : float, default=1.0
        At least 0.
    out : array of shape (n_outputs, n_hidden), float32, default=None
        Where the matrix goes.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Returns
    -------
    out : ndarray of shape (n_outputs, n_hidden), float32
        `out` where it was given.

    Raises
    ------
    ValueError, TypeError
        If a number is out of range, or `out` does not fit.

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> bf.kernels.feedback_matrix(10, 256, seed=0).shape
    (10, 256)
    """
    shape = (integer("n_outputs", n_outputs, 0), integer("n_hidden", n_hidden, 0))
    source = _feedback_source(seed, layer, distribution, scale)
    array = np.empty(shape, np.float32) if out is None else as_f32("out", out)
    if array.shape != shape:
        raise ValueError(f"out has shape {array.shape}, expected {shape}.")
    _core.feedback_matrix(array, *source, _threads(n_threads))
    return array


def project_feedback(
    e: Array,
    n_hidden: int,
    *,
    seed: int | None = None,
    layer: int = 0,
    distribution: str = "uniform",
    scale: float = 1.0,
    feedback: Array | None = None,
    h: Array | None = None,
    activation: str | None = None,
    out: Array | None = None,
    n_threads: int | None = None,
) -> F32:
    """Project the output error to a hidden layer: delta = (e B) * f'(a).

    Parameters
    ----------
    e : array of shape (batch, n_outputs), float32
        Output error: prediction minus target.
    n_hidden : int
        Units of the hidden layer, at least 0.
    seed : int, default=None
        Makes B, as `feedback_matrix` does with `layer`, `distribution` and `scale`, but where it is
        used: it is never stored. Either this or `feedback`.
    layer : int, default=0
        Which hidden layer, from 0; below 2**24.
    distribution : {'uniform', 'normal', 'sign'}, default='uniform'
        Of B.
    scale : float, default=1.0
        Of B, at least 0.
    feedback : array of shape (n_outputs, n_hidden), float32, default=None
        B itself.
    h : array of shape (batch, n_hidden), float32, default=None
        Output of the hidden layer; for 'gelu' its pre-activation a.
    activation : str, default=None
        The layer's f, as in `dense_forward`; 'step' and 'sign' have no derivative and are refused.
        None multiplies by nothing.
    out : array of shape (batch, n_hidden), float32, default=None
        Where delta goes. It may not overlap the inputs.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Returns
    -------
    out : ndarray of shape (batch, n_hidden), float32
        `out` where it was given.

    Raises
    ------
    ValueError, TypeError
        If types, shapes or numbers do not fit.

    References
    ----------
    Nøkland 2016, arXiv:1609.01596, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> e = np.float32([[0.5, -0.5]])
    >>> B = bf.kernels.feedback_matrix(2, 4, seed=3)
    >>> bool(np.allclose(bf.kernels.project_feedback(e, 4, seed=3), e @ B))
    True
    """
    units = integer("n_hidden", n_hidden, 0)
    if (seed is None) == (feedback is None):
        given = "neither of them" if seed is None else "both"
        raise ValueError(f"project_feedback takes a seed or a feedback matrix, got {given}.")
    if h is not None and activation is None:
        raise ValueError("h was given without activation, which says how its derivative is made.")
    kind = "identity" if activation is None else choice("activation", activation, ACTIVATIONS)
    source = _feedback_source(0 if seed is None else seed, layer, distribution, scale)
    error = as_f32("e", e)
    if out is None:
        array = np.empty((error.shape[0] if error.ndim else 0, units), np.float32)
    else:
        array = as_f32("out", out)
        if array.ndim == 2 and array.shape[1] != units:
            raise ValueError(f"out has {array.shape[1]} columns, but n_hidden is {units}.")
    fixed = None if feedback is None else as_f32("feedback", feedback)
    outputs = None if h is None else as_f32("h", h)
    _core.project_feedback(error, array, fixed, *source, outputs, kind, _threads(n_threads))
    return array


def _feedback_source(
    seed: int, layer: int, distribution: str, scale: float
) -> tuple[int, int, str, float]:
    return (
        integer("seed", seed, 0, MAX_SEED),
        integer("layer", layer, 0, 2**24 - 1),
        choice("distribution", distribution, _DISTRIBUTIONS),
        real("scale", scale, 0),
    )
