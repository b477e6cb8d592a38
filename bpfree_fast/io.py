# SPDX-License-Identifier: BSD-3-Clause
"""Saved models on disk: safetensors with a JSON description, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._extras import require

Tensors = dict[str, NDArray[Any]]
FORMAT = "bpfree_fast 1"


def write(path: str | os.PathLike[str], tensors: Mapping[str, NDArray[Any]], text: str) -> None:
    """Write tensors and their description to a file, or leave the old file as it was.

    Parameters
    ----------
    path : str or path-like
        The file; one that exists is replaced in one step.
    tensors : mapping of str to ndarray
        The arrays by name.
    text : str
        The description, JSON.

    Raises
    ------
    OSError
        If the folder does not exist or cannot be written.
    """
    safetensors = require("safetensors", "safetensors.numpy")
    target = Path(path)
    arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    metadata = {"format": FORMAT, "description": text, "crc32": _checksum(arrays, text)}
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent} is not a folder: cannot save {target.name}.")
    # In the same folder, so that the last step is a rename within one file system.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        safetensors.save_file(arrays, temporary, metadata=metadata)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def read(path: str | os.PathLike[str]) -> tuple[Tensors, dict[str, Any]]:
    """Read what `write` wrote.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    tensors : dict of str to ndarray
        The arrays by name.
    description : dict
        The description.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated, corrupt or not one of ours.
    """
    safetensors = require("safetensors")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not a file.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is truncated or no safetensors file ({error}).") from None
    if metadata.get("format") != FORMAT:
        found = metadata.get("format", "none")
        raise ValueError(f"{path} is no saved model: its format is {found!r}, not {FORMAT!r}.")
    text = metadata.get("description", "")
    if metadata.get("crc32") != _checksum(tensors, text):
        raise ValueError(f"{path} is corrupt: its checksum does not match.")
    try:
        description = json.loads(text, object_hook=_from_json)
    except (TypeError, ValueError):
        raise ValueError(f"{path} is corrupt: its description is not JSON.") from None
    if not isinstance(description, dict):
        raise ValueError(f"{path} is corrupt: its description is not a JSON object.")
    return tensors, description


def dumps(value: object) -> str:
    """Give the JSON text of a description; small arrays keep their dtype.

    Parameters
    ----------
    value : object
        Dictionaries, lists, numbers, strings, None and arrays of numbers or strings.

    Returns
    -------
    text : str
        What `read` gives back, with lists for tuples.

    Raises
    ------
    TypeError
        If a value has no place in JSON.
    """
    return json.dumps(value, default=_to_json)


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write a JSON file whole or not at all.

    Parameters
    ----------
    path : str or path-like
        The file; one that exists is replaced in one step.
    value : object
        What to write.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_text(json.dumps(value, indent=2, default=_to_json) + "\n", encoding="utf-8")
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _to_json(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return {
            "dtype": value.dtype.str,
            "shape": value.shape,
            "values": value.reshape(-1).tolist(),
        }
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be saved.")


def _from_json(value: dict[str, Any]) -> object:
    if value.keys() == {"dtype", "shape", "values"}:
        return np.array(value["values"], dtype=value["dtype"]).reshape(value["shape"])
    return value


def _checksum(tensors: Mapping[str, NDArray[Any]], text: str) -> str:
    # safetensors checks sizes only: a flipped bit in a weight would go unseen.
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(tensors[name].reshape(-1).view(np.uint8).data, crc)
    return f"{crc:08x}"
