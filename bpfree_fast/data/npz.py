# SPDX-License-Identifier: BSD-3-Clause
"""NumPy files, npz and npy; nothing in them is ever unpickled."""

from __future__ import annotations

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
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {"x": content}
            with content:
                return {name.lower(): content[name] for name in content.files}
    except Exception as error:  # a damaged header may fail as a number, a zip file or Python text
        if isinstance(error, OSError) and error.filename is not None:
            raise
        if "Object arrays" in str(error):
            raise ValueError(f"{path} holds Python objects, which are not read.") from None
        if "pickled data" in str(error):  # NumPy's guess for any other file
            raise ValueError(f"{path} is corrupt, or no NumPy file.") from None
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"{path} is truncated or corrupt: {reason}.") from None
