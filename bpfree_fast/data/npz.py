# SPDX-License-Identifier: BSD-3-Clause
"""NumPy files, npz and npy; nothing in them is ever unpickled."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of an npz file, or the one of an npy file under the name ``X``.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    arrays : dict of str to ndarray
        The arrays by name, names in lower case.

    Raises
    ------
    ValueError
        If the file is truncated or corrupt, or holds Python objects.
    """
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {"x": content}
        with content:
            return {name.lower(): content[name] for name in content.files}
    except ValueError as error:
        if "Object arrays" in str(error) or "allow_pickle" in str(error):
            reason = "it holds Python objects, which are not read"
        else:
            reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{path} cannot be read: {reason}.") from None
    except (EOFError, OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is truncated or corrupt: {error}.") from None
