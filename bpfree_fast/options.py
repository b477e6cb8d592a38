# SPDX-License-Identifier: BSD-3-Clause
"""The options of the command line that become parameters of an estimator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from .estimators import CLASSIFIERS
from .estimators import _ensemble_kalman as enkf
from .estimators import _evolution as es
from .estimators import _forward_forward as ff
from .estimators import _local_loss as local
from .estimators import _noprop as noprop
from .estimators._layer_local import TRAINING_ORDERS
from .estimators._parameters import DTYPES, INITIALIZERS, SCHEDULES, SOLVERS
from .estimators.feedback import RULES

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Option -> parameter of the estimator, where the names differ.
_PARAMETERS = {
    "hidden": "hidden_layer_sizes",
    "epochs": "max_iter",
    "learning_rate": "learning_rate_init",
    "schedule": "learning_rate",
    "threads": "n_threads",
    "seed": "random_state",
    "layers": "schedule",
}
# Whose default is told although it is a whole number.
_COUNTS = (
    "epochs", "batch_size", "population_size", "rank", "n_blocks", "input_units", "label_units",
    "n_steps", "n_ens", "embedding_dim",
)  # fmt: skip
# Values of a parameter whose name several methods share.
_PREDICTIONS = {"local": local.PREDICTIONS, "forward-forward": ff.PREDICTIONS}


class ListCommand(click.Command):
    """A command whose repeatable options take a list: ``--hidden 1024 1024``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Turn ``--hidden 1024 1024`` into ``--hidden 1024 --hidden 1024``, and let click go on."""
        lists = {
            name
            for option in self.params
            if isinstance(option, click.Option) and option.multiple
            for name in option.opts
        }
        spread: list[str] = []
        current = None
        for arg, following in zip(args, [*args[1:], "-"], strict=False):
            if arg.startswith("-"):
                current = arg if arg in lists else None
                if current is not None and following.startswith("-"):
                    raise click.UsageError(f"Option '{arg}' needs at least one value.")
                if current is None:
                    spread.append(arg)
            else:
                spread += [arg] if current is None else [current, arg]
        return super().parse_args(ctx, spread)


def _word(name: str, allowed: Sequence[str], text: str = "") -> Callable[[_Function], _Function]:
    return click.option(name, type=click.Choice(allowed), help=text)


def _number(name: str, text: str, kind: type = float) -> Callable[[_Function], _Function]:
    return click.option(name, type=kind, help=text)


def _flag(name: str, text: str) -> Callable[[_Function], _Function]:
    return click.option(name, is_flag=True, default=None, help=text)


_OPTIONS = [
    click.option(
        "--hidden",
        multiple=True,
        type=int,
        metavar="N ...",
        help="Units of the hidden layers, such as 1024 1024.  [default: 256 256; noprop: 256 128; "
        "es, enkf: 64]",
    ),
    _word(
        "--activation",
        es.EvolutionEstimator._activations,
        "Forward-Forward has relu alone; step and sign are for es and enkf.",
    ),
    _number("--epochs", "Passes over the training samples.", int),
    _number("--batch-size", "Samples of a minibatch.", int),
    _word("--solver", SOLVERS),
    _number(
        "--learning-rate", "The first learning rate.  [default: 0.001; es: 0.03; enkf has --dt]"
    ),
    _word("--schedule", SCHEDULES, "How it falls."),
    _number("--alpha", "Strength of the L2 term."),
    _number("--weight-decay", "Decoupled decay of the weights."),
    _word("--initializer", INITIALIZERS, "First weights; every method has its own default."),
    _word("--feedback", RULES, "Rule of feedback alignment."),
    _word("--error-signal", ["exact", "sign"], "What feedback alignment sends."),
    _number("--feedback-scale", "Scale of the random feedback."),
    _word("--goodness", ff.GOODNESS, "Forward-Forward: what a layer says of a row."),
    _word("--goodness-loss", ff.GOODNESS_LOSSES, "Forward-Forward: loss of a layer."),
    _number(
        "--threshold", "Forward-Forward: the goodness between data and wrong data.  [default: 1 "
        "for the mean, the number of units for the sum]"
    ),
    _number("--temperature", "Forward-Forward: how gradual the threshold is."),
    _number("--symba-scale", "Forward-Forward: steepness of the loss symba."),
    _number("--peer-normalization", "Forward-Forward: how much silent units are helped."),
    # Given negatives have no place on a command line.
    _word("--negatives", ["random", "hard"], "Forward-Forward: wrong labels, drawn how."),
    _word("--label-position", ff.LABEL_POSITIONS, "Forward-Forward: where the label enters."),
    _word("--local-loss", local.LOCAL_LOSSES, "Local losses: what a layer learns from."),
    _number("--similarity-weight", "Local losses: share of the similarity in predsim."),
    _flag("--sim-projection", "Local losses: map the outputs before their similarity."),
    _flag(
        "--batch-normalization", "Local losses, NoProp: normalise every unit over the minibatch."
    ),
    _number("--dropout", "Local losses: share of outputs that the next layer misses."),
    _word(
        "--layers", TRAINING_ORDERS, "Local losses, Forward-Forward: all layers at once or in turn."
    ),
    click.option(
        "--cache-inputs/--no-cache-inputs",
        default=None,
        help="Local losses, in turn: keep a layer's inputs, or make them again.  [default: keep]",
    ),
    _word(
        "--predict-with",
        [*local.PREDICTIONS, *ff.PREDICTIONS],
        "Local losses: by the last head or the sum of all (last, sum); Forward-Forward: by the "
        "head or by goodness (softmax, goodness).",
    ),
    _number("--population-size", "Evolution strategies: members of a generation.", int),
    _number("--std", "Evolution strategies: standard deviation of the noise on the weights."),
    _number("--std-decay", "Evolution strategies: its factor after each epoch."),
    _word("--perturbation", es.PERTURBATIONS, "Evolution strategies: kind of the noise."),
    _number("--rank", "Evolution strategies: rank of the noise low_rank.", int),
    click.option(
        "--antithetic/--no-antithetic",
        default=None,
        help="Evolution strategies: members in pairs of opposite noise.  [default: in pairs]",
    ),
    _word("--fitness-shaping", es.SHAPINGS, "Evolution strategies: fitness to utilities."),
    _word("--fitness", es.FITNESSES, "Evolution strategies: what selects."),
    _word("--variant", noprop.VARIANTS, "NoProp: blocks (dt), or one network for all times."),
    _number("--n-blocks", "NoProp, dt: blocks.", int),
    _number("--input-units", "NoProp: units of the branch that reads the input.", int),
    _number("--label-units", "NoProp: units of the branch that reads the noisy label.", int),
    _word("--class-embedding", noprop.EMBEDDINGS, "NoProp: what stands for a class."),
    _number("--embedding-dim", "NoProp: numbers of a learned class embedding.", int),
    _word("--noise-schedule", noprop.NOISE_SCHEDULES, "NoProp: how noise falls; ct may learn it."),
    _number("--eta", "NoProp: weight of the losses.  [default: 0.1; ct, fm: 1]"),
    _number(
        "--max-snr-weight",
        "NoProp, ct: cut of the weight of late times; 0 for none.  [default: 5; learned: none]",
    ),
    _word("--block-feedback", noprop.BLOCK_FEEDBACK, "NoProp: how a block's error goes back."),
    _number("--n-steps", "NoProp, ct and fm: steps of a prediction.", int),
    _word("--ode-rule", noprop.RULES, "NoProp, ct and fm: rule of these steps."),
    _flag("--inference-noise", "NoProp, dt: add the posterior's noise to a prediction."),
    _number("--n-ens", "Ensemble Kalman: members.", int),
    _word("--update", enkf.UPDATES, "Ensemble Kalman: how a kept ensemble moves."),
    _number("--dt", "Ensemble Kalman: first step.  [default: 100; gauss_newton: 10; kept: 1]"),
    _number("--obs-noise-var", "Ensemble Kalman: variance of what is observed."),
    _number("--redraw-spread", "Ensemble Kalman: spread of redrawn members; 0 keeps them."),
    _number("--init-spread", "Ensemble Kalman: spread of the first members that are kept."),
    _word("--loss", enkf.LOSSES, "Ensemble Kalman: what is minimised.  [default: cross_entropy]"),
    _word("--curvature", enkf.CURVATURES, "Ensemble Kalman: second derivative of the loss."),
    _word("--dtype", DTYPES, "Type of the products."),
    _number("--threads", "Threads.  [default: all cores]", int),
    _number("--seed", "Seed of every random number.  [default: 0]", int),
    _flag("--early-stopping", "Keep a tenth apart, stop when its score improves no more."),
    click.option("--quiet", is_flag=True, help="Show no progress bar."),
]  # fmt: skip


def network_options(function: _Function) -> _Function:
    """Add the options that become parameters of an estimator.

    Parameters
    ----------
    function : callable
        The command.

    Returns
    -------
    function : callable
        The command with the options; their help names the default, where all methods share it.
    """
    for option in reversed(_OPTIONS):
        function = option(function)
    for param in getattr(function, "__click_params__", [])[-len(_OPTIONS) :]:
        name = _PARAMETERS.get(param.name, param.name)
        of_methods = [cls().get_params(deep=False) for cls in CLASSIFIERS.values()]
        defaults = {params[name] for params in of_methods if name in params}
        default = defaults.pop() if len(defaults) == 1 else None
        told = isinstance(default, (str, float)) or param.name in _COUNTS
        if told and "[default" not in (param.help or ""):
            param.help = f"{param.help or ''}  [default: {default}]".strip()
    return function


def parameters(options: dict[str, Any], resume: str | None = None) -> dict[str, Any]:
    """Give the parameters that were named, under the estimator's names.

    Parameters
    ----------
    options : dict
        What click has read.
    resume : str or None
        The model to go on from, whose seed counts.

    Returns
    -------
    params : dict
        Parameters of an estimator.
    """
    named = {
        _PARAMETERS.get(name, name): value
        for name, value in options.items()
        if value not in (None, ()) and name != "quiet"
    }
    if resume is None:
        named.setdefault("random_state", 0)
    named["verbose"] = 0 if options["quiet"] else 1
    return named


def parameters_of_each(methods: Sequence[str], params: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Give each method those of the parameters that it has, and whose value it allows.

    Parameters
    ----------
    methods : sequence of str
        Keys of `CLASSIFIERS`.
    params : dict
        Parameters; each one is one of some method at least.

    Returns
    -------
    of_each : dict of str to dict
        Parameters of each method.

    Raises
    ------
    ValueError
        If none of the methods has a parameter, or allows its value.
    """
    for name, value in params.items():
        if not any(_has(method, name, value) for method in methods):
            what = "the method" if len(methods) == 1 else "any of the methods"
            raise ValueError(f"{name}={value!r} means nothing to {what} {', '.join(methods)}.")
    return {
        method: {name: value for name, value in params.items() if _has(method, name, value)}
        for method in methods
    }


def _has(method: str, name: str, value: Any) -> bool:
    """Say whether a method has a parameter, and where values are told apart by method, this one."""
    cls = CLASSIFIERS[method]
    if name not in cls._get_param_names():
        return False
    allowed = {
        "activation": cls._activations,
        "predict_with": _PREDICTIONS.get(method, ()),
        "loss": enkf.LOSSES if method == "enkf" else (),
    }
    return name not in allowed or value in allowed[name]
