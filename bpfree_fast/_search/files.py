# SPDX-License-Identifier: BSD-3-Clause
"""A search in a file: plain arrays and JSON in an npz, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
_TEXT = "description"


def write(
    path: str | os.PathLike[str], kind: str, state: Mapping[str, object], arrays: Arrays
) -> None:
    """Write what is of a kind, say 'evolution strategy', or leave the old file as it was."""
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent} is not a folder: cannot save {target.name}.")
    text = json.dumps({"format": _format(kind), **state})
    # In the same folder, so that the last step is a rename within one file system.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            held: dict[str, Any] = {_TEXT: np.frombuffer(text.encode(), np.uint8), **arrays}
            np.savez(file, **held)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], Arrays]:
    """Read what `write` wrote of this kind."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not a file.")
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        state = json.loads(arrays.pop(_TEXT).tobytes())
    except (
        AttributeError,
        EOFError,
        TypeError,
        KeyError,
        OSError,
        ValueError,
        zipfile.BadZipFile,
    ) as error:
        raise ValueError(f"{path} is no saved {kind} ({error}).") from None
    if not isinstance(state, dict) or state.get("format") != _format(kind):
        raise ValueError(f"{path} is no saved {kind}: its format is not {_format(kind)!r}.")
    return state, arrays


def _format(kind: str) -> str:
    return f"bpfree_fast {kind} 1"
