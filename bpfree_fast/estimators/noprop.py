# SPDX-License-Identifier: BSD-3-Clause
"""NoProp: blocks that each learn to denoise a label, and never see one another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted

from . import _apart
from ._base import RandomState
from ._noprop import NoPropEstimator
from ._parameters import document
from ._progress import TrainingInfo
from ._targets import NetworkClassifier

if TYPE_CHECKING:
    from typing_extensions import Self

_GENERAL = """\
hidden_layer_sizes : int or sequence of int, default=(256, 128)
    Units of the layers of a block that join its two branches, before the classes; empty for none.
activation : {'relu', 'identity', 'leaky_relu', 'tanh', 'logistic', 'sigmoid'}, default='relu'
    Activation of the branches and of these layers.
"""

_OWN_PARAMETERS = """\
variant : {'dt', 'ct', 'fm'}, default='dt'
    'dt': discrete time, `n_blocks` blocks with a noise level each. 'ct': continuous time, one block
    that reads the time beside the noisy label, applied `n_steps` times. 'fm': the same by flow
    matching: it learns the velocity from noise to label, and may need some three times the epochs.
n_blocks : int, default=10
    Blocks of 'dt', at least 2.
input_units, label_units : int, default=256, 256
    Units of the branch that reads X and of the one that reads the noisy label; multiples of 32.
class_embedding : {'one_hot', 'learned', 'prototype', 'learned_prototype'}, default='one_hot'
    What stands for a class: a unit vector; a vector of `embedding_dim` numbers that is learned; the
    training sample of the class whose median distance to the others is the smallest; or a vector
    that begins there and is learned. Blocks share what is learned, and then train together alone.
embedding_dim : int, default=20
    Numbers of a 'learned' class embedding, at least 1; the others' lengths are given.
noise_schedule : {'cosine', 'linear', 'learned'} or array-like, default='cosine'
    Share of the label's variance in its noisy copy before the first and after each block: a
    squared sine, or a straight line, both cut at 0.99. An array of shape (n_blocks + 1,), rising
    from 0 or more to at most 1, is taken as it is. With 'ct' a curve can be learned.
eta : float or None, default=None
    Weight of the losses, above 0; None is 0.1 for 'dt' and 1 for the others. It scales the steps of
    'sgd', and all but cancels in the other solvers, which divide by the size of the gradient.
max_snr_weight : float or None, default=None
    'ct': the losses' weight by time, the derivative of the signal-to-noise ratio, is cut here; at
    least 0, and 0 for no cut; None is 5, and with a learned schedule, which bears no cut, 0. A
    fixed schedule without one gives nearly all the weight to times at which the label is all but
    told, and what X says is learned last.
block_feedback : {'exact', 'direct'}, default='exact'
    How the error of a block reaches its own lower layers: by the exact gradient, which is
    backpropagation inside the block; or by fixed random matrices straight from its logits, which
    is direct feedback alignment, and propagates nothing back at all.
batch_normalization : bool, default=False
    Whether to normalise every unit of a block but its classes over the minibatch, before the
    activation; each block by itself. Sample weights enter the statistics. Prediction uses running
    ones.
n_steps : int, default=100
    Steps of a prediction with 'ct' and 'fm', at least 1.
ode_rule : {'euler', 'heun'}, default='euler'
    Rule of these steps; 'heun' evaluates the network twice in each.
inference_noise : bool, default=False
    'dt': whether a prediction adds the noise of the posterior, one draw for all samples.
"""

_OWN_ATTRIBUTES = """\
classes_ : ndarray of shape (n_classes,)
    The class labels, sorted; at least two.
coefs_, intercepts_ : list of ndarray
    Weights and intercepts, block after block: input branch, label branch, `hidden_layer_sizes`,
    classes.
norm_gains_, norm_shifts_, norm_means_, norm_variances_ : list of ndarray
    With `batch_normalization`, of each layer of each block but the classes: what it learns, and the
    running statistics.
class_embedding_ : ndarray of shape (n_classes, dim)
    The vectors that stand for the classes.
head_coef_, head_intercept_ : ndarray of shape (dim, n_classes) and (n_classes,)
    Where embeddings or the schedule are learned: what tells classes from z at the end.
alpha_bar_ : ndarray of shape (n_blocks + 1,)
    The noise schedule of 'dt'; empty for the others.
trained_blocks_ : list of int
    The blocks that have been trained.
block_loss_curve_ : list of list of float
    The loss of each block in each epoch, nan of those that are not trained.
"""


@document(_OWN_PARAMETERS, _OWN_ATTRIBUTES, general=_GENERAL, decay_default="0.001")
class NoPropClassifier(NoPropEstimator, NetworkClassifier):
    """Classifier trained by NoProp: no forward and no backward pass through the network.

    Every block learns by itself to tell a class from the sample and a noisy copy of the class,
    whose noise is drawn at the block's own level around the truth. So blocks need nothing of each
    other, and train side by side or in different processes, with the same bits. To predict, the
    blocks turn noise into a class, one after the other.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    LocalLossClassifier : Layers with losses of their own, on the activations of those below.
    BackpropClassifier : The baseline.

    Notes
    -----
    Block t has ``o = net_t(x, z)`` and estimates the embedding as ``u = softmax(o) @ W``, with the
    class embeddings in the rows of W. Its loss is ``w_t * |u - u_y| ** 2`` with z drawn from
    ``N(sqrt(alpha_bar) * u_y, 1 - alpha_bar)`` and ``w_t = n_blocks * eta / 2`` times the step of
    ``alpha_bar / (1 - alpha_bar)``, alpha_bar cut at 0.99 [1]_. The loss that is reported is the
    mean over the blocks, which is nearly the last one's, whose weight is by far the largest;
    `block_loss_curve_` has them one by one. So 'dt' refuses to stop by it: 'constant' and
    'adaptive' need ``n_iter_no_change >= max_iter`` or `early_stopping`. For the same reason
    ``solver='sgd'`` hardly trains the first blocks.

    A prediction starts from one draw of noise for all samples, and goes on by the mean of the
    posterior, ``z = a * u + b * z``. ``predict_proba`` is what the estimates' class probabilities
    add up to in z, normalised; with 'fm' it is the softmax of ``-|z - u_y| ** 2``, which orders the
    classes and is no calibrated probability.

    Where embeddings or the schedule are learned there is a linear head on z, and the loss has two
    terms beside the mean over the blocks: the head's cross-entropy on a z drawn at the end (with
    'fm' on ``z + (1 - t) * v``), and the divergence of z at the beginning from noise. Embeddings,
    head and schedule get the exact gradient of all of it, also through the label in z, unless
    ``block_feedback='direct'`` keeps that from going back. ``predict_proba`` is then the head's.

    Within a block the gradient is exact: a block of five layers is trained by backpropagation
    through those five layers, unless ``block_feedback='direct'``.

    Differs from the paper: dense blocks, without batch normalisation unless asked for; no head
    where nothing is learned that it could teach; all blocks in every minibatch; 'ct' by default has
    a fixed schedule and a cut of its weights, and its steps keep the variance of the noise.

    References
    ----------
    .. [1] Q. Li, Y. W. Teh, R. Pascanu, "NoProp: training neural networks without full
       back-propagation or full forward-propagation", 2025, arXiv:2503.24322, equations 1 to 8.

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = bf.NoPropClassifier(n_blocks=4, random_state=0).fit(X / 16, y)
    >>> bool(clf.score(X / 16, y) > 0.9)
    True
    """

    method: ClassVar[str] = "noprop"

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (256, 128),
        activation: str = "relu",
        *,
        variant: str = "dt",
        n_blocks: int = 10,
        input_units: int = 256,
        label_units: int = 256,
        class_embedding: str = "one_hot",
        embedding_dim: int = 20,
        noise_schedule: str | ArrayLike = "cosine",
        eta: float | None = None,
        max_snr_weight: float | None = None,
        block_feedback: str = "exact",
        batch_normalization: bool = False,
        n_steps: int = 100,
        ode_rule: str = "euler",
        inference_noise: bool = False,
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
        weight_decay: float = 1e-3,
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
        self.variant = variant
        self.n_blocks = n_blocks
        self.input_units = input_units
        self.label_units = label_units
        self.class_embedding = class_embedding
        self.embedding_dim = embedding_dim
        self.noise_schedule = noise_schedule
        self.eta = eta
        self.max_snr_weight = max_snr_weight
        self.block_feedback = block_feedback
        self.batch_normalization = batch_normalization
        self.n_steps = n_steps
        self.ode_rule = ode_rule
        self.inference_noise = inference_noise

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        executor: Executor | Callable[[], Executor] | None = None,
        n_parts: int | None = None,
    ) -> Self:
        """Train all blocks on samples and their classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The samples. Rows of uint8, float32 and float64 are read where they lie, also from a
            memory map; uint8 is taken for pixels (`input_scale`).
        y : array-like of shape (n_samples,)
            Class labels, numbers or strings, of at least two classes.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, at least 0. Samples of weight 0 are left out.
        executor : Executor or callable, default=None
            What runs ranges of blocks as tasks of their own, such as a ProcessPoolExecutor or
            Dask's ``client.get_executor()``; or a function that makes one, which is then shut down.
            The blocks are the same bits as without. `callback` and `verbose` are left out, and
            `early_stopping` is refused. ``n_threads=None`` shares the cores among the tasks.
        n_parts : int, default=None
            With `executor`, tasks; None for as many as it has workers (with Dask: as these have
            threads), and for a task a block where it does not say how many.

        Returns
        -------
        self : estimator
            The fitted estimator. After Ctrl-C it is usable, and `interrupted_` is True; with
            `executor` Ctrl-C is raised, and the estimator stays as it was.

        Raises
        ------
        ValueError
            If a parameter is out of range, X or y has a wrong shape or holds NaN or infinity,
            there is one class alone, the loss stops being finite, or ``warm_start=True`` has other
            blocks to go on from.
        TypeError
            If a parameter has a wrong type, or X is sparse.
        RuntimeError
            If a task of the executor was interrupted.

        Examples
        --------
        >>> import bpfree_fast as bf
        >>> clf = bf.NoPropClassifier((32,), n_blocks=2, max_iter=50, random_state=0)
        >>> clf.fit([[0.0], [1.0], [9.0], [8.0]], ["low", "low", "high", "high"]).classes_.tolist()
        ['high', 'low']
        """
        self._chosen = None
        if executor is None:
            self._fit(X, y, sample_weight)
        else:
            _apart.fit_apart(self, X, y, sample_weight, executor, n_parts)
        return self

    def fit_blocks(
        self,
        X: ArrayLike,
        y: ArrayLike,
        blocks: Iterable[int],
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Train some of the blocks, as `fit` would have trained them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The samples.
        y : array-like of shape (n_samples,)
            Their classes.
        blocks : iterable of int
            Neighbours among 0 to ``n_blocks - 1``, such as ``range(0, 5)``.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, at least 0.

        Returns
        -------
        self : estimator
            The estimator with these blocks trained, and all others as they began. Before it has
            them all it does not predict, but `staged_predict_proba` goes up to the last of the
            blocks that are there from the first one on.

        Raises
        ------
        ValueError
            If the blocks are no such range, are some alone with `early_stopping`, or as `fit`.
        TypeError
            As `fit`.

        Examples
        --------
        >>> import bpfree_fast as bf
        >>> X, y = [[0.0], [1.0], [9.0], [8.0]], [0, 0, 1, 1]
        >>> parts = [
        ...     bf.NoPropClassifier((32,), n_blocks=4, random_state=0).fit_blocks(X, y, blocks)
        ...     for blocks in (range(0, 2), range(2, 4))
        ... ]
        >>> parts[0].join(parts[1]).trained_blocks_
        [0, 1, 2, 3]
        """
        self._chosen = self._block_range(blocks)
        try:
            self._fit(X, y, sample_weight)
        finally:
            self._chosen = None
        return self

    def join(self, *others: NoPropClassifier) -> Self:
        """Take the blocks that other estimators have trained on the same data.

        Parameters
        ----------
        *others : NoPropClassifier
            Fitted by `fit_blocks` with the same parameters, seed and samples.

        Returns
        -------
        self : estimator
            The estimator with their blocks beside its own.

        Raises
        ------
        ValueError
            If they differ in what they were trained by: parameters, seed, samples, classes,
            weights, epochs or steps; or two have trained the same block.
        TypeError
            If one is no NoPropClassifier.
        NotFittedError
            Before `fit` or `fit_blocks`.

        Examples
        --------
        See `fit_blocks`.
        """
        check_is_fitted(self)
        parts: list[NoPropClassifier] = [self, *others]
        for other in others:
            if not isinstance(other, NoPropClassifier):
                raise TypeError(f"join takes estimators of NoPropClassifier, got {other!r}.")
            check_is_fitted(other)
            _apart.check_same(self, other)
        blocks = [block for part in parts for block in part.trained_blocks_]
        twice = sorted({block for block in blocks if blocks.count(block) > 1})
        if twice:
            raise ValueError(f"blocks {twice} were trained by more than one of the estimators.")
        _apart.put_together(self, [_apart.part_of(part) for part in parts])
        return self

    def staged_predict_proba(self, X: ArrayLike) -> Iterator[NDArray[np.float32]]:
        """Give the class weights after each block, or with 'ct' and 'fm' after each step.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The samples.

        Yields
        ------
        probability : ndarray of shape (n_samples, n_classes)
            As `predict_proba`, from z after that block or step. Where some blocks are not trained,
            up to the last one before the first of these.

        Raises
        ------
        ValueError
            As `predict`.
        NotFittedError
            Before the first block is trained.

        Examples
        --------
        >>> import bpfree_fast as bf
        >>> clf = bf.NoPropClassifier((32,), n_blocks=3, random_state=0)
        >>> len(list(clf.fit([[0.0], [9.0]], [0, 1]).staged_predict_proba([[0.5]])))
        3
        """
        yield from self._class_weights(self._check_input(X))

    def staged_score(self, X: ArrayLike, y: ArrayLike) -> list[float]:
        """Give the accuracy after each block, or with 'ct' and 'fm' after each step.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The samples.
        y : array-like of shape (n_samples,)
            Their classes.

        Returns
        -------
        accuracy : list of float
            Shares of samples whose class is right; the last one is `score`.

        Raises
        ------
        ValueError
            As `predict`.

        Examples
        --------
        >>> import bpfree_fast as bf
        >>> clf = bf.NoPropClassifier((32,), n_blocks=3, max_iter=50, random_state=0)
        >>> len(clf.fit([[0.0], [9.0]], [0, 1]).staged_score([[0.5], [8.0]], [0, 1]))
        3
        """
        truth = np.asarray(y)
        return [
            float(np.mean(self.classes_[weights.argmax(axis=1)] == truth))
            for weights in self.staged_predict_proba(X)
        ]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = False
        return tags

    def _learn_target(self, y: NDArray[Any], classes: ArrayLike | None) -> str:
        if type_of_target(y, input_name="y") == "multilabel-indicator":
            raise ValueError(
                f"y has {y.shape[1]} labels a row, and NoProp tells one class from the others: "
                "give one column of classes."
            )
        return super()._learn_target(y, classes)
