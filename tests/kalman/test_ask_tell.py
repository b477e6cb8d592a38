# SPDX-License-Identifier: BSD-3-Clause
"""Ask, tell, rank, failures and saving: what holds for every method."""

import pickle
import warnings

import numpy as np
import pytest
from objectives import failing_observed

import bpfree_fast as bf

METHODS = ["eki", "enkf", "etki", "denkf", "esmda"]
N_ENS, N_PARAMS, N_OBS = 12, 30, 6


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


A = draw(N_OBS, N_PARAMS, seed=1) / np.sqrt(N_PARAMS)
Y = 3 * draw(N_OBS, seed=2)
MEMBERS = 1 + draw(N_ENS, N_PARAMS)
# One of each kind of step.
KINDS = [
    *({"method": method} for method in METHODS),
    {"dt": "misfit", "max_time": np.inf},
    {"dt": "norm", "max_time": 7.5},
    {"method": "esmda", "alphas": [2.0, 4.0, 4.0]},
    {"prior_mean": np.zeros(N_PARAMS), "prior_cov": 2.0, "method": "enkf"},
    {"inflation": 1.05, "additive_inflation_std": 0.1},
    {"additive_inflation_std": np.linspace(0, 1, N_PARAMS), "form": "data"},
    {"localization": "sec", "method": "denkf"},
    {"localization": np.ones((N_PARAMS, N_OBS))},
    {"redraw_std": 0.3},
    {"redraw_std": np.linspace(0.1, 1, N_PARAMS)},
    {"dropout": 0.5},
    {"nesterov": True},
]
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


@pytest.mark.parametrize("options", KINDS, ids=IDS)
def test_threads_change_no_bit(options):
    same(run(make(options, n_threads=1)), run(make(options, n_threads=3)))


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"method": "etki"}, {"form": "data"}, {"dt": "norm"}])
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
