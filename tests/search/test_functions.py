# SPDX-License-Identifier: BSD-3-Clause
"""Closed forms and published test functions."""

import numpy as np
import pytest
from tolerances import STANDARD_ERRORS

import bpfree_fast as bf

METHODS = ["openai_es", "pgpe", "snes", "xnes", "ars", "sep_cma_es", "spsa"]


def sphere(x):
    return float(x @ x)


def ellipsoid(x):
    return float(1e6 ** (np.arange(len(x)) / (len(x) - 1)) @ x**2)


def rosenbrock(x):
    return float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))


@pytest.mark.parametrize("antithetic", [True, False])
def test_a_quadratics_gradient_is_recovered_within_its_standard_error(antithetic):
    """The estimate is that of the smoothed function, whose gradient is the quadratic's own."""
    d, n, std = 20, 4000, 0.1
    x0 = np.linspace(-1, 1, d)
    curvature = np.linspace(1, 3, d)
    es = bf.EvolutionStrategy(
        x0,
        std,
        population_size=n,
        optimizer="sgd",
        learning_rate=1.0,
        fitness_shaping="none",
        antithetic=antithetic,
        random_state=3,
    )
    x = es.ask()
    values = 0.5 * np.sum(curvature * x**2, axis=1)
    es.tell(values)
    found = x0 - es.mean
    samples = values[:, None] * (x - x0) / std**2
    if antithetic:
        samples = samples.reshape(n // 2, 2, d).mean(axis=1)
    error = samples.std(axis=0) / np.sqrt(len(samples))
    assert (np.abs(found - curvature * x0) <= STANDARD_ERRORS * error).all()
    if antithetic:  # which takes the value at the mean out of the noise
        assert np.linalg.norm(found - curvature * x0) < 0.2 * np.linalg.norm(curvature * x0)


@pytest.mark.parametrize("method", ["openai_es", "ars", "spsa"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pairs_cancel_exactly_for_even_functions(method, dtype):
    d = 50
    es = bf.EvolutionStrategy(
        np.zeros(d, dtype),
        0.3,
        method=method,
        fitness_shaping="none" if method != "ars" else None,
        optimizer="sgd",
        random_state=0,
    )
    for _ in range(3):
        es.tell(np.sum(np.cos(es.ask().astype(np.float64)), axis=1))
        assert np.array_equal(es.mean, np.zeros(d))
        assert es.gradient_norm == 0


def test_constant_values_move_no_mean():
    for method in ("openai_es", "pgpe", "ars", "spsa"):
        es = bf.EvolutionStrategy(np.ones(5), 0.3, method=method, random_state=0)
        es.tell(np.full(es.population_size, 7.0))
        assert np.array_equal(es.mean, np.ones(5))


@pytest.mark.parametrize("method", METHODS)
def test_sphere(method):
    options = {
        "openai_es": {"std_decay": 0.99, "learning_rate_decay": 0.99},
        "pgpe": {"learning_rate_decay": 0.995},
        "ars": {"std_decay": 0.99, "learning_rate_decay": 0.99},
        "spsa": {"std": 1e-4, "learning_rate": 0.03},
    }.get(method, {})
    std = options.pop("std", 0.5)
    es = bf.EvolutionStrategy(np.ones(10), std, method=method, random_state=1, **options)
    result = es.minimize(sphere, n_generations=3000, target=1e-6)
    assert result.reason == "the target is reached"
    assert np.abs(result.x).max() <= 1e-3


@pytest.mark.parametrize("method", ["sep_cma_es", "snes", "xnes"])
def test_ellipsoid(method):
    es = bf.EvolutionStrategy(np.ones(20), 0.5, method=method, random_state=1)
    assert es.minimize(ellipsoid, n_generations=5000, target=1e-6).value <= 1e-6


def test_xnes_learns_a_turned_ellipsoid():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    es = bf.EvolutionStrategy(np.ones(8), 0.5, method="xnes", random_state=1)
    result = es.minimize(lambda x: ellipsoid(turn @ x), n_generations=3000, target=1e-6)
    assert result.reason == "the target is reached"


@pytest.mark.parametrize("method", ["sep_cma_es", "xnes"])
def test_rosenbrock(method):
    es = bf.EvolutionStrategy(np.zeros(8), 0.3, method=method, random_state=2)
    result = es.minimize(rosenbrock, n_generations=20000, target=1e-6)
    assert np.abs(result.x - 1).max() <= 1e-2


def test_sphere_of_a_thousand():
    es = bf.EvolutionStrategy(
        np.ones(1000), 0.5, method="sep_cma_es", population_size=50, random_state=0
    )
    result = es.minimize(
        lambda x: np.sum(x * x, axis=1), vectorized=True, n_generations=3000, target=1e-6
    )
    assert result.reason == "the target is reached"


def test_persistent_noise_sees_what_an_episode_does():
    """Each member walks on: the loss at the end takes all of the episode's noise (PES)."""
    es = bf.EvolutionStrategy(
        np.array([2.0, -1.0]),
        0.1,
        population_size=200,
        persistence=4,
        fitness_shaping="none",
        optimizer="sgd",
        learning_rate=0.003,
        random_state=0,
    )
    state = np.zeros((200, 2))
    for generation in range(400):
        if generation % 4 == 0:
            state = np.zeros((200, 2))
        state = state + es.ask()  # s_t = s_{t-1} + theta
        es.tell(np.sum((state - (generation % 4 + 1) * 0.5) ** 2, axis=1))
    assert np.abs(es.mean - 0.5).max() < 0.1
