# SPDX-License-Identifier: BSD-3-Clause
"""Feedback rules, the arrays of a fitted network, and alignment with backpropagation."""

import numpy as np
import pytest

import bpfree_fast as bf
from bpfree_fast.estimators.feedback import RULES

DIRECT = ("direct", "direct_kolen_pollack", "target")


@pytest.mark.parametrize("rule", RULES)
def test_rules_learn(rule, digits):
    clf = bf.DFAClassifier((64, 48), feedback=rule, random_state=0, learning_rate_init=5e-3)
    clf.fit(digits.X_train, digits.y_train)
    assert clf.score(digits.X_test, digits.y_test) > (0.8 if rule == "target" else 0.93)
    shapes = [(10, 64), (10, 48)] if rule in DIRECT else [(64, 48), (48, 10)]
    assert [feedback.shape for feedback in clf.feedback_] == shapes


def test_sign_of_the_error_is_enough(digits):
    clf = bf.DFAClassifier((64,), error_signal="sign", random_state=0, learning_rate_init=5e-3)
    clf.fit(digits.X_train, digits.y_train)
    assert clf.score(digits.X_test, digits.y_test) > 0.75


@pytest.mark.parametrize(
    ("distribution", "check"),
    [
        ("uniform", lambda B, s: np.abs(B).max() <= s and np.abs(B).max() > 0.9 * s),
        ("normal", lambda B, s: abs(B.std() / s - 1) < 0.1),
        ("sign", lambda B, s: np.allclose(np.abs(B), s)),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_distributions(distribution, check, scale, digits):
    clf = bf.DFAClassifier(
        (200,), feedback_distribution=distribution, feedback_scale=scale, random_state=0, max_iter=1
    ).fit(digits.X_train, digits.y_train)
    assert check(clf.feedback_[0], scale / np.sqrt(10))


@pytest.mark.parametrize("rule", ["kolen_pollack", "direct_kolen_pollack"])
def test_learned_feedback_is_learned(rule, digits):
    first, last = (
        bf.DFAClassifier((16,), feedback=rule, random_state=0, max_iter=n)
        .fit(digits.X_train, digits.y_train)
        .feedback_[0]
        for n in (1, 10)
    )
    assert np.abs(first - last).max() > 1e-3


def test_kolen_pollack_feedback_approaches_the_weights(digits):
    clf = bf.DFAClassifier(
        (32,), feedback="kolen_pollack", weight_decay=30.0, random_state=0, max_iter=60
    ).fit(digits.X_train, digits.y_train)
    np.testing.assert_allclose(clf.feedback_[0], clf.coefs_[1], atol=0.02)


def test_decay_of_learned_feedback_is_the_default(digits):
    options = {"hidden_layer_sizes": (8,), "random_state": 0, "max_iter": 2}
    for rule, decays in (("kolen_pollack", True), ("direct", False)):
        default, none = (
            bf.DFAClassifier(feedback=rule, weight_decay=decay, **options)
            .fit(digits.X_train, digits.y_train)
            .coefs_[0]
            for decay in (None, 0.0)
        )
        assert np.array_equal(default, none) != decays


# Arrays.


@pytest.fixture
def fitted(digits):
    clf = bf.DFAClassifier((16, 12), random_state=0, max_iter=2)
    return clf.fit(digits.X_train, digits.y_train)


@pytest.mark.parametrize("name", ["coefs_", "intercepts_", "feedback_"])
def test_arrays_are_read_only_copies(name, fitted):
    arrays = getattr(fitted, name)
    assert all(array.dtype == np.float32 for array in arrays)
    with pytest.raises(ValueError, match="read-only"):
        arrays[0][...] = 0


def test_shapes(fitted):
    assert [w.shape for w in fitted.coefs_] == [(64, 16), (16, 12), (12, 10)]
    assert [b.shape for b in fitted.intercepts_] == [(16,), (12,), (10,)]


@pytest.mark.parametrize("name", ["coefs_", "intercepts_", "feedback_"])
def test_lists_are_set_as_a_whole(name, fitted):
    new = [2.0 * array + 1 for array in getattr(fitted, name)]
    setattr(fitted, name, [array.tolist() for array in new])
    for a, b in zip(getattr(fitted, name), new, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_set_is_used(fitted, digits):
    fitted.coefs_ = [np.zeros_like(w) for w in fitted.coefs_]
    fitted.intercepts_ = [*(b * 0 for b in fitted.intercepts_[:-1]), np.eye(10)[3]]
    assert set(fitted.predict(digits.X_test)) == {3}


def test_feedback_of_zeros_leaves_the_hidden_layers_as_they_are(fitted, digits):
    fitted.feedback_ = [np.zeros_like(feedback) for feedback in fitted.feedback_]
    fitted.set_params(solver="sgd", momentum=0.0)
    before = fitted.coefs_
    fitted.partial_fit(digits.X_train, digits.y_train)
    np.testing.assert_array_equal(fitted.coefs_[0], before[0])
    np.testing.assert_array_equal(fitted.coefs_[1], before[1])
    assert not np.array_equal(fitted.coefs_[2], before[2])


@pytest.mark.parametrize("name", ["coefs_", "intercepts_", "feedback_"])
def test_wrong_lists_change_nothing(name, fitted):
    before = getattr(fitted, name)
    with pytest.raises(ValueError, match=rf"{name} has {len(before)} arrays, got 1"):
        setattr(fitted, name, [before[0]])
    with pytest.raises(ValueError, match=rf"{name}\[{len(before) - 1}\] must have shape"):
        setattr(fitted, name, [*(0 * a for a in before[:-1]), np.zeros((1, 1))])
    for a, b in zip(getattr(fitted, name), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rule", ["sign_symmetric", "sign_symmetric_batchwise"])
def test_feedback_made_from_the_weights_cannot_be_set(rule, digits):
    clf = bf.DFAClassifier((8,), feedback=rule, max_iter=1, random_state=0)
    clf.fit(digits.X_train, digits.y_train)
    np.testing.assert_array_equal(np.sign(clf.feedback_[0]), np.sign(clf.coefs_[1]))
    with pytest.raises(ValueError, match="made from the weights"):
        clf.feedback_ = clf.feedback_


@pytest.mark.parametrize("name", ["coefs_", "intercepts_", "feedback_"])
def test_no_arrays_before_fit(name):
    clf = bf.DFAClassifier()
    with pytest.raises(AttributeError, match=f"no {name} before fit"):
        getattr(clf, name)
    with pytest.raises(AttributeError, match=f"no {name} before fit"):
        setattr(clf, name, [])
    assert not hasattr(bf.BackpropClassifier(), "feedback_")


# Alignment.


def test_alignment_is_tracked(digits):
    clf = bf.DFAClassifier((32, 24), track_alignment=True, random_state=0, max_iter=15)
    clf.fit(digits.X_train, digits.y_train)
    assert clf.alignment_.shape == (15, 2, 2)
    angles, ratios = clf.alignment_[:, 0], clf.alignment_[:, 1]
    assert (angles[-1] < 90).all()
    assert angles[-1].mean() < angles[0].mean()
    assert (ratios > 0).all()


def test_tracking_changes_nothing(digits):
    plain, tracked = (
        bf.DFAClassifier((16,), track_alignment=track, random_state=0, max_iter=3)
        .fit(digits.X_train, digits.y_train)
        .coefs_[0]
        for track in (False, True)
    )
    np.testing.assert_array_equal(plain, tracked)


def test_no_alignment_without_hidden_layers_or_tracking(digits):
    for clf in (bf.DFAClassifier((), track_alignment=True, max_iter=1), bf.DFAClassifier((4,))):
        clf.set_params(max_iter=1).fit(digits.X_train, digits.y_train)
        assert len(clf.alignment_) == 0
