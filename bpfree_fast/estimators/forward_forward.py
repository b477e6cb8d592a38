# SPDX-License-Identifier: BSD-3-Clause
"""Forward-Forward: every layer learns by itself to tell data from data with a wrong label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.multiclass import type_of_target

from .. import _validation as check
from ._base import RandomState
from ._forward_forward import PHASES, ForwardForwardEstimator
from ._parameters import document
from ._progress import TrainingInfo
from ._targets import NetworkClassifier

if TYPE_CHECKING:
    from typing_extensions import Self

_GENERAL = """\
hidden_layer_sizes : int or sequence of int, default=(256, 256)
    Units of each hidden layer; at least one layer.
activation : {'relu'}, default='relu'
    Activation of the hidden layers; the method is defined for this one.
"""

_OWN_PARAMETERS = """\
goodness : {'sum', 'mean', 'grouped_squares', 'grouped_mean'}, default='sum'
    What a layer says of a row: the sum or the mean of its squared activations; or one number for
    each class, the mean of the squares or of the activations themselves in a group of units of its
    own. The grouped ones need no negatives and no label in the input: `threshold`, `negatives`,
    `label_position`, `goodness_loss` and `peer_normalization` then mean nothing.
goodness_loss : {'logistic', 'symba'}, default='logistic'
    Loss of a layer: each row against `threshold`, or the positive row of each sample against its
    negative one ('symba', best with the goodness 'mean'; needs both phases at once).
threshold : float or None, default=None
    Goodness that parts positive from negative rows, at least 0; None is 1 for the mean and the
    number of units for the sum.
temperature : float, default=1.0
    What the logistic loss divides the distance from the threshold by, above 0.
symba_scale : float, default=4.0
    What 'symba' multiplies the difference of goodness by, above 0.
peer_normalization : float, default=0.03
    Strength, at least 0, of the term that pulls every unit's mean activity towards that of its
    layer, so that none falls silent.
negatives : {'random', 'hard', 'given'}, default='random'
    Negative rows: the sample with any wrong label, with a wrong label drawn by the softmax head's
    own probabilities, or the rows of ``X_negative``, without labels in the input.
label_position : {'append', 'overwrite'}, default='append'
    Whether the label is `n_classes` more inputs, or is written over the first inputs, which are
    lost; it has the strength 1, and ``1 / n_classes`` everywhere when it is neutral.
schedule : {'simultaneous', 'greedy'}, default='simultaneous'
    Whether all layers learn in every step; or one after the other, then the softmax head, each for
    `max_iter` epochs with its own run of the learning rate. `n_iter_` counts them all.
predict_with : {'softmax', 'goodness'}, default='softmax'
    Predict by the softmax head, in one pass with the neutral label; or by the class whose label has
    the highest goodness, summed over the layers from the second on (over all layers when grouped).
"""

_OWN_ATTRIBUTES = """\
coefs_, intercepts_ : list of ndarray
    Weights and intercepts of the hidden layers. The rows of ``coefs_[0]`` are the inputs: features,
    then the label with 'append'; the label, then the other features with 'overwrite'.
head_coefs_, head_intercepts_ : list of ndarray
    The softmax head reads the normalised activations of every hidden layer from the second on (or
    of the only one): its weights and intercepts for each of them.
"""


@document(_OWN_PARAMETERS, _OWN_ATTRIBUTES, general=_GENERAL, initializer="he_uniform")
class ForwardForwardClassifier(ForwardForwardEstimator, NetworkClassifier):
    """Classifier trained by Forward-Forward: two forward passes, and no error between layers.

    Every layer learns to have a high goodness for samples with their label in the input, and a low
    one for samples with a wrong label. A softmax head learns beside, and its error reaches no
    hidden layer.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels, sorted; at least two.
    {attributes}

    See Also
    --------
    DFAClassifier : Sends the output error to the hidden layers directly.
    BackpropClassifier : The baseline, with the same network parameters.

    Notes
    -----
    With the row x of unit mean square, ``h = relu(x W + b)`` and the goodness ``g = sum(h ** 2)``,
    a positive row has the loss ``softplus(-(g - threshold) / temperature)`` and a negative one
    ``softplus((g - threshold) / temperature)``. h is brought to unit mean square before the next
    layer sees it, so that its length, which is its goodness, does not pass on [1]_. 'symba' has
    ``softplus(-symba_scale * (g_positive - g_negative))`` [2]_; the grouped goodness is the
    argument of a softmax cross-entropy over classes, on squares [3]_ or means [4]_. The losses that
    are reported are sums over layers.

    ``predict_proba`` with ``predict_with='goodness'`` is the softmax of the summed goodness. It
    orders the classes; it is no calibrated probability, and nearly 0 or 1 with the goodness 'sum'.

    One negative is drawn for each row in each step. A row of weight 2 has one negative that counts
    twice, two equal rows have two: the same on average. Equal rows of a fit that is one minibatch
    are joined first, so that the two are the same there.

    Other than in Hinton's code, the gradient of the goodness keeps its factor 2, the neutral label
    is ``1 / n_classes``, and the optimizer is Adam. `initializer` is 'he_uniform' because the
    goodness of untrained layers is then at the default threshold; 'uniform' begins far below it,
    and learns clearly less in the same time.

    References
    ----------
    .. [1] G. Hinton, "The forward-forward algorithm: some preliminary investigations", 2022,
       arXiv:2212.13345, sections 2 and 3.
    .. [2] H.-C. Lee, J. Song, "SymBa: symmetric backpropagation-free contrastive learning with
       forward-forward algorithm for optimizing convergence", 2023, arXiv:2303.08418.
    .. [3] A. Papachristodoulou et al., "Convolutional channel-wise competitive learning for the
       forward-forward algorithm", 2024, arXiv:2312.12668.
    .. [4] L. Sun et al., "DeeperForward: enhanced forward-forward training for deeper and better
       performance", 2025.

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = bf.ForwardForwardClassifier(random_state=0).fit(X / 16, y)
    >>> bool(clf.score(X / 16, y) > 0.9)
    True
    >>> bool(clf.set_params(predict_with="goodness").score(X / 16, y) > 0.9)
    True
    """

    method: ClassVar[str] = "forward-forward"

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (256, 256),
        activation: str = "relu",
        *,
        goodness: str = "sum",
        goodness_loss: str = "logistic",
        threshold: float | None = None,
        temperature: float = 1.0,
        symba_scale: float = 4.0,
        peer_normalization: float = 0.03,
        negatives: str = "random",
        label_position: str = "append",
        schedule: str = "simultaneous",
        predict_with: str = "softmax",
        solver: str = "adam",
        alpha: float = 0.0,
        batch_size: int = 128,
        learning_rate: str = "cosine",
        learning_rate_init: float = 1e-3,
        power_t: float = 0.5,
        step_size: int = 10,
        gamma: float = 0.1,
        max_iter: int = 20,
        shuffle: bool = True,
        random_state: RandomState = None,
        tol: float = 1e-4,
        verbose: bool | int = 0,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int = 10,
        weight_decay: float = 0.0,
        initializer: str = "he_uniform",
        input_scale: str | float | None = "auto",
        dtype: str = "float32",
        n_threads: int | None = None,
        callback: Callable[[TrainingInfo], bool | None] | None = None,
    ) -> None:
        super().__init__(
            hidden_layer_sizes,
            activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            step_size=step_size,
            gamma=gamma,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            weight_decay=weight_decay,
            initializer=initializer,
            input_scale=input_scale,
            dtype=dtype,
            n_threads=n_threads,
            callback=callback,
        )
        self.goodness = goodness
        self.goodness_loss = goodness_loss
        self.threshold = threshold
        self.temperature = temperature
        self.symba_scale = symba_scale
        self.peer_normalization = peer_normalization
        self.negatives = negatives
        self.label_position = label_position
        self.schedule = schedule
        self.predict_with = predict_with

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        X_negative: ArrayLike | None = None,
    ) -> Self:
        """Train on samples and their classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The samples. Rows of uint8, float32 and float64 are read where they lie, also from a
            memory map; uint8 is taken for pixels (`input_scale`).
        y : array-like of shape (n_samples,)
            Class labels, numbers or strings, of at least two classes.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, at least 0. Samples of weight 0 are left out.
        X_negative : array-like of shape (n_samples, n_features), default=None
            With ``negatives='given'`` the negative row of each sample. The hidden layers then learn
            without labels, which only the softmax head sees.

        Returns
        -------
        self : estimator
            The fitted estimator. After Ctrl-C it is usable, and `interrupted_` is True.

        Raises
        ------
        ValueError
            If a parameter is out of range, X, y or X_negative has a wrong shape or holds NaN or
            infinity, there is one class alone, or the loss stops being finite.
        TypeError
            If a parameter has a wrong type, or X is sparse.

        Examples
        --------
        >>> import bpfree_fast as bf
        >>> X, y = [[0.0, 1.0], [1.0, 0.0], [0.1, 0.9], [0.8, 0.1]], ["up", "on", "up", "on"]
        >>> clf = bf.ForwardForwardClassifier((16,), max_iter=50, random_state=0)
        >>> clf.fit(X, y).predict([[0.0, 2.0]]).tolist()
        ['up']
        """
        self._phase = "both"
        self._fit(X, y, sample_weight, X_negative=X_negative)
        return self

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        phase: str = "both",
        X_negative: ArrayLike | None = None,
    ) -> Self:
        """Train one epoch on a part of the samples, by positive rows, negative rows or both.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The samples; with ``negatives='given'`` and ``phase='negative'`` the negative ones.
        y : array-like of shape (n_samples,)
            Their classes.
        classes : array-like of shape (n_classes,), default=None
            Every class that will ever come. Needed in the first call, unless `y` has them all.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, at least 0.
        phase : {'both', 'positive', 'negative'}, default='both'
            What the layers see: both kinds of rows in every step, or one kind alone. The softmax
            head learns in the positive phase: its stage of greedy training refuses 'negative'.
        X_negative : array-like of shape (n_samples, n_features), default=None
            As in `fit`, where the phase is 'both'.

        Returns
        -------
        self : estimator
            The estimator, one epoch on.

        Raises
        ------
        ValueError
            If y has a class that the first call did not name, or `phase` does not go with the
            other parameters, or as `fit`.
        TypeError
            As `fit`.

        Examples
        --------
        >>> import bpfree_fast as bf
        >>> clf = bf.ForwardForwardClassifier((16,), random_state=0)
        >>> clf = clf.partial_fit([[0.0, 1.0]], ["up"], classes=["on", "up"], phase="positive")
        >>> clf.partial_fit([[1.0, 0.0]], ["on"], phase="negative").n_iter_
        2
        """
        self._phase = check.choice("phase", phase, PHASES)
        self._fit(X, y, sample_weight, incremental=True, classes=classes, X_negative=X_negative)
        return self

    def predict_log_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """Give the logarithm of the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The samples.

        Returns
        -------
        log_probability : ndarray of shape (n_samples, n_classes)
            With ``predict_with='softmax'`` ``log(predict_proba(X))``, -inf where a probability is
            0; with ``'goodness'`` the log-softmax of the summed goodness, finite where it is.

        Raises
        ------
        ValueError
            As `predict`.

        Examples
        --------
        >>> import bpfree_fast as bf
        >>> clf = bf.ForwardForwardClassifier((16,), predict_with="goodness", random_state=0)
        >>> clf.fit([[0.0], [9.0]], [0, 1]).predict_log_proba([[0.5]]).shape
        (1, 2)
        """
        if not self._predicts_by_goodness():
            return super().predict_log_proba(X)
        goodness = self._predict_by(self._check_input(X), True).astype(np.float64)
        goodness -= goodness.max(axis=1, keepdims=True)
        total = np.exp(goodness).sum(axis=1, keepdims=True)
        logarithm: NDArray[np.float32] = (goodness - np.log(total)).astype(np.float32)
        return logarithm

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = False
        return tags

    def _learn_target(self, y: NDArray[Any], classes: ArrayLike | None) -> str:
        if type_of_target(y, input_name="y") == "multilabel-indicator":
            raise ValueError(
                f"y has {y.shape[1]} labels a row, and Forward-Forward tells one class from the "
                "others: give one column of classes."
            )
        loss = super()._learn_target(y, classes)
        if self.n_outputs_ < 2:
            only = self.classes_.tolist()
            raise ValueError(f"y has one class, {only}: Forward-Forward needs at least two.")
        return loss
