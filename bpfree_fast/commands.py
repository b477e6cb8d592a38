# SPDX-License-Identifier: BSD-3-Clause
"""The subcommands of ``bpfree-fast``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np

from . import data as _data
from . import experiment, info, report
from .estimators import CLASSIFIERS, load
from .estimators._parameters import ACTIVATIONS, DTYPES, INITIALIZERS, SCHEDULES, SOLVERS
from .estimators._targets import NetworkClassifier
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
}
_METHODS = tuple(CLASSIFIERS)


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


def _network_options(function: _Function) -> _Function:
    """Add the options that become parameters of an estimator."""
    defaults = CLASSIFIERS["dfa"]()
    options = [
        click.option(
            "--hidden",
            multiple=True,
            type=int,
            metavar="N ...",
            help="Units of the hidden layers, such as 1024 1024.  [default: 256 256]",
        ),
        click.option("--activation", type=click.Choice(ACTIVATIONS)),
        click.option("--epochs", type=int, help="Passes over the training samples."),
        click.option("--batch-size", type=int, help="Samples of a minibatch."),
        click.option("--solver", type=click.Choice(SOLVERS)),
        click.option("--learning-rate", type=float, help="The first learning rate."),
        click.option("--schedule", type=click.Choice(SCHEDULES), help="How it falls."),
        click.option("--alpha", type=float, help="Strength of the L2 term."),
        click.option("--weight-decay", type=float, help="Decoupled decay of the weights."),
        click.option("--initializer", type=click.Choice(INITIALIZERS)),
        click.option("--feedback", type=click.Choice(RULES), help="Rule of feedback alignment."),
        click.option("--error-signal", type=click.Choice(["exact", "sign"])),
        click.option("--feedback-scale", type=float, help="Scale of the random feedback."),
        click.option("--dtype", type=click.Choice(DTYPES), help="Type of the products."),
        click.option("--threads", type=int, help="Threads.  [default: all cores]"),
        click.option("--seed", type=int, help="Seed of every random number.  [default: 0]"),
        click.option(
            "--early-stopping",
            is_flag=True,
            default=None,
            help="Keep a tenth apart, stop when its score improves no more.",
        ),
        click.option("--quiet", is_flag=True, help="Show no progress bar."),
    ]
    shown = ("--batch-size", "--epochs")
    for option in reversed(options):
        function = option(function)
    for param in getattr(function, "__click_params__", [])[-len(options) :]:
        default = getattr(defaults, _PARAMETERS.get(param.name, param.name), None)
        if isinstance(default, (str, float)) or param.opts[0] in shown:
            param.help = f"{param.help or ''}  [default: {default}]".strip()
    return function


def _parameters(options: dict[str, Any], resume: str | None = None) -> dict[str, Any]:
    """Give the parameters that were named, under the estimator's names."""
    named = {
        _PARAMETERS.get(name, name): value
        for name, value in options.items()
        if value not in (None, ()) and name != "quiet"
    }
    if resume is None:
        named.setdefault("random_state", 0)
    named["verbose"] = 0 if options["quiet"] else 1
    return named


_DATA = click.option(
    "--data",
    metavar="DIR",
    help="Folder or file with IDX, npz or csv data, or a folder's name below BPFREE_DATA.  "
    "[default: BPFREE_DATA if it holds a data set, else scikit-learn's digits]",
)
_JSON = click.option("--json", "json_file", metavar="FILE", help="Write all figures there.")


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(info.versions()["bpfree_fast"], prog_name="bpfree-fast")
@click.pass_context
def program(ctx: click.Context) -> None:
    """Train neural networks without backpropagation, fast on ordinary CPUs."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@program.command(cls=ListCommand)
@click.option("--method", type=click.Choice(_METHODS), help="How to train.  [default: dfa]")
@_DATA
@_network_options
@click.option("--resume", metavar="FILE", help="Go on from a saved model, up to --epochs.")
@click.option("--save", metavar="FILE", help="Save the model, as safetensors.")
@_JSON
@click.option("--plot", metavar="FILE", help="Draw the curves of loss and accuracy.")
def train(
    method: str | None,
    data: str | None,
    resume: str | None,
    save: str | None,
    json_file: str | None,
    plot: str | None,
    **options: Any,
) -> int:
    """Train one method; Ctrl-C ends it early and keeps what was learnt.

    Example: bpfree-fast train --method dfa --hidden 1024 1024 --save model.safetensors
    """
    report.check_outputs(save, json_file, plot)
    report.check_picture(plot)
    plan = experiment.Plan(method, data, _parameters(options, resume), resume, save)
    result = experiment.run(plan)
    if json_file is not None:
        report.write_result(json_file, result)
    if plot is not None:
        report.plot_curves(plot, [result])
    click.echo(report.table([result]))
    if result["interrupted"]:
        done = f"Interrupted after {len(result['epochs'])} epochs"
        kept = f"the usable model is saved in {save}" if save else "the model was not to be saved"
        click.echo(f"{done}; {kept}.", err=True)
        return 130
    if save is not None:
        click.echo(f"The model is saved in {save}.")
    return 0


@program.command()
@click.argument("model")
@_DATA
@click.option(
    "--input",
    "input_file",
    metavar="FILE",
    help="Samples without labels: an IDX, npz, npy or csv file.",
)
@click.option("--output", metavar="FILE", help="Write the predictions there, as npy or as text.")
def predict(model: str, data: str | None, input_file: str | None, output: str | None) -> int:
    """Apply a saved MODEL to the test samples of a data set, or to a file of samples.

    Example: bpfree-fast predict model.safetensors --input digits.csv --output classes.csv
    """
    if data is not None and input_file is not None:
        raise click.UsageError("--data and --input exclude each other.")
    report.check_outputs(output)
    estimator = load(model)
    if input_file is not None:
        rows = _data.read_rows(input_file)
        predicted = estimator.predict(rows)
    else:
        dataset = _data.load(data)
        predicted = estimator.predict(dataset.X_test)
        right = np.mean(predicted == dataset.y_test)
        click.echo(
            f"test accuracy {right:.2%} on {len(predicted)} samples of {dataset.name}", err=True
        )
    if output is not None and Path(output).suffix == ".npy":
        np.save(output, predicted)
    elif output is not None:
        Path(output).write_text(_lines(predicted), encoding="utf-8")
    elif input_file is not None:
        sys.stdout.write(_lines(predicted))
        sys.stdout.flush()
    return 0


def _lines(predicted: np.ndarray[Any, Any]) -> str:
    rows = predicted.reshape(len(predicted), -1)
    return "".join(",".join(str(value) for value in row) + "\n" for row in rows)


@program.command(cls=ListCommand)
@click.option(
    "--methods",
    multiple=True,
    type=click.Choice(_METHODS),
    metavar="METHOD ...",
    help=f"Methods to compare, out of {', '.join(_METHODS)}.  [default: all]",
)
@_DATA
@_network_options
@click.option(
    "--accuracy", type=float, help="Test accuracy to reach.  [default: the lowest of the last ones]"
)
@_JSON
@click.option(
    "--plot",
    metavar="FILE",
    default="compare.png",
    show_default=True,
    help="Draw the curves of loss and accuracy.",
)
def compare(
    methods: tuple[str, ...],
    data: str | None,
    accuracy: float | None,
    json_file: str | None,
    plot: str,
    **options: Any,
) -> int:
    """Train several methods on the same network, data, threads and seed.

    Each runs in a process of its own, one after the other. Example: bpfree-fast compare --data
    mnist --hidden 1024 1024 --epochs 12
    """
    report.check_outputs(json_file, plot)
    report.check_picture(plot)
    params = _parameters(options)
    only_feedback = ("feedback", "error_signal", "feedback_scale")
    plans = []
    for method in methods or _METHODS:
        known = set(CLASSIFIERS[method]().get_params(deep=False))
        own = {k: v for k, v in params.items() if k in known or k not in only_feedback}
        plans.append(experiment.Plan(method, data, own))
    results = experiment.compare(plans)
    if json_file is not None:
        report.write_result(json_file, results)
    if accuracy is None:
        accuracy = min(result["test_accuracy"] for result in results)
    report.plot_curves(plot, results)
    click.echo(report.table(results, accuracy))
    click.echo(f"The curves are drawn in {plot}.")
    return 130 if any(result["interrupted"] for result in results) else 0


@program.command(cls=ListCommand)
@click.option(
    "--hidden",
    multiple=True,
    type=int,
    metavar="N ...",
    default=(1024, 1024),
    help="Units of the hidden layers.  [default: 1024 1024]",
)
@click.option("--features", type=int, default=784, show_default=True, help="Columns of X.")
@click.option("--classes", type=int, default=10, show_default=True, help="Number of classes.")
@click.option("--batch-size", type=int, default=128, show_default=True)
@click.option("--threads", type=int, help="Threads.  [default: all cores]")
@click.option("--seconds", type=float, default=1.0, show_default=True, help="Time for each row.")
@_JSON
def bench(
    hidden: tuple[int, ...],
    features: int,
    classes: int,
    batch_size: int,
    threads: int | None,
    seconds: float,
    json_file: str | None,
) -> int:
    """Time a training step of each method on random pixels, on this machine."""
    report.check_outputs(json_file)
    rows: list[dict[str, Any]] = []
    cells = [["method", "dtype", "ms per step", "spread", "samples/s"]]
    for method, cls in CLASSIFIERS.items():
        for dtype in DTYPES:
            classifier: NetworkClassifier = cls(
                hidden, batch_size=batch_size, dtype=dtype, n_threads=threads, random_state=0
            )
            step, spread = experiment.time_steps(classifier, features, classes, seconds)
            rows.append({"method": method, "dtype": dtype, "step_seconds": step, "spread": spread})
            speed = f"{batch_size / step:,.0f}"
            cells.append([method, dtype, f"{step * 1e3:.3f}", f"{spread:.0%}", speed])
    if json_file is not None:
        report.write_result(json_file, {"rows": rows, **info.configuration()})
    click.echo(report.align(cells))
    return 0


@program.command("info")
def show_info() -> int:
    """Say which instruction set, threads and versions are in use."""
    click.echo(info.as_table(info.configuration()))
    return 0
