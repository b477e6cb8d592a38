# SPDX-License-Identifier: BSD-3-Clause
"""The optimizer's numbers as every kernel that steps takes them."""

from __future__ import annotations

from typing import TypedDict

from ._validation import MAX_SEED, flag, integer, real

SOLVERS = ("sgd", "adam", "adamw", "rmsprop")


class OptimizerKeywords(TypedDict):
    """What the core takes by name."""

    step: int
    momentum: float
    nesterov: bool
    beta_1: float
    beta_2: float
    epsilon: float
    alpha: float
    weight_decay: float
    n_samples: float


def optimizer_keywords(
    *,
    step: int,
    momentum: float,
    nesterov: bool,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    alpha: float,
    weight_decay: float,
    n_samples: float | None,
) -> OptimizerKeywords:
    """Check the numbers; `n_samples` None becomes 0, the core's word for its own count."""
    return {
        "step": integer("step", step, 1, MAX_SEED),
        "momentum": real("momentum", momentum, 0, 1, open_high=True),
        "nesterov": flag("nesterov", nesterov),
        "beta_1": real("beta_1", beta_1, 0, 1, open_high=True),
        "beta_2": real("beta_2", beta_2, 0, 1, open_high=True),
        "epsilon": real("epsilon", epsilon, 0),
        "alpha": real("alpha", alpha, 0),
        "weight_decay": real("weight_decay", weight_decay, 0),
        "n_samples": 0.0 if n_samples is None else real("n_samples", n_samples, 0, open_low=True),
    }
