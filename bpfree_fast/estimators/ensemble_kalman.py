# SPDX-License-Identifier: BSD-3-Clause
"""Ensemble Kalman methods: networks that learn from how the outputs of an ensemble co-vary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .. import _validation as check
from ._base import RandomState
from ._ensemble_kalman import CURVATURES, LOSSES, EnsembleKalmanEstimator
from ._parameters import document
from ._progress import TrainingInfo
from ._targets import NetworkClassifier, NetworkRegressor

_GENERAL = """\
hidden_layer_sizes : int or sequence of int, default=(64,)
    Units of each hidden layer; empty for a linear model. Small networks learn: see Notes.
activation : {'relu', 'identity', 'leaky_relu', 'tanh', 'logistic', 'sigmoid', 'gelu', 'step', \
'sign'}, default='relu'
    Activation of the hidden layers; 'sigmoid' is 'logistic', 'leaky_relu' has slope 0.01, 'step'
    is 1 where its argument is above 0 and else 0, 'sign' is -1, 0 or 1.
"""

_LOSS = """\
loss : {'cross_entropy', 'squared_error'}, default='cross_entropy'
    What is minimised: the network's own loss, by its derivative at the members' outputs; or half
    the squared error of the probabilities.
curvature : {'bound', 'gauss_newton'}, default='bound'
    What is taken for the second derivative of 'cross_entropy': a matrix that it nowhere exceeds
    [3]_, or its value at the mean of the members' outputs, which is smaller, so that steps go
    farther and those of a large `dt` diverge.
"""

_OWN_PARAMETERS = """\
n_ens : int, default=256
    Members of the ensemble, at least 2. One minibatch, the same for all, is one iteration.
update : {'eki', 'etki', 'denkf', 'enkf'}, default='eki'
    How a kept ensemble moves: each member by its own residual; the mean, and the others by a square
    root; the mean, and the others by half the gain; as 'eki' with noise on what is observed, for
    squared errors alone. With `redraw_spread` it is 'eki', and means the mean.
dt : float or None, default=None
    Length of a step, above 0: the first one, of which `learning_rate` is the schedule (`step_size`
    counts its epochs). None is {steps}.
    Steps are implicit, so that with redrawn members long ones are safe; a kept ensemble shrinks by
    them, and wants some 1 or less.
obs_noise_var : float, default=1.0
    Variance of what is observed about each output of a sample, above 0; the loss is divided by it.
    Twice as much is half of `dt`, but for the noise of 'enkf'.
redraw_spread : float, default=0.1
    Members are redrawn in each iteration around their mean, and never stored: the standard
    deviation of a layer's weights and intercepts is this over ``sqrt(n_in)``. What is minimised is
    the members' mean loss, not the network's: a large spread smooths what is learnt, and unscaled
    columns of X multiply it. 0 keeps the ensemble, and moves all of it.
init_spread : float, default=1.0
    The same of the first members of a kept ensemble, above 0. It counts where members are drawn:
    in the first `fit`, when their number changes, or after a model was saved without them.
"""

_OWN_ATTRIBUTES = """\
iterations_ : ndarray of shape (n_iterations,)
    Report of each iteration of the last epoch, in a callback of the running one so far. Fields:
    ``misfit_mean``, ``misfit_min``, ``misfit_max`` of the members' losses on the minibatch,
    ``spread``, the root mean square of what their outputs (logits with 'cross_entropy') differ by
    from their mean, ``dt`` and ``effective_rank``, the directions that the outputs spread in:
    ``trace(S) ** 2 / trace(S @ S)`` for their covariance S; ``n_failed``, the members whose outputs
    are not finite, which have no part in all this. Empty after `load`.
kalman_curve_ : list of dict
    For each epoch the mean of ``misfit_mean``, ``spread``, ``dt`` and ``effective_rank``, and the
    sum of ``n_failed``.
"""

_WITHOUT = (
    "solver", "alpha", "learning_rate_init", "momentum", "nesterovs_momentum", "beta_1", "epsilon",
    "weight_decay",
)  # fmt: skip


def _parameters(steps: str) -> str:
    """Say what the first step is where none is given."""
    return _OWN_PARAMETERS.replace("{steps}", steps)


@document(
    _parameters("100 with redrawn members, or 10 by 'gauss_newton', and 1 with kept ones") + _LOSS,
    _OWN_ATTRIBUTES,
    general=_GENERAL,
    without=_WITHOUT,
)
class EnKFClassifier(EnsembleKalmanEstimator, NetworkClassifier):
    """Classifier trained by ensemble Kalman inversion: the mean of an ensemble of networks.

    Needs no derivative of the network: hidden layers may be steps. Softmax and cross-entropy for
    classes unless said otherwise, two outputs for two classes; logistic outputs and binary
    cross-entropy for several labels at once.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels, sorted.
    {attributes}

    See Also
    --------
    BackpropClassifier : The baseline, which is better wherever there is a gradient.
    ESClassifier : A population whose members count by rank alone.
    EnsembleKalman : Any forward model. Its `method` is `update` here; its `redraw_std` is not
        divided by ``sqrt(n_in)``, and its `dt` may follow a rule.
    bpfree_fast.kernels.ensemble_update : One update of an ensemble.

    Notes
    -----
    With the members theta_j, their outputs g_j on the minibatch (logits, all samples in a row) and
    what these differ by from their means, A_j and Y_j, an iteration is ``theta_j += sum_k(T[j, k] *
    A_k)``, with ``T.T = dt / (n - 1) * solve(I + dt / (n - 1) * Y @ H @ Y.T, Y @ R.T)``. R_j is
    minus the derivative of the loss by g_j, and H the loss's second derivative or its bound [3]_,
    both over `obs_noise_var`: a damped Newton step in the span of the ensemble. For a squared error
    this is ensemble Kalman inversion [1]_.

    A kept ensemble never leaves the span of its first members, and shrinks: with many more weights
    than members its accuracy is bounded by that. Members redrawn around their mean explore new
    directions in every iteration [2]_; of them the mean alone is moved, by ``sum_k(w_k * A_k)``
    with w the mean of T's rows, less its own mean. Noise is not stored, but drawn again from
    (seed, iteration, member).
    ``loss_`` and ``loss_curve_`` are the members' means, above the loss of the network itself.

    Other than in [2]_ members are redrawn in every iteration, and steps are implicit.

    X is best scaled to columns of mean 0 and deviation 1, or to values from 0 to 1: the outputs of
    members differ by as much as X is large. Redrawn members whose outputs are not finite are left
    out of an iteration, and the first epoch with some ends with a RuntimeWarning; training fails
    where fewer than two remain, and in a kept ensemble with the first one.

    References
    ----------
    .. [1] M. A. Iglesias, K. J. H. Law, A. M. Stuart, "Ensemble Kalman methods for inverse
       problems", Inverse Problems 29, 2013, arXiv:1209.2736.
    .. [2] N. B. Kovachki, A. M. Stuart, "Ensemble Kalman inversion: a derivative-free technique for
       machine learning tasks", Inverse Problems 35, 2019, arXiv:1808.03620.
    .. [3] D. Böhning, "Multinomial logistic regression algorithm", Annals of the Institute of
       Statistical Mathematics 44, 1992.

    Examples
    --------
    A network of steps, which has no derivative:

    >>> import bpfree_fast as bf
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = bf.EnKFClassifier((32,), "step", random_state=0).fit(X / 16, y)
    >>> bool(clf.score(X / 16, y) > 0.9)
    True
    """

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (64,),
        activation: str = "relu",
        *,
        n_ens: int = 256,
        update: str = "eki",
        dt: float | None = None,
        obs_noise_var: float = 1.0,
        redraw_spread: float = 0.1,
        init_spread: float = 1.0,
        loss: str = "cross_entropy",
        curvature: str = "bound",
        batch_size: int = 128,
        learning_rate: str = "cosine",
        power_t: float = 0.5,
        step_size: int = 10,
        gamma: float = 0.1,
        max_iter: int = 20,
        shuffle: bool = True,
        random_state: RandomState = None,
        tol: float = 1e-4,
        verbose: bool | int = 0,
        warm_start: bool = False,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        initializer: str = "uniform",
        input_scale: str | float | None = "auto",
        dtype: str = "float32",
        n_threads: int | None = None,
        callback: Callable[[TrainingInfo], bool | None] | None = None,
    ) -> None:
        super().__init__(
            hidden_layer_sizes,
            activation,
            n_ens=n_ens,
            update=update,
            dt=dt,
            obs_noise_var=obs_noise_var,
            redraw_spread=redraw_spread,
            init_spread=init_spread,
            batch_size=batch_size,
            learning_rate=learning_rate,
            power_t=power_t,
            step_size=step_size,
            gamma=gamma,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            initializer=initializer,
            input_scale=input_scale,
            dtype=dtype,
            n_threads=n_threads,
            callback=callback,
        )
        self.loss = loss
        self.curvature = curvature

    def _squares_errors(self) -> bool:
        if not isinstance(self.loss, str):
            raise TypeError(f"loss must be a word, got {self.loss!r}.")
        return check.choice("loss", self.loss, LOSSES) == "squared_error"

    def _newton(self) -> bool:
        return check.choice("curvature", self.curvature, CURVATURES) == "gauss_newton"

    def _redrawn_step(self) -> float:
        return 10.0 if self._newton() and not self._squares_errors() else 100.0

    def _method_options(self) -> dict[str, Any]:
        return {**super()._method_options(), "gauss_newton": self._newton()}


@document(
    _parameters("30 with redrawn members, and 1 with kept ones"),
    _OWN_ATTRIBUTES,
    general=_GENERAL,
    without=_WITHOUT,
)
class EnKFRegressor(EnsembleKalmanEstimator, NetworkRegressor):
    """Regressor trained by ensemble Kalman inversion: the mean of an ensemble of networks.

    Needs no derivative of the network: hidden layers may be steps. Squared error, one output for
    each column of y.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    target_mean_, target_scale_ : ndarray of shape (n_outputs,)
        Mean and standard deviation of y in the first fit.
    {attributes}

    See Also
    --------
    EnKFClassifier : Explains the method.
    BackpropRegressor : The baseline, which is better wherever there is a gradient.

    Notes
    -----
    The network learns ``(y - target_mean_) / target_scale_``; the losses, and `obs_noise_var`, are
    in these units. X is best scaled to columns of deviation 1.

    References
    ----------
    .. [1] M. A. Iglesias, K. J. H. Law, A. M. Stuart, "Ensemble Kalman methods for inverse
       problems", Inverse Problems 29, 2013, arXiv:1209.2736.

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> X, y = load_diabetes(return_X_y=True)
    >>> X = scale(X)
    >>> reg = bf.EnKFRegressor(random_state=0).fit(X[:300], y[:300])
    >>> bool(reg.score(X[300:], y[300:]) > 0.4)
    True
    """

    def _redrawn_step(self) -> float:
        return 30.0
