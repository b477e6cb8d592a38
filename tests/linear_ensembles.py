# SPDX-License-Identifier: BSD-3-Clause
"""A linear problem, one of each kind of step, and how two ensembles are compared."""

import numpy as np

import bpfree_fast as bf

METHODS = ["eki", "enkf", "etki", "denkf", "esmda"]
N_ENS, N_PARAMS, N_OBS = 12, 30, 6


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


A = draw(N_OBS, N_PARAMS, seed=1) / np.sqrt(N_PARAMS)
Y = 3 * draw(N_OBS, seed=2)
MEMBERS = 1 + draw(N_ENS, N_PARAMS)


def kinds(n_params=N_PARAMS, n_obs=N_OBS):
    """One of each kind of step."""
    return [
        *({"method": method} for method in METHODS),
        {"dt": "misfit", "max_time": np.inf},
        {"dt": "norm", "max_time": 7.5},
        {"method": "esmda", "alphas": [2.0, 4.0, 4.0]},
        {"prior_mean": np.zeros(n_params), "prior_cov": 2.0, "method": "enkf"},
        {"inflation": 1.05, "additive_inflation_std": 0.1},
        {"additive_inflation_std": np.linspace(0, 1, n_params), "form": "data"},
        {"localization": "sec", "method": "denkf"},
        {
            "localization": np.ones((n_params, n_obs)),
            "obs_localization": np.ones((n_obs, n_obs)),
        },
        {"redraw_std": 0.3},
        {"redraw_std": np.linspace(0.1, 1, n_params)},
        {"dropout": 0.5},
        {"nesterov": True},
    ]


KINDS = kinds()
IDS = ["-".join(kind) + str(i) for i, kind in enumerate(KINDS)]


def make(options=None, members=MEMBERS, **more):
    given = {"random_state": 4} | (options or {}) | more
    return bf.EnsembleKalman(members, 0.5, **given)


def forward(x):
    return np.asarray(x, np.float64) @ A.T


def run(kalman, n=2):
    for _ in range(n):
        if not kalman.finished:
            kalman.tell(forward(kalman.ask()), Y)
    return kalman


def same(a, b):
    assert np.array_equal(a.ensemble, b.ensemble)
    assert np.array_equal(a.ask(), b.ask())
    assert (a.iteration, a.time, a.n_failed) == (b.iteration, b.time, b.n_failed)
    assert (a.report is None) == (b.report is None)
    if a.report is not None:
        assert str(a.report) == str(b.report)
