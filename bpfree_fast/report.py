# SPDX-License-Identifier: BSD-3-Clause
"""What a training run reports: numbers, tables and pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import io
from ._extras import require

Result = dict[str, Any]


def peak_memory() -> int:
    """Give the largest resident memory that this process has had, in bytes.

    Returns
    -------
    n_bytes : int
        From the kernel's count for this program, without that of the program that started it.

    Examples
    --------
    >>> from bpfree_fast.report import peak_memory
    >>> peak_memory() > 0
    True
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # not on every system

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def check_outputs(*paths: str | os.PathLike[str] | None) -> None:
    """Refuse output files that cannot be written, before any work is done.

    Parameters
    ----------
    *paths : str, path-like or None
        Files to be written later.

    Raises
    ------
    OSError
        If the folder of a file is missing or read-only, or the file is a folder.
    """
    for path in paths:
        if path is None:
            continue
        file = Path(path)
        if not file.parent.is_dir():
            raise FileNotFoundError(f"{file.parent} is not a folder: cannot write {file.name}.")
        if file.is_dir():
            raise IsADirectoryError(f"{file} is a folder: cannot write a file there.")
        if not os.access(file.parent, os.W_OK):
            raise PermissionError(f"{file.parent} is read-only: cannot write {file.name}.")


def check_picture(path: str | os.PathLike[str] | None) -> None:
    """Refuse a picture of a kind that cannot be drawn.

    Parameters
    ----------
    path : str, path-like or None
        The file; its ending names the kind.

    Raises
    ------
    ValueError
        If the ending is none of those that can be drawn.
    """
    if path is None:
        return
    kind = Path(path).suffix.lstrip(".").lower()
    kinds = _canvas().get_supported_filetypes()
    if kind not in kinds:
        raise ValueError(f"{path} must end in one of {', '.join(sorted(kinds))}.")


def write_result(path: str | os.PathLike[str], result: Result | Sequence[Result]) -> None:
    """Write results as JSON.

    Parameters
    ----------
    path : str or path-like
        The file; one that exists is replaced in one step.
    result : dict or sequence of dict
        What `experiment.run` gave.
    """
    io.write_json(path, result)


def time_to_accuracy(result: Result, accuracy: float) -> float | None:
    """Give the training time after which a test accuracy was first reached.

    Parameters
    ----------
    result : dict
        What `experiment.run` gave.
    accuracy : float
        The accuracy to reach, from 0 to 1.

    Returns
    -------
    seconds : float or None
        None if it was never reached.

    Examples
    --------
    >>> from bpfree_fast.report import time_to_accuracy
    >>> epochs = [{"test_accuracy": 0.8, "seconds": 2.0}, {"test_accuracy": 0.9, "seconds": 2.5}]
    >>> time_to_accuracy({"epochs": epochs}, 0.85)
    4.5
    """
    seconds = 0.0
    for epoch in result["epochs"]:
        seconds += float(epoch["seconds"])
        if epoch["test_accuracy"] >= accuracy:
            return seconds
    return None


def table(results: Sequence[Result], accuracy: float | None = None) -> str:
    """Give results as a table, one line each.

    Parameters
    ----------
    results : sequence of dict
        What `experiment.run` gave.
    accuracy : float, default=None
        The accuracy of "time to accuracy"; None leaves this column out.

    Returns
    -------
    text : str
        The table, without a newline at its end.
    """
    head = ["method", "dtype", "test accuracy", "train seconds", "samples/s", "peak memory"]
    if accuracy is not None:
        head.append(f"seconds to {accuracy:.2%}")
    rows = [head]
    for result in results:
        row = [
            result["method"],
            result["config"]["dtype"],
            f"{result['test_accuracy']:.2%}",
            f"{result['train_seconds']:.2f}",
            f"{result['samples_per_second']:,.0f}",
            f"{result['peak_memory_bytes'] / 2**20:,.0f} MiB",
        ]
        if accuracy is not None:
            seconds = time_to_accuracy(result, accuracy)
            row.append("never" if seconds is None else f"{seconds:.2f}")
        rows.append(row)
    return align(rows)


def align(rows: Sequence[Sequence[str]]) -> str:
    """Give rows of cells as lines, columns aligned: the first to the left, the rest to the right.

    Parameters
    ----------
    rows : sequence of sequence of str
        The cells, as many in each row.

    Returns
    -------
    text : str
        One line for each row.
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def plot_curves(path: str | os.PathLike[str], results: Sequence[Result]) -> None:
    """Draw training loss against epochs, and test accuracy against training time.

    Parameters
    ----------
    path : str or path-like
        The picture; its ending names the kind.
    results : sequence of dict
        What `experiment.run` gave.
    """
    canvas = _canvas()
    loss, accuracy = canvas.figure.subplots(1, 2)
    for result in results:
        epochs = result["epochs"]
        seconds, at = 0.0, []
        for epoch in epochs:
            seconds += epoch["seconds"]
            at.append(seconds)
        numbers = [epoch["epoch"] for epoch in epochs]
        label = result["method"]
        loss.plot(numbers, [epoch["train_loss"] for epoch in epochs], ".-", label=label)
        accuracy.plot(at, [epoch["test_accuracy"] for epoch in epochs], ".-", label=label)
    loss.set(xlabel="epoch", ylabel="training loss", yscale="log")
    loss.xaxis.get_major_locator().set_params(integer=True)
    accuracy.set(xlabel="training time in seconds", ylabel="test accuracy")
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        axes.legend()
    canvas.figure.suptitle(results[0]["dataset"]["name"])
    canvas.figure.savefig(path)


def _canvas() -> Any:
    # A figure of its own, not pyplot: no state is shared, and no window is looked for.
    agg = require("matplotlib", "matplotlib.backends.backend_agg")
    figure = require("matplotlib", "matplotlib.figure").Figure(
        figsize=(10, 4), dpi=120, layout="constrained"
    )
    return agg.FigureCanvasAgg(figure)
