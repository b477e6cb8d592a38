# SPDX-License-Identifier: BSD-3-Clause
"""The estimators keep scikit-learn's rules, and work inside its tools."""

import copy
import pickle
import time

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator

import bpfree_fast as bf
from bpfree_fast import estimators

ESTIMATORS = list(estimators.ESTIMATORS.values())
CLASSIFIERS = list(estimators.CLASSIFIERS.values())


@pytest.mark.parametrize("cls", ESTIMATORS)
# What scikit-learn's own checks warn of on purpose.
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_check_estimator(cls):
    started = time.perf_counter()
    tags = get_tags(cls())
    assert not (tags.classifier_tags or tags.regressor_tags).poor_score
    results = check_estimator(cls(), on_skip=None)
    assert all(result["status"] in ("passed", "skipped") for result in results)
    assert sum(result["status"] == "passed" for result in results) > 40
    assert time.perf_counter() - started < 60


@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_grid_search_in_a_pipeline(cls, digits):
    X, y = digits.X_train[:400], digits.y_train[:400]
    pipeline = make_pipeline(StandardScaler(), cls((32,), random_state=0, max_iter=15))
    name = cls.__name__.lower()
    rate, good = f"{name}__{cls._rate_name}", 10.0 if cls is bf.EnKFClassifier else 1e-2
    grid = {rate: [1e-6, good], f"{name}__batch_size": [32, 64]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(X, y)
    assert search.best_params_[rate] == good
    assert search.score(digits.X_test, digits.y_test) > 0.8


def test_parallel_cross_validation_in_processes(digits):
    clf = bf.DFAClassifier((32,), random_state=0, max_iter=20, learning_rate_init=1e-2)
    X, y = digits.X_train[:300], digits.y_train[:300]
    alone = cross_val_score(clf, X, y, cv=2, n_jobs=1)
    together = cross_val_score(clf, X, y, cv=2, n_jobs=2)
    np.testing.assert_array_equal(alone, together)
    assert together.min() > 0.6


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_clone_and_parameters(cls):
    est = cls((7, 5), activation="tanh", random_state=3, dtype="bfloat16", n_threads=1)
    again = clone(est)
    assert again.get_params() == est.get_params()
    assert not hasattr(again, "coefs_")
    assert again.set_params(max_iter=3).max_iter == 3


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda est: pickle.loads(pickle.dumps(est))])
def test_a_copy_goes_on_alone(cls, copier, digits):
    X, y = digits.X_train[:200], digits.y_train[:200]
    est = cls((16,), random_state=0)
    est.partial_fit(X, y)
    other = copier(est)
    np.testing.assert_array_equal(other.predict(X), est.predict(X))
    before = est.coefs_[0]
    other.partial_fit(X, y)
    np.testing.assert_array_equal(est.coefs_[0], before)
    est.partial_fit(X, y)
    # The optimizer's state has been copied too.
    for name in est._array_lists:
        for a, b in zip(getattr(est, name), getattr(other, name), strict=True):
            np.testing.assert_array_equal(a, b)


def test_an_unfitted_estimator_can_be_copied():
    est = pickle.loads(pickle.dumps(bf.DFAClassifier((3,))))
    assert est.hidden_layer_sizes == (3,)


def test_feature_names():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({"a": [0.0, 1.0, 2.0], "b": [1.0, 0.0, 1.0]})
    clf = bf.DFAClassifier((4,), random_state=0, early_stopping=False).fit(frame, [0, 1, 0])
    assert clf.feature_names_in_.tolist() == ["a", "b"]
