# SPDX-License-Identifier: BSD-3-Clause
"""Closed forms of linear models, and step rules against their formulas."""

import math

import numpy as np
import pytest

import bpfree_fast as bf

N_ENS, N_PARAMS, N_OBS = 60, 8, 5


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


A = draw(N_OBS, N_PARAMS, seed=1)
Y = draw(N_OBS, seed=2)
ROOT = draw(N_OBS, N_OBS, seed=3)
GAMMA = ROOT @ ROOT.T / N_OBS + 0.2 * np.eye(N_OBS)
MEMBERS = 2 + draw(N_ENS, N_PARAMS)


def posterior(members, A, y, gamma):
    """Mean and covariance by Kalman's formula, with the members' own covariance as the prior's."""
    cov, mean = np.cov(members.T), members.mean(0)
    gain = cov @ A.T @ np.linalg.inv(A @ cov @ A.T + gamma)
    return mean + gain @ (y - A @ mean), cov - gain @ A @ cov


@pytest.mark.parametrize("noise", ["scalar", "vector", "matrix"])
@pytest.mark.parametrize("method", ["eki", "etki", "denkf"])
def test_one_unit_step_is_kalmans_formula(method, noise):
    given = {"scalar": 0.3, "vector": np.linspace(0.1, 1, N_OBS), "matrix": GAMMA}[noise]
    gamma = given if noise == "matrix" else np.diag(np.broadcast_to(given, N_OBS))
    mean, cov = posterior(MEMBERS, A, Y, gamma)
    kalman = bf.EnsembleKalman(MEMBERS, given, method=method)
    report = kalman.tell(kalman.ask() @ A.T, Y)
    np.testing.assert_allclose(kalman.mean, mean, rtol=0, atol=1e-11)
    if method == "etki":
        np.testing.assert_allclose(np.cov(kalman.ensemble.T), cov, rtol=0, atol=1e-11)
    assert report.spread == pytest.approx(math.sqrt(np.cov(kalman.ensemble.T).trace() / N_PARAMS))
    assert kalman.spread == report.spread
    off = MEMBERS.mean(0) @ A.T - Y
    assert report.misfit == pytest.approx(off @ np.linalg.solve(gamma, off) / 2)


@pytest.mark.parametrize("max_time", [None, 1.0])
def test_steps_of_any_length_to_time_1_are_the_posterior(max_time):
    """Of a linear model: the data are weighed once, a part in each step."""
    mean, cov = posterior(MEMBERS, A, Y, GAMMA)
    dt = "misfit" if max_time is None else 0.3
    kalman = bf.EnsembleKalman(MEMBERS, GAMMA, method="etki", dt=dt, max_time=max_time)
    lengths = []
    result = kalman.minimize(lambda x: A @ x, Y, callback=lambda r: lengths.append(r.dt))
    assert result.reason == "the last step is done"
    assert kalman.time == 1
    assert sum(lengths) == pytest.approx(1, abs=1e-15)
    assert len(lengths) == result.n_iterations > 2
    np.testing.assert_allclose(result.mean, mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(np.cov(kalman.ensemble.T), cov, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="the last step to time 1 is done"):
        kalman.tell(kalman.ask() @ A.T, Y)


@pytest.mark.parametrize(
    "options",
    [{"method": "enkf"}, {"method": "esmda"}, {"method": "esmda", "alphas": [9, 6, 3, 2.5714]}],
)
def test_perturbed_data_give_the_posterior_in_the_limit(options):
    members = 2 + draw(3000, N_PARAMS)
    mean, cov = posterior(members, A, Y, GAMMA)
    kalman = bf.EnsembleKalman(members, GAMMA, random_state=0, **options)
    n = 1 if options["method"] == "enkf" else 4
    result = kalman.minimize(lambda x: x @ A.T, Y, n_iterations=n, vectorized=True)
    assert result.n_iterations == n
    assert kalman.time == pytest.approx(1, abs=1e-12)
    # Deviations are near 1: 3,000 members tell a mean to 0.02, a variance to 0.03.
    np.testing.assert_allclose(result.mean, mean, rtol=0, atol=0.08)
    np.testing.assert_allclose(np.cov(kalman.ensemble.T), cov, rtol=0, atol=0.12)


def test_a_prior_is_data_too():
    prior_mean, prior_cov = draw(N_PARAMS, seed=5), np.linspace(0.5, 2, N_PARAMS)
    both = np.vstack([A, np.eye(N_PARAMS)])
    noise = np.zeros((N_OBS + N_PARAMS,) * 2)
    noise[:N_OBS, :N_OBS], noise[N_OBS:, N_OBS:] = GAMMA, np.diag(prior_cov)
    data = np.concatenate([Y, prior_mean])
    mean, cov = posterior(MEMBERS, both, data, noise)
    for given in (prior_cov, np.diag(prior_cov)):
        kalman = bf.EnsembleKalman(
            MEMBERS, GAMMA, method="etki", prior_mean=prior_mean, prior_cov=given
        )
        kalman.tell(MEMBERS @ A.T, Y)
        np.testing.assert_allclose(kalman.mean, mean, rtol=0, atol=1e-11)
        np.testing.assert_allclose(np.cov(kalman.ensemble.T), cov, rtol=0, atol=1e-11)
    # In the end the penalised minimum, whatever the first members were.
    weights = np.linalg.inv(noise)
    penalised = np.linalg.solve(both.T @ weights @ both, both.T @ weights @ data)
    kalman = bf.EnsembleKalman(MEMBERS, GAMMA, prior_mean=prior_mean, prior_cov=prior_cov, dt=1e7)
    kalman.minimize(lambda x: A @ x, Y, n_iterations=20)
    np.testing.assert_allclose(kalman.mean, penalised, rtol=0, atol=1e-5)


def test_a_priors_perturbations_are_not_those_of_the_data():
    """Their covariance is the posterior's; with one stream for both it were not."""
    members = draw(1000, 2)
    kalman = bf.EnsembleKalman(
        members, 1.0, method="enkf", prior_mean=0.0, prior_cov=1.0, random_state=3
    )
    kalman.tell(members, np.zeros(2))
    np.testing.assert_allclose(np.cov(kalman.ensemble.T), np.eye(2) / 3, rtol=0, atol=0.06)


def test_step_rules_are_their_formulas():
    g = MEMBERS @ A.T
    off = g - Y
    misfits = np.einsum("jm,mk,jk->j", off, np.linalg.inv(GAMMA), off) / 2
    kalman = bf.EnsembleKalman(MEMBERS, GAMMA, dt="misfit", dt_scale=0.5)
    report = kalman.tell(g, Y)
    rule = max(N_OBS / (2 * misfits.mean()), math.sqrt(N_OBS / (2 * misfits.var(ddof=1))))
    assert report.dt == pytest.approx(0.5 * rule)
    np.testing.assert_allclose(report.misfits, misfits)
    D = (g - g.mean(0)) @ np.linalg.solve(GAMMA, off.T) / (N_ENS - 1)
    kalman = bf.EnsembleKalman(MEMBERS, GAMMA, dt="norm", dt_scale=2.0)
    report = kalman.tell(g, Y)
    assert report.dt == pytest.approx(2 / np.linalg.norm(D))
    assert report.time == kalman.time == report.dt
    # The rule decides, the step is that of a number.
    other = bf.EnsembleKalman(MEMBERS, GAMMA, dt=report.dt, form="ensemble")
    other.tell(g, Y)
    np.testing.assert_allclose(kalman.ensemble, other.ensemble, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", ["misfit", "norm"])
def test_step_rules_go_on_below_the_noise(rule):
    kalman = bf.EnsembleKalman(MEMBERS, GAMMA, dt=rule, max_time=math.inf)
    result = kalman.minimize(lambda x: A @ x, Y, n_iterations=300)
    assert result.n_iterations == 300
    assert result.misfit < 0.05
    assert np.isfinite(kalman.ensemble).all()


@pytest.mark.parametrize("form", ["ensemble", "data"])
@pytest.mark.parametrize("rule", [0.7, "misfit"])
def test_forms_and_inflation(form, rule):
    g = MEMBERS @ A.T
    plain = bf.EnsembleKalman(MEMBERS, GAMMA, dt=rule, form=form)
    wide = bf.EnsembleKalman(MEMBERS, GAMMA, dt=rule, form=form, inflation=1.1)
    assert plain.tell(g, Y).form == wide.tell(g, Y).form == form
    mean = plain.mean
    np.testing.assert_allclose(wide.ensemble, mean + 1.1 * (plain.ensemble - mean), atol=1e-12)
    auto = bf.EnsembleKalman(MEMBERS, GAMMA, dt=rule)
    assert auto.tell(g, Y).form == "data"  # few observations
    np.testing.assert_allclose(auto.ensemble, plain.ensemble, atol=1e-11)


@pytest.mark.parametrize("rule", [0.7, "misfit", "norm"])
def test_the_cheaper_form(rule):
    members = draw(20, 5000)
    forms = {}
    for n_obs in (3, 200):
        kalman = bf.EnsembleKalman(members, 0.5, dt=rule)
        forms[n_obs] = kalman.tell(members[:, :n_obs], np.zeros(n_obs)).form
    assert forms == {3: "data", 200: "ensemble"}
    for options in ({"method": "etki"}, {"redraw_std": 1}, {"prior_mean": 0, "prior_cov": 1}):
        kalman = bf.EnsembleKalman(members, 0.5, dt=rule, **options)
        assert kalman.tell(members[:, :3], np.zeros(3)).form == "ensemble"


@pytest.mark.parametrize("localization", ["sec", "sec_fisher", "taper"])
@pytest.mark.parametrize("rule", [0.7, "norm"])
def test_localised_steps_are_the_kernels(localization, rule):
    g = MEMBERS @ A.T
    given = np.abs(draw(N_PARAMS, N_OBS, seed=7)) if localization == "taper" else localization
    kalman = bf.EnsembleKalman(MEMBERS, GAMMA, dt=rule, localization=given)
    report = kalman.tell(g, Y)
    expected = bf.kernels.ensemble_update(MEMBERS, g, Y, GAMMA, dt=report.dt, localization=given)
    assert np.array_equal(kalman.ensemble, expected)
    assert report.form == "data"


def test_nesterov_is_its_formula():
    g = lambda x: np.sin(x @ A.T)  # noqa: E731
    kalman = bf.EnsembleKalman(MEMBERS, 1.0, dt=0.5, nesterov=True)
    u, v, theta = MEMBERS, MEMBERS, 1.0
    for _ in range(6):
        np.testing.assert_allclose(kalman.ask(), v, rtol=0, atol=1e-11)
        new = bf.kernels.ensemble_update(v, g(v), Y, 1.0, dt=0.5)
        following = theta * (math.sqrt(theta**2 + 4) - theta) / 2
        v = new + following * (1 / theta - 1) * (new - u)
        u, theta = new, following
        kalman.tell(g(kalman.ask()), Y)
        np.testing.assert_allclose(kalman.ensemble, u, rtol=0, atol=1e-11)


def test_momentum_gets_there_in_fewer_steps():
    misfits = {}
    for nesterov in (False, True):
        kalman = bf.EnsembleKalman(MEMBERS, GAMMA, dt=0.02, nesterov=nesterov)
        misfits[nesterov] = kalman.minimize(lambda x: A @ x, Y, n_iterations=40).misfit
    assert misfits[True] < 0.3 * misfits[False]
