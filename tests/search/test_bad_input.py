# SPDX-License-Identifier: BSD-3-Clause
"""Every refusal is one sentence that names the value."""

import numpy as np
import pytest

import bpfree_fast as bf

X0 = np.zeros(4)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"x0": []}, ValueError, r"x0 has shape \(0,\), expected \(n_params,\)"),
        ({"x0": np.zeros((2, 2))}, ValueError, r"x0 has shape \(2, 2\)"),
        ({"x0": [0, np.nan]}, ValueError, "x0 must be finite, got nan at 1"),
        ({"x0": ["a"]}, TypeError, "expected real numbers"),
        ({"x0": [1j]}, TypeError, "x0 is complex128, expected real numbers"),
        ({"std": 0}, ValueError, "std must be above 0 and finite, got 0"),
        ({"std": -1.0}, ValueError, "std must be above 0 and finite, got -1"),
        ({"std": np.inf}, ValueError, "std must be above 0 and finite, got inf"),
        ({"std": [1, 1, 1]}, ValueError, r"std has shape \(3,\), expected a number or \(4,\)"),
        ({"std": [1, 1, 0, 1]}, ValueError, "std must be above 0 and finite, got 0.0 at 2"),
        ({"std": np.ones(4), "method": "ars"}, ValueError, "method 'ars' has one std"),
        ({"method": "cma"}, ValueError, "method must be one of 'openai_es', 'pgpe', .* got 'cma'"),
        ({"population_size": 1}, ValueError, "population_size must be from 2"),
        ({"population_size": 4.0}, TypeError, "population_size must be a whole number, got 4.0"),
        (
            {"population_size": 7, "method": "openai_es"},
            ValueError,
            "population_size must be even, since members are pairs, got 7",
        ),
        ({"antithetic": False, "method": "pgpe"}, ValueError, "antithetic must be True"),
        ({"antithetic": True, "method": "sep_cma_es"}, ValueError, "antithetic must be False"),
        ({"antithetic": 1}, TypeError, "antithetic must be True or False, got 1"),
        ({"maximize": "yes"}, TypeError, "maximize must be True or False, got 'yes'"),
        (
            {"perturbation": "rademacher"},
            ValueError,
            "method 'snes' needs perturbation='gaussian', got 'rademacher'",
        ),
        (
            {"perturbation": "cauchy", "method": "openai_es"},
            ValueError,
            "perturbation must be one of",
        ),
        ({"shapes": [(4,)]}, ValueError, "shapes have no meaning for method 'snes'"),
        (
            {"shapes": [(2, 3)], "method": "openai_es"},
            ValueError,
            "shapes have 6 elements together, but x0 has 4",
        ),
        (
            {"shapes": [(1, 2, 2)], "method": "openai_es"},
            ValueError,
            "shapes must have one or two sizes each",
        ),
        (
            {"shapes": [(0, 4)], "method": "openai_es"},
            ValueError,
            "each size in shapes must be at least 1, got 0",
        ),
        ({"rank": 0}, ValueError, "rank must be from 1 to 4294967295, got 0"),
        ({"fitness_shaping": "best"}, ValueError, "fitness_shaping must be one of"),
        (
            {"fitness_shaping": "nes", "method": "sep_cma_es"},
            ValueError,
            "fitness_shaping must be None for method 'sep_cma_es', got 'nes'",
        ),
        ({"fitness_shaping": "pair"}, ValueError, "of pairs, but antithetic is False"),
        ({"fitness_shaping": "group"}, ValueError, "group_size is missing"),
        ({"group_size": 2}, ValueError, "group_size was given, but fitness_shaping is 'nes'"),
        (
            {"fitness_shaping": "group", "group_size": 3},
            ValueError,
            "group_size must divide population_size 8, got 3",
        ),
        ({"n_top": 2}, ValueError, "n_top is for method 'ars' or fitness_shaping 'top_k', got 2"),
        ({"n_top": 5, "method": "ars"}, ValueError, "n_top must be from 1 to 4, got 5"),
        ({"optimizer": "adam"}, ValueError, "method 'snes' has a step of its own"),
        ({"optimizer": "lion", "method": "ars"}, ValueError, "optimizer must be one of"),
        ({"learning_rate": 0}, ValueError, "learning_rate must be above 0 and finite, got 0"),
        ({"learning_rate_decay": 1.5}, ValueError, "learning_rate_decay must be above 0 and at"),
        ({"std_decay": 0}, ValueError, "std_decay must be above 0 and at most 1"),
        (
            {"std_learning_rate": 0.1, "method": "ars"},
            ValueError,
            "std_learning_rate must be None for method 'ars', got 0.1",
        ),
        ({"std_learning_rate": -1}, ValueError, "std_learning_rate must be at least 0"),
        ({"momentum": 1}, ValueError, "momentum must be at least 0 and below 1"),
        ({"max_speed": 1.0}, ValueError, "max_speed is for optimizer 'clipup', got 1.0"),
        ({"weight_decay": 0.1}, ValueError, "weight_decay must be 0 for method 'snes', got 0.1"),
        ({"noise_reuse": 2}, ValueError, "noise_reuse must be 1 for method 'snes', got 2"),
        ({"persistence": 0}, ValueError, "persistence must be from 1"),
        (
            {"noise_reuse": 2, "persistence": 2, "method": "openai_es"},
            ValueError,
            "one of them must be 1, got 2 and 2",
        ),
        ({"bounds": 1}, TypeError, r"bounds must be None or a pair \(low, high\), got 1"),
        ({"bounds": (1, 0)}, ValueError, "bounds must have low < high, got 1 and 0 at 0"),
        ({"bounds": (np.nan, 0)}, ValueError, "bounds must have low < high, got nan and 0 at 0"),
        (
            {
                "bounds": (1.00000001, 1.00000002),
                "x0": np.ones(3, np.float32),
                "method": "openai_es",
            },
            ValueError,
            "bounds must have a float32 between them, got none at 0",
        ),
        (
            {"method": "openai_es", "perturbation": "low_rank"},
            ValueError,
            "'low_rank' is of matrices: shapes must say which, got None",
        ),
        ({"rank": 2}, ValueError, "rank is for perturbation 'low_rank', got 2 for 'gaussian'"),
        ({"method": "openai_es", "shapes": (2, 1)}, TypeError, r"shapes must hold \(n,\) or"),
        ({"std": ["a", "b", "c"]}, TypeError, "std must be a number or an array of numbers"),
        ({"bounds": (1, 2)}, ValueError, "x0 must be within the bounds, got 0 at 0, not from 1"),
        ({"bounds": ([0, 1], 2)}, ValueError, r"the low bound has shape \(2,\), expected a number"),
        ({"bound_handling": "wrap"}, ValueError, "bound_handling must be one of"),
        ({"random_state": -1}, ValueError, "random_state must be from 0"),
        ({"random_state": "zero"}, TypeError, "random_state must be None, a whole number"),
        ({"n_threads": 0}, ValueError, "n_threads must be at least 1, got 0"),
    ],
)
def test_parameters(options, error, text):
    given = {"x0": X0, "std": 0.5, "method": "snes", "population_size": 8} | options
    with pytest.raises(error, match=text):
        bf.EvolutionStrategy(given.pop("x0"), given.pop("std"), **given)


def test_xnes_is_for_few_parameters():
    assert bf.EvolutionStrategy(np.zeros(1000), 1.0, method="xnes").n_params == 1000
    with pytest.raises(ValueError, match="for at most 1000 of them, got 1001"):
        bf.EvolutionStrategy(np.zeros(1001), 1.0, method="xnes", std_learning_rate=0.1)


def make(**options):
    return bf.EvolutionStrategy(
        X0, 0.5, method="snes", population_size=8, random_state=0, **options
    )


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, ValueError, "nothing would end the search"),
        ({"n_generations": 0}, ValueError, "n_generations must be at least 1, got 0"),
        ({"max_evaluations": 7}, ValueError, "max_evaluations must be at least 8, got 7"),
        ({"target": np.nan}, ValueError, "target must be"),
        ({"n_generations": 1, "chunk_size": 0}, ValueError, "chunk_size must be at least 1, got 0"),
        ({"n_generations": 1, "vectorized": 2}, TypeError, "vectorized must be True or False"),
        ({"n_generations": 1, "callback": 3}, TypeError, "callback must be None or callable"),
    ],
)
def test_minimize(options, error, text):
    es = make()
    with pytest.raises(error, match=text):
        es.minimize(np.sum, **options)
    assert es.generation == 0


def test_functions():
    es = make()
    with pytest.raises(TypeError, match="the function must be callable, got 3"):
        es.minimize(3, n_generations=1)
    with pytest.raises(TypeError, match="the function must give a number, got None"):
        es.minimize(lambda x: None, n_generations=1)
    with pytest.raises(ValueError, match=r"gave an array of shape \(4,\) for 8 members"):
        es.minimize(lambda x: x[0], n_generations=1, vectorized=True)
    with pytest.raises(ValueError, match="made with maximize=False: call minimize"):
        es.maximize(np.sum, n_generations=1)
    with pytest.raises(ValueError, match="made with maximize=True: call maximize"):
        make(maximize=True).minimize(np.sum, n_generations=1)
    assert es.generation == 0


def test_members_and_out():
    es = make()
    with pytest.raises(ValueError, match="each of members must be from 0 to 7, got 8"):
        es.ask([0, 8])
    with pytest.raises(ValueError, match="i must be from 0 to 7, got -1"):
        es.member(-1)
    with pytest.raises(TypeError, match=r"i must be a whole number, got 1\.5"):
        es.member(1.5)
    for out in (np.empty((8, 3)), np.empty((8, 4), np.float32), np.empty((4, 8)).T):
        with pytest.raises(ValueError, match=r"expected float64 of shape \(8, 4\), C-contiguous"):
            es.ask(out=out)
    frozen = np.empty(4)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="and writeable"):
        es.member(0, out=frozen)
    with pytest.raises(TypeError, match="out must be a NumPy array, got list"):
        es.member(0, out=[0.0] * 4)
