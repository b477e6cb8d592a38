# SPDX-License-Identifier: BSD-3-Clause
"""Kernel regressions: `pytest bench --benchmark-autosave`, then `--benchmark-compare`.

Ours alone, against itself on the same machine; `run.py` is what compares with others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pytest_benchmark", reason="the bench needs pytest-benchmark")
core = pytest.importorskip("bpfree_fast._core", reason="bpfree_fast is not installed")

Benchmark = Callable[..., Any]
THREADS = min(2, core.default_threads())
SHAPES = [(128, 784, 1024, False), (1024, 128, 1024, True), (64, 64, 64, False)]


def _bf16(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("m", "k", "n", "transposed"), SHAPES)
def test_product(
    benchmark: Benchmark, m: int, k: int, n: int, transposed: bool, dtype: str
) -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((k, m) if transposed else (m, k)).astype(np.float32)
    b = rng.standard_normal((k, n)).astype(np.float32)
    right = (a.T if transposed else a) @ b
    out = np.empty((m, n), np.float32)
    if dtype == "bfloat16":
        a, b = _bf16(a), _bf16(b)
    benchmark(core.product, a, b, out, transposed, False, THREADS)
    assert np.abs(out - right).max() < 0.1 * np.sqrt(k)


@pytest.mark.parametrize("kind", ["uniform", "normal", "sign"])
def test_random(benchmark: Benchmark, kind: str) -> None:
    out = np.empty(1 << 20, np.float32)
    benchmark(getattr(core, kind), out, 0, 0, 0, 1)
    assert abs(out.mean() - (0.5 if kind == "uniform" else 0.0)) < 0.01


def _network(dtype: str) -> Any:
    network = core.Network([784, 256, 256, 10], "relu", "softmax_cross_entropy", dtype)
    network.initialize(0)
    return network


def _rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2048, 784), dtype=np.uint8)
    return x, rng.integers(0, 10, len(x)).astype(np.int32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("method", ["feedback", "backprop"])
def test_sixteen_steps(benchmark: Benchmark, method: str, solver: str, dtype: str) -> None:
    x, y = _rows()
    network = _network(dtype)
    trainer = core.Trainer(network, method=method, solver=solver, batch_size=128, n_threads=THREADS)
    loss = benchmark(trainer.run_epoch, x, y, epoch=0, input_scale=1 / 255, learning_rate=1e-4)
    assert np.isfinite(loss)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_predict(benchmark: Benchmark, dtype: str) -> None:
    x, _ = _rows()
    out = np.empty((len(x), 10), np.float32)
    benchmark(_network(dtype).predict, x, out, 1 / 255, THREADS)
    assert np.allclose(out.sum(axis=1), 1.0, atol=1e-4)
