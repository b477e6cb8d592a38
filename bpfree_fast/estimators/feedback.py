# SPDX-License-Identifier: BSD-3-Clause
"""Feedback alignment: the error reaches hidden layers through weights of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _core
from .. import _validation as check
from ._base import NetworkEstimator, RandomState
from ._fitted import Arrays
from ._parameters import document
from ._progress import TrainingInfo
from ._targets import NetworkClassifier, NetworkRegressor
from ._training import Samples

RULES = (
    "direct",
    "layerwise",
    "sign_symmetric",
    "sign_symmetric_batchwise",
    "sign_symmetric_fixed",
    "kolen_pollack",
    "direct_kolen_pollack",
    "target",
)
# Made from W's signs in every step: there is nothing to set or save.
_NOTHING_STORED = ("sign_symmetric", "sign_symmetric_batchwise")
_LEARNED = ("kolen_pollack", "direct_kolen_pollack")
# Without decay the learned feedback keeps its distance from W. Adam at 1e-3, 784-256-256-10 on
# MNIST: 1e-4 changes nothing, 0.1 brings the angles down by 1-3 degrees at the same accuracy,
# 1 by 10-20 degrees and costs half a point.
_LEARNED_DECAY = 0.1

_OWN_PARAMETERS = """\
feedback : {'direct', 'layerwise', 'sign_symmetric', 'sign_symmetric_batchwise', \
'sign_symmetric_fixed', 'kolen_pollack', 'direct_kolen_pollack', 'target'}, default='direct'
    How the error reaches a hidden layer (see Notes).
error_signal : {'exact', 'sign'}, default='exact'
    What hidden layers see of the error: itself, or its sign. The output layer sees the error.
feedback_distribution : {'uniform', 'normal', 'sign'}, default='uniform'
    Distribution of the random feedback.
feedback_scale : float, default=1.0
    Scale of the feedback, above 0: uniform is within ``feedback_scale / sqrt(n_outputs_)``, normal
    and sign have this as standard deviation and size. The layerwise rules have the units of the
    layer that receives the error in place of `n_outputs_`.
track_alignment : bool, default=False
    Whether to fill `alignment_` after each epoch, on one fixed minibatch.
"""

_OWN_ATTRIBUTES = """\
alignment_ : ndarray of shape (n_epochs, 2, n_hidden_layers)
    With `track_alignment`, for each epoch and hidden layer the angle in degrees between this
    method's and backpropagation's hidden error, and the ratio of their norms.
"""


class FeedbackEstimator(NetworkEstimator):
    """The parameters and the feedback arrays of the feedback methods."""

    method: ClassVar[str] = "dfa"
    _core_method: ClassVar[str] = "feedback"

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (256, 256),
        activation: str = "relu",
        *,
        feedback: str = "direct",
        error_signal: str = "exact",
        feedback_distribution: str = "uniform",
        feedback_scale: float = 1.0,
        track_alignment: bool = False,
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
        weight_decay: float | None = None,
        initializer: str = "uniform",
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
        self.feedback = feedback
        self.error_signal = error_signal
        self.feedback_distribution = feedback_distribution
        self.feedback_scale = feedback_scale
        self.track_alignment = track_alignment

    @property
    def feedback_(self) -> Arrays:
        """Feedback of each hidden layer, read-only copies; assign a whole list.

        Of shape (n_outputs, n_hidden) for the direct rules, and of the shape of the next layer's
        weights for the others.
        """
        n = self._n_matrices() - 1
        return self._list("feedback_", lambda i: self._trainer.feedback(i), max(n, 0))

    @feedback_.setter
    def feedback_(self, values: Sequence[ArrayLike]) -> None:
        rule = self._trainer_options["feedback"] if self.__sklearn_is_fitted__() else None
        if rule in _NOTHING_STORED:
            raise ValueError(f"feedback={rule!r} is made from the weights: it cannot be set.")
        self._assign("feedback_", values, lambda i, value: self._trainer.set_feedback(i, value))

    def _method_options(self) -> dict[str, Any]:
        check.flag("track_alignment", self.track_alignment)
        rule = check.choice("feedback", self.feedback, RULES)
        options: dict[str, Any] = {
            "method": self._core_method,
            "feedback": rule,
            "error_signal": check.choice("error_signal", self.error_signal, ("exact", "sign")),
            "feedback_distribution": check.choice(
                "feedback_distribution", self.feedback_distribution, ("uniform", "normal", "sign")
            ),
            "feedback_scale": check.real("feedback_scale", self.feedback_scale, 0, open_low=True),
        }
        if self.weight_decay is None and rule in _LEARNED:
            options["weight_decay"] = _LEARNED_DECAY
        return options

    def _stored_feedback(self, trainer: _core.Trainer) -> Arrays:
        if self._trainer_options["feedback"] in _NOTHING_STORED:
            return []
        return [trainer.feedback(layer) for layer in range(trainer.n_feedback)]

    def _start(self, *arguments: Any) -> None:
        super()._start(*arguments)
        self.alignment_: NDArray[np.float64] = np.empty((0, 2, self.n_layers_ - 2))

    def _after_epoch(self, samples: Samples) -> None:
        if not self.track_alignment or self.n_layers_ < 3:
            return
        n = min(len(samples), self._trainer_options["batch_size"])
        # Spread over all samples, which may be sorted by class.
        batch = samples.take(np.linspace(0, len(samples) - 1, n).astype(np.intp))
        angles, ratios = self._trainer.alignment(
            batch.x, batch.y, batch.weight, input_scale=self.input_scale_
        )
        self.alignment_ = np.append(self.alignment_, [[angles, ratios]], axis=0)


@document(
    _OWN_PARAMETERS,
    _OWN_ATTRIBUTES,
    decay_type=" or None",
    decay=f"\n    None is {_LEARNED_DECAY:g} for the Kolen-Pollack rules, else 0.",
)
class DFAClassifier(FeedbackEstimator, NetworkClassifier):
    """Classifier trained by feedback alignment, direct by default: no backward pass.

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
    BackpropClassifier : The baseline, with the same parameters.

    Notes
    -----
    With the output error e (prediction minus target), the hidden error delta of layer l and its
    activation f, the rules are, for random and fixed B unless said otherwise:

    - 'direct' [1]_: ``delta_l = (e B_l) * f'``;
    - 'layerwise' [2]_: ``delta_l = (delta_{l+1} B^T) * f'``, B of the shape of W;
    - 'sign_symmetric', 'sign_symmetric_batchwise', 'sign_symmetric_fixed' [3]_: layerwise, with the
      signs of W and a constant size, a size drawn in each step, a size drawn once;
    - 'kolen_pollack' [4]_: layerwise, B is trained like W and both decay;
    - 'direct_kolen_pollack' [5]_: direct, B is trained with ``e^T h`` and both decay;
    - 'target' [6]_: ``delta_l = (target B_l) * f'``, without any error.

    The output layer has its exact gradient with every rule. Other than in the papers, B has the
    scale ``1 / sqrt(n_outputs)``, and the optimizer is Adam. Feedback alignment trains dense
    networks nearly as well as backpropagation; 'target' is clearly worse, and the best results of
    backpropagation stay a little ahead.

    References
    ----------
    .. [1] A. Nøkland, "Direct feedback alignment provides learning in deep neural networks", 2016,
       arXiv:1609.01596, section 3.
    .. [2] T. P. Lillicrap et al., "Random synaptic feedback weights support error backpropagation
       for deep learning", Nature Communications 7, 2016.
    .. [3] T. H. Moskovitz, A. Litwin-Kumar, L. F. Abbott, "Feedback alignment in deep convolutional
       networks", 2018, arXiv:1812.06488.
    .. [4] M. Akrout et al., "Deep learning without weight transport", 2019, arXiv:1904.05391.
    .. [5] M. B. Webster, J. Choi, C. Ahn, "Learning the connections in direct feedback alignment",
       2020.
    .. [6] C. Frenkel, M. Lefebvre, D. Bol, "Learning without feedback: fixed random learning
       signals allow for feedforward training of deep neural networks", Frontiers in Neuroscience
       15, 2021.

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = bf.DFAClassifier(random_state=0).fit(X / 16, y)
    >>> bool(clf.score(X / 16, y) > 0.9)
    True
    """


@document(
    _OWN_PARAMETERS,
    _OWN_ATTRIBUTES,
    decay_type=" or None",
    decay=f"\n    None is {_LEARNED_DECAY:g} for the Kolen-Pollack rules, else 0.",
)
class DFARegressor(FeedbackEstimator, NetworkRegressor):
    """Regressor trained by feedback alignment, direct by default: no backward pass.

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
    DFAClassifier : Explains the rules.
    BackpropRegressor : The baseline, with the same parameters.

    Notes
    -----
    The network learns ``(y - target_mean_) / target_scale_``, and the losses are in these units.
    With one column of y, direct feedback gives all samples hidden errors along one direction.

    References
    ----------
    .. [1] A. Nøkland, "Direct feedback alignment provides learning in deep neural networks", 2016,
       arXiv:1609.01596, section 3.

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> X, y = load_diabetes(return_X_y=True)
    >>> X = scale(X)
    >>> reg = bf.DFARegressor(random_state=0).fit(X, y)
    >>> bool(reg.score(X, y) > 0.4)
    True
    """
