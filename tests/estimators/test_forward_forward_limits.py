# SPDX-License-Identifier: BSD-3-Clause
"""Forward-Forward where float32 ends: probabilities that are 0, squares that are infinite."""

import numpy as np
import pytest

import bpfree_fast as bf


def forward_forward(hidden, **options):
    return bf.ForwardForwardClassifier(hidden, random_state=0, learning_rate_init=3e-3, **options)


def test_the_logarithm_is_there_where_the_probability_is_zero(digits):
    clf = forward_forward((48, 40), max_iter=3, predict_with="goodness")
    clf.fit(digits.X_train, digits.y_train)
    before = clf.predict_log_proba(digits.X_test)
    clf.coefs_ = [clf.coefs_[0], 20 * clf.coefs_[1]]
    clf.intercepts_ = [clf.intercepts_[0], 20 * clf.intercepts_[1]]
    found = clf.predict_log_proba(digits.X_test)
    assert (clf.predict_proba(digits.X_test) == 0).any()
    assert found.dtype == np.float32
    gap = before.astype(np.float64) - before.max(axis=1, keepdims=True)
    expected = 400 * gap - np.log(np.exp(400 * gap).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=0.05)


@pytest.mark.parametrize("goodness", ["sum", "mean", "grouped_squares", "grouped_mean"])
def test_rows_whose_squares_overflow_are_no_silent_zeros(goodness, digits):
    clf = forward_forward((32, 32), goodness=goodness, max_iter=1)
    with pytest.raises(ValueError, match="learning_rate_init"):
        clf.fit(1e20 * digits.X_train, digits.y_train)
    clf.fit(digits.X_train, digits.y_train)
    X = digits.X_test[:20].copy()
    clean = clf.predict_proba(X)
    X[7] *= 1e20
    for way in ("softmax", "goodness"):
        seen = clf.set_params(predict_with=way).predict_proba(X)
        assert np.isnan(seen[7]).all()
        assert np.isfinite(np.delete(seen, 7, 0)).all()
        if way == "softmax":
            np.testing.assert_array_equal(np.delete(seen, 7, 0), np.delete(clean, 7, 0))
