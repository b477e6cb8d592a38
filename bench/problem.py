# SPDX-License-Identifier: BSD-3-Clause
"""What is trained: a network, a batch, an optimizer, and the data that every contestant gets."""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Layers = list[tuple[F32, F32]]  # (W [n_in, n_out], b [n_out]) of each layer

PIXEL_SCALE = 1.0 / 255.0


@dataclass(frozen=True)
class Problem:
    """One training problem; every contestant of a row gets the same one."""

    layer_sizes: tuple[int, ...]
    batch: int
    optimizer: str = "momentum"  # 'momentum' (SGD, 0.9, not Nesterov) | 'adam'
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0  # decoupled, of matrices; Forward-Forward's and NoProp's
    total_steps: int = 0  # > 0: cosine decay to zero over so many steps; 0: constant

    @property
    def n_params(self) -> int:
        return sum((i + 1) * o for i, o in pairwise(self.layer_sizes))

    @property
    def n_slots(self) -> int:
        """Optimizer values a parameter."""
        return {"momentum": 1, "adam": 2}[self.optimizer]

    @property
    def title(self) -> str:
        return f"{'-'.join(map(str, self.layer_sizes))}, batch {self.batch}, {self.optimizer}"

    def lr_at(self, step: int) -> float:
        if not self.total_steps:
            return self.learning_rate
        return float(self.learning_rate * 0.5 * (1.0 + np.cos(np.pi * step / self.total_steps)))

    def flops(self, method: str) -> float:
        """Floating-point operations of one step; the products only."""
        pairs = list(pairwise(self.layer_sizes))
        forward = sum(2.0 * self.batch * i * o for i, o in pairs)
        if method == "backprop":  # the first layer needs no dX
            return 2 * forward + sum(2.0 * self.batch * i * o for i, o in pairs[1:])
        hidden = sum(self.layer_sizes[1:-1])
        return 2 * forward + 2.0 * self.batch * self.layer_sizes[-1] * hidden

    def initial_layers(self, seed: int = 0) -> Layers:
        """Weights as 'he_uniform' makes them, biases zero: the same ones for everyone."""
        rng = np.random.default_rng(seed)
        layers = []
        for n_in, n_out in pairwise(self.layer_sizes):
            bound = (6 / n_in) ** 0.5
            w = rng.uniform(-bound, bound, (n_in, n_out)).astype(np.float32)
            layers.append((w, np.zeros(n_out, np.float32)))
        return layers

    def feedback(self, seed: int = 0) -> list[F32]:
        """Direct feedback [n_outputs, n_hidden] of each hidden layer."""
        rng = np.random.default_rng([seed, 4])
        n_outputs = self.layer_sizes[-1]
        bound = n_outputs**-0.5
        return [
            rng.uniform(-bound, bound, (n_outputs, n)).astype(np.float32)
            for n in self.layer_sizes[1:-1]
        ]


@dataclass(frozen=True)
class Data:
    """Pixels as they lie in the files; rivals get them as resident float32 tensors."""

    x: NDArray[np.uint8]
    y: NDArray[np.int32]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int32]
    source: str  # 'mnist' | 'random'

    @cached_property
    def x_float(self) -> F32:
        return self.x.astype(np.float32) * np.float32(PIXEL_SCALE)

    @cached_property
    def x_test_float(self) -> F32:
        return self.x_test.astype(np.float32) * np.float32(PIXEL_SCALE)


def _read_idx(folder: Path, stem: str) -> NDArray[np.uint8] | None:
    for path, opener in ((folder / f"{stem}.gz", gzip.open), (folder / stem, open)):
        if path.is_file():
            with opener(path, "rb") as f:
                raw = f.read()
            n_dims = raw[3]
            shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(n_dims)]
            return np.frombuffer(raw, np.uint8, offset=4 + 4 * n_dims).reshape(shape[0], -1)
    return None


def load_mnist(folder: Path) -> Data | None:
    """MNIST from IDX files in `folder` or `folder`/mnist; None if one is missing."""
    stems = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    for place in (folder, folder / "mnist"):
        parts = [_read_idx(place, f"{stem}-ubyte") for stem in stems]
        if all(part is not None for part in parts):
            x, y, x_test, y_test = (np.array(part) for part in parts)
            y, y_test = (v.ravel().astype(np.int32) for v in (y, y_test))
            return Data(x, y, x_test, y_test, "mnist")
    return None


def random_data() -> Data:
    """Bytes of MNIST's shape and sparsity (four pixels in five are black), with no meaning."""
    rng = np.random.default_rng(0)

    def pixels(n: int) -> NDArray[np.uint8]:
        ink = rng.integers(0, 256, (n, 784), dtype=np.uint8)
        ink[rng.random((n, 784), dtype=np.float32) < 0.8] = 0
        return ink

    y, y_test = (rng.integers(0, 10, n).astype(np.int32) for n in (60_000, 10_000))
    return Data(pixels(60_000), y, pixels(10_000), y_test, "random")


def load_data() -> Data:
    folder = os.environ.get("BPFREE_DATA")
    mnist = load_mnist(Path(folder)) if folder else None
    return mnist or random_data()
