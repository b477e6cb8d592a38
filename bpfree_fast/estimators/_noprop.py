# SPDX-License-Identifier: BSD-3-Clause
"""NoProp's parameters, the noise of its labels, and the blocks that it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import NotFittedError

from .. import _core
from .. import _validation as check
from . import _apart
from ._base import NetworkEstimator
from ._fitted import Arrays
from ._labels import LabelNetwork, orthogonal, prototypes, set_shared, shared_of
from ._norms import NormalizedNetwork
from ._parameters import SCHEDULES, Settings
from ._training import Samples

VARIANTS = ("dt", "ct", "fm")
EMBEDDINGS = ("one_hot", "learned", "prototype", "learned_prototype")
NOISE_SCHEDULES = ("cosine", "linear", "learned")
BLOCK_FEEDBACK = ("exact", "direct")
RULES = ("euler", "heun")

# Continuous time is read as so many sines and cosines.
_TIME_FEATURES = 64
# Where the weights of a fixed schedule of continuous time are cut.
_MAX_SNR_WEIGHT = 5.0
# Numbers that a learned schedule has.
_SCHEDULE_SIZE = 99
# What the stages of a prediction may take that are there at the same time.
_STAGED_BYTES = 2**26


class NoPropEstimator(LabelNetwork, NormalizedNetwork, NetworkEstimator):
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
    _array_lists: ClassVar[tuple[str, ...]] = (
        "coefs_",
        "intercepts_",
        "_shared",
        *NormalizedNetwork._norm_lists,
    )

    variant: str
    n_blocks: int
    input_units: int
    label_units: int
    class_embedding: str
    embedding_dim: int
    noise_schedule: str | ArrayLike
    eta: float | None
    max_snr_weight: float | None
    block_feedback: str
    batch_normalization: bool
    n_steps: int
    ode_rule: str
    inference_noise: bool

    # The blocks of the call that runs, None for all.
    _chosen: tuple[int, int] | None = None
    # Embeddings that a first fit begins with, until the trainer is there to hold them.
    _first_embedding: NDArray[np.float32] | None = None

    # Parameters.

    def _n_blocks(self) -> int:
        if check.choice("variant", self.variant, VARIANTS) != "dt":
            return 1
        return check.integer("n_blocks", self.n_blocks, 2)

    def _alpha_bar(self, n_blocks: int) -> list[float]:
        """Give alpha_bar before the first and after each block; nothing in continuous time."""
        if isinstance(self.noise_schedule, str):
            kind = check.choice("noise_schedule", self.noise_schedule, NOISE_SCHEDULES)
            if kind == "learned" and self.variant != "ct":
                raise ValueError(
                    f"noise_schedule='learned' is for variant='ct', got {self.variant!r}, whose "
                    "times are fixed."
                )
            return _core.noise_schedule(kind, n_blocks) if self.variant == "dt" else []
        if self.variant != "dt":
            raise ValueError(
                f"noise_schedule is {self.noise_schedule!r}: variant={self.variant!r} needs one of "
                f"{', '.join(map(repr, NOISE_SCHEDULES[: 3 if self.variant == 'ct' else 2]))}."
            )
        values = np.asarray(self.noise_schedule, dtype=np.float64)
        if values.shape != (n_blocks + 1,):
            raise ValueError(
                f"noise_schedule has shape {values.shape}, expected ({n_blocks + 1},) for "
                f"n_blocks={n_blocks}: a value before the first and after each block."
            )
        # Says what else is wrong with it.
        if not any(weight > 0 for weight in _core.snr_weights(values.tolist(), 1.0)):
            raise ValueError(
                f"noise_schedule begins at {values[0]:g}, expected less than 0.99, where the "
                "weights are cut: no block would learn anything."
            )
        return [float(value) for value in values]

    def _method_options(self) -> dict[str, Any]:
        n_blocks = self._n_blocks()
        for name in ("input_units", "label_units"):
            if check.integer(name, getattr(self, name), 32) % 32:
                raise ValueError(f"{name} must be a multiple of 32, got {getattr(self, name)}.")
        check.integer("embedding_dim", self.embedding_dim, 1)
        if self._learns() and self._chosen not in (None, (0, n_blocks)):
            raise ValueError(
                f"{self._learns()} is learned from all blocks: expected all of them, got blocks "
                f"{self._chosen[0]} to {self._chosen[1] - 1} of {n_blocks}."
            )
        check.integer("n_steps", self.n_steps, 1)
        check.choice("ode_rule", self.ode_rule, RULES)
        if check.flag("inference_noise", self.inference_noise) and self.variant != "dt":
            raise ValueError(
                f"inference_noise=True is for variant='dt': with {self.variant!r} the label "
                "follows an equation that has no noise."
            )
        feedback = check.choice("block_feedback", self.block_feedback, BLOCK_FEEDBACK)
        learned = self._learns_schedule()
        if learned and feedback == "direct":
            raise ValueError(
                "block_feedback is 'direct', expected 'exact' with noise_schedule='learned': it "
                "learns from what goes back to the noisy label."
            )
        cut = 0.0 if learned else _MAX_SNR_WEIGHT
        if self.max_snr_weight is not None:
            cut = check.real("max_snr_weight", self.max_snr_weight, 0)
        if learned and cut > 0:
            raise ValueError(
                f"max_snr_weight is {self.max_snr_weight}, expected None or 0 with "
                "noise_schedule='learned': beyond a cut a cleaner label would cost nothing."
            )
        default = 0.1 if self.variant == "dt" else 1.0
        eta = default if self.eta is None else check.real("eta", self.eta, 0, open_low=True)
        kind = self.noise_schedule if isinstance(self.noise_schedule, str) else "cosine"
        return {
            "method": self._core_method,
            "variant": self.variant,
            "block_feedback": feedback,
            "alpha_bar": self._alpha_bar(n_blocks),
            "noise_schedule": kind,
            "eta": eta,
            "max_snr_weight": cut,
            "embedding_dim": 0,
            "batch_normalization": check.flag("batch_normalization", self.batch_normalization),
        }

    def _architecture_of(self, settings: Settings) -> dict[str, Any]:
        return {
            **super()._architecture_of(settings),
            "variant": self.variant,
            "n_blocks": self._n_blocks(),
            "input_units": int(self.input_units),
            "label_units": int(self.label_units),
            "class_embedding": self.class_embedding,
            "embedding_dim": self._dim_of(self.class_embedding),
            "learns_schedule": self._learns_schedule(),
            "batch_normalization": bool(self.batch_normalization),
        }

    def _learns_embedding(self) -> bool:
        kind = check.choice("class_embedding", self.class_embedding, EMBEDDINGS)
        return kind.startswith("learned")

    def _learns_schedule(self) -> bool:
        return isinstance(self.noise_schedule, str) and self.noise_schedule == "learned"

    def _learns(self) -> str:
        """Say what the blocks share and learn, '' if nothing."""
        if self._learns_embedding():
            return f"class_embedding={self.class_embedding!r}"
        return "noise_schedule='learned'" if self._learns_schedule() else ""

    def _dim_of(self, class_embedding: str) -> int:
        if class_embedding == "learned":
            return int(self.embedding_dim)
        return self.n_outputs_ if class_embedding == "one_hot" else self.n_features_in_

    def _embedding_dim(self) -> int:
        dim: int = self._architecture["embedding_dim"]
        return dim

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

    def _fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        *,
        incremental: bool = False,
        classes: ArrayLike | None = None,
        X_negative: ArrayLike | None = None,
    ) -> None:
        self._check_stopping(incremental)
        super()._fit(
            X,
            y,
            sample_weight,
            incremental=incremental,
            classes=classes,
            X_negative=X_negative,
        )

    def _check_stopping(self, incremental: bool) -> None:
        """Refuse to end the training of one block by what others, or nearly one alone, have."""
        n = self._n_blocks()
        if n == 1:
            return
        schedule = check.choice("learning_rate", self.learning_rate, SCHEDULES)
        if check.flag("early_stopping", self.early_stopping):
            if self._chosen not in (None, (0, n)):
                raise ValueError(
                    "early_stopping=True with a part of the blocks would score the network by "
                    "blocks that are not trained: expected early_stopping=False."
                )
            return
        patience = check.integer("n_iter_no_change", self.n_iter_no_change, 1)
        if incremental and schedule == "adaptive":
            raise ValueError(
                "partial_fit with learning_rate='adaptive' would slow all blocks by their mean "
                "loss, which is nearly the last one's: expected another learning_rate."
            )
        lasting = incremental or patience >= check.integer("max_iter", self.max_iter, 1)
        if schedule in ("constant", "adaptive") and not lasting:
            raise ValueError(
                f"learning_rate={schedule!r} with n_iter_no_change={patience} would stop or slow "
                "all blocks by their mean loss, which is nearly the last one's: expected "
                f"n_iter_no_change of max_iter={self.max_iter} or more, early_stopping=True, or "
                "another learning_rate, such as 'step' with gamma=1."
            )

    def _check_architecture(self, settings: Settings) -> None:
        super()._check_architecture(settings)
        first, last = self._chosen or (0, self._architecture["n_blocks"])
        wanted = list(range(first, last))
        if self.trained_blocks_ not in ([], wanted):
            raise ValueError(
                f"blocks {wanted} cannot go on from a model that has trained "
                f"{self.trained_blocks_}: expected the same blocks."
            )

    def _start(self, settings: Settings, dtype: np.dtype[Any], loss: str) -> None:
        if self.n_outputs_ < 2:
            only = self.classes_.tolist()
            raise ValueError(f"y has one class, {only}: NoProp needs at least two.")
        super()._start(settings, dtype, loss)
        if self.batch_normalization:
            units = self.input_units + self.label_units + sum(settings.hidden)
            self.n_params_ += 2 * self._architecture["n_blocks"] * units
        if self._learns():
            dim, n_classes = self._embedding_dim(), self.n_outputs_
            self.n_params_ += (dim + 1) * n_classes
            self.n_params_ += dim * n_classes if self._learns_embedding() else 0
            self.n_params_ += _SCHEDULE_SIZE if self._learns_schedule() else 0
        self.trained_blocks_: list[int] = []
        self.block_loss_curve_: list[list[float]] = []
        # By what the blocks were trained, in the order of the calls of fit that changed it.
        self._recipes: list[dict[str, Any]] = []

    def _scale_target(self, samples: Samples, going_on: bool) -> None:
        kind = self._architecture["class_embedding"]
        if not going_on and kind.endswith("prototype"):
            self._first_embedding = prototypes(samples, self.n_outputs_, self.input_scale_)
        if not going_on and kind == "learned":
            self._first_embedding = orthogonal(self.n_outputs_, self._embedding_dim(), self.seed_)

    def _make_trainer(self, method: dict[str, Any], settings: Settings, batch_size: int) -> None:
        kind = self._architecture["class_embedding"]
        if kind != "one_hot":
            learned = kind.startswith("learned")
            dim = self._embedding_dim()
            method = {**method, "embedding_dim": dim, "learn_embedding": learned}
        super()._make_trainer(method, settings, batch_size)
        if self._first_embedding is not None:
            self._trainer.set_embedding(self._first_embedding)
            self._first_embedding = None

    def _stages(self, settings: Settings, incremental: bool) -> Iterator[int]:
        n = self._architecture["n_blocks"]
        first, last = self._chosen if self._chosen is not None else (0, n)
        self._trainer.set_blocks(first, last - first)
        yield from super()._stages(settings, incremental)

    def _run_epoch(
        self, samples: Samples, on_event: Callable[[int, int, float], bool], **options: Any
    ) -> float:
        recipe = {
            "samples": _apart.digest(samples),
            "learning_rate": options["schedule"],
            "learning_rate_init": options["learning_rate"],
            "the last step": options["total_steps"] if options["schedule"] == "cosine" else 0,
            "initializer": self.initializer,
            **{name: options[name] for name in ("power_t", "step_size", "gamma", "shuffle")},
        }
        if self._recipes[-1:] != [recipe]:
            self._recipes.append(recipe)
        before = self._trainer.step
        try:
            return super()._run_epoch(samples, on_event, **options)
        finally:
            if self._trainer.step > before:
                first, last = self._chosen or (0, self._architecture["n_blocks"])
                self.trained_blocks_ = list(range(first, last))

    def _after_epoch(self, samples: Samples) -> None:
        losses = self._trainer.block_losses
        trained = set(self.trained_blocks_)
        self.block_loss_curve_.append(
            [loss if block in trained else np.nan for block, loss in enumerate(losses)]
        )

    def _take_over(self, old: _core.Trainer) -> None:
        set_shared(self._trainer, shared_of(old))
        self._set_norm_arrays(self._norm_arrays(old))

    def _block_range(self, blocks: Iterable[int]) -> tuple[int, int]:
        """Check a range of blocks, and give where it begins and ends."""
        chosen = sorted({check.integer("each of blocks", block, 0) for block in blocks})
        n = self._n_blocks()
        if not chosen or chosen[-1] >= n or chosen[-1] - chosen[0] + 1 != len(chosen):
            raise ValueError(
                f"blocks must be a range of neighbours among 0 to {n - 1}, got {chosen}."
            )
        return chosen[0], chosen[-1] + 1

    # The fitted blocks.

    def _n_matrices(self) -> int:
        return self._network.n_layers if self.__sklearn_is_fitted__() else 0

    def _weights(self) -> Arrays:
        layers = range(self._network.n_layers)
        matrices = [self._network.weights(layer) for layer in layers]
        biases = [self._network.biases(layer) for layer in layers]
        return matrices + biases + self._norm_arrays(self._trainer) + self._shared

    def _set_weights(self, arrays: Arrays) -> None:
        n = 2 * self._network.n_layers
        end = n + 4 * self._trainer.n_norms
        super()._set_weights(arrays[:n])
        self._set_norm_arrays(arrays[n:end])
        self._shared = arrays[end:]

    def _output(self, X: NDArray[Any]) -> NDArray[np.float32]:
        out = np.empty((len(X), self.n_outputs_), dtype=np.float32)
        self._predict_blocks(out, X, n_blocks=self._n_ready(staged=False))
        return out

    def _n_ready(self, staged: bool) -> int:
        """Give how many blocks can predict: the first trained ones for stages, else all."""
        n = self._architecture["n_blocks"]
        ready = next((t for t in range(n) if t not in self.trained_blocks_), n)
        if ready < (1 if staged else n):
            raise NotFittedError(
                f"blocks {self.trained_blocks_} of {n} have been trained, expected "
                f"{'the first one' if staged else 'all'}: join() takes the others from the "
                "estimators that trained them."
            )
        return ready

    def _class_weights(self, X: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
        """Give the class weights after each block or step, some of these at a time."""
        ready, width = self._n_ready(staged=True), self.n_outputs_
        steps = check.integer("n_steps", self.n_steps, 1)
        n = ready if self._architecture["variant"] == "dt" else steps
        at_once = max(1, _STAGED_BYTES // max(1, 4 * len(X) * width))
        state = np.empty((len(X), self._embedding_dim() + width), dtype=np.float32)
        for first in range(0, n, at_once):
            n_run = min(at_once, n - first)
            out = np.empty((n_run * len(X), width), dtype=np.float32)
            self._predict_blocks(
                out, X, n_blocks=ready, staged=True, first=first, n_run=n_run, state=state
            )
            yield from out.reshape(n_run, len(X), width)

    def _predict_blocks(self, out: NDArray[np.float32], X: NDArray[Any], **options: Any) -> None:
        discrete = self._architecture["variant"] == "dt"
        heun = check.choice("ode_rule", self.ode_rule, RULES) == "heun"
        self._trainer.predict_blocks(
            X,
            out,
            n_steps=check.integer("n_steps", self.n_steps, 1),
            heun=heun and not discrete,
            noise=bool(self.inference_noise) and discrete,
            input_scale=self.input_scale_,
            n_threads=check.n_threads(self.n_threads),
            **options,
        )
