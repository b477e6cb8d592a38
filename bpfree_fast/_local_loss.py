# SPDX-License-Identifier: BSD-3-Clause
"""A layer's step on a loss of its own, on plain arrays; public in `kernels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._arrays import Array, as_array, as_f32
from ._optimizer import SOLVERS, optimizer_keywords
from ._validation import ACTIVATIONS, choice, integer, real
from ._validation import n_threads as _threads

_LOSSES = ("softmax_cross_entropy", "binary_cross_entropy", "squared_error")
_LOCAL_LOSSES = ("pred", "sim", "predsim")


def local_loss_update(
    W: Array,
    b: Array | None,
    head_W: Array | None,
    head_b: Array | None,
    x: Array,
    h: Array,
    y: Array,
    *,
    learning_rate: float,
    loss: str = "softmax_cross_entropy",
    local_loss: str = "pred",
    similarity_weight: float = 0.99,
    activation: str = "relu",
    preactivation: Array | None = None,
    sample_weight: Array | None = None,
    n_outputs: int | None = None,
    solver: str = "sgd",
    state: Sequence[Array] = (),
    head_state: Sequence[Array] = (),
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
    """Do one step of a layer and its head on a loss of their own, in place.

    No error comes from the layers above. With ``e`` the derivative of the loss by the logits
    ``h head_W + head_b``, and v the similarity's share, the layer steps along the derivative of
    ``(1 - v) loss + v similarity`` by its pre-activation, as it is with the head before the step;
    the head steps along ``(1 - v) h^T e``. Denormals count as zero, as in training.

    Parameters
    ----------
    W : array of shape (n_in, n_out), float32
        Weights; changed.
    b : array of shape (n_out,), float32, or None
        Biases; changed. None where the layer has none.
    head_W : array of shape (n_out, n_outputs), float32, or None
        Weights of the head; changed. None only with 'sim'.
    head_b : array of shape (n_outputs,), float32, or None
        Biases of the head; changed. None where it has none.
    x : array of shape (batch, n_in), float32
        Inputs of the layer.
    h : array of shape (batch, n_out), float32
        Outputs of the layer, from `dense_forward`.
    y : array of shape (batch,), int32, or of shape (batch, n_outputs), float32
        Class indices for 'softmax_cross_entropy', else targets.
    learning_rate : float
        At least 0.
    loss : {'softmax_cross_entropy', 'binary_cross_entropy', 'squared_error'}, \
default='softmax_cross_entropy'
        Of the head's logits, summed over outputs; 'squared_error' is half the sum of squares.
    local_loss : {'pred', 'sim', 'predsim'}, default='pred'
        'pred', v = 0: the head's loss. 'sim', v = 1: the mean squared difference between the
        cosines of the rows of `h`, each without its mean, and those of the targets; a head then
        learns from its own loss and teaches no layer. 'predsim': v = `similarity_weight`. The
        similarity wants n_outputs of at least 2.
    similarity_weight : float, default=0.99
        From 0 to 1; for 'predsim'.
    activation : {'identity', 'relu', 'leaky_relu', 'tanh', 'logistic', 'gelu'}, default='relu'
        The layer's, as in `dense_forward`.
    preactivation : array of shape (batch, n_out), float32, default=None
        For 'gelu': what `dense_forward` wrote there.
    sample_weight : array of shape (batch,), float32, default=None
        At least 0 each; a pair of rows weighs their product. None is 1.
    n_outputs : int, default=None
        How many classes; needed where there is no head and `y` holds class indices.
    solver : {'sgd', 'adam', 'adamw', 'rmsprop'}, default='sgd'
        As in `dense_update`, and so are the parameters from here on, for layer and head.
    state, head_state : sequence of arrays, float32, default=()
        What the solver remembers of `W` and `b`, and of `head_W` and `head_b`; changed.
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
        The local loss before the step: a mean over rows, or over pairs of them; with 'sim' without
        the head's own. With `n_samples` given, times the sum of sample weights and divided by it,
        as the gradients are.

    Raises
    ------
    ValueError, TypeError
        If types, shapes or numbers do not fit, or arrays overlap; then nothing was changed.

    References
    ----------
    Nøkland & Eidnes 2019, arXiv:1901.06656, section 2; differs: no map before the similarity, and
    a row of equal numbers has cosines of 0 and gets nothing back. 'pred' alone is also
    Mono-Forward.

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> x = bf.kernels.normal(seed=0, n=64 * 8).reshape(64, 8)
    >>> y = (x[:, 0] > 0).astype(np.int32)
    >>> W, b = bf.kernels.normal(seed=1, n=8 * 16).reshape(8, 16) / 4, np.zeros(16, np.float32)
    >>> M, c = np.zeros((16, 2), np.float32), np.zeros(2, np.float32)
    >>> losses = []
    >>> for _ in range(50):
    ...     h = bf.kernels.dense_forward(x, W, b, activation="relu")
    ...     loss = bf.kernels.local_loss_update(W, b, M, c, x, h, y, learning_rate=0.5)
    ...     losses.append(loss)
    >>> losses[-1] < 0.5 * losses[0]
    True
    """
    return _core.local_loss_update(
        as_f32("W", W),
        None if b is None else as_f32("b", b),
        None if head_W is None else as_f32("head_W", head_W),
        None if head_b is None else as_f32("head_b", head_b),
        as_f32("x", x),
        as_f32("h", h),
        cast("NDArray[np.int32] | NDArray[np.float32]", as_array("y", y)),
        [as_f32(f"state[{i}]", array) for i, array in enumerate(state)],
        [as_f32(f"head_state[{i}]", array) for i, array in enumerate(head_state)],
        choice("solver", solver, SOLVERS),
        real("learning_rate", learning_rate, 0),
        loss=choice("loss", loss, _LOSSES),
        local_loss=choice("local_loss", local_loss, _LOCAL_LOSSES),
        similarity_weight=real("similarity_weight", similarity_weight, 0, 1),
        activation=choice("activation", activation, ACTIVATIONS),
        preactivation=None if preactivation is None else as_f32("preactivation", preactivation),
        sample_weight=None if sample_weight is None else as_f32("sample_weight", sample_weight),
        n_outputs=None if n_outputs is None else integer("n_outputs", n_outputs, 1),
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
