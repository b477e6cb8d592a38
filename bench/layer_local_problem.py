# SPDX-License-Identifier: BSD-3-Clause
"""Problems of the layer-local methods: layer_sizes holds features, hidden layers and classes.

Their `Layers` are one list: the hidden layers, then the heads, then whatever else is learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from problem import Layers, Problem


def _he_uniform(rng: np.random.Generator, n_in: int, n_out: int) -> NDArray[np.float32]:
    bound = (6 / n_in) ** 0.5
    return rng.uniform(-bound, bound, (n_in, n_out)).astype(np.float32)


def _head(n_in: int, n_out: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.zeros((n_in, n_out), np.float32), np.zeros(n_out, np.float32)


@dataclass(frozen=True)
class LayerLocalProblem(Problem):
    @property
    def n_classes(self) -> int:
        return self.layer_sizes[-1]

    @property
    def hidden(self) -> tuple[int, ...]:
        return self.layer_sizes[1:-1]


@dataclass(frozen=True)
class ForwardForwardProblem(LayerLocalProblem):
    """Supervised Forward-Forward; a step has `batch` positive and as many negative rows."""

    label_position: str = "append"  # 'append' | 'overwrite'
    goodness: str = "sum"  # 'sum' | 'mean' of the squares
    loss: str = "logistic"  # 'logistic' | 'symba'
    threshold: float = 1.0  # of the mean square; a sum's is n_out times it
    temperature: float = 1.0
    alpha: float = 4.0  # of symba
    peer: float = 0.03
    first_head: int = 1  # the first hidden layer that the softmax head and the goodness read
    negatives: str = "random"  # a wrong label: 'random' | 'hard' (drawn from the head's guess)

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """Inputs of every hidden layer, the label's among the first's."""
        extra = self.n_classes if self.label_position == "append" else 0
        return (self.layer_sizes[0] + extra, *self.hidden[:-1])

    def threshold_of(self, n_out: int) -> float:
        return self.threshold * (n_out if self.goodness == "sum" else 1)

    @property
    def n_params(self) -> int:
        return sum(w.size + b.size for w, b in self.initial_layers())

    def flops(self, method: str) -> float:
        """Nominal: forward of 3 batches, weight product of 2, and the head. Ours skips some."""
        pairs = zip(self.input_sizes, self.hidden, strict=True)
        layers = sum(2.0 * 5 * self.batch * i * o for i, o in pairs)
        return layers + 4.0 * self.batch * self.n_classes * sum(self.hidden[self.first_head :])

    def initial_layers(self, seed: int = 0) -> Layers:
        """Hidden layers, he_uniform; then the heads M, c of the layers from first_head on, zero."""
        rng = np.random.default_rng(seed)
        layers: Layers = []
        for n_in, n_out in zip(self.input_sizes, self.hidden, strict=True):
            layers.append((_he_uniform(rng, n_in, n_out), np.zeros(n_out, np.float32)))
        return layers + [_head(n, self.n_classes) for n in self.hidden[self.first_head :]]

    def check_negatives(self, y: NDArray[np.int32]) -> NDArray[np.int32]:
        """Wrong labels of the rows of the check, where all contestants need the same ones."""
        shift = 1 + np.arange(len(y)) % (self.n_classes - 1)
        return ((y + shift) % self.n_classes).astype(np.int32)


@dataclass(frozen=True)
class LocalLossProblem(LayerLocalProblem):
    """Nøkland & Eidnes 2019: every hidden layer has a loss of its own, all learn at once."""

    objective: str = "pred"  # 'pred' | 'sim' | 'predsim'
    sim_projection: bool = False  # a linear map n x n before the similarity, as in the paper
    similarity_weight: float = 0.99  # of 'predsim'; pred has the rest
    activation: str = "relu"  # 'relu' | 'leaky_relu' (0.01)
    batch_norm: bool = False
    dropout: float = 0.0  # of a layer's output, after its loss

    @property
    def n_heads(self) -> int:
        """With 'sim' only the last layer has a head, which teaches no layer."""
        return 1 if self.objective == "sim" else len(self.hidden)

    @property
    def has_projections(self) -> bool:
        return self.sim_projection and self.objective != "pred"

    @property
    def n_params(self) -> int:
        return sum(w.size + b.size for w, b in self.initial_layers())

    def flops(self, method: str) -> float:
        """Forward and weight product of the hidden layers, heads, similarities and their maps."""
        b = self.batch
        total = sum(4.0 * b * i * o for i, o in pairwise(self.layer_sizes[:-1]))
        total += sum(6.0 * b * n * self.n_classes for n in self.hidden[-self.n_heads :])
        if self.objective != "pred":
            total += sum(4.0 * b * b * n for n in self.hidden)
        if self.has_projections:
            total += sum(6.0 * b * n * n for n in self.hidden)
        return total

    def initial_layers(self, seed: int = 0) -> Layers:
        """Hidden layers, he_uniform; heads, zero; then the similarities' maps, without biases."""
        rng = np.random.default_rng(seed)
        layers: Layers = []
        for n_in, n_out in pairwise(self.layer_sizes[:-1]):
            layers.append((_he_uniform(rng, n_in, n_out), np.zeros(n_out, np.float32)))
        layers += [_head(n, self.n_classes) for n in self.hidden[-self.n_heads :]]
        if self.has_projections:
            for n in self.hidden:
                w = rng.uniform(-(n**-0.5), n**-0.5, (n, n)).astype(np.float32)
                layers.append((w, np.zeros(0, np.float32)))
        return layers
