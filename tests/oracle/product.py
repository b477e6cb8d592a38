# SPDX-License-Identifier: BSD-3-Clause
"""A matrix product and how far a computed one may be from it."""

import numpy as np


def product(a, b, *, transpose_a, transpose_b):
    """op(a) op(b), and |op(a)| |op(b)|, which bounds the rounding errors elementwise."""
    a = np.asarray(a, np.float64).T if transpose_a else np.asarray(a, np.float64)
    b = np.asarray(b, np.float64).T if transpose_b else np.asarray(b, np.float64)
    return a @ b, np.abs(a) @ np.abs(b)


def to_bfloat16(x):
    """float32 rounded to bfloat16, nearest and ties to even, as its upper 16 bits (uint16)."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return np.where(np.isnan(x), 0x7FC0, rounded >> 16).astype(np.uint16)


def from_bfloat16(x):
    """The float32 values of bfloat16 bits (uint16)."""
    return (np.asarray(x, np.uint32) << 16).view(np.float32)
