# SPDX-License-Identifier: BSD-3-Clause
"""Classes, several labels, numbers, and sample weights."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.exceptions import DataConversionWarning
from sklearn.preprocessing import scale

import bpfree_fast as bf
from bpfree_fast import estimators

CLASSIFIERS = [bf.BackpropClassifier, bf.DFAClassifier]
ALL_CLASSIFIERS = list(estimators.CLASSIFIERS.values())
REGRESSORS = [bf.BackpropRegressor, bf.DFARegressor, bf.LocalLossRegressor]


def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return scale(X), y


@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_learns_digits(cls, digits):
    clf = cls(random_state=0).fit(digits.X_train, digits.y_train)
    assert clf.score(digits.X_test, digits.y_test) > 0.93
    probability = clf.predict_proba(digits.X_test)
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(
        clf.classes_[probability.argmax(axis=1)], clf.predict(digits.X_test)
    )
    np.testing.assert_allclose(
        np.exp(clf.predict_log_proba(digits.X_test)), probability, rtol=1e-5, atol=1e-30
    )
    assert clf.out_activation_ == "softmax"
    assert (clf.n_layers_, clf.n_outputs_, clf.n_features_in_) == (4, 10, 64)
    assert clf.n_params_ == sum(p.size for p in clf.coefs_ + clf.intercepts_)


@pytest.mark.parametrize("cls", ALL_CLASSIFIERS)
@pytest.mark.parametrize("names", [["no", "yes"], [-1, 1], [False, True]])
def test_two_classes_have_two_outputs(cls, names, digits):
    few = digits.y_train < 2
    y = np.array(names)[digits.y_train[few]]
    rate = {cls._rate_name: 10.0 if cls is bf.EnKFClassifier else 1e-2}
    clf = cls((16,), random_state=0, **rate).fit(digits.X_train[few], y)
    assert clf.n_outputs_ == 2
    assert clf.predict(digits.X_train[few]).dtype == y.dtype
    assert clf.score(digits.X_train[few], y) > 0.97


def test_object_labels_of_strings(digits):
    y = np.array([f"digit {label}" for label in digits.y_train], dtype=object)
    clf = bf.DFAClassifier((32,), random_state=0).fit(digits.X_train, y)
    assert clf.predict(digits.X_test[:1])[0].startswith("digit ")


def test_one_class_only():
    clf = bf.DFAClassifier((4,), random_state=0).fit([[0.0], [1.0]], ["only", "only"])
    assert clf.predict([[5.0]]).tolist() == ["only"]
    assert clf.predict_proba([[5.0]]).tolist() == [[1.0]]


def test_a_column_of_labels_is_warned_of(digits):
    with pytest.warns(DataConversionWarning, match="column-vector"):
        bf.DFAClassifier((4,), max_iter=1).fit(digits.X_train, digits.y_train[:, None])


@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_several_labels(cls, digits):
    labels = [digits.y_train % 2, digits.y_train > 4, digits.y_train == 0]
    Y = np.column_stack(labels).astype(int)
    clf = cls((64,), learning_rate_init=1e-2, random_state=0).fit(digits.X_train, Y)
    assert clf.out_activation_ == "logistic"
    assert clf.predict(digits.X_train).shape == Y.shape
    assert clf.predict(digits.X_train).dtype.kind == "i"
    assert clf.score(digits.X_train, Y) > 0.85
    assert clf.predict_proba(digits.X_train).shape == Y.shape


def test_several_columns_of_classes_are_refused():
    with pytest.raises(ValueError, match="several columns of classes"):
        bf.DFAClassifier().fit(np.zeros((4, 2)), [[0, 2], [1, 1], [2, 0], [0, 3]])


@pytest.mark.parametrize("cls", REGRESSORS)
def test_regression(cls):
    X, y = diabetes()
    reg = cls((64,), learning_rate_init=1e-2, random_state=0).fit(X, y)
    assert reg.score(X, y) > 0.45
    assert reg.predict(X).dtype == np.float64
    assert reg.predict(X).shape == y.shape
    assert reg.target_mean_ == pytest.approx(y.mean())
    assert reg.target_scale_ == pytest.approx(y.std())


@pytest.mark.parametrize("cls", REGRESSORS)
def test_values_of_any_size_are_learnt_alike(cls):
    """The network sees standardised targets: scale and offset of y change rounding only."""
    X, y = diabetes()
    first = cls((32,), random_state=0).fit(X, y).predict(X)
    same = cls((32,), random_state=0).fit(X, 1e6 * y + 3e7).predict(X)
    np.testing.assert_allclose((same - 3e7) / 1e6, first, atol=1e-2 * y.std())


@pytest.mark.parametrize("cls", REGRESSORS)
def test_several_columns_of_values(cls):
    X, y = diabetes()
    Y = np.column_stack([y, 1e6 * y + 3e7, -1e-6 * y])
    reg = cls((64,), learning_rate_init=1e-2, random_state=0).fit(X, Y)
    assert reg.predict(X).shape == Y.shape
    assert reg.n_outputs_ == 3
    assert reg.score(X, Y) > 0.45


def test_a_constant_target():
    reg = bf.BackpropRegressor((8,), random_state=0, max_iter=200).fit([[0.0], [1.0]], [7.1, 7.1])
    assert reg.target_scale_ == 1
    np.testing.assert_allclose(reg.predict([[0.5]]), 7.1, atol=0.5)


def test_no_hidden_layer_is_a_linear_model():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 3))
    reg = bf.DFARegressor((), learning_rate_init=0.1, random_state=0).fit(X, X @ [1, -2, 3] + 4)
    assert len(reg.coefs_) == 1
    assert reg.feedback_ == []
    assert reg.score(X, X @ [1, -2, 3] + 4) > 0.999


@pytest.mark.parametrize("cls", [*ALL_CLASSIFIERS, bf.DFARegressor, bf.LocalLossRegressor])
def test_weights_count_as_repetitions(cls):
    """In one minibatch, a sample of weight 3 is three samples, bit for bit; weight 0 is none."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 5)), rng.integers(0, 2, 30)
    weight = rng.integers(0, 4, 30)
    options = {"alpha": 0.1} if "alpha" in cls().get_params() else {}
    weighted = cls((8,), random_state=0, **options).fit(X, y, sample_weight=weight)
    order = rng.permutation(weight.sum())
    repeated = cls((8,), random_state=0, **options).fit(
        X.repeat(weight, 0)[order], y.repeat(weight)[order]
    )
    for a, b in zip(weighted.coefs_, repeated.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cls", ALL_CLASSIFIERS)
def test_weights_matter_beyond_one_minibatch(cls, digits):
    weight = np.where(digits.y_train == 3, 50.0, 1e-3)
    clf = cls((32,), random_state=0)
    if cls is bf.ESClassifier:  # ranks have no scale: with time what is left of the others counts
        clf.set_params(fitness_shaping="z_score")
    clf.fit(digits.X_train, digits.y_train, weight)
    assert np.mean(clf.predict(digits.X_test) == 3) > 0.9


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1, -1, 1], "[Nn]egative"),
        ([0, 0, 0], "sample_weight is 0|non-zero"),
        ([1, 1], r"inconsistent|shape"),
        ([1, np.nan, 1], "NaN"),
    ],
)
def test_bad_weights(weight, message):
    with pytest.raises(ValueError, match=message):
        bf.DFAClassifier().fit([[0.0], [1.0], [2.0]], [0, 1, 0], sample_weight=weight)


@pytest.mark.parametrize("cls", ALL_CLASSIFIERS)
def test_unseen_labels_are_named(cls):
    clf = cls((4,), random_state=0).partial_fit([[0.0]], ["a"], classes=["a", "b"])
    with pytest.raises(ValueError, match=r"did not name: \['c'\]"):
        clf.partial_fit([[0.0]], ["c"])
    with pytest.raises(ValueError, match="classes"):
        clf.partial_fit([[0.0]], [3])
    assert clf.n_iter_ == 1


def test_classes_of_the_first_part_must_cover_it():
    clf = bf.DFAClassifier((4,))
    with pytest.raises(ValueError, match=r"did not name: \[9\]"):
        clf.partial_fit([[0.0], [1.0]], [0, 9], classes=[0, 1])
    assert not hasattr(clf, "coefs_")


def test_continuous_labels_are_refused():
    with pytest.raises(ValueError, match="continuous"):
        bf.DFAClassifier().fit([[0.0], [1.0]], [0.5, 1.5])


def test_columns_of_y_cannot_change():
    reg = bf.DFARegressor((4,)).partial_fit([[0.0], [1.0]], [[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(ValueError, match="must have 2 columns"):
        reg.partial_fit([[0.0], [1.0]], [1.0, 2.0])
    clf = bf.DFAClassifier((4,)).partial_fit([[0.0], [1.0]], [[1, 0], [1, 1]])
    with pytest.raises(ValueError, match="must have 2 columns"):
        clf.partial_fit([[0.0], [1.0]], [[1, 0, 1], [1, 1, 0]])
