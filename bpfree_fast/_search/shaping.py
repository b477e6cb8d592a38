# SPDX-License-Identifier: BSD-3-Clause
"""From losses to utilities: larger is better, and what failed is worst."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from .._perturbation import fitness_shaping

F64 = NDArray[np.float64]
SHAPINGS = ("centered_rank", "z_score", "nes", "group", "pair", "top_k", "none")


def filled(losses: F64) -> F64:
    """Give the losses with the worst of them in the place of those that are not finite."""
    finite = np.isfinite(losses)
    if np.count_nonzero(finite) == len(losses):
        return losses
    return np.where(finite, losses, losses[finite].max())


def recombination_weights(losses: F64, weights: F64) -> F64:
    """Give each member the weight of its rank; among equals the lower index is better."""
    shaped = np.empty_like(weights)
    # Whoever failed is beyond the others: NaN is sorted behind infinity.
    shaped[np.argsort(np.where(losses == -np.inf, np.inf, losses), kind="stable")] = weights
    return shaped


def utilities(losses: F64, kind: str, size: int | None = None) -> F64:
    """Shape the losses of a generation; `size` is top_k or group_size, for who has one."""
    if kind == "none":
        return -filled(losses)
    shaped = fitness_shaping(
        losses,
        maximize=False,
        kind=kind,
        top_k=size if kind == "top_k" else None,
        group_size=size if kind == "group" else None,
    )
    return cast("F64", shaped)
