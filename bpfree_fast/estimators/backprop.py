# SPDX-License-Identifier: BSD-3-Clause
"""Backpropagation, the baseline that every other method is compared with."""

from __future__ import annotations

from typing import ClassVar

from ._parameters import document
from ._targets import NetworkClassifier, NetworkRegressor


@document()
class BackpropClassifier(NetworkClassifier):
    """Classifier trained by backpropagation: the baseline, on the same kernels.

    Softmax and cross-entropy for classes, two outputs for two classes; logistic outputs and binary
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
    DFAClassifier : The same network without backpropagation.

    Notes
    -----
    Names mean what they mean in scikit-learn's ``MLPClassifier``. Other than there, `max_iter` is
    20 with a cosine schedule, and a fit with ``warm_start=True`` counts epochs from the first one.
    ``coefs_`` and ``intercepts_`` give read-only copies; assign a whole list to set them.

    References
    ----------
    .. [1] D. E. Rumelhart, G. E. Hinton, R. J. Williams, "Learning representations by
       back-propagating errors", Nature 323, 1986.
    .. [2] D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", 2015,
       arXiv:1412.6980, algorithm 1; here the bias of both moments is in the learning rate.

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = bf.BackpropClassifier(random_state=0).fit(X / 16, y)
    >>> bool(clf.score(X / 16, y) > 0.9)
    True
    """

    method: ClassVar[str] = "backprop"
    _core_method: ClassVar[str] = "backprop"


@document()
class BackpropRegressor(NetworkRegressor):
    """Regressor trained by backpropagation: the baseline, on the same kernels.

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
    DFARegressor : The same network without backpropagation.

    Notes
    -----
    The network learns ``(y - target_mean_) / target_scale_``, and the losses are in these units:
    with Adam the weights move by about the learning rate each step, whatever the size of y.

    References
    ----------
    .. [1] D. E. Rumelhart, G. E. Hinton, R. J. Williams, "Learning representations by
       back-propagating errors", Nature 323, 1986.

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> X, y = load_diabetes(return_X_y=True)
    >>> X = scale(X)
    >>> reg = bf.BackpropRegressor(random_state=0).fit(X, y)
    >>> bool(reg.score(X, y) > 0.4)
    True
    """

    method: ClassVar[str] = "backprop"
    _core_method: ClassVar[str] = "backprop"
