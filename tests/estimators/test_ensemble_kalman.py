# SPDX-License-Identifier: BSD-3-Clause
"""Ensemble Kalman training as estimators: what it learns, and what is promised."""

import time

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import scale

import bpfree_fast as bf

FIELDS = (
    "misfit_mean", "misfit_min", "misfit_max", "spread", "dt", "effective_rank", "n_failed",
)  # fmt: skip
KEPT = {"redraw_spread": 0, "dt": 1.0, "n_ens": 128}


def enkf(hidden=(32,), *arguments, **options):
    return bf.EnKFClassifier(hidden, *arguments, **{"random_state": 0, **options})


def arrays(est):
    return [*est.coefs_, *est.intercepts_]


def assert_same(a, b):
    assert all(map(np.array_equal, arrays(a), arrays(b)))


# Options, and the accuracy on digits that they reach for certain: a kept ensemble has 128
# directions in 2,410 dimensions.
LEARN = {
    "redrawn": ({}, 0.95),
    "few members": ({"n_ens": 32}, 0.8),
    "gauss-newton": ({"curvature": "gauss_newton"}, 0.9),
    "squared error": ({"loss": "squared_error"}, 0.9),
    "kept": (KEPT, 0.85),
    "etki": (KEPT | {"update": "etki"}, 0.6),
    "denkf": (KEPT | {"update": "denkf"}, 0.85),
    "enkf": (KEPT | {"update": "enkf", "loss": "squared_error"}, 0.8),
    "step": ({"activation": "step"}, 0.9),
    "sign": ({"activation": "sign"}, 0.9),
    "tanh": ({"activation": "tanh"}, 0.95),
    "two layers": ({"hidden": (32, 24)}, 0.9),
    "linear": ({"hidden": ()}, 0.9),
    "bfloat16": ({"dtype": "bfloat16"}, 0.95),
    "kept in bfloat16": (KEPT | {"dtype": "bfloat16"}, 0.85),
    "invscaling": ({"learning_rate": "invscaling"}, 0.9),
}


@pytest.mark.parametrize("name", LEARN)
def test_learns_digits(name, digits):
    options, least = LEARN[name]
    clf = enkf(**options).fit(digits.X_train, digits.y_train)
    assert clf.score(digits.X_test, digits.y_test) > least
    np.testing.assert_allclose(clf.predict_proba(digits.X_test).sum(axis=1), 1, atol=1e-6)


def test_several_labels(digits):
    Y = np.column_stack([digits.y_train % 2, digits.y_train > 4, digits.y_train == 0]).astype(int)
    for curvature in ("bound", "gauss_newton"):
        clf = enkf(curvature=curvature, max_iter=40).fit(digits.X_train, Y)
        assert clf.out_activation_ == "logistic"
        assert clf.score(digits.X_train, Y) > 0.85


def test_several_columns_of_values():
    X, y = load_diabetes(return_X_y=True)
    X = scale(X)
    Y = np.column_stack([y, 1e6 * y + 3e7, -1e-6 * y])
    for options in ({}, KEPT):
        reg = bf.EnKFRegressor((16,), random_state=0, **options).fit(X[:300], Y[:300])
        assert reg.score(X[300:], Y[300:]) > 0.4


def test_learns_a_curve():
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, (500, 1))
    y = np.sin(2 * x[:, 0]) + 0.05 * rng.normal(size=500)
    reg = bf.EnKFRegressor(random_state=0, max_iter=100).fit(x[:300], y[:300])
    assert reg.score(x[300:], y[300:]) > 0.97


@pytest.mark.parametrize("scaled", [False, True])
def test_learns_iris(scaled):
    X, y = load_iris(return_X_y=True)
    X = scale(X) if scaled else X
    order = np.random.default_rng(0).permutation(len(X))
    train, test = order[:100], order[100:]
    clf = bf.EnKFClassifier(random_state=0, max_iter=50).fit(X[train], y[train])
    assert clf.score(X[test], y[test]) > 0.9


def test_the_default_step_is_one_that_the_ensemble_bears(digits):
    X, y = digits.X_train[:200], digits.y_train[:200]
    newton = {"curvature": "gauss_newton"}
    for options, dt in (
        ({}, 100),
        (newton, 10),
        (newton | {"loss": "squared_error"}, 100),
        ({"redraw_spread": 0}, 1),
        (newton | {"dt": 3.0}, 3),
    ):
        clf = enkf(n_ens=8, max_iter=1, learning_rate="constant", **options)
        with pytest.warns(ConvergenceWarning):
            clf.fit(X, y)
        assert clf.iterations_["dt"].tolist() == [dt, dt]
    reg = bf.EnKFRegressor(n_ens=8, max_iter=1, learning_rate="constant", random_state=0)
    with pytest.warns(ConvergenceWarning):
        reg.fit(X, y)
    assert reg.iterations_["dt"].tolist() == [30, 30]


# What is promised.


@pytest.mark.parametrize("options", [{}, KEPT, {"loss": "squared_error"}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_threads_change_no_bit(dtype, options, digits):
    X, y = digits.X_train[:200], digits.y_train[:200]
    options = {"dtype": dtype, "max_iter": 2, "n_ens": 40, **options}
    one, more = (enkf((20, 17), n_threads=n, **options).fit(X, y) for n in (1, 3))
    assert_same(one, more)
    assert one.loss_curve_ == more.loss_curve_
    np.testing.assert_array_equal(one.iterations_, more.iterations_)


RESUMED = [
    {},
    KEPT,
    KEPT | {"update": "denkf", "dtype": "bfloat16"},
    {"early_stopping": True, "dtype": "bfloat16"},
    KEPT | {"early_stopping": True},
]


@pytest.mark.parametrize("options", RESUMED)
def test_a_saved_model_goes_on_bit_for_bit(options, digits, tmp_path):
    X, y = digits.X_train[:400], digits.y_train[:400]
    options = {"max_iter": 4, "n_ens": 32, **options}
    whole = enkf(**options).fit(X, y)
    half = enkf(**options, callback=lambda info: info.epoch_ended and info.epoch == 2).fit(X, y)
    half.save(tmp_path / "m.safetensors")
    other = bf.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(other.predict_proba(X), half.predict_proba(X))
    assert len(other.iterations_) == 0
    other.set_params(warm_start=True).fit(X, y)
    assert_same(other, whole)
    assert other.kalman_curve_ == whole.kalman_curve_


def test_a_kept_ensemble_without_its_members_goes_on(digits, tmp_path):
    X, y = digits.X_train[:400], digits.y_train[:400]
    clf = enkf(max_iter=10, **KEPT).fit(X, y)
    clf.save(tmp_path / "m.safetensors", optimizer=False)
    other = bf.load(tmp_path / "m.safetensors").set_params(warm_start=True, max_iter=12)
    assert_same(other, clf)
    # Drawn anew around the mean, and wide again.
    narrow = clf._trainer.members().std(0)
    other.set_params(dt=1e-9, max_iter=11).fit(X, y)
    for a, b in zip(arrays(other), arrays(clf), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    wide = other._trainer.members().std(0)[: 64 * 32]
    np.testing.assert_allclose(wide.mean() * 8, 1, rtol=0.02)
    assert narrow[: 64 * 32].mean() < 0.5 * wide.mean()
    before = other.loss_
    assert other.set_params(dt=1.0, max_iter=20).fit(X, y).loss_ < 0.5 * before
    # Another number of members: the same.
    clf.set_params(warm_start=True, max_iter=11, n_ens=40).fit(X, y)
    clf.set_params(max_iter=12, redraw_spread=0.5).fit(X, y)
    assert clf.n_iter_ == 12


def test_reports(digits):
    lengths = []

    def note(info):
        found = info.estimator.iterations_
        assert found.dtype.names == FIELDS
        lengths.append((info.step, len(found)))

    clf = enkf(max_iter=3, callback=note).fit(digits.X_train, digits.y_train)
    assert all(step == n for step, n in lengths)
    found = clf.iterations_
    assert (found["misfit_min"] <= found["misfit_mean"]).all()
    assert (found["misfit_mean"] <= found["misfit_max"]).all()
    assert (found["spread"] > 0).all()
    assert (np.diff(found["dt"]) < 0).all()
    assert ((found["effective_rank"] >= 1) & (found["effective_rank"] <= 256)).all()
    assert clf.kalman_curve_[0]["dt"] > clf.kalman_curve_[-1]["dt"]
    assert clf.kalman_curve_[-1]["misfit_mean"] == pytest.approx(found["misfit_mean"].mean())
    assert clf.loss_curve_[-1] == pytest.approx(found["misfit_mean"].mean(), rel=0.1)


def test_stopping_leaves_the_mean_of_the_members(digits):
    """A callback ends an epoch: the network is what its ensemble says."""
    seen = []

    def note(info):
        seen.append([p.copy() for p in arrays(info.estimator)])
        return not info.epoch_ended

    stop = enkf(callback=note, batch_size=1, **KEPT)
    first = enkf(max_iter=1, dt=1e-9, **{k: v for k, v in KEPT.items() if k != "dt"})
    first.fit(digits.X_train[:9], digits.y_train[:9])
    stop.fit(digits.X_train, digits.y_train)
    assert stop.n_iter_ == 0
    assert all(map(np.array_equal, arrays(stop), seen[0]))
    assert np.abs(arrays(first)[0] - seen[0][0]).max() > 1e-3
    pairs = zip(stop.coefs_, stop.intercepts_, strict=True)
    flat = np.concatenate([p.ravel() for pair in pairs for p in pair])
    np.testing.assert_allclose(stop._trainer.members().mean(0), flat, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_ens": 1}, "n_ens must be at least 2, got 1"),
        ({"update": "etki"}, "update='etki' needs redraw_spread=0"),
        ({"update": "enkf", **KEPT}, "needs loss='squared_error'"),
        ({"dt": -1}, "dt must be above 0"),
        ({"loss": "hinge"}, "loss must be one of"),
    ],
)
def test_bad_parameters(options, message, digits):
    with pytest.raises(ValueError, match=message):
        enkf(**options).fit(digits.X_train[:20], digits.y_train[:20])


def test_divergence_is_named():
    X = np.array([[0.0], [1.0]])
    reg = bf.EnKFRegressor((4, 4), "identity", random_state=0, redraw_spread=1e30)
    with pytest.raises(ValueError, match=r"Training diverged in epoch 1.*lower dt \(30\)"):
        reg.fit(X, [0.0, 1.0])
    reg.set_params(redraw_spread=1e6)
    with pytest.raises(ValueError, match=r"scale X, or lower dt or redraw_spread \(1e\+06\)"):
        reg.fit(X, [0.0, 1.0])


def test_callbacks_come_every_tenth_of_a_second(digits):
    """Not after each iteration, although each is a run of the core of its own."""
    times, steps = [], []

    def note(info):
        if not info.epoch_ended:
            times.append(time.perf_counter())
            steps.append(info.step)
        return len(times) == 3

    enkf(callback=note, batch_size=1, shuffle=False).fit(digits.X_train, digits.y_train)
    assert len(times) == 3
    assert np.diff(times).min() > 0.09
    assert steps[1] - steps[0] > 1


@pytest.mark.parametrize("options", [{}, KEPT, {"loss": "squared_error"}])
def test_samples_without_weight_teach_nothing(options, digits):
    X, y = digits.X_train[:100], digits.y_train[:100]
    weight = np.repeat([1.0, 0.0], 50)
    options = {"n_ens": 16, "max_iter": 2, **options}
    a = enkf(**options).fit(X[:50], y[:50])
    y = np.where(weight > 0, y, (y + 1) % 10)
    b = enkf(**options).fit(X, y, sample_weight=weight)
    assert_same(a, b)


def test_members_that_fail_are_left_out_and_told():
    """Of N(0, 1) times 2^127 one in 20 is beyond float32."""
    X, y = np.array([[2.0**127], [0.0]]), [0, 1]
    options = {"obs_noise_var": 1e76, "initializer": "zeros", "max_iter": 3, "random_state": 0}
    clf = bf.EnKFClassifier((), redraw_spread=1.0, **options)
    with pytest.warns(RuntimeWarning, match="members of the 1 iterations of epoch 1") as told:
        clf.fit(X, y)
    assert len(told) == 1
    assert told[0].filename == __file__
    assert all(0 < entry["n_failed"] < 128 for entry in clf.kalman_curve_)
    assert clf.iterations_["n_failed"].tolist() == [clf.kalman_curve_[-1]["n_failed"]]
    assert np.isfinite(clf.loss_curve_).all()
    with pytest.raises(ValueError, match="Training diverged in epoch 1"):
        clf.set_params(redraw_spread=0).fit(X, y)


def test_no_reports_before_fit():
    with pytest.raises(AttributeError, match="has no iterations_ before fit"):
        _ = enkf().iterations_
