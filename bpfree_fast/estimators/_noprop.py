# SPDX-License-Identifier: BSD-3-Clause
"""NoProp's parameters, the noise of its labels, and the blocks that it leaves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from itertools import pairwise
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from .. import _core
from .. import _validation as check
from ._base import NetworkEstimator
from ._fitted import Arrays
from ._parameters import Settings
from ._training import Samples

VARIANTS = ("dt", "ct", "fm")
EMBEDDINGS = ("one_hot", "prototype")
NOISE_SCHEDULES = ("cosine", "linear")
BLOCK_FEEDBACK = ("exact", "direct")
RULES = ("euler", "heun")

# Continuous time is read as so many sines and cosines.
_TIME_FEATURES = 64
# Rows whose distances are held at the same time, and samples of a class that are compared.
_DISTANCE_ROWS = 256
_MAX_COMPARED = 2048


class NoPropEstimator(NetworkEstimator):
    """Blocks that learn side by side, each to tell a label from a noisy copy of it."""

    _core_method: ClassVar[str] = "noprop"
    _activations: ClassVar[tuple[str, ...]] = (
        "relu",
        "identity",
        "leaky_relu",
        "tanh",
        "logistic",
        "sigmoid",
    )
    _array_lists: ClassVar[tuple[str, ...]] = ("coefs_", "intercepts_", "_embeddings")

    variant: str
    n_blocks: int
    input_units: int
    label_units: int
    class_embedding: str
    noise_schedule: str | ArrayLike
    eta: float | None
    max_snr_weight: float
    block_feedback: str
    n_steps: int
    ode_rule: str
    inference_noise: bool

    # The blocks of the call that runs, None for all.
    _chosen: tuple[int, int] | None = None
    # Prototypes of a first fit, until the trainer is there to hold them.
    _prototypes: NDArray[np.float32] | None = None

    # Parameters.

    def _n_blocks(self) -> int:
        if check.choice("variant", self.variant, VARIANTS) != "dt":
            return 1
        return check.integer("n_blocks", self.n_blocks, 2)

    def _alpha_bar(self, n_blocks: int) -> list[float]:
        """Give alpha_bar before the first and after each block; nothing in continuous time."""
        if isinstance(self.noise_schedule, str):
            kind = check.choice("noise_schedule", self.noise_schedule, NOISE_SCHEDULES)
            return _core.noise_schedule(kind, n_blocks) if self.variant == "dt" else []
        if self.variant != "dt":
            raise ValueError(
                f"noise_schedule is {self.noise_schedule!r}: variant={self.variant!r} needs one of "
                f"{', '.join(map(repr, NOISE_SCHEDULES))}."
            )
        values = np.asarray(self.noise_schedule, dtype=np.float64)
        if values.shape != (n_blocks + 1,):
            raise ValueError(
                f"noise_schedule has shape {values.shape}, expected ({n_blocks + 1},) for "
                f"n_blocks={n_blocks}: a value before the first and after each block."
            )
        _core.posterior_coefficients(values.tolist())  # says what is wrong with it
        return [float(value) for value in values]

    def _method_options(self) -> dict[str, Any]:
        n_blocks = self._n_blocks()
        for name in ("input_units", "label_units"):
            if check.integer(name, getattr(self, name), 32) % 32:
                raise ValueError(f"{name} must be a multiple of 32, got {getattr(self, name)}.")
        check.choice("class_embedding", self.class_embedding, EMBEDDINGS)
        check.integer("n_steps", self.n_steps, 1)
        check.choice("ode_rule", self.ode_rule, RULES)
        if check.flag("inference_noise", self.inference_noise) and self.variant != "dt":
            raise ValueError(
                f"inference_noise=True is for variant='dt': with {self.variant!r} the label "
                "follows an equation that has no noise."
            )
        cut = check.real("max_snr_weight", self.max_snr_weight, 0)
        default = 0.1 if self.variant == "dt" else 1.0
        eta = default if self.eta is None else check.real("eta", self.eta, 0, open_low=True)
        kind = self.noise_schedule if isinstance(self.noise_schedule, str) else "cosine"
        return {
            "method": self._core_method,
            "variant": self.variant,
            "block_feedback": check.choice("block_feedback", self.block_feedback, BLOCK_FEEDBACK),
            "alpha_bar": self._alpha_bar(n_blocks),
            "noise_schedule": kind,
            "eta": eta,
            "max_snr_weight": cut,
            "embedding_dim": 0,
        }

    def _architecture_of(self, settings: Settings) -> dict[str, Any]:
        return {
            **super()._architecture_of(settings),
            "variant": self.variant,
            "n_blocks": self._n_blocks(),
            "input_units": int(self.input_units),
            "label_units": int(self.label_units),
            "class_embedding": self.class_embedding,
        }

    def _embedding_dim(self) -> int:
        one_hot = self._architecture["class_embedding"] == "one_hot"
        return self.n_outputs_ if one_hot else self.n_features_in_

    def _new_network(self) -> _core.Network:
        old = self._architecture
        time = 0 if old["variant"] == "dt" else _TIME_FEATURES
        return _core.Network.of_blocks(
            n_blocks=old["n_blocks"],
            n_features=self.n_features_in_,
            n_input_units=old["input_units"],
            n_label=self._embedding_dim() + time,
            n_label_units=old["label_units"],
            join=old["hidden_layer_sizes"],
            n_classes=self.n_outputs_,
            activation=old["activation"],
            dtype=old["dtype"],
        )

    # Training.

    def _start(self, settings: Settings, dtype: np.dtype[Any], loss: str) -> None:
        if self.n_outputs_ < 2:
            only = self.classes_.tolist()
            raise ValueError(f"y has one class, {only}: NoProp needs at least two.")
        super()._start(settings, dtype, loss)
        self.trained_blocks_: list[int] = []

    def _scale_target(self, samples: Samples, going_on: bool) -> None:
        if not going_on and self._architecture["class_embedding"] == "prototype":
            self._prototypes = prototypes(samples, self.n_outputs_, self.input_scale_)

    def _make_trainer(self, method: dict[str, Any], settings: Settings, batch_size: int) -> None:
        if self._architecture["class_embedding"] == "prototype":
            method = {**method, "embedding_dim": self._embedding_dim()}
        super()._make_trainer(method, settings, batch_size)
        if self._prototypes is not None:
            self._trainer.set_embedding(self._prototypes)
            self._prototypes = None

    def _stages(self, settings: Settings, incremental: bool) -> Iterator[int]:
        n = self._architecture["n_blocks"]
        first, last = self._chosen if self._chosen is not None else (0, n)
        self._trainer.set_blocks(first, last - first)
        self.trained_blocks_ = sorted({*self.trained_blocks_, *range(first, last)})
        yield from super()._stages(settings, incremental)

    def _take_over(self, old: _core.Trainer) -> None:
        if not old.is_one_hot:
            self._trainer.set_embedding(old.embedding())

    def _block_range(self, blocks: Iterable[int]) -> tuple[int, int]:
        """Check a range of blocks, and give where it begins and ends."""
        chosen = sorted({check.integer("each of blocks", block, 0) for block in blocks})
        n = self._n_blocks()
        if not chosen or chosen[-1] >= n or chosen[-1] - chosen[0] + 1 != len(chosen):
            raise ValueError(
                f"blocks must be a range of neighbours among 0 to {n - 1}, got {chosen}."
            )
        return chosen[0], chosen[-1] + 1

    def _join(self, parts: Sequence[NoPropEstimator]) -> None:
        """Take the blocks that others have trained, with their optimizer's state."""
        n_parts = len(self._architecture["hidden_layer_sizes"]) + 3
        state = self._trainer.optimizer_state()
        slots = len(state) // self._network.n_layers
        weighted = np.zeros(len(parts[0].loss_curve_))
        trained: set[int] = set()
        for part in parts:
            theirs = part._trainer.optimizer_state()
            for block in part.trained_blocks_:
                trained.add(block)
                for layer in range(block * n_parts, (block + 1) * n_parts):
                    self._network.set_weights(layer, part._network.weights(layer))
                    self._network.set_biases(layer, part._network.biases(layer))
                    own = slice(layer * slots, (layer + 1) * slots)
                    state[own] = theirs[own]
            weighted += np.array(part.loss_curve_) * len(part.trained_blocks_)
        self._trainer.set_optimizer_state(state)
        self._trainer.step = parts[0]._trainer.step
        self.trained_blocks_ = sorted(trained)
        self.loss_curve_ = [float(loss) for loss in weighted / len(trained)]
        self.loss_ = self.loss_curve_[-1]
        self.best_loss_ = min(self.loss_curve_)

    def _fit_apart(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        executor: Executor | Callable[[], Executor],
        n_parts: int | None,
    ) -> None:
        """Train ranges of blocks as tasks of an executor, and put them together."""
        n = self._n_blocks()
        if self.early_stopping or self.learning_rate == "adaptive":
            raise ValueError(
                "executor= trains blocks that know nothing of each other: early_stopping=True and "
                "learning_rate='adaptive' would look at all of them."
            )
        if self.warm_start and self.__sklearn_is_fitted__():
            raise ValueError("executor= begins anew: warm_start=True cannot go on with it.")
        made: Executor | None = None
        if hasattr(executor, "submit"):
            pool = cast("Executor", executor)
        elif callable(executor):
            pool = made = executor()
        else:
            raise TypeError(f"executor must have submit(), got {executor!r}.")
        workers = getattr(pool, "_max_workers", None) or os.cpu_count() or 1
        count = workers if n_parts is None else check.integer("n_parts", n_parts, 1)
        bounds = np.linspace(0, n, min(count, n) + 1).astype(int).tolist()
        template = clone(self)
        template.set_params(random_state=check.seed(self.random_state), callback=None, verbose=0)
        try:
            tasks = [
                pool.submit(_fit_part, template, X, y, sample_weight, first, last)
                for first, last in pairwise(bounds)
            ]
            parts = [task.result() for task in tasks]
        finally:
            if made is not None:
                made.shutdown()
        own = {name: value for name, value in vars(self).items() if name in self.get_params()}
        self.__setstate__(parts[0].__getstate__())
        self.__dict__.update(own)
        self._join(parts)

    # The fitted blocks.

    def _n_matrices(self) -> int:
        return self._network.n_layers if self.__sklearn_is_fitted__() else 0

    def _weights(self) -> Arrays:
        layers = range(self._network.n_layers)
        matrices = [self._network.weights(layer) for layer in layers]
        return matrices + [self._network.biases(layer) for layer in layers]

    @property
    def _embeddings(self) -> Arrays:
        """The class embeddings that no formula gives, to be saved."""
        return [] if self._trainer.is_one_hot else [self._trainer.embedding()]

    @_embeddings.setter
    def _embeddings(self, values: Sequence[NDArray[np.float32]]) -> None:
        for value in values:
            self._trainer.set_embedding(value)

    def _output(self, X: NDArray[Any]) -> NDArray[np.float32]:
        weights: NDArray[np.float32] = self._class_weights(X, staged=False)[0]
        return weights

    def _class_weights(self, X: NDArray[Any], *, staged: bool) -> NDArray[np.float32]:
        """Give the class weights after the last, or after each, block or step."""
        steps = check.integer("n_steps", self.n_steps, 1)
        heun = check.choice("ode_rule", self.ode_rule, RULES) == "heun"
        discrete = self._architecture["variant"] == "dt"
        n = self._architecture["n_blocks"] if discrete else steps
        stages = n if staged else 1
        out = np.empty((stages * len(X), self.n_outputs_), dtype=np.float32)
        self._trainer.predict_blocks(
            X,
            out,
            staged=staged,
            n_steps=steps,
            heun=heun and not discrete,
            noise=bool(self.inference_noise) and discrete,
            input_scale=self.input_scale_,
            n_threads=check.n_threads(self.n_threads),
        )
        weights: NDArray[np.float32] = out.reshape(stages, len(X), self.n_outputs_)
        return weights


def prototypes(samples: Samples, n_classes: int, scale: float) -> NDArray[np.float32]:
    """Give of each class the sample whose median distance to the others is the smallest."""
    rows = []
    for label in range(n_classes):
        members = np.flatnonzero(samples.y == label)
        if len(members) == 0:
            raise ValueError(
                f"class_embedding='prototype' takes a sample of each class, and class {label} of "
                f"{n_classes} has none."
            )
        # Of large classes as many as can be compared, evenly spread.
        picks = members[:: -(-len(members) // _MAX_COMPARED)]
        x = samples.x[picks].astype(np.float64) * scale
        squares = np.sum(x * x, axis=1)
        medians = [
            np.median(squares[i : i + _DISTANCE_ROWS, None] + squares - 2 * part @ x.T, axis=1)
            for i in range(0, len(x), _DISTANCE_ROWS)
            for part in [x[i : i + _DISTANCE_ROWS]]
        ]
        rows.append(x[int(np.argmin(np.concatenate(medians)))])
    return np.ascontiguousarray(rows, dtype=np.float32)


def _fit_part(
    estimator: NoPropEstimator,
    X: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    first: int,
    last: int,
) -> NoPropEstimator:
    """Train some blocks of an estimator of one's own, as a task of an executor."""
    part: NoPropEstimator = clone(estimator)
    part._chosen = (first, last)
    part._fit(X, y, sample_weight)
    part._chosen = None
    return part
