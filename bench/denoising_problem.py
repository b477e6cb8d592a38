# SPDX-License-Identifier: BSD-3-Clause
"""NoProp's problem: layer_sizes holds the features, the layers that join the branches, the classes.

Its `Layers` are one list, block after block: input branch, label branch, joining layers, classes.
Class embeddings are one-hot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from layer_local_problem import LayerLocalProblem
from numpy.typing import NDArray
from problem import F32, Layers

CUT = 0.99  # of alpha_bar
TIME_FEATURES = 64

Item = TypeVar("Item")


def alpha_bar(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """The label's share of the variance of its noisy copy after a share t of the way: a cosine."""
    return np.sin(np.pi * t / 2) ** 2


@dataclass(frozen=True)
class NoPropProblem(LayerLocalProblem):
    """Blocks of dense layers, ReLU; the defaults are the classifier's."""

    optimizer: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    variant: str = "dt"  # 'dt' | 'ct', which are predicted alone
    n_blocks: int = 10
    input_units: int = 256
    label_units: int = 256
    eta: float = 0.1
    n_steps: int = 100  # of a prediction in continuous time

    @property
    def n_label(self) -> int:
        """Inputs of the label branch."""
        return self.n_classes + (0 if self.variant == "dt" else TIME_FEATURES)

    @property
    def block_shapes(self) -> list[tuple[int, int]]:
        """Of the matrices of one block."""
        branches = [(self.layer_sizes[0], self.input_units), (self.n_label, self.label_units)]
        chain = (self.input_units + self.label_units, *self.layer_sizes[1:])
        return [*branches, *pairwise(chain)]

    @property
    def alpha_bar(self) -> NDArray[np.float64]:
        """Before the first and after each block."""
        return np.minimum(alpha_bar(np.arange(self.n_blocks + 1) / self.n_blocks), CUT)

    @property
    def loss_weights(self) -> NDArray[np.float64]:
        """Of each block: the step of the signal-to-noise ratio."""
        snr = self.alpha_bar / (1 - self.alpha_bar)
        return self.n_blocks * self.eta / 2 * np.diff(snr)

    @property
    def denoising_steps(self) -> list[tuple[float, float]]:
        """a and b of z = a * estimate + b * z: a pair for each block, or for each step in time."""
        if self.variant == "dt":
            before, after = self.alpha_bar[:-1], self.alpha_bar[1:]
            a = np.sqrt(after) * (1 - before / after) / (1 - before)
            b = np.sqrt(before / after) * (1 - after) / (1 - before)
        else:
            share = CUT * alpha_bar(np.arange(self.n_steps + 1) / self.n_steps)
            b = np.sqrt((1 - share[1:]) / (1 - share[:-1]))
            a = np.sqrt(share[1:]) - b * np.sqrt(share[:-1])
        return list(zip(a.tolist(), b.tolist(), strict=True))

    @property
    def time_features(self) -> F32:
        """[n_steps, TIME_FEATURES]: sines, then cosines, of frequencies from 1 to 100."""
        n = TIME_FEATURES // 2
        angle = np.arange(self.n_steps)[:, None] / self.n_steps * 100.0 ** (np.arange(n) / (n - 1))
        return np.hstack([np.sin(angle), np.cos(angle)]).astype(np.float32)

    def class_weights(self, z: NDArray[Any], start: NDArray[Any]) -> NDArray[Any]:
        """What the estimates have added to z, normalised."""
        kept, mass = 1.0, 0.0
        for a, b in self.denoising_steps:
            kept, mass = kept * b, a + b * mass
        return (z - kept * start) / mass

    @property
    def n_params(self) -> int:
        return self.n_blocks * sum((i + 1) * o for i, o in self.block_shapes)

    @property
    def group_activations(self) -> int:
        """Numbers between the layers of all blocks for one batch, z and logits included."""
        units = sum(o for _, o in self.block_shapes) + self.n_label
        return self.n_blocks * self.batch * units

    def flops(self, method: str) -> float:
        """Of a step: forward, weight gradients, and what goes back, not to x nor to z."""
        layers = sum(i * o for i, o in self.block_shapes)
        back = sum(i * o for i, o in self.block_shapes[2:])
        return 2.0 * self.batch * self.n_blocks * (2 * layers + back)

    def prediction_flops(self, *, hoisted: bool) -> float:
        """Of a row. Hoisted: what does not change with time is computed once."""
        sizes = [i * o for i, o in self.block_shapes]
        if self.variant == "dt":
            return 2.0 * self.n_blocks * sum(sizes)
        if not hoisted:
            return 2.0 * self.n_steps * sum(sizes)
        joined = self.layer_sizes[1]
        once = sizes[0] + self.input_units * joined
        label = self.n_classes * self.label_units + self.label_units * joined
        return 2.0 * (once + self.n_steps * (label + sum(sizes[3:])))

    def initial_layers(self, seed: int = 0) -> Layers:
        """Matrices as 'he_uniform' makes them, biases zero: the same ones for everyone."""
        rng = np.random.default_rng(seed)
        layers: Layers = []
        for _ in range(self.n_blocks):
            for n_in, n_out in self.block_shapes:
                bound = (6 / n_in) ** 0.5
                w = rng.uniform(-bound, bound, (n_in, n_out)).astype(np.float32)
                layers.append((w, np.zeros(n_out, np.float32)))
        return layers

    def of_block(self, layers: list[Item], block: int) -> list[Item]:
        n = len(self.block_shapes)
        return layers[block * n : (block + 1) * n]


STEP = NoPropProblem((784, 256, 128, 10), 128)
CONTINUOUS = replace(STEP, variant="ct", n_blocks=1, eta=1.0)
