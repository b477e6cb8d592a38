# SPDX-License-Identifier: BSD-3-Clause
"""Filters on Lorenz-96: 40 variables, all observed each 0.05 with noise of variance 1.

Published errors are of 0.18 to 0.24 for these settings (Sakov & Oke 2008, Tellus 60A, table 1, as
DAPPER reproduces it; the bench's row `enkf-lorenz96` has long runs); the data's own error is 1.
"""

import numpy as np
import pytest

import bpfree_fast as bf


def tendency(x):
    ahead, behind = np.roll(x, -1, -1), np.roll(x, 1, -1)
    return (ahead - np.roll(x, 2, -1)) * behind - x + 8


def forecast(x, h=0.05):
    a = tendency(x)
    b = tendency(x + h / 2 * a)
    c = tendency(x + h / 2 * b)
    d = tendency(x + h * c)
    return x + h / 6 * (a + 2 * b + 2 * c + d)


def start(n_ens):
    rng = np.random.default_rng(0)
    truth = 8 + rng.normal(size=40)
    for _ in range(300):
        truth = forecast(truth)
    return truth, truth + rng.normal(size=(n_ens, 40)), rng


@pytest.mark.parametrize(
    ("method", "n_ens", "inflation", "limit"),
    [("etki", 24, 1.013, 0.21), ("denkf", 40, 1.01, 0.21), ("enkf", 40, 1.06, 0.26)],
)
def test_analysis_error(method, n_ens, inflation, limit):
    truth, members, rng = start(n_ens)
    kalman = bf.EnsembleKalman(
        members, 1.0, method=method, inflation=inflation, random_state=0, n_threads=1
    )
    errors = []
    for _ in range(800):
        truth = forecast(truth)
        kalman.ensemble = forecast(kalman.ensemble)
        report = kalman.tell(kalman.ensemble, truth + rng.normal(size=40))
        errors.append(np.sqrt(np.mean((kalman.mean - truth) ** 2)))
    assert np.mean(errors[200:]) < limit
    assert 0.5 < report.spread / np.mean(errors[200:]) < 2


def tapers(reach):
    """Of Gaspari & Cohn 1999, eq. 4.10: 0 from twice the reach."""
    at = np.arange(40)
    distance = np.abs(at[:, None] - at)
    z = np.minimum(distance, 40 - distance) / reach
    near = -(z**5) / 4 + z**4 / 2 + 5 / 8 * z**3 - 5 / 3 * z**2 + 1
    with np.errstate(divide="ignore"):
        far = z**5 / 12 - z**4 / 2 + 5 / 8 * z**3 + 5 / 3 * z**2 - 5 * z + 4 - 2 / 3 / z
    return np.where(z <= 1, near, np.where(z < 2, far, 0))


@pytest.mark.parametrize(
    ("method", "n_ens", "inflation", "limit"),
    [("denkf", 10, 1.05, 0.35), ("enkf", 15, 1.06, 0.35), ("denkf", 24, 1.03, 0.25)],
)
def test_fewer_members_than_observations(method, n_ens, inflation, limit):
    truth, members, rng = start(n_ens)
    near = tapers(7.0)
    kalman = bf.EnsembleKalman(
        members, 1.0, method=method, inflation=inflation, localization=near, obs_localization=near,
        random_state=0, n_threads=1,
    )  # fmt: skip
    errors = []
    for _ in range(800):
        truth = forecast(truth)
        kalman.ensemble = forecast(kalman.ensemble)
        kalman.tell(kalman.ensemble, truth + rng.normal(size=40))
        errors.append(np.sqrt(np.mean((kalman.mean - truth) ** 2)))
    assert np.mean(errors[200:]) < limit


def test_the_root_filter_is_the_textbooks():
    truth, members, rng = start(24)
    kalman = bf.EnsembleKalman(members, 1.0, method="etki", inflation=1.02)
    for _ in range(20):
        truth = forecast(truth)
        y = truth + rng.normal(size=40)
        members, predicted = forecast(members), forecast(kalman.ensemble)
        mean = members.mean(0)
        A = members - mean
        values, vectors = np.linalg.eigh(A @ A.T + 23 * np.eye(24))
        weights = (vectors / values) @ (vectors.T @ (A @ (y - mean)))
        members = mean + (weights + 1.02 * (vectors * np.sqrt(23 / values)) @ vectors.T) @ A
        kalman.ensemble = predicted
        kalman.tell(predicted, y)
    np.testing.assert_allclose(kalman.ensemble, members, rtol=0, atol=1e-9)
