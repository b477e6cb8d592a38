# SPDX-License-Identifier: BSD-3-Clause
"""A generation of every method against the formulas in float64."""

import numpy as np
import pytest
from oracle import search as oracle

import bpfree_fast as bf
from bpfree_fast import _core as core
from bpfree_fast._search.covariance import expm
from bpfree_fast._search.shaping import recombination_weights, utilities

D = 9

# Some dozen float64 operations, each relative to numbers of about 1.
CLOSE = 1e-13
# The same in float32.
CLOSE_F32 = 2e-6


def noise(es, generation=None):
    """Noise [population_size, D] of the strategy's generation."""
    n = es.population_size
    z = np.empty((n, es.n_params))
    method = es._search.method
    core.search_members(
        z,
        np.zeros(es.n_params),
        None,
        1.0,
        np.arange(n, dtype=np.uint32),
        es.seed_,
        es.generation if generation is None else generation,
        method.noise.kind,
        method.noise.antithetic,
    )
    return z


def start(method, dtype=np.float64, **options):
    x0 = np.linspace(-1, 1, D).astype(dtype)
    return bf.EvolutionStrategy(
        x0, options.pop("std", 0.3), method=method, random_state=5, **options
    )


def losses_of(es, generation):
    rng = np.random.default_rng(generation)
    return rng.normal(size=es.population_size)


@pytest.mark.parametrize("shaping", ["centered_rank", "z_score", "nes", "none"])
@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_openai_es(shaping, antithetic, dtype):
    es = start(
        "openai_es",
        dtype,
        optimizer="sgd",
        learning_rate=0.1,
        weight_decay=0.5,
        antithetic=antithetic,
        fitness_shaping=shaping,
    )
    mean = es.mean.astype(np.float64)
    for generation in range(3):
        losses = losses_of(es, generation)
        g = oracle.openai_gradient(noise(es), utilities(losses, shaping), 0.3)
        mean = mean * (1 - 0.1 * 0.5) - 0.1 * g
        es.tell(losses)
        assert np.abs(es.mean - mean).max() <= (CLOSE if dtype == np.float64 else CLOSE_F32)
        assert es.gradient_norm == pytest.approx(np.linalg.norm(g), rel=1e-5)
    assert es.mean.dtype == dtype


def test_momentum_and_adam():
    for kind in ("momentum", "adam"):
        es = start("openai_es", optimizer=kind, learning_rate=0.1, learning_rate_decay=0.5)
        mean, m, v, lr = es.mean, 0.0, 0.0, 0.1
        for t in range(1, 4):
            losses = losses_of(es, t)
            g = oracle.openai_gradient(noise(es), utilities(losses, "centered_rank"), 0.3)
            if kind == "momentum":
                m = 0.9 * m - lr * g
                mean = mean + m
            else:
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
                rate = lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
                mean = mean - rate * m / (np.sqrt(v) + 1e-8)
            lr *= 0.5
            es.tell(losses)
            assert np.abs(es.mean - mean).max() <= CLOSE
            assert es.learning_rate == lr


@pytest.mark.parametrize("n_top", [1, 3, None])
def test_ars(n_top):
    es = start("ars", n_top=n_top, learning_rate=0.2, population_size=10)
    mean = es.mean
    for generation in range(3):
        losses = losses_of(es, generation)
        mean = mean - 0.2 * oracle.ars_gradient(noise(es), losses, n_top or 5)
        es.tell(losses)
        assert np.abs(es.mean - mean).max() <= CLOSE


def test_pgpe_with_clipup():
    std = np.linspace(0.1, 0.5, D)
    es = start("pgpe", std=std, learning_rate=0.1, max_speed=0.15, std_learning_rate=0.8)
    mean, velocity = es.mean, np.zeros(D)
    for generation in range(4):
        losses = losses_of(es, generation)
        u = utilities(losses, "centered_rank")
        g, new_std = oracle.pgpe(noise(es), u, std, 0.8)
        mean, velocity = oracle.clipup(mean, g, velocity, 0.1, 0.9, 0.15)
        std = new_std
        es.tell(losses)
        assert np.abs(es.mean - mean).max() <= CLOSE
        assert np.abs(es.deviation - std).max() <= CLOSE


@pytest.mark.parametrize("antithetic", [True, False])
def test_snes(antithetic):
    es = start("snes", antithetic=antithetic, learning_rate=0.9, std_learning_rate=0.4)
    mean, std = es.mean, np.full(D, 0.3)
    for generation in range(4):
        losses = losses_of(es, generation)
        mean, std = oracle.snes(mean, std, noise(es), utilities(losses, "nes"), 0.9, 0.4)
        es.tell(losses)
        assert np.abs(es.mean - mean).max() <= CLOSE
        assert np.abs(es.deviation - std).max() <= CLOSE


def test_xnes():
    es = start("xnes", std=np.linspace(0.2, 0.6, D), std_learning_rate=0.3)
    level = np.exp(np.mean(np.log(np.linspace(0.2, 0.6, D))))
    mean, std, B = es.mean, level, np.diag(np.linspace(0.2, 0.6, D) / level)
    for generation in range(4):
        x = mean + std * noise(es) @ B.T
        assert np.abs(es.ask() - x).max() <= CLOSE
        losses = losses_of(es, generation)
        u = utilities(losses, "nes")
        mean, std, B = oracle.xnes(mean, std, B, noise(es), u, 1.0, 0.3)
        es.tell(losses)
        assert np.abs(es.mean - mean).max() <= CLOSE
        assert np.abs(es.deviation - std * np.sqrt((B**2).sum(axis=1))).max() <= CLOSE
        assert np.linalg.det(es._search.method.shape) == pytest.approx(1.0, rel=1e-12)


def test_sep_cma_es():
    es = start("sep_cma_es", population_size=12)
    mean, std, C = es.mean, 0.3, np.ones(D)
    p_std = p_c = np.zeros(D)
    for generation in range(30):
        losses = losses_of(es, generation)
        if generation > 20:  # one direction: the path grows until the covariance's path stalls
            losses = -noise(es)[:, 0]
        order = np.argsort(losses, kind="stable")
        state = oracle.sep_cma(mean, std, C, p_std, p_c, noise(es), order, generation)
        mean, std, C, p_std, p_c = state
        es.tell(losses)
        assert np.abs(es.mean - mean).max() <= 1e-11
        assert np.abs(es.deviation / (std * np.sqrt(C)) - 1).max() <= 1e-11


@pytest.mark.parametrize("method", ["snes", "sep_cma_es"])
def test_steps_of_many_tiles_on_any_number_of_threads(method):
    d, population_size, found = 1100, 20, []
    for n_threads in (1, 2, 3):
        es = bf.EvolutionStrategy(
            np.linspace(-1, 1, d), 0.3, method=method, population_size=population_size,
            random_state=5, n_threads=n_threads,
        )  # fmt: skip
        mean, std, z, losses = es.mean, 0.3, noise(es), losses_of(es, 0)
        es.tell(losses)
        if method == "snes":
            rate = (3 + np.log(d)) / (5 * np.sqrt(d))
            mean, std = oracle.snes(mean, std, z, utilities(losses, "nes"), 1.0, rate)
        else:
            order, zeros = np.argsort(losses), np.zeros(d)
            mean, std, C, *_ = oracle.sep_cma(mean, std, np.ones(d), zeros, zeros, z, order, 0)
            std = std * np.sqrt(C)
        assert np.abs(es.mean - mean).max() <= CLOSE
        assert np.abs(es.deviation - std).max() <= CLOSE
        es.tell(losses)
        found.append((es.mean, es.deviation, es.gradient_norm))
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_spsa_is_one_pass_along_its_noise():
    for dtype, close in ((np.float32, CLOSE_F32), (np.float64, CLOSE)):
        es = start("spsa", dtype, learning_rate=0.05, perturbation="rademacher")
        mean = es.mean.astype(np.float64)
        for generation in range(3):
            losses = losses_of(es, generation)
            z = noise(es)[0]
            slope = (losses[0] - losses[1]) / (2 * 0.3)
            mean = mean - 0.05 * slope * z
            es.tell(losses)
            assert np.abs(es.mean - mean).max() <= close
            assert es.gradient_norm == pytest.approx(abs(slope) * np.linalg.norm(z))


@pytest.mark.parametrize("kind", ["gaussian", "low_rank"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_spsa_of_tensors_steps_to_either_side(dtype, kind):
    es = bf.EvolutionStrategy(
        np.zeros(14, dtype), 0.3, method="spsa", learning_rate=0.05, population_size=2,
        shapes=[(4, 3), (2,)], perturbation=kind, random_state=1,
    )  # fmt: skip
    for losses in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0]):
        mean, members = es.mean.astype(np.float64), es.ask().astype(np.float64)
        z = (members[0] - members[1]) / 0.6
        es.tell(losses)
        wanted = mean - 0.05 * (losses[0] - losses[1]) / 0.6 * z
        assert np.abs(es.mean - wanted).max() <= 1e-6


def test_reused_noise_is_that_of_the_first_of_its_generations():
    es = start("openai_es", optimizer="sgd", learning_rate=0.1, noise_reuse=3)
    mean = es.mean
    for generation in range(7):
        z = noise(es, generation // 3)
        assert np.abs(es.ask() - (mean + 0.3 * z)).max() <= CLOSE
        losses = losses_of(es, generation)
        g = oracle.openai_gradient(z, utilities(losses, "centered_rank"), 0.3)
        mean = mean - 0.1 * g
        es.tell(losses)
        assert np.abs(es.mean - mean).max() <= CLOSE


def test_persistent_noise_adds_up_within_an_episode():
    es = start(
        "openai_es", optimizer="sgd", learning_rate=0.1, persistence=3, fitness_shaping="none"
    )
    mean = es.mean
    for generation in range(7):
        first = generation - generation % 3
        z = sum(noise(es, g) for g in range(first, generation + 1))
        losses = losses_of(es, generation)
        mean = mean - 0.1 * oracle.openai_gradient(z, -losses, 0.3)
        es.tell(losses)
        assert np.abs(es.mean - mean).max() <= CLOSE


def test_expm():
    rng = np.random.default_rng(0)
    for size, scale in ((1, 1.0), (5, 0.1), (30, 1.0), (30, 10.0)):
        a = rng.normal(size=(size, size))
        a = scale * (a + a.T) / np.sqrt(size)
        values, vectors = np.linalg.eigh(a)
        right = vectors * np.exp(values) @ vectors.T
        assert np.abs(expm(a) - right).max() <= 1e-12 * np.exp(values.max())
    assert np.array_equal(expm(np.zeros((3, 3))), np.eye(3))


def test_failed_members_are_worst():
    losses = np.array([3.0, np.nan, 1.0, np.inf, 2.0, -np.inf])
    ranks = utilities(losses, "centered_rank")
    assert ranks[2] == 0.5
    assert ranks[1] == ranks[3] == ranks[5] == ranks.min() < ranks[0]
    assert np.array_equal(utilities(losses, "none"), [-3, -3, -1, -3, -2, -3])
    weights = recombination_weights(losses, np.array([0.5, 0.3, 0.2, 0, 0, 0]))
    assert np.array_equal(weights, [0.2, 0, 0.5, 0, 0.3, 0])
