# SPDX-License-Identifier: BSD-3-Clause
"""The subcommands of ``bpfree-fast``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from . import data as _data
from . import experiment, info, report
from .estimators import CLASSIFIERS, load
from .estimators._parameters import DTYPES
from .estimators._targets import NetworkClassifier
from .options import ListCommand, network_options, parameters, parameters_of_each

_METHODS = tuple(CLASSIFIERS)
_COMPARED_HIDDEN = (256, 256)

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
@network_options
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
    plan = experiment.Plan(method, data, parameters(options, resume), resume, save)
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
@network_options
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
    # The same network for all, whatever a method's own default is.
    params = {"hidden_layer_sizes": _COMPARED_HIDDEN, **parameters(options)}
    of_each = parameters_of_each(methods or _METHODS, params)
    plans = [experiment.Plan(method, data, own) for method, own in of_each.items()]
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
