# SPDX-License-Identifier: BSD-3-Clause
"""Optional dependencies: the one place that imports them, and says which extra is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

# Import name -> the extra that brings it.
_EXTRAS = {
    "sklearn": "sklearn",
    "safetensors": "sklearn",
    "tqdm": "sklearn",
    "click": "cli",
    "matplotlib": "cli",
}


def require(*modules: str) -> ModuleType:
    """Import optional modules and give the last one.

    Parameters
    ----------
    *modules : str
        Names to import, for example ``"safetensors.numpy"``.

    Returns
    -------
    module : module
        The last module named.

    Raises
    ------
    ModuleNotFoundError
        If a module is not installed: one sentence that names the extra to install.
    """
    for name in modules:
        root = name.partition(".")[0]
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != root:
                raise
            extra = _EXTRAS[root]
            message = f"{root} is not installed: run pip install 'bpfree-fast[{extra}]'."
            raise ModuleNotFoundError(message, name=root) from None
    return module
