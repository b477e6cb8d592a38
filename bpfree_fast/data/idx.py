# SPDX-License-Identifier: BSD-3-Clause
"""IDX files, the format of MNIST, gzipped or not."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The third byte of the file -> type of the elements, big-endian.
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path) -> NDArray[Any]:
    """Read an IDX file; one that is not gzipped is mapped, and read where it lies.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    array : ndarray
        The array, in the byte order of this machine.

    Raises
    ------
    ValueError
        If the file is truncated, too long, corrupt or no IDX file.
    """
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    content: NDArray[np.uint8]
    if zipped:
        try:
            with gzip.open(path) as stream:
                content = np.frombuffer(stream.read(), dtype=np.uint8)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is truncated or corrupt: {error}.") from None
    elif path.stat().st_size == 0:
        raise ValueError(f"{path} is empty.")
    else:
        content = np.memmap(path, dtype=np.uint8, mode="r")
    head = content[:4].tobytes()
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or head[3] == 0:
        raise ValueError(f"{path} is no IDX file: it begins with {head.hex() or 'nothing'}.")
    dtype = np.dtype(_TYPES[head[2]])
    n_bytes = 4 + 4 * head[3]
    if len(content) < n_bytes:
        raise ValueError(f"{path} is truncated: its header needs {n_bytes} bytes.")
    shape = tuple(int(n) for n in content[4:n_bytes].view(">u4"))
    wanted = n_bytes + math.prod(shape) * dtype.itemsize
    if len(content) != wanted:
        raise ValueError(
            f"{path} is corrupt: shape {shape} needs {wanted} bytes, it has {len(content)}."
        )
    array = content[n_bytes:].view(dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)
