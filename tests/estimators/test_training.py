# SPDX-License-Identifier: BSD-3-Clause
"""The loop over epochs: losses, schedules, stopping, callbacks, Ctrl-C, going on."""

import dataclasses
import math
import os
import signal
import threading
import time

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import bpfree_fast as bf
from bpfree_fast import estimators, experiment
from bpfree_fast.estimators._training import Training

CLASSIFIERS = list(estimators.CLASSIFIERS.values())
# Of these the first loss is known.
CROSS_ENTROPY = [bf.BackpropClassifier, bf.DFAClassifier]


def assert_same_bits(a, b):
    for name in a._array_lists:
        for one, other in zip(getattr(a, name), getattr(b, name), strict=True):
            np.testing.assert_array_equal(one, other)


def stop_after(epoch):
    return lambda info: info.epoch_ended and info.epoch == epoch


@pytest.mark.parametrize("cls", CROSS_ENTROPY)
def test_loss_curve(cls, digits):
    clf = cls((32,), random_state=0, max_iter=5).fit(digits.X_train, digits.y_train)
    assert clf.n_iter_ == len(clf.loss_curve_) == 5
    assert clf.t_ == 5 * len(digits.X_train)
    assert clf.loss_ == clf.loss_curve_[-1]
    assert clf.best_loss_ == min(clf.loss_curve_)
    assert clf.loss_curve_[0] == pytest.approx(math.log(10), rel=0.1)
    assert clf.loss_curve_[-1] < clf.loss_curve_[0]
    assert clf.validation_scores_ is None
    assert not clf.interrupted_


def test_a_second_fit_starts_anew(digits):
    clf = bf.DFAClassifier((16,), random_state=0, max_iter=2)
    once = clf.fit(digits.X_train, digits.y_train).coefs_[0]
    again = clf.fit(digits.X_train, digits.y_train).coefs_[0]
    np.testing.assert_array_equal(once, again)
    assert len(clf.loss_curve_) == 2


def test_shuffling_changes_the_order_only(digits):
    a, b = (
        bf.DFAClassifier((16,), random_state=0, max_iter=2, shuffle=shuffle)
        .fit(digits.X_train, digits.y_train)
        .loss_curve_
        for shuffle in (True, False)
    )
    assert a != b
    np.testing.assert_allclose(a, b, rtol=0.05)


@pytest.mark.parametrize("schedule", ["cosine", "step", "invscaling"])
def test_schedules_lower_the_rate(schedule, digits):
    """Steps get shorter: the weights move less in the last epoch than in an early one."""
    moved, last = [], [None]

    def note(info):
        if info.epoch_ended:
            weights = info.estimator.coefs_[0]
            if last[0] is not None:
                moved.append(np.linalg.norm(weights - last[0]))
            last[0] = weights

    bf.BackpropClassifier(
        (16,), solver="sgd", momentum=0.0, learning_rate=schedule, learning_rate_init=0.05,
        step_size=3, gamma=0.01, power_t=1.0, max_iter=10, random_state=0, callback=note,
    ).fit(digits.X_train, digits.y_train)  # fmt: skip
    assert moved[-1] < 0.3 * moved[0]


def test_constant_stops_without_improvement(digits):
    clf = bf.BackpropClassifier(
        (4,), learning_rate="constant", tol=10.0, n_iter_no_change=3, max_iter=50, random_state=0
    ).fit(digits.X_train, digits.y_train)
    assert clf.n_iter_ == 5  # the first epoch always improves, then more than three do not


def test_adaptive_lowers_the_rate_until_it_is_tiny(digits):
    clf = bf.BackpropClassifier(
        (4,), learning_rate="adaptive", tol=10.0, n_iter_no_change=1, max_iter=100, random_state=0
    ).fit(digits.X_train, digits.y_train)
    # 1e-3 / 5^k <= 1e-6 at k = 5; two epochs for each of six rates, after the first one.
    assert clf.n_iter_ == 13


@pytest.mark.parametrize("schedule", ["cosine", "step", "invscaling"])
def test_tol_counts_for_constant_and_adaptive_only(schedule, digits):
    clf = bf.BackpropClassifier(
        (4,), learning_rate=schedule, tol=10.0, n_iter_no_change=1, max_iter=8, random_state=0
    ).fit(digits.X_train, digits.y_train)
    assert clf.n_iter_ == 8


def test_constant_warns_when_it_was_cut_short(digits):
    clf = bf.BackpropClassifier((4,), learning_rate="constant", max_iter=2)
    with pytest.warns(ConvergenceWarning, match="max_iter=2") as caught:
        clf.fit(digits.X_train, digits.y_train)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("cls", [*CLASSIFIERS, bf.DFARegressor])
def test_early_stopping_keeps_the_best(cls, digits):
    scores = []
    rate = {cls._rate_name: 10.0 if cls is bf.EnKFClassifier else 0.02}

    def note(info):
        if info.epoch_ended:
            scores.append(info.estimator.validation_scores_[-1])

    est = cls(
        (32,), **rate, early_stopping=True, n_iter_no_change=3, max_iter=200,
        random_state=0, callback=note,
    ).fit(digits.X_train, digits.y_train)  # fmt: skip
    assert est.n_iter_ < 200
    assert est.validation_scores_ == scores
    assert est.best_validation_score_ == max(scores)
    assert est.best_loss_ is None
    assert est.t_ < est.n_iter_ * len(digits.X_train)
    best = scores.index(max(scores)) + 1
    again = cls(
        (32,), **rate, early_stopping=True, max_iter=200, random_state=0,
        callback=stop_after(best),
    ).fit(digits.X_train, digits.y_train)  # fmt: skip
    assert_same_bits(est, again)


def test_too_few_samples_to_keep_apart():
    with pytest.raises(ValueError, match=r"validation_fraction \(0.1\)"):
        bf.BackpropRegressor(early_stopping=True).fit(np.eye(5), np.arange(5))


def test_early_stopping_is_no_matter_of_partial_fit():
    with pytest.raises(ValueError, match="partial_fit does not support"):
        bf.DFAClassifier(early_stopping=True).partial_fit(np.eye(4), [0, 1, 0, 1])


# Ensemble Kalman has no solver, and a test of its own.
@pytest.mark.parametrize("cls", [cls for cls in CLASSIFIERS if cls is not bf.EnKFClassifier])
def test_divergence_is_named(cls, digits):
    clf = cls((16,), solver="sgd", learning_rate_init=1e30, random_state=0)
    with pytest.raises(ValueError, match=r"diverged in epoch \d+: the loss is .*1e\+30"):
        clf.fit(digits.X_train * 1e3, digits.y_train)


# Callbacks.


def test_callback_is_told_of_every_epoch(digits):
    told = []
    clf = bf.DFAClassifier((16,), random_state=0, max_iter=3, callback=told.append)
    clf.fit(digits.X_train, digits.y_train)
    ended = [info for info in told if info.epoch_ended]
    n_steps = math.ceil(len(digits.X_train) / 128)
    assert [info.epoch for info in ended] == [1, 2, 3]
    assert {info.n_epochs for info in told} == {3}
    assert {(info.step, info.n_steps) for info in ended} == {(n_steps, n_steps)}
    assert [info.loss for info in ended] == clf.loss_curve_
    assert ended[0].estimator is clf
    assert 0 < ended[0].seconds < ended[1].seconds < ended[2].seconds
    with pytest.raises(dataclasses.FrozenInstanceError):
        ended[0].loss = 0.0


@pytest.mark.parametrize("method", ["local", "forward-forward"])
def test_seconds_are_those_of_all_stages(method, monkeypatch):
    """One clock for one fit: no epoch of a greedy run takes less than nothing."""
    monkeypatch.delenv("BPFREE_DATA", raising=False)
    told = []
    tell = Training._tell

    def note(self, *args, **options):
        tell(self, *args, **options)
        told.append(self.seconds)

    monkeypatch.setattr(Training, "_tell", note)
    params = {"hidden_layer_sizes": (24, 20, 16), "schedule": "greedy", "max_iter": 2}
    result = experiment.run(experiment.Plan(method=method, params=params))
    epochs = [epoch["seconds"] for epoch in result["epochs"]]
    assert len(epochs) >= 6
    assert min(epochs) > 0
    assert told == sorted(told)
    assert result["train_seconds"] == told[-1] == pytest.approx(sum(epochs))


def test_callback_within_an_epoch(digits):
    X = np.tile(digits.X_train, (60, 4))
    y = np.tile(digits.y_train, 60)
    told = []
    bf.BackpropClassifier((300,), max_iter=1, callback=told.append, random_state=0).fit(X, y)
    within = [info for info in told if not info.epoch_ended]
    assert within
    assert all(0 < info.step < info.n_steps for info in within)
    assert [info.step for info in told] == sorted(info.step for info in told)


def test_callback_stops_at_an_epoch(digits):
    clf = bf.DFAClassifier((16,), random_state=0, max_iter=9, callback=stop_after(4))
    assert clf.fit(digits.X_train, digits.y_train).n_iter_ == 4
    assert not clf.interrupted_


def test_callback_stops_within_an_epoch(digits):
    X = np.tile(digits.X_train, (60, 4))
    y = np.tile(digits.y_train, 60)
    clf = bf.BackpropClassifier((300,), max_iter=50, callback=lambda info: True, random_state=0)
    started = time.perf_counter()
    clf.fit(X, y)
    assert clf.n_iter_ == 0
    assert np.isfinite(clf.loss_)
    assert clf.predict(X[:5]).shape == (5,)
    assert time.perf_counter() - started < 10


def test_an_error_of_the_callback_reaches_the_caller(digits):
    def fail(info):
        raise RuntimeError("from the callback")

    with pytest.raises(RuntimeError, match="from the callback"):
        bf.DFAClassifier((16,), callback=fail).fit(digits.X_train, digits.y_train)


@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_the_estimator_predicts_in_its_callback(cls, digits):
    scores = []

    def score(info):
        if info.epoch_ended:
            scores.append(info.estimator.score(digits.X_test, digits.y_test))

    cls((32,), random_state=0, max_iter=6, callback=score).fit(digits.X_train, digits.y_train)
    assert scores[-1] > scores[0]


# Ctrl-C.


@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_ctrl_c_leaves_a_usable_model(cls, digits):
    clf = cls((64,), max_iter=10**7, random_state=0)
    killer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    killer.start()
    assert clf.fit(digits.X_train, digits.y_train) is clf
    stopped = time.perf_counter()
    assert clf.interrupted_
    assert 0 < clf.n_iter_ < 10**7
    assert len(clf.loss_curve_) == clf.n_iter_
    assert clf.score(digits.X_test, digits.y_test) > 0.5
    assert time.perf_counter() - stopped < 5
    clf.set_params(max_iter=clf.n_iter_ + 2, warm_start=True).fit(digits.X_train, digits.y_train)
    assert not clf.interrupted_


def test_ctrl_c_in_the_first_epoch(digits):
    def interrupt(info):
        raise KeyboardInterrupt

    clf = bf.DFAClassifier((8,), early_stopping=True, callback=interrupt, random_state=0)
    clf.fit(digits.X_train, digits.y_train)
    assert clf.interrupted_
    assert clf.predict(digits.X_test).shape == digits.y_test.shape


# Progress bar.


def test_verbose_shows_a_bar(digits, capsys):
    bf.DFAClassifier((8,), verbose=1, max_iter=3).fit(digits.X_train, digits.y_train)
    captured = capsys.readouterr()
    assert "epoch 3/3" in captured.err
    assert "loss" in captured.err
    assert captured.out == ""


def test_silent_without_verbose(digits, capfd):
    bf.DFAClassifier((8,), max_iter=1).fit(digits.X_train, digits.y_train)
    assert capfd.readouterr() == ("", "")


# Going on.


@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_warm_start_goes_on_up_to_max_iter(cls, digits):
    X, y = digits.X_train, digits.y_train
    whole = cls((16,), random_state=0, max_iter=6).fit(X, y)
    clf = cls((16,), random_state=0, max_iter=6, warm_start=True, callback=stop_after(2))
    assert clf.fit(X, y).n_iter_ == 2
    clf.set_params(callback=None).fit(X, y)
    assert clf.n_iter_ == 6
    assert clf.loss_curve_ == whole.loss_curve_
    assert_same_bits(clf, whole)
    before = clf.coefs_[0]
    np.testing.assert_array_equal(clf.fit(X, y).coefs_[0], before)  # nothing is left to do


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_layer_sizes": (9,)}, r"hidden_layer_sizes is \[9\]"),
        ({"activation": "tanh"}, "activation is 'tanh'"),
        ({"dtype": "bfloat16"}, "dtype is 'bfloat16'"),
        ({"early_stopping": True}, "early_stopping"),
    ],
)
def test_what_cannot_change_while_going_on(change, message, digits):
    X, y = digits.X_train, digits.y_train
    clf = bf.DFAClassifier((8,), max_iter=1, random_state=0, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=message):
        clf.set_params(max_iter=2, **change).fit(X, y)


def test_what_can_change_while_going_on(digits):
    X, y = digits.X_train, digits.y_train
    clf = bf.DFAClassifier((8,), max_iter=1, random_state=0, warm_start=True).fit(X, y)
    feedback = clf.feedback_[0]
    for change in (
        {"solver": "sgd", "learning_rate_init": 0.01},
        {"momentum": 0.0},
        {"batch_size": 50},
        {"alpha": 0.1, "weight_decay": 0.1, "n_threads": 1},
    ):
        clf.set_params(max_iter=clf.n_iter_ + 1, **change).fit(X, y)
        np.testing.assert_array_equal(clf.feedback_[0], feedback)
    assert clf.n_iter_ == 5


def test_partial_fit_in_parts(digits):
    clf = bf.DFAClassifier((64,), learning_rate_init=5e-3, random_state=0)
    for _ in range(8):
        for part in np.array_split(np.arange(len(digits.X_train)), 3):
            clf.partial_fit(digits.X_train[part], digits.y_train[part], classes=np.arange(10))
    assert clf.n_iter_ == 24
    assert len(clf.loss_curve_) == 24
    assert clf.score(digits.X_test, digits.y_test) > 0.85


def test_parts_smaller_and_larger_than_a_minibatch(digits):
    clf = bf.BackpropClassifier((16,), random_state=0, batch_size=64)
    for n in (3, 200, 1, 64):
        clf.partial_fit(digits.X_train[:n], digits.y_train[:n], classes=np.arange(10))
    assert clf.t_ == 268


def test_partial_fit_has_a_constant_rate_for_want_of_an_end(digits):
    clf = bf.DFAClassifier((16,), random_state=0, max_iter=2)
    for _ in range(12):
        clf.partial_fit(digits.X_train, digits.y_train)
    assert clf.loss_curve_[-1] < clf.loss_curve_[5] < clf.loss_curve_[2]
