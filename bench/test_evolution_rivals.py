# SPDX-License-Identifier: BSD-3-Clause
"""The check of a generation passes who is right, and no one else."""

from __future__ import annotations

import numpy as np
import ours
import pytest
import rivals
from evolution_answers import GenerationCheck
from evolution_problem import EvolutionProblem
from ours_evolution import OursEvolution
from problem import Data
from rivals.base import Rival
from rows.evolution import _perturbing_faults

# EvoTorch makes scripts by torch.jit when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

PROBLEM = EvolutionProblem((16, 12, 10), 64, learning_rate=0.01, population_size=512)


def make_data() -> Data:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (256, 16), dtype=np.uint8)
    y = (x[:, 0] // 26).astype(np.int32)
    return Data(x, y, x[:10], y[:10], "random")


def load(name: str) -> Rival:
    if name == "ours":
        if ours.MISSING:
            pytest.skip(ours.MISSING)
        return OursEvolution("", "float32", 1)
    rival = rivals.load(name)
    if isinstance(rival, str):
        pytest.skip(rival)
    return rival


@pytest.mark.parametrize("name", ["ours", "evosax_network", "evotorch_network"])
def test_a_generation(name: str) -> None:
    data, layers = make_data(), PROBLEM.initial_layers()
    check = GenerationCheck(PROBLEM, data, layers)
    trainee = load(name).train(PROBLEM, data, layers)
    trainee.in_order(1)
    mean, after = trainee.population_loss(), trainee.layers()
    assert not check.faults(mean, after)
    assert len(check.faults(mean + 0.1, after)) == 1
    # A step the other way, and one that knows nothing of the fitness.
    back = [(2 * w0 - w, 2 * b0 - b) for (w0, b0), (w, b) in zip(layers, after, strict=True)]
    assert len(check.faults(mean, back)) == 1
    rng = np.random.default_rng(3)
    other = [(w + rng.normal(size=w.shape), b + rng.normal(size=b.shape)) for w, b in layers]
    assert len(check.faults(mean, other)) == 1
    assert np.isfinite(trainee.epoch(0))
    assert 0 <= trainee.accuracy(data.x_float, data.y) <= 1


@pytest.mark.parametrize("name", ["ours", "numpy", "torch_eager"])
def test_noise(name: str) -> None:
    assert not _perturbing_faults(load(name))
