# SPDX-License-Identifier: BSD-3-Clause
"""Members whose outputs are not finite: the others go on, and draws take their places."""

import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
from linear_ensembles import IDS, KINDS, MEMBERS, N_ENS, A, Y, draw, forward, make, run, same
from objectives import failing_observed

import bpfree_fast as bf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [{}, {"method": "etki"}, {"form": "data"}, {"dt": "norm"}, {"localization": "sec"}],
)
def test_redrawn_members_have_the_mean_of_those_that_did_not_fail(options, dtype):
    members = (100 + MEMBERS).astype(dtype)
    g = forward(members) - 100 * A.sum(1)
    g[5] = np.nan
    others = np.delete(np.arange(N_ENS), 5)
    plain = make(options, members[others])
    plain.tell(g[others], Y)
    kalman = make(options, members, redraw_std=0.1)
    with pytest.warns(RuntimeWarning, match="1 of 12 members"):
        kalman.tell(g, Y)
    tolerance = 1e-11 if dtype == np.float64 else 2e-5
    np.testing.assert_allclose(kalman.mean, plain.mean, rtol=0, atol=tolerance)


@pytest.mark.parametrize("options", KINDS, ids=IDS)
def test_members_that_fail_do_not_poison_the_others(options):
    kalman = make(options)
    g = forward(kalman.ask())
    g[3, 1], g[7, :] = np.nan, np.inf
    with pytest.warns(RuntimeWarning, match="2 of 12 members of iteration 0 have outputs"):
        report = kalman.tell(g, Y)
    assert report.n_failed == kalman.n_failed == 2
    assert np.array_equal(np.flatnonzero(np.isnan(report.misfits)), [3, 7])
    assert np.isfinite(kalman.ensemble).all()
    assert np.isfinite(report.misfit)
    run(kalman, 1)  # no second warning
    if options in ({"method": "eki"}, {"method": "enkf"}, {"method": "etki"}):
        others = np.delete(np.arange(N_ENS), [3, 7])
        fewer = run(make(options, MEMBERS[others]), 1)
        again = make(options)
        with pytest.warns(RuntimeWarning):
            again.tell(g, Y)
        assert np.array_equal(again.ensemble[others], fewer.ensemble)


def test_a_member_that_failed_is_drawn_anew_in_what_was_dropped_too():
    members = MEMBERS.copy()
    members[3] = 1000.0
    kalman = make({"dropout": 0.5}, members)
    g = forward(kalman.ask())
    g[3] = np.nan
    with pytest.warns(RuntimeWarning, match="1 of 12"):
        kalman.tell(g, Y)
    good = np.delete(kalman.ensemble, 3, axis=0)
    anomalies = good - good.mean(0)
    drawn = kalman.ensemble[3] - good.mean(0)
    outside = drawn - np.linalg.lstsq(anomalies.T, drawn, rcond=None)[0] @ anomalies
    assert np.abs(outside).max() < 1e-9


@pytest.mark.parametrize("options", [{}, {"dropout": 0.5}, {"nesterov": True}, {"redraw_std": 1}])
def test_a_warning_that_is_an_error_leaves_a_step_that_is_done(options):
    kalman, other = make(options), make(options)
    g = forward(kalman.ask())
    g[3] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="1 of 12 members of iteration 0"):
            kalman.tell(g, Y)
    with pytest.warns(RuntimeWarning):
        other.tell(g, Y)
    assert kalman.report.n_failed == kalman.n_failed == kalman.iteration == 1
    same(kalman, other)
    same(run(kalman), run(other))


def test_members_that_fail_cost_no_copy_of_the_others():
    members, y = draw(40, 100_000), np.zeros(5)
    kalman = bf.EnsembleKalman(members, 1.0, random_state=0)
    g = members[:, :5].copy()
    g[7] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kalman.tell(g, y)  # once, for what is made at the first call
        tracemalloc.start()
        try:
            kalman.tell(g, y)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < members.nbytes / 4


def test_what_replaces_a_member_is_a_draw_of_the_others():
    members = draw(3000, 3) @ draw(3, 3, seed=3)
    g = members[:, :1].copy()
    g[1000:] = np.nan
    kalman = bf.EnsembleKalman(members, 1.0, random_state=0)
    with pytest.warns(RuntimeWarning, match="2000 of 3000"):
        kalman.tell(g, [0.5])
    good, drawn = kalman.ensemble[:1000], kalman.ensemble[1000:]
    scale = np.cov(good.T).trace()
    np.testing.assert_allclose(drawn.mean(0), good.mean(0), rtol=0, atol=0.05 * np.sqrt(scale))
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(good.T), rtol=0, atol=0.1 * scale)


def test_a_model_that_fails_for_some_still_fits():
    members = draw(40, 4)
    kalman = bf.EnsembleKalman(members, 0.01, random_state=0)
    with pytest.warns(RuntimeWarning, match="have outputs that are not finite"):
        result = kalman.minimize(failing_observed, [0.5, 0.3, 0.2], n_iterations=8)
    assert result.n_failed == kalman.n_failed > 0
    assert result.misfit < 1


def test_too_few_that_succeed_change_nothing():
    kalman = run(make())
    before = pickle.dumps(kalman)
    g = forward(kalman.ask())
    g[1:] = np.nan
    with pytest.raises(ValueError, match="1 of 12 members have finite outputs in iteration 2"):
        kalman.tell(g, Y)
    assert pickle.dumps(kalman) == before
