# SPDX-License-Identifier: BSD-3-Clause
"""bpfree_fast behind the rivals' interface."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from harness import Clock
from numpy.typing import NDArray
from problem import F32, PIXEL_SCALE, Data, Layers, Problem
from rivals.base import Call, Rival, Trainee

bf: Any = None
core: Any = None
MISSING = ""
try:
    bf = importlib.import_module("bpfree_fast")
    core = importlib.import_module("bpfree_fast._core")
except ImportError as error:
    MISSING = f"bpfree_fast is not installed: {error}"


def config() -> dict[str, object]:
    return dict(core.config()) if core is not None else {"missing": MISSING}


def bfloat16_path() -> str:
    """'dot' or 'widened': every bf16 row says which one ran."""
    return str(config().get("bfloat16", "unknown"))


def make_network(problem: Problem, layers: Layers, dtype: str) -> Any:
    network = core.Network(list(problem.layer_sizes), "relu", "softmax_cross_entropy", dtype)
    for i, (w, b) in enumerate(layers):
        network.set_weights(i, w)
        network.set_biases(i, b)
    return network


class OursTrainee(Trainee):
    """Steps are run_epoch on shuffled uint8 rows: gather, packing and loss are in the time."""

    def __init__(
        self, name: str, problem: Problem, data: Data, layers: Layers, *, method: str, dtype: str,
        n_threads: int, seed: int = 0,
    ) -> None:  # fmt: skip
        self.name = name
        self._problem, self._data = problem, data
        self._method, self._n_threads = method, n_threads
        self._network = make_network(problem, layers, dtype)
        self._trainer = core.Trainer(
            self._network,
            method="backprop" if method == "backprop" else "feedback",
            feedback="direct",
            solver={"momentum": "sgd"}.get(problem.optimizer, problem.optimizer),
            momentum=problem.momentum,
            nesterov=False,
            batch_size=problem.batch,
            seed=seed,
            n_threads=n_threads,
        )
        self._epoch = 0

    def _run(
        self, rows: slice, *, shuffle: bool, on_event: Callable[[int, int, float], bool] | None
    ) -> float:
        schedule = "cosine" if self._problem.total_steps else "constant"
        self._epoch += 1
        return float(
            self._trainer.run_epoch(
                self._data.x[rows], self._data.y[rows], None, epoch=self._epoch - 1,
                shuffle=shuffle, input_scale=PIXEL_SCALE,
                learning_rate=self._problem.learning_rate, schedule=schedule,
                total_steps=self._problem.total_steps, on_event=on_event,
            )
        )  # fmt: skip

    def many(self, n: int) -> None:
        batch, n_rows = self._problem.batch, len(self._data.y)
        while n > 0:
            now = min(n, n_rows // batch)
            self._run(slice(0, now * batch), shuffle=True, on_event=None)
            n -= now

    def block(self, seconds: float) -> tuple[int, float]:
        """Whole-data epochs, stopped between steps by the callback that a user would use."""
        start = Clock.now()
        steps = last = 0

        def on_event(done: int, of: int, loss: float) -> bool:
            nonlocal last
            last = done
            return Clock.now() - start >= seconds

        while Clock.now() - start < seconds:
            last = 0
            self._run(slice(None), shuffle=True, on_event=on_event)
            steps += last
        return steps, Clock.now() - start

    def in_order(self, n_steps: int) -> None:
        self._run(slice(0, n_steps * self._problem.batch), shuffle=False, on_event=None)

    def epoch(self, epoch: int) -> float:
        self._epoch = epoch
        return self._run(slice(None), shuffle=True, on_event=None)

    def layers(self) -> Layers:
        n = len(self._problem.layer_sizes) - 1
        return [
            (np.array(self._network.weights(i)), np.array(self._network.biases(i)))
            for i in range(n)
        ]

    def feedback(self) -> list[F32] | None:
        if self._method == "backprop":
            return None
        return [
            np.array(self._trainer.feedback(i)) for i in range(len(self._problem.layer_sizes) - 2)
        ]

    def accuracy(self, x: NDArray[Any], y: NDArray[np.int32]) -> float:
        out = np.empty((len(x), self._problem.layer_sizes[-1]), np.float32)
        self._network.predict(x, out, 1.0, self._n_threads)
        return float((out.argmax(axis=1) == y).mean())


class _Product(Call):
    def __init__(
        self, name: str, a: F32, b: F32, transpose_a: bool, dtype: str, n_threads: int
    ) -> None:
        self.name = name
        self._a: Any = a
        self._b: Any = b
        if dtype == "bfloat16":
            import ml_dtypes

            self._a, self._b = (v.astype(ml_dtypes.bfloat16) for v in (a, b))
        m = a.shape[1] if transpose_a else a.shape[0]
        self._out = np.empty((m, b.shape[1]), np.float32)
        self._transpose_a, self._n_threads = transpose_a, n_threads

    def many(self, n: int) -> None:
        product = bf.kernels.product
        a, b, out, transpose_a = self._a, self._b, self._out, self._transpose_a
        for _ in range(n):
            product(a, b, transpose_a=transpose_a, out=out, n_threads=self._n_threads)

    def result(self) -> NDArray[Any]:
        return self._out


class _Normals(Call):
    def __init__(self, name: str, n: int, n_threads: int) -> None:
        self.name = name
        self._out = np.empty(n, np.float32)
        self._n_threads = n_threads
        self._stream = 0

    def many(self, n: int) -> None:
        for _ in range(n):
            self._stream += 1
            bf.kernels.normal(
                0, len(self._out), stream=self._stream, out=self._out, n_threads=self._n_threads
            )

    def result(self) -> NDArray[Any]:
        return self._out


class _Predictor(Call):
    def __init__(
        self, name: str, problem: Problem, layers: Layers, x: F32, dtype: str, n_threads: int
    ) -> None:
        self.name = name
        self._network = make_network(problem, layers, dtype)
        self._x, self._n_threads = x, n_threads
        self._out = np.empty((len(x), problem.layer_sizes[-1]), np.float32)

    def many(self, n: int) -> None:
        for _ in range(n):
            self._network.predict(self._x, self._out, 1.0, self._n_threads)

    def result(self) -> NDArray[Any]:
        return self._out


class _Fit(Call):
    def __init__(self, name: str, make: Callable[[], Any], x: NDArray[Any], y: NDArray[Any]):
        self.name = name
        self._make, self._x, self._y = make, x, y

    def many(self, n: int) -> None:
        for _ in range(n):
            self._model = self._make().fit(self._x, self._y)

    def result(self) -> NDArray[Any]:
        return np.asarray(self._model.predict(self._x))


class Ours(Rival):
    """One of our methods in one dtype."""

    def __init__(self, method: str = "dfa", dtype: str = "float32", n_threads: int = 1) -> None:
        self.method, self.dtype, self.n_threads = method, dtype, n_threads
        short = {"float32": "f32", "bfloat16": "bf16"}[dtype]
        self.name = f"ours {method} {short}".replace("  ", " ")

    def train(self, problem: Problem, data: Data, layers: Layers, *, seed: int = 0) -> Trainee:
        return OursTrainee(
            self.name, problem, data, layers, method=self.method, dtype=self.dtype,
            n_threads=self.n_threads, seed=seed,
        )  # fmt: skip

    def product(self, a: F32, b: F32, *, transpose_a: bool = False) -> Call:
        return _Product(self.name, a, b, transpose_a, self.dtype, self.n_threads)

    def normals(self, n: int) -> Call:
        return _Normals(self.name, n, self.n_threads)

    def predictor(self, problem: Problem, layers: Layers, x: F32) -> Call:
        return _Predictor(self.name, problem, layers, x, self.dtype, self.n_threads)

    def fit_classifier(
        self, x: NDArray[Any], y: NDArray[Any], hidden: tuple[int, ...], epochs: int
    ) -> Call:
        cls = bf.DFAClassifier if self.method == "dfa" else bf.BackpropClassifier

        def make() -> Any:
            return cls(
                hidden_layer_sizes=hidden, max_iter=epochs, random_state=0, dtype=self.dtype,
                n_threads=self.n_threads,
            )  # fmt: skip

        return _Fit(self.name, make, x, y)
