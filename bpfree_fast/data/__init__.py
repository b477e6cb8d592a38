# SPDX-License-Identifier: BSD-3-Clause
"""Readers of data sets: IDX, npz and csv files, and the digits that scikit-learn ships."""

from __future__ import annotations

from .dataset import Dataset
from .load import load, read_rows

__all__ = ["Dataset", "load", "read_rows"]
