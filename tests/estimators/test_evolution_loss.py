# SPDX-License-Identifier: BSD-3-Clause
"""Evolution strategies with a loss that the user wrote."""

import numpy as np
import pytest
from evolution_estimators import assert_same, cross_entropy, es, flat, mistakes

import bpfree_fast as bf
from bpfree_fast import _core as core
from bpfree_fast.estimators import _evolution


@pytest.mark.parametrize("shuffle", [True, False])
def test_cross_entropy_in_python_is_the_networks_own(shuffle, digits):
    options = {"shuffle": shuffle, "max_iter": 2, "fitness_shaping": "z_score", "solver": "sgd"}
    X, y = digits.X_train[:300], digits.y_train[:300]
    own = es(loss=cross_entropy, **options).fit(X, y)
    built_in = es(**options).fit(X, y)
    np.testing.assert_allclose(own.loss_curve_, built_in.loss_curve_, rtol=1e-4)
    np.testing.assert_allclose(flat(own), flat(built_in), atol=1e-4)
    assert len(own.generations_) == len(built_in.generations_) == 3


def test_what_a_loss_is_given(digits):
    calls = []

    def note(y, output, *more):
        calls.append((y.copy(), output.shape, output.dtype, *more))
        with pytest.raises(ValueError, match="read-only"):
            y[0] = 0
        return cross_entropy(y, output)

    X, labels = digits.X_train[:50], np.array([f"digit {n}" for n in digits.y_train[:50]])
    clf = es(loss=note, population_size=4, batch_size=32, shuffle=False, max_iter=1)
    clf.fit(X, labels)
    assert len(calls) == 8
    for k, rows in enumerate([slice(0, 32)] * 4 + [slice(32, 50)] * 4):
        y, shape, dtype = calls[k]
        assert clf.classes_[y].tolist() == labels[rows].tolist()
        assert (shape, dtype) == ((len(y), len(clf.classes_)), np.float32)
    calls.clear()
    weight = np.arange(50) / 7
    clf.fit(X, labels, sample_weight=weight)  # the first one is left out: its weight is 0
    np.testing.assert_allclose(calls[0][3], weight[1:33], rtol=1e-6)


def test_equal_rows_stay_as_they_are(digits):
    """A minibatch of all samples is neither sorted nor joined before a function sees it."""
    X, y = np.repeat(digits.X_train[:10], 2, axis=0), np.repeat(digits.y_train[:10], 2)
    sizes = []

    def note(y, output):
        sizes.append(len(y))
        return cross_entropy(y, output)

    es(loss=note, population_size=2, max_iter=1).fit(X, y)
    assert sizes == [20, 20]


def test_a_regressors_loss_is_in_the_units_of_y():
    X, seen = np.arange(6.0)[:, None], []

    def note(y, output):
        seen.append((y.copy(), output.copy()))
        return np.abs(y - output).mean()

    reg = bf.ESRegressor((4,), loss=note, population_size=2, shuffle=False, max_iter=1, std=1e-9)
    y = np.array([1e6, 1e6 + 1, 1e6 + 2, 1e6, 7.0, 3.0])
    reg.set_params(learning_rate_init=1e-9).fit(X, y)
    np.testing.assert_array_equal(seen[0][0], y)  # not rounded by a scale there and back
    np.testing.assert_allclose(seen[0][1], reg.predict(X), rtol=1e-5)
    seen.clear()
    reg.fit(X, np.column_stack([y, -y]))
    assert seen[0][0].shape == seen[0][1].shape == (6, 2)


def test_several_labels_with_a_loss(digits):
    Y = np.column_stack([digits.y_train % 2, digits.y_train > 4]).astype(int)

    def wrong(y, output):
        assert y.shape == output.shape
        return np.mean((output > 0.5) != (y > 0.5))

    clf = es(loss=wrong).fit(digits.X_train, Y)
    assert clf.score(digits.X_train, Y) > 0.6


@pytest.mark.parametrize("chunk", [1, 2**30])
def test_chunks_of_members_change_no_bit(chunk, digits, monkeypatch):
    X, y = digits.X_train[:200], digits.y_train[:200]
    options = {"loss": cross_entropy, "max_iter": 2, "population_size": 22}
    expected = es(**options).fit(X, y)
    monkeypatch.setattr(_evolution, "_CHUNK_NUMBERS", chunk)
    assert_same(es(**options, n_threads=1).fit(X, y), expected)


def test_losses_that_are_not_finite_count_as_worst(digits):
    X, y = digits.X_train[:128], digits.y_train[:128]
    turn = iter(range(10**9))

    def sometimes(y, output):
        return (np.nan, np.inf, -np.inf, 1.0)[k] if (k := next(turn) % 8) < 3 else (
            cross_entropy(y, output)
        )  # fmt: skip

    clf = es(loss=sometimes, population_size=32, max_iter=3)
    with pytest.warns(RuntimeWarning, match=r"36 of 96 losses were not finite"):
        clf.fit(X, y)
    assert clf.generations_["n_not_finite"].tolist() == [12.0]
    assert [epoch["n_not_finite"] for epoch in clf.evolution_curve_] == [12.0] * 3
    assert np.isfinite(flat(clf)).all()
    assert np.isfinite(clf.loss_curve_).all()


def test_losses_none_of_which_is_finite(digits):
    X, y = digits.X_train[:128], digits.y_train[:128]
    clf = es(population_size=8).partial_fit(X, y)
    before = flat(clf)
    with pytest.raises(ValueError, match="finite"):
        clf.set_params(loss=lambda y, output: np.nan).partial_fit(X, y)
    np.testing.assert_array_equal(flat(clf), before)
    clf.set_params(loss=None).partial_fit(X, y)  # usable


@pytest.mark.parametrize("value", [None, "much", np.zeros(2)])
def test_a_loss_that_is_no_number(value, digits):
    clf = es(loss=lambda y, output: value)
    with pytest.raises(TypeError, match="loss must give one number, got"):
        clf.fit(digits.X_train[:20], digits.y_train[:20])


def test_an_error_in_a_loss_is_told_as_it_is(digits):
    def broken(y, output):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        es(loss=broken).fit(digits.X_train[:20], digits.y_train[:20])


def test_ctrl_c_in_a_loss_leaves_a_usable_model(digits):
    turn = iter(range(10**9))

    def interrupted(y, output):
        if next(turn) == 1000:
            raise KeyboardInterrupt
        return cross_entropy(y, output)

    clf = es(loss=interrupted, batch_size=32).fit(digits.X_train, digits.y_train)
    assert clf.interrupted_
    assert clf.predict(digits.X_test).shape == digits.y_test.shape
    clf.set_params(loss=None, warm_start=True, max_iter=2).fit(digits.X_train, digits.y_train)
    assert clf.n_iter_ == 2


def test_a_callback_stops_between_generations(digits, monkeypatch):
    monkeypatch.setattr(_evolution, "_EVENT_SECONDS", 0.0)
    steps = []

    def stop(info):
        steps.append((info.step, len(info.estimator.generations_)))
        return info.step == 3

    clf = es(loss=cross_entropy, callback=stop, batch_size=32, population_size=4)
    clf.fit(digits.X_train, digits.y_train)
    assert steps == [(1, 1), (2, 2), (3, 3)]
    assert clf.n_iter_ == 0
    assert np.isfinite(clf.loss_)


def test_a_trained_network_goes_on_with_another_loss(digits):
    """As one would with a metric: first the gradient of cross-entropy, then the metric itself."""
    first = bf.BackpropClassifier((32,), random_state=0, max_iter=5)
    first.fit(digits.X_train, digits.y_train)
    before = np.mean(first.predict(digits.X_train) != digits.y_train)
    clf = es(loss=mistakes, std=0.02, learning_rate_init=3e-3, batch_size=2000, warm_start=True)
    clf.partial_fit(digits.X_train, digits.y_train)
    clf.coefs_, clf.intercepts_ = first.coefs_, first.intercepts_
    clf.fit(digits.X_train, digits.y_train)
    assert np.mean(clf.predict(digits.X_train) != digits.y_train) < 0.9 * before


def test_threads_of_the_chunk_are_the_cores(digits, monkeypatch):
    """Without n_threads there are at least two members for each thread of the core's choice."""
    sizes = []
    evaluate = core.Trainer.evaluate
    monkeypatch.setattr(_evolution, "_CHUNK_NUMBERS", 1)
    monkeypatch.setattr(
        core.Trainer,
        "evaluate",
        lambda self, first, out: (sizes.append(len(out)), evaluate(self, first, out))[1],
    )
    clf = es(loss=cross_entropy, population_size=64, max_iter=1)
    clf.fit(digits.X_train[:20], digits.y_train[:20])
    assert sizes[0] == min(64, 2 * core.default_threads())
