# SPDX-License-Identifier: BSD-3-Clause
"""Ensemble Kalman training as estimators: what it learns, and what is promised."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale

import bpfree_fast as bf

FIELDS = ("misfit_mean", "misfit_min", "misfit_max", "spread", "dt", "effective_rank")
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
    "gauss-newton": ({"curvature": "gauss_newton", "dt": 1.0}, 0.9),
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
        clf = enkf(curvature=curvature, dt=10.0).fit(digits.X_train, Y)
        assert clf.out_activation_ == "logistic"
        assert clf.score(digits.X_train, Y) > 0.85


def test_several_columns_of_values():
    X, y = load_diabetes(return_X_y=True)
    X = scale(X)
    Y = np.column_stack([y, 1e6 * y + 3e7, -1e-6 * y])
    for options in ({}, KEPT):
        reg = bf.EnKFRegressor((16,), random_state=0, **options).fit(X, Y)
        assert reg.score(X, Y) > 0.4


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
    assert other.fit(X, y).score(X, y) > 0.5
    # Another number of members: drawn anew around the mean.
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
    stop = enkf(callback=lambda info: not info.epoch_ended, **KEPT)
    stop.fit(digits.X_train, digits.y_train)
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
    with pytest.raises(ValueError, match=r"Training diverged in epoch 1.*lower dt \(100\)"):
        reg.fit(X, [0.0, 1.0])
    reg.set_params(redraw_spread=1e6)
    with pytest.raises(ValueError, match="1 is lost to rounding"):
        reg.fit(X, [0.0, 1.0])


def test_no_reports_before_fit():
    with pytest.raises(AttributeError, match="has no iterations_ before fit"):
        _ = enkf().iterations_
