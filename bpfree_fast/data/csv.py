# SPDX-License-Identifier: BSD-3-Clause
"""Comma-separated files: one sample for each line, one column may be the class."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LABEL_NAMES = ("label", "target", "class", "y", "species")


def read_csv(path: Path, *, labelled: bool = True) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Read samples, and their labels.

    A first line that holds no number is a header. The labels are in the column that it calls
    label, target, class, y or species, else in the last one.

    Parameters
    ----------
    path : Path
        The file.
    labelled : bool, default=True
        Whether there are labels. Without, a column that the header calls so is left out.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        The samples, float64.
    y : ndarray of shape (n_samples,) or None
        The labels, numbers or strings; None without labels.

    Raises
    ------
    ValueError
        If the file is empty, a line has another number of columns, or a value is no number.
    """
    try:
        with open(path, encoding="utf-8") as file:
            first = [cell.strip().strip('"') for cell in file.readline().split(",")]
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text file.") from None
    if first == [""]:
        raise ValueError(f"{path} is empty.")
    # All but the class are numbers: a header is a line without any.
    header = not any(_is_number(cell) for cell in first)
    named = [i for i, cell in enumerate(first) if header and cell.lower() in _LABEL_NAMES]
    label = named[0] if named else len(first) - 1 if labelled else None
    columns = [i for i in range(len(first)) if i != label]
    if not columns:
        raise ValueError(f"{path} has one column: there are no samples beside the labels.")
    X = _columns(path, columns, np.float64, header)
    if len(X) == 0:
        raise ValueError(f"{path} has a header but no samples.")
    bad = np.argwhere(~np.isfinite(X))
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"{path}: line {row + 1 + header}, column {columns[column] + 1} is NaN or infinite."
        )
    if not labelled or label is None:
        return X, None
    return X, _as_numbers(_columns(path, [label], np.str_, header)[:, 0])


def _columns(path: Path, columns: list[int], dtype: Any, header: bool) -> NDArray[Any]:
    try:
        with warnings.catch_warnings():
            # "input contained no data" is said by an error, once.
            warnings.simplefilter("ignore", UserWarning)
            return np.loadtxt(
                path,
                dtype=dtype,
                delimiter=",",
                skiprows=int(header),
                usecols=columns,
                ndmin=2,
                quotechar='"',
                comments=None,
                encoding="utf-8",
            )
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0].rstrip('.;')}.") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _as_numbers(labels: NDArray[np.str_]) -> NDArray[Any]:
    labels = np.char.strip(labels)
    try:
        values = labels.astype(np.float64)
    except ValueError:
        return labels
    return values
