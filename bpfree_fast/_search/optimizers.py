# SPDX-License-Identifier: BSD-3-Clause
"""First-order optimizers of one vector, in blocks that stay in cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .._arrays import Floats

OPTIMIZERS = ("sgd", "momentum", "adam", "clipup")
_BLOCK = 1 << 15
_SLOTS = {"sgd": 0, "momentum": 1, "adam": 2, "clipup": 1}


def blocks(n: int) -> Iterator[slice]:
    """Cut n numbers into blocks that stay in a second-level cache."""
    for begin in range(0, n, _BLOCK):
        yield slice(begin, min(begin + _BLOCK, n))


def norm(values: Floats) -> float:
    """Give the Euclidean norm, summed in float64 and in one order for any number of threads."""
    total = 0.0
    for part in blocks(values.size):
        wide = values[part].astype(np.float64, copy=False)
        total += float(np.add.reduce(wide * wide))
    return math.sqrt(total)


@dataclass(frozen=True)
class Optimizer:
    """Steps theta along a gradient, downhill.

    References: momentum in scikit-learn's form; Adam, Kingma & Ba 2014, arXiv:1412.6980, with
    epsilon outside the corrected root; ClipUp, Toklu et al. 2020, arXiv:2008.02387, algorithm 1.
    """

    kind: str
    momentum: float
    beta_1: float
    beta_2: float
    epsilon: float
    max_speed: float
    weight_decay: float

    def slots(self, n: int, dtype: np.dtype[np.generic]) -> list[Floats]:
        """Make the state: so many zero vectors."""
        return [np.zeros(n, dtype) for _ in range(_SLOTS[self.kind])]

    def step(
        self,
        theta: Floats,
        gradient: Floats,
        gradient_norm: float,
        slots: list[Floats],
        t: int,
        learning_rate: float,
    ) -> None:
        """Do step t, counted from 1, in place; `gradient` is used up."""
        keep = 1.0 - learning_rate * self.weight_decay
        if self.kind == "clipup":
            # A gradient of zero has no direction: then only the old velocity moves theta.
            along = -learning_rate / gradient_norm if gradient_norm > 0 else 0.0
            velocity = slots[0]
            for part in blocks(theta.size):
                velocity[part] *= self.momentum
                velocity[part] += along * gradient[part]
            speed = norm(velocity)
            if speed > self.max_speed:
                velocity *= self.max_speed / speed
        rate = learning_rate
        if self.kind == "adam":
            rate *= math.sqrt(1.0 - self.beta_2**t) / (1.0 - self.beta_1**t)
        for part in blocks(theta.size):
            p, g = theta[part], gradient[part]
            if keep != 1.0:
                p *= keep
            if self.kind == "sgd":
                g *= learning_rate
                p -= g
            elif self.kind == "momentum":
                v = slots[0][part]
                v *= self.momentum
                g *= learning_rate
                v -= g
                p += v
            elif self.kind == "clipup":
                p += slots[0][part]
            else:
                m, v = slots[0][part], slots[1][part]
                m *= self.beta_1
                m += (1.0 - self.beta_1) * g
                v *= self.beta_2
                g *= g
                v += (1.0 - self.beta_2) * g
                p -= rate * m / (np.sqrt(v) + self.epsilon)
