# SPDX-License-Identifier: BSD-3-Clause
"""Arrays of other libraries as NumPy arrays, without a copy."""

from __future__ import annotations

from typing import Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from ._validation import choice, integer

F32: TypeAlias = NDArray[np.float32]
Floats: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
_NAMES = {np.dtype(name).num: name for name in ("float32", "float64", "uint16")}
_F32 = np.dtype(np.float32).num
DType: TypeAlias = str | type[np.generic] | np.dtype[np.generic]


class Array(Protocol):
    """A NumPy array, or an array of another library that lends its memory by DLPack."""

    def __dlpack__(self, *, stream: None = None) -> object:
        """Lend the memory."""

    def __dlpack_device__(self) -> tuple[int, int]:
        """Say where the memory is; the CPU is (1, 0)."""


def as_array(name: str, value: Array) -> NDArray[np.generic]:
    """Give the memory of `value` as a NumPy array."""
    if isinstance(value, np.ndarray):
        return value
    if not hasattr(value, "__dlpack__"):
        raise TypeError(
            f"{name} is {type(value).__name__}, expected a NumPy array or one that speaks DLPack."
        )
    try:
        return cast("NDArray[np.generic]", np.from_dlpack(cast("NDArray[np.generic]", value)))
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        hint = ""
        if str(getattr(value, "dtype", "")).endswith("bfloat16"):
            hint = "; give its bits, a view as uint16, with dtype='bfloat16'"
        reason = str(error).rstrip(".")
        raise ValueError(f"{name} cannot be lent to NumPy ({reason}){hint}.") from error


def as_f32(name: str, value: Array) -> F32:
    """Give the memory of `value`, which should be float32."""
    # What does not fit is told by the core, which looks at type, shape and order anyway.
    return cast("F32", as_array(name, value))


def _dtype_name(dtype: DType) -> str:
    if isinstance(dtype, str):
        return dtype
    try:
        return str(np.dtype(dtype).name)
    except TypeError:
        return repr(dtype)


def float_type(dtype: DType) -> np.dtype[np.generic]:
    """Give float32 or float64."""
    return np.dtype(choice("dtype", _dtype_name(dtype), ("float32", "float64")))


def product_type(dtype: DType) -> str:
    """Give the name of a type that has a product."""
    return choice("dtype", _dtype_name(dtype), ("float32", "float64", "bfloat16"))


def operand(name: str, value: Array, wanted: str | None) -> NDArray[np.generic]:
    """Give a factor of a product; bfloat16 as its bits."""
    array = value if type(value) is np.ndarray else as_array(name, value)
    if wanted is None and array.dtype.num == _F32:
        return array
    # dtype.name is put together anew at each look, which takes as long as a small product.
    held = _NAMES.get(array.dtype.num) or array.dtype.name
    if held == "uint16" and wanted is None:
        raise TypeError(f"{name} is uint16; dtype='bfloat16' says that these are bits of bfloat16.")
    if held == "uint16" and wanted == "bfloat16":
        held = "bfloat16"
    if wanted is not None and held != wanted:
        raise TypeError(f"{name} is {held}, but dtype is {wanted!r}: nothing is converted.")
    is_ml_bfloat16 = held == "bfloat16" and array.dtype.num != np.dtype(np.uint16).num
    return array.view(np.uint16) if is_ml_bfloat16 else array


def vector(n: int, dtype: np.dtype[np.generic], out: Array | None) -> NDArray[np.generic]:
    """Give an array of n numbers: `out`, where it fits."""
    size = integer("n", n, 0)
    if out is None:
        return np.empty(size, dtype)
    array = as_array("out", out)
    if array.dtype != dtype or array.shape != (size,):
        held = f"{array.dtype} of shape {array.shape}"
        raise ValueError(f"out is {held}, expected {dtype} of shape ({size},).")
    return array


def matrix(out: Array | None, a: F32, axis_a: int, b: F32, axis_b: int) -> F32:
    """Give an array of float32 with a's and b's sizes: `out`, which the core compares."""
    if out is not None:
        return as_f32("out", out)
    if a.ndim != 2 or b.ndim != 2:
        return np.empty((0, 0), np.float32)  # the core tells which of them is wrong
    return np.empty((a.shape[axis_a], b.shape[axis_b]), np.float32)


def dimensions(array: NDArray[np.generic]) -> str:
    """Say how many dimensions an array has."""
    return "1 dimension" if array.ndim == 1 else f"{array.ndim} dimensions"
