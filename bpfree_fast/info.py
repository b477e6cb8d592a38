# SPDX-License-Identifier: BSD-3-Clause
"""What this build is, and where its headers lie."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Literal, overload

from . import _core

_PACKAGES = ("numpy", "scikit-learn", "safetensors")


def versions() -> dict[str, str]:
    """Give the versions of this library, of Python and of what the results depend on.

    Returns
    -------
    versions : dict of str to str
        A package that is not installed is left out.

    Examples
    --------
    >>> from bpfree_fast.info import versions
    >>> "numpy" in versions()
    True
    """
    found = {"bpfree_fast": _core.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def configuration() -> dict[str, object]:
    """Give the build and the machine as a dictionary: the data of `show_config`."""
    return {**_core.config(), "machine": platform.machine(), "versions": versions()}


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...


@overload
def show_config(mode: Literal["dicts"]) -> dict[str, object]: ...


def show_config(mode: str = "stdout") -> dict[str, object] | None:
    """Show the instruction set, the threads and the versions in use.

    Parameters
    ----------
    mode : {'stdout', 'dicts'}, default='stdout'
        'stdout' prints a table; 'dicts' gives the same as a dictionary.

    Returns
    -------
    config : dict or None
        None when it was printed.

    Raises
    ------
    ValueError
        If `mode` is none of the two.

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> bf.show_config(mode="dicts")["isa"] in ("scalar", "avx2", "avx512", "avx512bf16", "neon")
    True
    """
    config = configuration()
    if mode == "dicts":
        return config
    if mode != "stdout":
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {mode!r}.")
    sys.stdout.write(as_table(config) + "\n")
    return None


def as_table(config: dict[str, object]) -> str:
    """Give a configuration as lines of text, one name and value each."""
    rows: list[tuple[str, str]] = []
    for name, value in config.items():
        if isinstance(value, dict):
            rows += [(str(key), str(item)) for key, item in value.items()]
        elif isinstance(value, (list, tuple)):
            rows.append((name, " ".join(str(item) for item in value)))
        else:
            rows.append((name, str(value)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in dict(rows).items())


def get_include() -> str:
    """Give the folder of the C headers, for ``#include <bpfree/bpfree.h>``.

    Returns
    -------
    path : str
        The folder to pass to a compiler.

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> bf.get_include().endswith("include")
    True
    """
    return str(_package() / "include")


def get_cmake_dir() -> str:
    """Give the folder of the CMake package, for ``find_package(bpfree)``.

    Returns
    -------
    path : str
        The folder to pass to CMake as ``bpfree_DIR``.

    Examples
    --------
    >>> import bpfree_fast as bf
    >>> bf.get_cmake_dir().endswith("bpfree")
    True
    """
    return str(_package() / "lib" / "cmake" / "bpfree")


def _package() -> Path:
    # _core lies where everything compiled was installed, also in an editable install.
    return Path(_core.__file__).resolve().parent
