# SPDX-License-Identifier: BSD-3-Clause
"""Local losses: every hidden layer learns from a loss of its own."""

from __future__ import annotations

from ._local_loss import LocalLossEstimator
from ._parameters import document
from ._targets import NetworkClassifier, NetworkRegressor

_GENERAL = """\
hidden_layer_sizes : int or sequence of int, default=(256, 256)
    Units of each hidden layer; at least one layer.
activation : {'relu', 'identity', 'leaky_relu', 'tanh', 'logistic', 'sigmoid', 'gelu'}, \
default='relu'
    Activation of the hidden layers; 'sigmoid' is 'logistic', 'leaky_relu' has slope 0.01.
"""

_OWN_PARAMETERS = """\
local_loss : {'pred', 'sim', 'predsim'}, default='pred'
    What a hidden layer learns from: the error of a small head of its own; how far the
    similarities between its rows are from those between their targets; or both. The latter two
    need at least two outputs.
similarity_weight : float, default=0.99
    Share of the similarity in 'predsim', from 0 to 1; the prediction has the rest.
sim_projection : bool, default=False
    Whether the similarity is that of a learned linear map of the layer's outputs, as in the paper,
    or of the outputs themselves. The map costs about one and a half times what the layer does, and
    a step takes about three times as long.
predict_with : {'last', 'sum'}, default='last'
    Predict by the head of the last layer alone, which with `coefs_` is a plain network; or by the
    sum of all heads' logits (of a regressor, by the mean of their values).
schedule : {'simultaneous', 'greedy'}, default='simultaneous'
    Whether all layers learn in every step; or one after the other, each for `max_iter` epochs with
    its own run of the learning rate. `n_iter_` counts them all.
cache_inputs : bool, default=True
    Of greedy training: whether to keep what the layer that learns reads, `n_samples` times the
    units of the layer below, instead of computing it again in every step. The result is the same.
batch_normalization : bool, default=False
    Whether to normalise every hidden unit over the minibatch, before its activation. Sample weights
    enter its statistics. Prediction uses running ones.
dropout : float, default=0.0
    Share of a hidden layer's outputs that the next layer does not see in training, from 0 and
    below 1. The layer's own loss sees all of them.
"""

_OWN_ATTRIBUTES = """\
coefs_, intercepts_ : list of ndarray
    Weights and intercepts of the hidden layers and of the last one's head: a plain network, which
    with `batch_normalization` also needs the ``norm_`` arrays.
head_coefs_, head_intercepts_ : list of ndarray
    Weights and intercepts of each hidden layer's head; with 'sim' the last layer alone has one.
projection_coefs_ : list of ndarray of shape (n, n)
    The maps of `sim_projection`, of each hidden layer.
norm_gains_, norm_shifts_, norm_means_, norm_variances_ : list of ndarray
    With `batch_normalization`, of each hidden layer: what it learns, and the running statistics.
"""


@document(_OWN_PARAMETERS, _OWN_ATTRIBUTES, general=_GENERAL, initializer="he_uniform")
class LocalLossClassifier(LocalLossEstimator, NetworkClassifier):
    """Classifier whose hidden layers learn from losses of their own, all at the same time.

    No error travels between layers. Softmax and cross-entropy for classes, two outputs for two
    classes; logistic outputs and binary cross-entropy for several labels at once.

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
    DFAClassifier : Sends the output error to the hidden layers directly.
    BackpropClassifier : The baseline, with the same network parameters.

    Notes
    -----
    With h the output of a hidden layer, M and c its head, and e the head's error, prediction minus
    target, 'pred' has ``delta = (e M^T) * f'`` [1]_ [2]_. 'sim' is the mean of ``(R - T) ** 2``
    over pairs of rows, R the cosines between the rows of h, each minus its own mean, and T those
    between their targets; the last layer's head then learns beside, and teaches no layer. 'predsim'
    is ``(1 - similarity_weight) * pred + similarity_weight * sim``. Heads begin at 0. The losses
    that are reported are sums over layers.

    Within a layer and its head the gradient is exact; see the page on local losses for what that
    means. Other than in the papers there are no convolutions, and `sim_projection` is off by
    default. Rows of one minibatch are compared: 'sim' wants minibatches with several rows of each
    class. `initializer` is 'he_uniform' because the layers must bring enough to their heads, which
    begin at 0: 'uniform' learns less in the same time.

    References
    ----------
    .. [1] A. Nøkland, L. H. Eidnes, "Training neural networks with local error signals", 2019,
       arXiv:1901.06656, section 2.
    .. [2] J. Gong et al., "Mono-Forward: backpropagation-free algorithm for efficient neural
       network training harnessing local errors", 2025, arXiv:2501.09238 ('pred').

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = bf.LocalLossClassifier(random_state=0).fit(X / 16, y)
    >>> bool(clf.score(X / 16, y) > 0.9)
    True
    """


@document(_OWN_PARAMETERS, _OWN_ATTRIBUTES, general=_GENERAL, initializer="he_uniform")
class LocalLossRegressor(LocalLossEstimator, NetworkRegressor):
    """Regressor whose hidden layers learn from losses of their own, all at the same time.

    Squared error, one output for each column of y.

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
    LocalLossClassifier : Explains the losses.
    BackpropRegressor : The baseline, with the same network parameters.

    Notes
    -----
    The network learns ``(y - target_mean_) / target_scale_``, and the losses are in these units.
    'sim' compares the rows of y by their cosines, each minus its own mean: it wants several columns
    that belong together.

    References
    ----------
    .. [1] A. Nøkland, L. H. Eidnes, "Training neural networks with local error signals", 2019,
       arXiv:1901.06656, section 2.

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> X, y = load_diabetes(return_X_y=True)
    >>> X = scale(X)
    >>> reg = bf.LocalLossRegressor(random_state=0).fit(X, y)
    >>> bool(reg.score(X, y) > 0.4)
    True
    """
