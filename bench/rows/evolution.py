# SPDX-License-Identifier: BSD-3-Clause
"""Evolution strategies: a generation, the population's forward pass, noise, memory, MNIST."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ours
from answers import NumpyNetwork
from evolution_answers import GenerationCheck
from evolution_problem import EvolutionProblem
from harness import Floor, Line, Result, Spread
from machine import Interference
from ours import Ours
from ours_evolution import OursEvolution
from problem import Problem
from rivals.base import Perturbing, Rival

from rows.common import Context, Entry, Row, compete, finish, judge_ratios

GAUSSIAN = EvolutionProblem((784, 128, 10), 128, "momentum", 1e-4)
LOW_RANK = EvolutionProblem(
    (784, 128, 128, 10), 128, "momentum", 1e-4, population_size=2000, perturbation="low_rank"
)
SHORT = {"float32": "f32", "bfloat16": "bf16"}
# Of the table: floor and aim.
EVOSAX = {"float32": (6.0, 8.0), "bfloat16": (8.0, 10.0)}
EVOTORCH = (15.0, 18.0)


def _entrants(ctx: Context, result: Result, dtype: str, label: str, names: Sequence[str]) -> list:
    rivals = ctx.entrants(result, (), names)
    if ours.MISSING:
        return rivals
    if dtype == "bfloat16":
        result.notes.append(f"our bf16 path: {ours.bfloat16_path()}")
    return [OursEvolution(label, dtype, ctx.n_threads), *rivals]


def generation_entries(
    ctx: Context, result: Result, problem: EvolutionProblem, entrants: Sequence[Rival]
) -> list[Entry]:
    """Contestants whose first generation is right: see evolution_answers.py.

    A rival that has full-rank noise where ours is of low rank is held to its own noise.
    """
    layers = problem.initial_layers()
    checks: dict[str, GenerationCheck] = {}
    entries = []
    for rival in entrants:
        noise = problem.perturbation if isinstance(rival, Ours) else "gaussian"
        if noise not in checks:
            checks[noise] = GenerationCheck(replace(problem, perturbation=noise), ctx.data, layers)
        trainee = rival.train(problem, ctx.data, layers)
        trainee.in_order(1)
        faults = checks[noise].faults(trainee.population_loss(), trainee.layers())
        if faults:
            result.wrong += [f"{trainee.name}: {fault}" for fault in faults]
            continue
        flops = problem.flops("") if isinstance(rival, Ours) else None
        entries.append(Entry(trainee, rival.dtype, flops))
    return entries


def generation(ctx: Context, *, name: str, dtype: str) -> Result:
    problem = GAUSSIAN
    result = Result(name, f"one generation, {problem.title}, gaussian, {dtype}")
    names = ("evosax_network", "evotorch_network")
    entrants = _entrants(ctx, result, dtype, "gaussian", names)
    entries = generation_entries(ctx, result, problem, entrants)
    ratios = compete(ctx, result, entries, unit="ms/step")
    floors = [Floor("evosax Open_ES f32", *EVOSAX[dtype]), Floor("EvoTorch PGPE f32", *EVOTORCH)]
    judge_ratios(result, ratios, floors)
    finish(result, entries, entrants)
    return result


def low_rank_generation(ctx: Context, *, name: str, dtype: str) -> Result:
    problem = LOW_RANK
    result = Result(name, f"one generation, {problem.title}, low rank, {dtype}")
    entrants = _entrants(ctx, result, dtype, "low rank", ("evosax_network",))
    entries = generation_entries(ctx, result, problem, entrants)
    few = replace(ctx, rounds=min(ctx.rounds, 5))  # a generation of evosax's takes seconds
    ratios = compete(few, result, entries, unit="ms/step")
    judge_ratios(result, ratios, [Floor("evosax Open_ES f32", 20.0)])
    result.notes.append("evosax has gaussian noise of full rank: the same population and batch")
    finish(result, entries, entrants)
    return result


def low_rank_forward(ctx: Context, *, name: str, dtype: str) -> Result:
    """The population's outputs beside plain inference of the layers above the first."""
    problem = LOW_RANK
    result = Result(name, f"forward pass of the population, {problem.title}, low rank, {dtype}")
    if ours.MISSING:
        result.skipped = ours.MISSING
        return result
    layers = problem.initial_layers()
    mine = OursEvolution("low rank forward", dtype, ctx.n_threads)
    whole = mine.population_forward(problem, ctx.data, layers)
    whole.many(1)
    rows = problem.batch * problem.population_size
    x = ctx.data.x_float[: problem.batch]
    hidden = np.maximum(x @ layers[0][0] + layers[0][1], 0)
    above = Problem(problem.layer_sizes[1:], problem.batch)
    plain = Ours("predict layers 2 and 3", dtype, ctx.n_threads).predictor(
        above, layers[1:], np.tile(hidden, (problem.population_size, 1))
    )
    plain.many(1)
    # Probabilities of pairs average to those of the network but for the noise's second order.
    right = NumpyNetwork(problem, layers, None, np.float64).forward(x.astype(np.float64))[1]
    for call in (whole, plain):
        mean = call.result().reshape(-1, *right.shape).mean(axis=0)
        error = float(np.abs(mean - right).max())
        result.extra[f"{call.name}: mean probability off by"] = error
        if not error < 0.1:
            result.wrong.append(f"{call.name}: a mean probability is off by {error:.2g}")
    flops = 2.0 * rows * sum(i * o for i, o in ((128, 128), (128, 10)))
    entries = [Entry(whole, dtype, flops), Entry(plain, dtype, flops)]
    ratios = compete(ctx, result, entries) if not result.wrong else {}
    share = next(iter(ratios.values()), None)
    floor = Floor("share of plain inference's throughput", 0.85)
    result.verdicts.append(floor.judge(share.median if share else None))
    finish(result, entries, ())
    return result


# perturb and perturbation_gradient.

N_PARAMS, N_MEMBERS, N_CHECKED = 10_000_000, 64, 1000


def _perturbing_faults(make: Rival) -> list[str]:
    """Noise has a normal's moments, and the sum is that of the members' noise."""
    rng = np.random.default_rng(0)
    theta = rng.standard_normal(N_CHECKED, np.float32)
    utilities = (np.arange(N_MEMBERS) / (N_MEMBERS - 1) - 0.5).astype(np.float32)
    call: Perturbing = make.perturbing(theta, utilities)
    call.many(1)
    noise = np.array([call.member(i) for i in range(N_MEMBERS)], np.float64)
    noise = (noise - theta) / call.std
    faults = []
    error = np.abs(call.result() - utilities @ noise).max()
    if not error < 1e-2:  # float32 members round their noise by 2^-24 / std
        faults.append(f"{call.name}: the sum of the noise is off by {error:.2g}")
    n = noise.size
    moments = noise.mean() * n**0.5, (noise.var() - 1) * (n / 2) ** 0.5
    if not max(map(abs, moments)) < 6:
        faults.append(f"{call.name}: moments off by {moments} standard errors")
    return faults


def perturbing(ctx: Context, *, name: str) -> Result:
    title = f"perturb {N_MEMBERS} members and sum their noise, {N_PARAMS / 1e6:.0f} M parameters"
    result = Result(name, title)
    entrants = _entrants(ctx, result, "float32", "noise", ("numpy", "torch_eager"))
    theta = np.random.default_rng(0).standard_normal(N_PARAMS, np.float32)
    utilities = (np.arange(N_MEMBERS) / (N_MEMBERS - 1) - 0.5).astype(np.float32)
    entries = []
    for rival in entrants:
        faults = _perturbing_faults(rival)
        if faults:
            result.wrong += faults
        else:
            entries.append(Entry(rival.perturbing(theta, utilities)))
    if not ours.MISSING:
        entries.append(Entry(Ours("normals", "float32", ctx.n_threads).normals(N_PARAMS)))
    few = replace(ctx, rounds=min(ctx.rounds, 5))  # a unit of NumPy's takes many seconds
    ratios = compete(few, result, entries, unit="ms")
    judge_ratios(result, ratios, [Floor("numpy f32", 10.0), Floor("torch f32", 4.0)])
    generator = ratios.get("ours normals f32")
    if generator is not None:
        share = generator.median * 2 * N_MEMBERS
        result.verdicts.append(Floor("share of the generator's rate", None).judge(share))
    finish(result, entries, entrants)
    return result


# Memory.

PROBE = Path(__file__).resolve().parent.parent / "memory_probe.py"


def memory(ctx: Context, *, name: str) -> Result:
    result = Result(name, f"peak memory beyond data and parameters, {GAUSSIAN.title} and others")
    found: dict[str, float] = {}
    for who, dtype, population in (
        ("ours", "float32", 256),
        ("ours", "float32", 4096),
        ("ours", "bfloat16", 256),
        ("evosax_network", "float32", 256),
    ):
        if who == "ours" and ours.MISSING:
            result.notes.append(ours.MISSING)
            continue
        command = [sys.executable, str(PROBE), who, "es", dtype, str(ctx.n_threads)]
        done = subprocess.run(
            [*command, str(population)], capture_output=True, text=True, env=os.environ,
            check=False,
        )  # fmt: skip
        label = f"{who} {SHORT[dtype]}, population {population}"
        if done.returncode:
            result.notes.append(f"{label}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
            continue
        answer = json.loads(done.stdout.splitlines()[-1])
        found[label] = answer["beyond_mb"]
        result.lines.append(Line(label, "MB", Spread.of([answer["beyond_mb"]])))
        result.extra[label] = answer
    mine, other = "ours f32, population 256", "evosax_network f32, population 256"
    if mine in found and other in found:
        ratio = found[other] / max(found[mine], 1e-3)
        result.verdicts.append(Floor("evosax's memory over ours", 10.0).judge(ratio))
    many = "ours f32, population 4096"
    if mine in found and many in found:
        floor = Floor("MB more for 16 times the population", 1.0, at_most=True)
        result.verdicts.append(floor.judge(found[many] - found[mine]))
    return result


# MNIST to the end.

# Found on 10,000 held-out training rows. Adam's steps have the size of the learning rate whatever
# the gradient's is, and most of a step is noise: without decay the weights grow until the noise of
# the members, which stays as it was, tells them apart less and less (after 10 epochs 94.6 % there,
# and 96.1 % with it).
MNIST_SETTINGS = {
    "population_size": 2000,
    "perturbation": "low_rank",
    "fitness_shaping": "z_score",
    "std": 0.02,
    "solver": "adamw",
    "weight_decay": 0.1,
    "learning_rate_init": 0.01,
}
MNIST_EPOCHS = 20


def _fit(ctx: Context, cls: Any, settings: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Test accuracy and training seconds after each epoch."""
    accuracy: list[float] = []
    seconds: list[float] = []

    def note(info: Any) -> None:
        if info.epoch_ended:
            seconds.append(info.seconds)
            accuracy.append(info.estimator.score(ctx.data.x_test, ctx.data.y_test))

    cls(
        LOW_RANK.layer_sizes[1:-1], random_state=0, n_threads=ctx.n_threads, callback=note,
        max_iter=ctx.epochs or MNIST_EPOCHS, batch_size=LOW_RANK.batch, **settings,
    ).fit(ctx.data.x, ctx.data.y)  # fmt: skip
    return accuracy, seconds


def mnist(ctx: Context, *, name: str) -> Result:
    sizes = "-".join(map(str, LOW_RANK.layer_sizes))
    members, epochs = MNIST_SETTINGS["population_size"], ctx.epochs or MNIST_EPOCHS
    result = Result(name, f"MNIST, {sizes}, low-rank ES, {members} members, {epochs} epochs")
    if ctx.data.source != "mnist":
        result.skipped = "BPFREE_DATA names no folder with MNIST's four IDX files"
        return result
    if ours.MISSING:
        result.skipped = ours.MISSING
        return result
    n_generations = epochs * -(-len(ctx.data.y) // LOW_RANK.batch)
    result.notes.append(f"{n_generations} generations of {members} members")
    watch = Interference()
    for who, cls, settings in (
        ("ours es low rank", ours.bf.ESClassifier, MNIST_SETTINGS),
        ("ours backprop", ours.bf.BackpropClassifier, {}),
    ):
        for dtype, short in SHORT.items():
            accuracy, seconds = _fit(ctx, cls, {**settings, "dtype": dtype})
            line = Line(f"{who} {short}", "s", Spread.of([seconds[-1]]))
            line.note = "test accuracy, %, by epoch: " + " ".join(
                f"{100 * a:.2f}" for a in accuracy
            )
            result.lines.append(line)
            result.extra[line.who] = {"accuracy": accuracy, "seconds": seconds}
            if cls is ours.bf.ESClassifier:
                floor = 96.5 if epochs >= MNIST_EPOCHS else None
                verdict = Floor(f"{line.who}, test accuracy, %", floor).judge(100 * accuracy[-1])
                result.verdicts.append(verdict)
    result.others = watch.others()
    return result


def _rows() -> list[Row]:
    rows = []
    for dtype, short in SHORT.items():
        for kind, about, run in (
            ("generation", "a generation, gaussian, against evosax and EvoTorch", generation),
            ("low-rank-forward", "a low-rank population's forward pass", low_rank_forward),
            ("low-rank", "a low-rank generation against evosax", low_rank_generation),
        ):
            name = f"es-{kind}-{short}"
            rows.append(Row(name, f"{about}, {dtype}", partial(run, name=name, dtype=dtype)))
    return rows


ROWS = (
    *_rows(),
    Row(
        "es-noise",
        f"perturb and perturbation_gradient, 10 M parameters, {N_MEMBERS} members",
        partial(perturbing, name="es-noise"),
    ),
    Row("es-memory", "memory of a generation, against evosax", partial(memory, name="es-memory")),
    Row(
        "es-mnist",
        f"MNIST, low-rank ES, {MNIST_EPOCHS} epochs (or --epochs), one seed, beside backprop",
        partial(mnist, name="es-mnist"),
        long=True,
    ),
)
