# SPDX-License-Identifier: BSD-3-Clause
"""The parameters that every estimator shares: their checks and their documentation."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from .. import _validation as check

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ._base import NetworkEstimator

ACTIVATIONS = ("relu", "identity", "leaky_relu", "tanh", "logistic", "sigmoid", "gelu")
SOLVERS = ("adam", "sgd", "adamw", "rmsprop")
SCHEDULES = ("cosine", "constant", "step", "invscaling", "adaptive")
INITIALIZERS = ("uniform", "glorot_uniform", "he_uniform", "he_normal", "zeros")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Settings:
    """Checked parameters, in the types that the core takes."""

    hidden: tuple[int, ...]
    activation: str
    dtype: str
    initializer: str
    solver: str
    momentum: float
    nesterov: bool
    beta_1: float
    beta_2: float
    epsilon: float
    alpha: float
    weight_decay: float
    batch_size: int
    n_threads: int
    schedule: str
    learning_rate: float
    power_t: float
    step_size: int
    gamma: float
    max_iter: int
    shuffle: bool
    tol: float
    n_iter_no_change: int
    early_stopping: bool
    validation_fraction: float
    warm_start: bool
    verbose: bool
    callback: Callable[..., object] | None


def check_parameters(estimator: NetworkEstimator) -> Settings:
    """Check the shared parameters of an estimator; the first bad one raises."""
    est = estimator
    if est.callback is not None and not callable(est.callback):
        raise TypeError(f"callback must be None or callable, got {est.callback!r}.")
    if est.input_scale is not None and est.input_scale != "auto":
        check.real("input_scale", est.input_scale, 0, open_low=True)
    activation = check.choice("activation", est.activation, est._activations)
    decay = 0.0 if est.weight_decay is None else est.weight_decay
    return Settings(
        hidden=check.layer_sizes("hidden_layer_sizes", est.hidden_layer_sizes),
        activation="logistic" if activation == "sigmoid" else activation,
        dtype=check.choice("dtype", est.dtype, DTYPES),
        initializer=check.choice("initializer", est.initializer, INITIALIZERS),
        solver=check.choice("solver", est.solver, SOLVERS),
        momentum=check.real("momentum", est.momentum, 0, 1, open_high=True),
        nesterov=check.flag("nesterovs_momentum", est.nesterovs_momentum),
        beta_1=check.real("beta_1", est.beta_1, 0, 1, open_high=True),
        beta_2=check.real("beta_2", est.beta_2, 0, 1, open_high=True),
        epsilon=check.real("epsilon", est.epsilon, 0, open_low=True),
        alpha=check.real("alpha", est.alpha, 0),
        weight_decay=check.real("weight_decay", decay, 0),
        batch_size=check.integer("batch_size", est.batch_size, 1),
        n_threads=check.n_threads(est.n_threads),
        schedule=check.choice("learning_rate", est.learning_rate, SCHEDULES),
        learning_rate=est._first_rate(),
        power_t=check.real("power_t", est.power_t, 0),
        step_size=check.integer("step_size", est.step_size, 1),
        gamma=check.real("gamma", est.gamma, 0, 1, open_low=True),
        max_iter=check.integer("max_iter", est.max_iter, 1),
        shuffle=check.flag("shuffle", est.shuffle),
        tol=check.real("tol", est.tol, 0),
        n_iter_no_change=check.integer("n_iter_no_change", est.n_iter_no_change, 1),
        early_stopping=check.flag("early_stopping", est.early_stopping),
        validation_fraction=check.real(
            "validation_fraction", est.validation_fraction, 0, 1, open_low=True, open_high=True
        ),
        warm_start=check.flag("warm_start", est.warm_start),
        verbose=_verbosity(est.verbose) > 0,
        callback=est.callback,
    )


def _verbosity(value: object) -> int:
    return int(value) if isinstance(value, bool) else check.integer("verbose", value, 0)


PARAMETERS = """\
hidden_layer_sizes : int or sequence of int, default=(256, 256)
    Units of each hidden layer; empty for a linear model.
activation : {'relu', 'identity', 'leaky_relu', 'tanh', 'logistic', 'sigmoid', 'gelu'}, \
default='relu'
    Activation of the hidden layers; 'sigmoid' is 'logistic', 'leaky_relu' has slope 0.01.
"""

SHARED = """\
solver : {'adam', 'sgd', 'adamw', 'rmsprop'}, default='adam'
    The optimizer; 'adamw' is 'adam', whose decay is decoupled in any case (`weight_decay`).
alpha : float, default=0.0
    Strength of the L2 term, at least 0; divided by the samples of the minibatch, or by the sum
    of their weights, as in scikit-learn.
batch_size : int, default=128
    Samples of a minibatch, at least 1; at most all samples.
learning_rate : {'cosine', 'constant', 'step', 'invscaling', 'adaptive'}, default='cosine'
    The schedule. 'cosine' falls to 0 at `max_iter`; 'step' multiplies by `gamma` every
    `step_size` epochs; 'invscaling' divides by ``(t + 1) ** power_t`` at step t; 'adaptive'
    divides by 5 when ``n_iter_no_change`` epochs bring no improvement of `tol`. `partial_fit`
    does not know its end, and takes 'cosine' as 'constant'.
learning_rate_init : float, default=0.001
    The first learning rate, above 0.
power_t : float, default=0.5
    Exponent of 'invscaling', at least 0.
step_size : int, default=10
    Epochs between two falls of 'step', at least 1.
gamma : float, default=0.1
    Factor of 'step', above 0 and at most 1.
max_iter : int, default=20
    Epochs, at least 1.
shuffle : bool, default=True
    Whether each epoch visits the samples in a new order.
random_state : int, RandomState, Generator or None, default=None
    The seed, 0 to 2**64 - 1; 0 is a seed like any other. A generator, or None, draws one;
    `seed_` keeps it.
tol : float, default=0.0001
    Least improvement that counts, at least 0. Training stops for lack of it with
    'constant' and 'adaptive', and with `early_stopping`.
verbose : bool or int, default=0
    Whether to show a progress bar.
warm_start : bool, default=False
    Whether `fit` goes on from where the last one ended, at epoch ``n_iter_``, up to `max_iter`.
momentum : float, default=0.9
    Momentum of 'sgd', from 0 and below 1.
nesterovs_momentum : bool, default=True
    Whether that momentum is Nesterov's.
early_stopping : bool, default=False
    Whether to keep `validation_fraction` of the samples apart, to stop when their score
    improves no more, and to keep the best weights. Copies the samples.
validation_fraction : float, default=0.1
    Share of the samples kept apart, above 0 and below 1.
beta_1, beta_2 : float, default=0.9, 0.999
    Decay of the first and second moment in 'adam' and 'adamw', from 0 and below 1;
    'rmsprop' uses `beta_2`.
epsilon : float, default=1e-8
    What keeps their division finite, above 0.
n_iter_no_change : int, default=10
    Epochs without improvement before training stops, at least 1.
weight_decay : float{decay_type}, default={decay_default}
    Decoupled decay, at least 0: each step multiplies W by 1 - learning rate * weight_decay.{decay}
initializer : {'uniform', 'glorot_uniform', 'he_uniform', 'he_normal', 'zeros'}, \
default='{initializer}'
    First weights; 'uniform' is within 1 / sqrt(n_in), for the intercepts too.
input_scale : 'auto', float or None, default='auto'
    What X is multiplied by, above 0: 'auto' is 1/255 for uint8, else 1; None is 1.
dtype : {'float32', 'bfloat16'}, default='float32'
    Type of the products; weights are updated in float32 with both.
n_threads : int or None, default=None
    Threads, at least 1; None leaves it to BPFREE_NUM_THREADS, OMP_NUM_THREADS and the machine.
callback : callable or None, default=None
    Called with a `TrainingInfo` about every 0.1 s and at the end of each epoch; training
    stops when it returns True.
"""

ATTRIBUTES = """\
n_features_in_ : int
    Columns of X.
feature_names_in_ : ndarray of shape (n_features,)
    Names of the columns, when X was a data frame.
n_outputs_ : int
    Units of the output layer.
n_layers_ : int
    Layers, with input and output.
n_params_ : int
    Weights and intercepts.
out_activation_ : str
    What follows the output layer.
n_iter_ : int
    Epochs done.
t_ : int
    Samples seen.
loss_ : float
    Mean training loss of the last epoch, without the L2 term.
best_loss_ : float or None
    Lowest loss; None with `early_stopping`.
loss_curve_ : list of float
    The loss of each epoch.
validation_scores_ : list of float or None
    Score of each epoch with `early_stopping`.
best_validation_score_ : float or None
    The highest of them.
input_scale_ : float
    What X is multiplied by.
seed_ : int
    The seed in use.
interrupted_ : bool
    Whether Ctrl-C ended the last `fit`. The first Ctrl-C ends it cleanly, and the model is
    usable; it is not raised again.
"""

_Class = TypeVar("_Class", bound=type)


def document(
    own: str = "",
    attributes: str = "",
    *,
    decay_type: str = "",
    decay: str = "",
    general: str = PARAMETERS,
    initializer: str = "uniform",
    decay_default: str = "0.0",
    without: Collection[str] = (),
) -> Callable[[_Class], _Class]:
    """Fill ``{parameters}`` and ``{attributes}`` in the docstring of an estimator.

    Parameters
    ----------
    own : str
        The parameters that only this class has.
    attributes : str
        The attributes that only this class has.
    decay_type, decay : str
        What `weight_decay` is besides a float, and what it then means.
    general : str
        The first two parameters, `hidden_layer_sizes` and `activation`.
    initializer : str
        The default of that parameter.
    decay_default : str
        The default of `weight_decay`, where it is a number.
    without : collection of str
        Shared parameters that the class lacks, by the first name of each entry.

    Returns
    -------
    decorate : callable
        The class decorator.
    """
    shared = SHARED.replace("{decay_type}", decay_type).replace("{decay}", decay)
    shared = shared.replace("{initializer}", initializer)
    shared = shared.replace("{decay_default}", "None" if decay_type else decay_default)

    entries = re.split(r"^(?=\S)", shared, flags=re.MULTILINE)
    shared = "".join(text for text in entries if re.split(r"\W", text)[0] not in without)

    def decorate(cls: _Class) -> _Class:
        text = cls.__doc__ or ""
        for name, value in (
            ("{parameters}", general + own + shared),
            ("{attributes}", attributes + ATTRIBUTES),
        ):
            text = text.replace(name, textwrap.indent(value, "    ").strip())
        cls.__doc__ = text
        return cls

    return decorate
