# SPDX-License-Identifier: BSD-3-Clause
"""Ask, tell, rank and saving: what holds for every method."""

import pickle
import warnings

import numpy as np
import pytest
from linear_ensembles import (
    IDS,
    KINDS,
    MEMBERS,
    METHODS,
    N_ENS,
    N_OBS,
    N_PARAMS,
    A,
    Y,
    draw,
    forward,
    kinds,
    make,
    run,
    same,
)

import bpfree_fast as bf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", kinds(3001, 333), ids=IDS)
def test_threads_change_no_bit(options, dtype):
    """Of an ensemble that every part of a step shares out among threads."""
    members, y = draw(150, 3001).astype(dtype), draw(333, seed=2)
    found = []
    for n_threads in (1, 3):
        kalman = bf.EnsembleKalman(members, 0.5, random_state=4, n_threads=n_threads, **options)
        for _ in range(2):
            g = np.sin(kalman.ask()[:, :333]) + 0.1
            if not kalman.n_failed:
                g[7] = np.nan
                with pytest.warns(RuntimeWarning, match="1 of 150"):
                    kalman.tell(g, y)
            elif not kalman.finished:
                kalman.tell(g, y)
        found.append(kalman)
    same(*found)


@pytest.mark.parametrize("options", KINDS, ids=IDS)
@pytest.mark.parametrize("way", ["file", "pickle"])
def test_a_saved_ensemble_goes_on_with_the_same_bits(options, way, tmp_path):
    kalman = make(options)
    for n in (0, 2):
        run(kalman, n)
        if way == "file":
            kalman.save(tmp_path / "ensemble.npz")
            again = bf.EnsembleKalman.load(tmp_path / "ensemble.npz")
            assert [path.name for path in tmp_path.iterdir()] == ["ensemble.npz"]
        else:
            again = pickle.loads(pickle.dumps(kalman))
        same(kalman, again)
        assert kalman.finished == again.finished
    same(run(kalman), run(again))


@pytest.mark.parametrize("options", KINDS, ids=IDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_types_stay_and_misfits_fall(options, dtype):
    kalman = make(options, MEMBERS.astype(dtype))
    first = kalman.tell(forward(kalman.ask()), Y)
    run(kalman, 1)
    assert kalman.ask().dtype == kalman.ensemble.dtype == dtype
    assert kalman.mean.dtype == np.float64
    assert kalman.report.misfit < first.misfit
    assert kalman.report.iteration == kalman.iteration == 2
    wide = run(make(options), 2)
    tolerance = 1e-10 if dtype == np.float64 else 2e-5
    np.testing.assert_allclose(kalman.ensemble, wide.ensemble, rtol=0, atol=tolerance)


def test_whole_numbers_are_taken_as_float64():
    kalman = bf.EnsembleKalman([[1, 2], [3, 4], [5, 7]], 1)
    kalman.tell([[1], [2], [3]], [2])
    assert kalman.ensemble.dtype == np.float64


def test_seed_zero_is_a_seed_and_none_draws_one():
    same(
        run(make({"method": "enkf"}, random_state=0)), run(make({"method": "enkf"}, random_state=0))
    )
    drawn = make({"method": "enkf"}, random_state=None)
    again = make({"method": "enkf"}, random_state=drawn.seed_)
    same(run(drawn), run(again))
    other = run(make({"method": "enkf"}, random_state=1))
    assert not np.array_equal(other.ensemble, drawn.ensemble)


def test_ask_gives_copies_and_the_array_given_is_kept():
    members = MEMBERS.copy()
    kalman = make(members=members)
    asked = kalman.ask()
    out = np.empty_like(asked)
    assert kalman.ask(out=out) is out
    assert np.array_equal(out, asked)
    asked[:] = 0
    assert np.array_equal(kalman.ask(), members)
    with pytest.raises(ValueError, match="read-only"):
        kalman.ensemble[0] = 1
    view = kalman.ensemble
    run(kalman, 1)
    assert np.shares_memory(view, kalman.ensemble)  # nothing of this size was made
    assert np.array_equal(members, MEMBERS)
    inplace = make(members=members, copy=False)
    run(inplace, 1)
    assert np.array_equal(members, kalman.ensemble)


@pytest.mark.parametrize("options", [{}, {"nesterov": True}, {"dropout": 0.5}])
def test_the_ensemble_may_be_set(options):
    kalman = run(make(options))
    forecast = 0.5 * kalman.ensemble + 1
    kalman.ensemble = forecast
    assert np.array_equal(kalman.ensemble, forecast)
    if not options.get("dropout"):
        assert np.array_equal(kalman.ask(), forecast)
    assert kalman.mean == pytest.approx(forecast.mean(0))
    with pytest.raises(ValueError, match=r"ensemble has shape \(3, 4\), expected \(12, 30\)"):
        kalman.ensemble = np.zeros((3, 4))
    before = pickle.dumps(narrow := make(options, MEMBERS.astype(np.float32)))
    with pytest.raises(ValueError, match="got NaN or infinity in member 0"):
        narrow.ensemble = 1e300 * MEMBERS  # too large for float32
    assert pickle.dumps(narrow) == before
    forecast[3, 2] = np.nan
    with pytest.raises(ValueError, match="got NaN or infinity in member 3"):
        kalman.ensemble = forecast


def test_outputs_may_be_the_members_themselves():
    kalman, other = make(), make()
    kalman.tell(kalman.ensemble, np.zeros(N_PARAMS))
    other.tell(other.ask(), np.zeros(N_PARAMS))
    same(kalman, other)
    kalman.tell(kalman.ensemble[:, :2], np.zeros(2))


def test_dt_may_be_set():
    kalman = make()
    kalman.dt = 0.25
    assert kalman.dt == kalman.tell(forward(kalman.ask()), Y).dt == 0.25
    assert pickle.loads(pickle.dumps(kalman)).dt == 0.25
    with pytest.raises(ValueError, match="dt must be above 0 and finite, got 0"):
        kalman.dt = 0
    with pytest.raises(ValueError, match="steps follow from dt='norm': dt cannot be set, got 1"):
        make(dt="norm").dt = 1
    with pytest.raises(ValueError, match="steps follow from alphas"):
        make(method="esmda").dt = 1


def test_inflation_may_be_set():
    kalman, other = make(), make(inflation=1.2)
    kalman.inflation = 1.2
    assert pickle.loads(pickle.dumps(kalman)).inflation == 1.2
    same(run(kalman), run(other))
    with pytest.raises(ValueError, match=r"inflation must be at least 1 and finite, got 0\.9"):
        kalman.inflation = 0.9
    with pytest.raises(ValueError, match=r"redraw_std makes all members anew: .* got 1\.1"):
        make(redraw_std=0.1).inflation = 1.1


@pytest.mark.parametrize("noise", [0.2, np.linspace(0.1, 1, 3), np.eye(3) + 0.5])
@pytest.mark.parametrize("localization", [None, "sec", np.linspace(0, 1, 90).reshape(30, 3)])
def test_a_step_may_have_other_observations(noise, localization):
    kalman = make(method="denkf")
    g = forward(MEMBERS)[:, :3]
    kalman.tell(g, Y[:3], obs_noise_cov=noise, localization=localization)
    other = bf.EnsembleKalman(
        MEMBERS, noise, method="denkf", localization=localization, random_state=4
    )
    other.tell(g, Y[:3])
    same(kalman, other)
    last = kalman.ensemble.copy()
    kalman.tell(forward(last), Y)  # this one is as all were meant to be
    again = make(members=last, method="denkf")
    again.tell(forward(last), Y)
    assert np.array_equal(kalman.ensemble, again.ensemble)


def test_a_step_may_have_another_taper():
    near = np.exp(-np.abs(np.subtract.outer(np.arange(N_OBS), np.arange(N_OBS))) / 3)
    taper = np.linspace(0, 1, N_PARAMS * N_OBS).reshape(N_PARAMS, N_OBS)
    kalman = make(method="denkf")
    kalman.tell(forward(MEMBERS), Y, localization=taper, obs_localization=near)
    other = make(method="denkf", localization=taper, obs_localization=near)
    other.tell(forward(MEMBERS), Y)
    same(kalman, other)
    again = make(method="denkf", localization=taper, obs_localization=np.eye(N_OBS))
    again.tell(forward(MEMBERS), Y, obs_localization=near)
    assert np.array_equal(kalman.ensemble, again.ensemble)
    third = pickle.loads(pickle.dumps(other))
    g = forward(other.ask())
    other.tell(g, Y)
    third.tell(g, Y)
    same(other, third)


def test_the_rank_limit_and_what_leaves_it():
    """12 members know 11 directions of 30; 25 observations want more."""
    B = draw(25, N_PARAMS, seed=5)
    y = B @ draw(N_PARAMS, seed=6)
    found = {}
    for name, options in (
        ("plain", {}),
        ("redraw", {"redraw_std": 0.1}),
        ("dropout", {"dropout": 0.7, "additive_inflation_std": 0.02}),
    ):
        kalman = bf.EnsembleKalman(
            MEMBERS, 0.01, dt="misfit", max_time=np.inf, random_state=0, **options
        )
        found[name] = kalman.minimize(lambda x: B @ x, y, n_iterations=150).misfit
        moved = np.vstack([MEMBERS, kalman.ensemble]) - MEMBERS[0]
        rank = np.linalg.matrix_rank(moved, tol=1e-9)
        assert rank == N_ENS - 1 if name == "plain" else rank > N_ENS
    assert found["redraw"] < 0.05 * found["plain"]
    assert found["dropout"] < 0.05 * found["plain"]


def test_redrawn_members_have_the_mean_and_the_spread():
    std = np.linspace(0.1, 1, N_PARAMS)
    members = 1 + draw(2000, N_PARAMS)
    kalman, plain = make({"redraw_std": std}, members), make(members=members)
    run(kalman, 1), run(plain, 1)
    np.testing.assert_allclose(kalman.mean, plain.mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(kalman.ensemble.std(0, ddof=1), std, rtol=0.08)
    other = make({"redraw_std": std}, members)
    run(other, 2)
    noise = [(k.ensemble - k.mean) / std for k in (kalman, other)]
    assert abs(np.mean(noise[0] * noise[1])) < 0.02  # another in each iteration


def test_additive_inflation_keeps_the_mean():
    members = 1 + draw(2000, N_PARAMS)
    wide, plain = make({"additive_inflation_std": 0.3}, members), make(members=members)
    run(wide, 1), run(plain, 1)
    noise = wide.ensemble - plain.ensemble
    assert np.abs(noise.mean(0)).max() < 1e-12
    np.testing.assert_allclose(noise.std(0), 0.3, rtol=0.08)


def test_additive_inflation_is_kept_by_momentum():
    """Noise goes into what is asked for; members that hardly move diffuse as without momentum."""
    members, deviations = draw(2000, 3), {}
    for nesterov in (False, True):
        kalman = make({"nesterov": nesterov}, members, dt=1e-9, additive_inflation_std=0.5)
        asked = []
        for _ in range(5):
            kalman.tell(kalman.ask()[:, :2], np.zeros(2))
            asked.append(kalman.ask().std())
        deviations[nesterov] = np.array(asked)
    expected = np.sqrt(1 + 0.25 * np.arange(1, 6))
    np.testing.assert_allclose(deviations[False], expected, rtol=0.05)
    assert (deviations[True] > 0.95 * expected).all()
    # By its formula: the first step's noise, and its share of momentum.
    one = make({"nesterov": True}, members, dt=0.5, additive_inflation_std=0.3)
    plain = make({}, members, dt=0.5, additive_inflation_std=0.3)
    for kalman in (one, plain):
        kalman.tell(members[:, :2], np.zeros(2))
    np.testing.assert_allclose(one.ensemble, plain.ensemble, rtol=0, atol=1e-14)
    np.testing.assert_allclose(one.ask(), plain.ensemble, rtol=0, atol=1e-14)  # theta was 1
    g = one.ask()[:, :2]
    for kalman in (one, plain):
        kalman.tell(g, np.zeros(2))
    first = (np.sqrt(5) - 1) / 2
    second = first * (np.sqrt(first**2 + 4) - first) / 2
    before = make({}, members, dt=0.5, additive_inflation_std=0.3)
    before.tell(members[:, :2], np.zeros(2))
    beyond = plain.ensemble + second * (1 / first - 1) * (plain.ensemble - before.ensemble)
    np.testing.assert_allclose(one.ensemble, plain.ensemble, rtol=0, atol=1e-14)
    np.testing.assert_allclose(one.ask(), beyond, rtol=0, atol=1e-13)


@pytest.mark.parametrize("noise", [0.3, np.linspace(0.1, 1, N_OBS), np.eye(N_OBS) + 0.4])
def test_a_covariance_is_factored_once(noise):
    """A matrix is whitened with by a root that is kept; the report is as by the inverse."""
    gamma = noise if np.ndim(noise) == 2 else np.diag(np.broadcast_to(noise, N_OBS))
    members = 1e4 + MEMBERS
    g = forward(members)
    kalman = bf.EnsembleKalman(members, noise, method="enkf", random_state=4)
    report = kalman.tell(g, Y)
    off = g.mean(0) - Y
    assert report.misfit == pytest.approx(off @ np.linalg.solve(gamma, off) / 2, rel=1e-9)
    expected = bf.kernels.ensemble_update(
        members, g, Y, gamma if np.ndim(noise) == 2 else noise, method="enkf", random_state=4
    )
    np.testing.assert_allclose(kalman.ensemble, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("first", [0.0, 1e4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_spread_is_that_of_any_ensemble(first, dtype):
    members = (5 + draw(50, 4000)).astype(dtype)
    members[0] += first
    kalman = make(members=members)
    right = np.sqrt(members.astype(np.float64).var(axis=0, ddof=1).mean())
    assert kalman.spread == pytest.approx(right, rel=1e-12 if dtype == np.float64 else 1e-5)


def test_dropout_moves_a_share_of_the_parameters():
    kalman = make({"dropout": 0.4})
    moved = []
    for _ in range(40):
        before, asked = kalman.ensemble.copy(), kalman.ask()
        at_mean = np.ptp(asked, axis=0) == 0
        kalman.tell(forward(asked), Y)
        still = np.abs(kalman.ensemble - before).max(axis=0) == 0
        assert np.array_equal(at_mean, still)
        moved.append(1 - at_mean.mean())
    assert np.mean(moved) == pytest.approx(0.6, abs=0.05)
    assert np.ptp(moved) > 0.05  # chosen anew


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rule", [1.0, "misfit", "norm"])
@pytest.mark.parametrize("kind", ["same", "rank 1"])
def test_outputs_that_hardly_differ_do_not_fail(method, rule, kind):
    if method == "esmda" and rule != 1.0:
        return
    kalman = make(method=method, dt=rule)
    g = np.tile(Y + 1, (N_ENS, 1))
    if kind == "rank 1":
        g += np.arange(N_ENS)[:, np.newaxis]
    report = kalman.tell(g, Y)
    assert np.isfinite(kalman.ensemble).all()
    assert report.effective_rank == pytest.approx(0 if kind == "same" else 1)
    if kind == "same":
        np.testing.assert_allclose(kalman.ensemble, MEMBERS, rtol=0, atol=1e-12)


def test_minibatches_may_differ_in_their_data():
    kalman = make()
    kalman.tell(forward(kalman.ask())[:, :2], Y[:2])
    report = kalman.tell(forward(kalman.ask())[:, 2:], Y[2:])
    assert report.iteration == 2


def test_the_discrepancy_principle_stops_before_a_step():
    noisy = Y + np.sqrt(0.5) * draw(N_OBS, seed=9)
    kalman, on = make(dt=0.1), make(dt=0.1)
    result = kalman.minimize(lambda x: A @ x, noisy, n_iterations=500, discrepancy=1.0)
    assert result.reason == "the data are met as far as their noise allows"
    assert 2 * result.misfit <= N_OBS
    assert result.n_evaluations == (result.n_iterations + 1) * N_ENS
    assert 2 * kalman.report.misfit > N_OBS  # one step before they were not
    on.minimize(lambda x: A @ x, noisy, n_iterations=result.n_iterations)
    assert np.array_equal(on.ensemble, kalman.ensemble)
    assert on.minimize(lambda x: A @ x, noisy, n_iterations=200).misfit < result.misfit


def test_a_callback_stops():
    kalman = make()
    reports = []

    def enough(report):
        reports.append(report)
        return report.iteration == 3

    result = kalman.minimize(lambda x: A @ x, Y, callback=enough)
    assert result.reason == "the callback said so"
    assert [report.iteration for report in reports] == [1, 2, 3]
    assert result.n_iterations == 3
    assert kalman.report is reports[-1]
    assert (
        kalman.minimize(lambda x: A @ x, Y, n_iterations=1).reason == "the last iteration is done"
    )


@pytest.mark.parametrize("chunk_size", [None, 1, 5, 100])
def test_chunks_and_ways_to_call_a_model_change_nothing(chunk_size):
    kalman, other = make(), make()
    kalman.minimize(lambda x: np.sin(x[:N_OBS]), Y, n_iterations=3, chunk_size=chunk_size)
    other.minimize(lambda x: np.sin(x[:, :N_OBS]), Y, n_iterations=3, vectorized=True)
    same(kalman, other)


def test_a_model_may_write_to_what_it_is_given():
    def writes(x):
        x *= 2
        return A @ x / 2

    kalman = make()
    kalman.minimize(writes, Y, n_iterations=2)
    np.testing.assert_allclose(kalman.ensemble, run(make()).ensemble, atol=1e-12)


def test_broken_files_are_told(tmp_path):
    path = tmp_path / "ensemble.npz"
    with pytest.raises(FileNotFoundError, match="is not a file"):
        bf.EnsembleKalman.load(path)
    run(make()).save(path)
    content = path.read_bytes()
    for broken in (
        content[: len(content) // 2],
        b"nothing",
        b"",
        content.replace(b'"eki"', b'"ekk"'),
    ):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="is no saved ensemble of Kalman's"):
            bf.EnsembleKalman.load(path)
    bf.EvolutionStrategy(np.zeros(3), 1.0).save(path)
    with pytest.raises(ValueError, match="is no saved ensemble of Kalman's"):
        bf.EnsembleKalman.load(path)
    make().save(path)
    with pytest.raises(ValueError, match="is no saved evolution strategy"):
        bf.EvolutionStrategy.load(path)


def test_a_step_too_large_for_its_type_is_told():
    kalman = bf.EnsembleKalman(np.float32([[0, 1], [3e38, 2], [1, 3]]), 1.0, inflation=1e4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(FloatingPointError, match="the step of iteration 0 is too large"):
            kalman.tell([[0.0], [1.0], [2.0]], [1.0])


def test_repr():
    assert repr(run(make())) == ("EnsembleKalman(method='eki', n_ens=12, n_params=30, iteration=2)")
