# SPDX-License-Identifier: BSD-3-Clause
"""Evolution strategies: networks that learn from fitness alone, without any derivative."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._evolution import EvolutionEstimator
from ._parameters import document
from ._targets import NetworkClassifier, NetworkRegressor
from ._training import Samples

_GENERAL = """\
hidden_layer_sizes : int or sequence of int, default=(64,)
    Units of each hidden layer; empty for a linear model. Small networks learn: see Notes.
activation : {'relu', 'identity', 'leaky_relu', 'tanh', 'logistic', 'sigmoid', 'gelu', 'step', \
'sign'}, default='relu'
    Activation of the hidden layers; 'sigmoid' is 'logistic', 'leaky_relu' has slope 0.01, 'step'
    is 1 where its argument is above 0 and else 0, 'sign' is -1, 0 or 1.
"""

_OWN_PARAMETERS = """\
population_size : int, default=256
    Members of each generation, at least 2; even with `antithetic`. One minibatch is one generation.
std : float, default=0.05
    Standard deviation of the noise that is added to the weights, above 0.
std_decay : float, default=1.0
    What `std` is multiplied by after each epoch, above 0 and at most 1.
perturbation : {'gaussian', 'rademacher', 'low_rank'}, default='gaussian'
    The noise of a layer's weights: normal; random signs; or the sum of `rank` outer products of
    normal vectors, over ``sqrt(rank)``. That of intercepts is normal with 'low_rank' too.
rank : int, default=1
    Outer products of 'low_rank', at least 1.
antithetic : bool, default=True
    Whether members come in pairs, of the same noise with opposite signs.
fitness_shaping : {'centered_rank', 'z_score', 'nes', 'pair', 'top_k', 'group'}, \
        default='centered_rank'
    What becomes of the fitness in the update: its rank, from -1/2 to 1/2, where equals share
    their mean rank; its distance from the mean in standard deviations; the utilities of natural
    evolution strategies, which ignore the worse half; the differences of pairs, over their root
    mean square; the fitness of the `n_top` pairs whose better member is best, in standard
    deviations; or its distance from the mean of its group, in standard deviations of all.
n_top : int, default=None
    Pairs that count in 'top_k', from 1 to all of them, which None is.
group_size : int, default=None
    Members of a group, for 'group': neighbours by number; a divisor of population_size.
fitness : {'loss', 'accuracy'}, default='loss'
    What selects: the mean loss of the minibatch, or the share of right classes. With 'accuracy' the
    losses that are reported are shares of wrong classes.
loss : callable or None, default=None
    A function in place of the network's loss: ``loss(y, output)`` gives one number, the smaller
    the better, and needs no derivative. It is called once for each member and generation, with the
    targets of the minibatch and the member's outputs, {own_loss}. With `sample_weight` in `fit` it
    is called with the weights as a third argument. `output` is valid during the call alone. A loss
    that is not finite counts as the worst.
report_cosine : bool, default=False
    Whether to compare each step's gradient with that of backpropagation, which takes as long as
    backpropagation does.
"""

_CLASSIFIER_LOSS = """\
`y` of shape (n_samples,) with indices into `classes_`, or (n_samples, n_labels) with 0 and 1,
    `output` as `predict_proba` would give it"""
_REGRESSOR_LOSS = """\
`y` and `output` as `fit` takes and `predict` gives them, in the units of y"""

_OWN_ATTRIBUTES = """\
generations_ : ndarray of shape (n_generations,)
    Report of each generation of the last epoch, in a callback of the running one so far. Fields:
    ``fitness_mean``, ``fitness_min``, ``fitness_max``, ``fitness_std`` over the members whose
    fitness (minus the loss, or the accuracy) was finite, ``n_not_finite`` of the others,
    ``gradient_norm`` and, with `report_cosine`, ``cosine``, else NaN. Empty after `load`.
evolution_curve_ : list of dict
    For each epoch the mean of ``fitness_mean``, ``fitness_std``, ``gradient_norm`` and ``cosine``
    (None without `report_cosine`), and the sum of ``n_not_finite``.
"""


@document(
    _OWN_PARAMETERS.replace("{own_loss}", _CLASSIFIER_LOSS), _OWN_ATTRIBUTES, general=_GENERAL
)
class ESClassifier(EvolutionEstimator, NetworkClassifier):
    """Classifier trained by evolution strategies: by the fitness of noisy copies of itself.

    Needs no derivative: hidden layers may be steps, and the loss may be any function of Python's.
    Softmax and cross-entropy for classes unless said otherwise, two outputs for two classes;
    logistic outputs and binary cross-entropy for several labels at once.

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
    bpfree_fast.kernels.perturb : One member of a generation.

    Notes
    -----
    In generation g member i of n has the weights ``theta + std * eps_i``. All members see the same
    minibatch, and their losses become utilities u_i, larger for better members. The gradient
    ``-sum(u_i * eps_i) / (n * std)`` goes to the optimizer [1]_; with 'low_rank' [2]_ too. Noise is
    not stored: it comes from (seed, g, i) when a member is evaluated, and again in the update.
    Members are those of `bpfree_fast.kernels.perturb`, of the shapes of ``coefs_[0]``,
    ``intercepts_[0]``, ``coefs_[1]``, ... with ``seed=seed_``, g counting minibatches from 0.

    With d weights the gradient's angle to the exact one has a cosine of about
    ``sqrt(n / (n + 2 * d))`` (pairs): large networks want large populations. ``loss_`` and
    ``loss_curve_`` are the population's means, above the loss of the network itself.

    Other than in [1]_ the population sees a minibatch, and ranks of equal fitness are equal. Other
    than in [2]_ the gradient is divided by `std`, and goes to Adam by default.

    References
    ----------
    .. [1] T. Salimans, J. Ho, X. Chen, S. Sidor, I. Sutskever, "Evolution strategies as a scalable
       alternative to reinforcement learning", 2017, arXiv:1703.03864, algorithm 2.
    .. [2] B. Sarkar et al., "Evolution strategies at the hyperscale", 2025, arXiv:2511.16652.

    Examples
    --------
    A network of steps, trained to make few mistakes rather than a small cross-entropy:

    >>> import bpfree_fast as bf
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.preprocessing import scale
    >>> X, y = load_iris(return_X_y=True)
    >>> X = scale(X)
    >>> def mistakes(y, output):
    ...     return (output.argmax(axis=1) != y).mean()
    >>> clf = bf.ESClassifier((16,), "step", loss=mistakes, std=0.1, random_state=0)
    >>> bool(clf.fit(X, y).score(X, y) > 0.9)
    True
    """


@document(_OWN_PARAMETERS.replace("{own_loss}", _REGRESSOR_LOSS), _OWN_ATTRIBUTES, general=_GENERAL)
class ESRegressor(EvolutionEstimator, NetworkRegressor):
    """Regressor trained by evolution strategies: by the fitness of noisy copies of itself.

    Needs no derivative: hidden layers may be steps, and the loss may be any function of Python's.
    Squared error unless said otherwise, one output for each column of y.

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
    ESClassifier : Explains the method.
    BackpropRegressor : The baseline, which is better wherever there is a gradient.

    Notes
    -----
    The network learns ``(y - target_mean_) / target_scale_``, and the losses are in these units,
    but for those of a `loss` of the user's, which sees the units of y.

    References
    ----------
    .. [1] T. Salimans, J. Ho, X. Chen, S. Sidor, I. Sutskever, "Evolution strategies as a scalable
       alternative to reinforcement learning", 2017, arXiv:1703.03864, algorithm 2.

    Examples
    --------
    The median of the absolute errors, which one outlier in three leaves cold:

    >>> import bpfree_fast as bf
    >>> import numpy as np
    >>> X = np.linspace(-1, 1, 200)[:, None]
    >>> y = np.where(np.arange(200) % 3, 2 * X[:, 0], 50)
    >>> def median_error(y, output):
    ...     return np.median(np.abs(y - output))
    >>> reg = bf.ESRegressor((), loss=median_error, max_iter=100, random_state=0).fit(X, y)
    >>> bool(np.median(np.abs(reg.predict(X) - 2 * X[:, 0])) < 1)
    True
    """

    def _scale_target(self, samples: Samples, going_on: bool) -> None:
        if self.loss is not None:
            samples.raw = samples.y
        super()._scale_target(samples, going_on)

    def _own_target(self, samples: Samples, rows: NDArray[np.uint32]) -> NDArray[Any]:
        assert samples.raw is not None
        values: NDArray[Any] = samples.raw[rows]
        return values[:, 0] if self.n_outputs_ == 1 else values

    def _own_output(self, output: NDArray[np.float32]) -> NDArray[Any]:
        values: NDArray[np.float64] = output * self.target_scale_ + self.target_mean_
        return values[:, 0] if self.n_outputs_ == 1 else values
