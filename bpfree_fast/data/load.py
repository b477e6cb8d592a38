# SPDX-License-Identifier: BSD-3-Clause
"""From a name, a folder or a file to a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._extras import require
from .csv import read_csv
from .dataset import Dataset, as_labels, as_rows
from .idx import read_idx
from .npz import read_npz

DIGITS = "digits"
# How the parts of an IDX folder and the arrays of an npz file are called.
_IDX_PARTS = (("train",), ("t10k", "test"))
_X_NAMES = ("x", "data", "images")
_Y_NAMES = ("y", "target", "labels", "label")


def load(path: str | os.PathLike[str] | None = None) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    path : str, path-like or None, default=None
        A folder with IDX files called as those of MNIST, gzipped or not, with ``train.csv`` and
        ``test.csv``, or with one npz or csv file; or such a file; or the name of a folder below
        the one that the environment variable ``BPFREE_DATA`` names. 'digits' is the set that
        scikit-learn ships. None is ``BPFREE_DATA`` if that folder holds a data set itself, else
        'digits'.

    Returns
    -------
    dataset : Dataset
        Two parts. Where the files have one only, a fifth of it is for testing, always the same.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder, or nothing in it that can be read.
    ValueError
        If a file is truncated or corrupt, or the parts do not fit together.

    Examples
    --------
    >>> from bpfree_fast import data
    >>> data.load("digits").X_train.shape
    (1438, 64)
    """
    if path is None:
        home = os.environ.get("BPFREE_DATA")
        if home and _has_data(Path(home)):
            return _load_folder(Path(home))
        return _load_digits()
    if os.fspath(path) == DIGITS and not Path(path).exists():
        return _load_digits()
    found = _find(Path(path))
    return _load_folder(found) if found.is_dir() else _load_file(found)


def read_rows(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read samples without labels, to predict them.

    Parameters
    ----------
    path : str or path-like
        An IDX, npz, npy or csv file. Labels in it are left out: those of an npz file, and of a
        csv file whose header names them.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        The samples.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is truncated or corrupt, or holds no samples.
    """
    file = _find(Path(path))
    if file.is_dir():
        raise FileNotFoundError(f"{file} is a folder, not a file.")
    kind = file.suffix.lower()
    if kind in (".npz", ".npy"):
        arrays = read_npz(file)
        return as_rows(str(file), _pick(file, arrays, ("x_test", *_X_NAMES)))
    if kind in (".csv", ".txt"):
        return read_csv(file, labelled=False)[0]
    return as_rows(str(file), read_idx(file))


def _find(path: Path) -> Path:
    if path.exists():
        return path
    home = os.environ.get("BPFREE_DATA")
    if home and (Path(home) / path).exists():
        return Path(home) / path
    below = f" and not below BPFREE_DATA ({home})" if home else ""
    raise FileNotFoundError(f"{path} is not there{below}.")


def _load_digits() -> Dataset:
    X, y = require("sklearn", "sklearn.datasets").load_digits(return_X_y=True)
    return Dataset.from_one_part(DIGITS, (X / 16).astype(np.float32), y)


def _has_data(folder: Path) -> bool:
    if not folder.is_dir():
        raise FileNotFoundError(f"BPFREE_DATA names {folder}, which is not a folder.")
    return bool(_idx_file(folder, _IDX_PARTS[0], 3) or _tables(folder))


def _idx_file(folder: Path, parts: tuple[str, ...], n_dimensions: int) -> Path | None:
    kind = "images" if n_dimensions == 3 else "labels"
    for part in parts:
        for dot in "-", ".":
            for end in "", ".gz":
                file = folder / f"{part}-{kind}{dot}idx{n_dimensions}-ubyte{end}"
                if file.is_file():
                    return file
    return None


def _tables(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in (".npz", ".csv"))


def _load_folder(folder: Path) -> Dataset:
    if _idx_file(folder, _IDX_PARTS[0], 3):
        arrays = []
        for parts in _IDX_PARTS:
            for n_dimensions in (3, 1):
                file = _idx_file(folder, parts, n_dimensions)
                if file is None:
                    kind = "images" if n_dimensions == 3 else "labels"
                    raise FileNotFoundError(f"{folder} has no IDX file of the {parts[0]} {kind}.")
                array = read_idx(file)
                convert = as_rows if n_dimensions == 3 else as_labels
                arrays.append(convert(str(file), array))
        return Dataset(folder.name, *arrays)
    tables = _tables(folder)
    names = {file.name.lower(): file for file in tables}
    if {"train.csv", "test.csv"} <= names.keys():
        train, test = _labelled_csv(names["train.csv"]), _labelled_csv(names["test.csv"])
        return Dataset(folder.name, *train, *test)
    if len(tables) == 1:
        return _load_file(tables[0])
    found = ", ".join(sorted(file.name for file in folder.iterdir())[:5]) or "nothing"
    raise FileNotFoundError(f"{folder} holds no data set that can be read: {found}.")


def _load_file(file: Path) -> Dataset:
    kind = file.suffix.lower()
    if kind == ".csv":
        return Dataset.from_one_part(file.stem, *_labelled_csv(file))
    if kind != ".npz":
        raise ValueError(f"{file} is neither a folder nor an npz or csv file.")
    arrays = read_npz(file)
    name = str(file)
    if any(key.endswith(("_train", "_test")) for key in arrays):
        parts = []
        for part in ("train", "test"):
            X = _pick(file, arrays, tuple(f"{key}_{part}" for key in _X_NAMES))
            y = _pick(file, arrays, tuple(f"{key}_{part}" for key in _Y_NAMES))
            parts += [as_rows(name, X), as_labels(name, y)]
        return Dataset(file.stem, *parts)
    X, y = _pick(file, arrays, _X_NAMES), _pick(file, arrays, _Y_NAMES)
    return Dataset.from_one_part(file.stem, as_rows(name, X), as_labels(name, y))


def _labelled_csv(file: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    X, y = read_csv(file)
    assert y is not None
    return X, as_labels(str(file), y)


def _pick(file: Path, arrays: dict[str, NDArray[Any]], names: tuple[str, ...]) -> NDArray[Any]:
    for name in names:
        if name in arrays:
            return arrays[name]
    raise ValueError(f"{file} has no array {names[0]!r}, only {', '.join(arrays) or 'nothing'}.")
