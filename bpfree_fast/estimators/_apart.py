# SPDX-License-Identifier: BSD-3-Clause
"""NoProp's blocks trained apart: what of them travels, what must agree, and who trains them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone

from .. import _core
from .. import _validation as check
from . import _saving
from ._fitted import Arrays

if TYPE_CHECKING:
    from ._noprop import NoPropEstimator
    from ._training import Samples

# Rows of X by which samples are recognised, evenly spread.
_DIGEST_ROWS = 256


@dataclass
class Part:
    """Some blocks that one estimator has trained, with the optimizer's state of all they learn."""

    blocks: list[int]
    layers: list[Arrays]  # W, b, and their state
    norms: list[Arrays]  # gain, shift, running mean and variance, and the state of the first two
    loss_curve: list[float]
    block_losses: list[list[float]]  # of each epoch, those of these blocks


@dataclass
class _Fitted:
    """What a task of an executor gives back: no other block's arrays."""

    attributes: dict[str, Any]
    shared: Arrays
    step: int
    part: Part


def _of_blocks(est: NoPropEstimator, n: int, blocks: Sequence[int]) -> list[int]:
    """Give which of n things, as many of each block, belong to some blocks."""
    per_block = n // est._architecture["n_blocks"]
    return [block * per_block + i for block in blocks for i in range(per_block)]


def _slots(est: NoPropEstimator, state: Arrays) -> tuple[list[slice], list[slice]]:
    """Give where in the optimizer's state that of each layer lies, and of each normalisation."""
    n_layers, n_norms = est._network.n_layers, est._trainer.n_norms
    size = len(state) // (n_layers + n_norms)
    all_slots = [slice(i * size, (i + 1) * size) for i in range(n_layers + n_norms)]
    return all_slots[:n_layers], all_slots[n_layers:]


def part_of(est: NoPropEstimator) -> Part:
    """Copy the blocks that an estimator has trained."""
    net, trainer, blocks = est._network, est._trainer, est.trained_blocks_
    state = trainer.optimizer_state()
    of_layer, of_norm = _slots(est, state)
    layers = [
        [net.weights(i), net.biases(i), *state[of_layer[i]]]
        for i in _of_blocks(est, net.n_layers, blocks)
    ]
    norms = [
        [*trainer.norm(i), *state[of_norm[i]]] for i in _of_blocks(est, trainer.n_norms, blocks)
    ]
    losses = [[epoch[block] for block in blocks] for epoch in est.block_loss_curve_]
    return Part(blocks, layers, norms, est.loss_curve_, losses)


def put_together(est: NoPropEstimator, parts: Sequence[Part]) -> None:
    """Give an estimator the blocks of all parts, and the mean of their losses."""
    net, trainer = est._network, est._trainer
    state = trainer.optimizer_state()
    of_layer, of_norm = _slots(est, state)
    n_epochs = len(parts[0].loss_curve)
    total = np.zeros(n_epochs)
    of_blocks = np.full((n_epochs, est._architecture["n_blocks"]), np.nan)
    for part in parts:
        layers = _of_blocks(est, net.n_layers, part.blocks)
        for i, (weights, biases, *own) in zip(layers, part.layers, strict=True):
            net.set_weights(i, weights)
            net.set_biases(i, biases)
            state[of_layer[i]] = own
        norms = _of_blocks(est, trainer.n_norms, part.blocks)
        for i, (gain, shift, mean, variance, *own) in zip(norms, part.norms, strict=True):
            trainer.set_norm(i, gain, shift, mean, variance)
            state[of_norm[i]] = own
        total += np.array(part.loss_curve) * len(part.blocks)
        of_blocks[:, part.blocks] = np.reshape(part.block_losses, (n_epochs, len(part.blocks)))
    trainer.set_optimizer_state(state)
    est.trained_blocks_ = sorted(block for part in parts for block in part.blocks)
    est.loss_curve_ = [float(loss) for loss in total / len(est.trained_blocks_)]
    est.block_loss_curve_ = of_blocks.tolist()
    est.loss_ = est.loss_curve_[-1] if est.loss_curve_ else np.nan
    est.best_loss_ = min(est.loss_curve_, default=np.inf)


def digest(samples: Samples) -> str:
    """Give what tells samples from others: their shape, some rows, all classes and weights."""
    found = hashlib.sha256(repr(samples.x.shape).encode())
    rows = samples.x[:: -(-len(samples) // _DIGEST_ROWS)]
    found.update(repr((rows.dtype.str, rows.shape)).encode())
    for row in rows:  # one at a time: X is not copied
        found.update(np.ascontiguousarray(row).data)
    for array in (samples.y, samples.weight):
        if array is not None:
            found.update(repr((array.dtype.str, array.shape)).encode())
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def check_same(est: NoPropEstimator, other: NoPropEstimator) -> None:
    """Refuse to join blocks of different trainings."""
    if est._learns():
        raise ValueError(f"{est._learns()} is learned from all blocks, which cannot be joined.")
    ours, theirs = _identity(est), _identity(other)
    for name, value in ours.items():
        if value != theirs[name]:
            raise ValueError(
                f"{name} is {value!r} here and {theirs[name]!r} in the estimator to join."
            )
    if est._recipes != other._recipes:
        name = _first_difference(est._recipes, other._recipes)
        raise ValueError(
            f"{name} in the estimator to join, expected the samples and settings of this one."
        )
    if not np.array_equal(est.class_embedding_, other.class_embedding_):
        raise ValueError("class_embedding_ is another one in the estimator to join.")


def _identity(est: NoPropEstimator) -> dict[str, Any]:
    names = ("seed_", "n_iter_", "n_features_in_", "input_scale_")
    found: dict[str, Any] = {name.strip("_"): getattr(est, name) for name in names}
    found.update({"the list of classes": est.classes_.tolist(), "architecture": est._architecture})
    found.update({name: v for name, v in est._trainer_options.items() if name != "n_threads"})
    found["the number of steps"] = est._trainer.step
    return found


def _first_difference(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    for one, other in zip(ours, theirs, strict=False):
        for name, value in one.items():
            if value != other[name] and name == "samples":
                return "X, y or sample_weight are others"
            if value != other[name]:
                return f"{name} is {value!r} here and {other[name]!r}"
    return f"settings or samples changed {len(ours) - 1} times here and {len(theirs) - 1}"


def _workers(pool: Executor) -> tuple[int | None, int]:
    """Give how many tasks run at the same time, None if that is not told, and on how many cores."""
    size = getattr(pool, "_max_workers", None)
    if size is not None:
        return int(size), _core.config()["n_threads"]
    client: Any = getattr(pool, "_client", None)
    if hasattr(client, "ncores"):  # Dask: the threads of each of its workers
        cores = max(1, sum(client.ncores().values()))
        return cores, cores
    return None, 1


def fit_apart(
    est: NoPropEstimator,
    X: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    executor: Executor | Callable[[], Executor],
    n_parts: int | None,
) -> None:
    """Train ranges of blocks as tasks of an executor, and put them together."""
    n = est._n_blocks()
    if est._learns():
        raise ValueError(
            f"{est._learns()} is learned from all blocks: expected fit without executor=."
        )
    if check.flag("early_stopping", est.early_stopping):
        raise ValueError(
            "early_stopping=True with executor= would need all blocks for every score, and they "
            "know nothing of each other: expected early_stopping=False."
        )
    if est.warm_start and est.__sklearn_is_fitted__():
        raise ValueError("executor= begins anew: warm_start=True cannot go on with it.")
    if n_parts is not None:
        check.integer("n_parts", n_parts, 1)
    is_pool = hasattr(executor, "submit") and not isinstance(executor, type)
    if not is_pool and not callable(executor):
        raise TypeError(f"executor must have submit(), got {executor!r}.")
    template = clone(est)
    template.set_params(random_state=check.seed(est.random_state), callback=None, verbose=0)
    made = None if is_pool else cast("Callable[[], Executor]", executor)()
    pool = cast("Executor", executor) if made is None else made
    try:
        workers, cores = _workers(pool)
        count = min(n, n_parts or workers or n)
        if est.n_threads is None and workers is not None:
            template.set_params(n_threads=max(1, cores // min(workers, count)))
        bounds = np.linspace(0, n, count + 1).astype(int).tolist()
        tasks = [
            pool.submit(_fit_part, template, X, y, sample_weight, first, last)
            for first, last in pairwise(bounds)
        ]
        try:
            done = [task.result() for task in tasks]
        except BaseException:  # of which one is Ctrl-C: nobody wants the rest any more
            for task in tasks:
                task.cancel()
            raise
    finally:
        if made is not None:
            made.shutdown()
    for fitted in done:
        if fitted.attributes["interrupted_"]:
            raise RuntimeError(
                f"The task of the blocks {fitted.part.blocks} was interrupted after "
                f"{fitted.attributes['n_iter_']} epochs, expected max_iter={est.max_iter}."
            )
    _take(est, done)


def _take(est: NoPropEstimator, done: Sequence[_Fitted]) -> None:
    """Become what the tasks have trained."""
    for name in set(vars(est)) - set(est.get_params(deep=False)):
        delattr(est, name)
    first = done[0]
    est.__dict__.update(first.attributes)
    est._network = est._new_network()
    est._trainer = _core.Trainer(est._network, **est._trainer_options)
    est._trainer.step = first.step
    est._shared = first.shared
    est._best_weights = est._last_weights = None
    put_together(est, [fitted.part for fitted in done])


def _fit_part(
    estimator: NoPropEstimator,
    X: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    first: int,
    last: int,
) -> _Fitted:
    """Train some blocks of an estimator of one's own, as a task of an executor."""
    est: NoPropEstimator = clone(estimator)
    est._chosen = (first, last)
    est._fit(X, y, sample_weight)
    est._chosen = None
    hidden = {*est.get_params(deep=False), *_saving.LIVE}
    attributes = {name: value for name, value in vars(est).items() if name not in hidden}
    return _Fitted(attributes, list(est._shared), est._trainer.step, part_of(est))
