# SPDX-License-Identifier: BSD-3-Clause
"""What X may be: read where it lies, scaled by its dtype, refused in a sentence."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse

import bpfree_fast as bf
from bpfree_fast import _core, estimators

CLASSIFIERS = list(estimators.CLASSIFIERS.values())


@pytest.fixture
def seen(monkeypatch):
    """The arrays that reach the core, in training and in prediction."""
    arrays = []

    def spy(owner, name):
        original = getattr(owner, name)

        def call(self, x, *args, **kwargs):
            arrays.append(x)
            return original(self, x, *args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    spy(_core.Trainer, "run_epoch")
    spy(_core.Trainer, "predict_by")
    spy(_core.Network, "predict")
    return arrays


@pytest.mark.parametrize("cls", CLASSIFIERS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_rows_are_read_where_they_lie(cls, dtype, seen):
    X = np.random.default_rng(0).integers(0, 255, (3000, 200)).astype(dtype)
    y = np.arange(3000) % 3
    clf = cls((4,), max_iter=1, random_state=0, input_scale=1 / 255)
    cls((4,), max_iter=1).fit(X[:300], y[:300])  # imports happen now
    tracemalloc.start()
    clf.fit(X, y).predict(X)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(np.shares_memory(x, X) for x in seen[-2:])
    # Labels and probabilities, but no copy of X, nor a mask of it.
    assert peak < 300_000 < X.nbytes


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_memory_maps(dtype, seen, tmp_path):
    X = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=dtype, shape=(500, 10))
    X[:] = np.random.default_rng(0).integers(0, 255, X.shape)
    X.flush()
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    clf = bf.DFAClassifier((4,), max_iter=2, random_state=0).fit(mapped, np.arange(500) % 2)
    clf.predict(mapped)
    assert all(np.shares_memory(x, mapped) for x in seen)


@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_pixels_in_bytes_equal_scaled_floats(cls, digits):
    pixels = np.round(digits.X_train * 255).astype(np.uint8)
    clf = cls((32,), random_state=0).fit(pixels, digits.y_train)
    assert clf.input_scale_ == pytest.approx(1 / 255)
    floats = (pixels / 255).astype(np.float32)
    other = cls((32,), random_state=0).fit(floats, digits.y_train)
    assert other.input_scale_ == 1
    same = np.mean(clf.predict(pixels) == other.predict(floats))
    assert same > 0.99  # another rounding, nothing else


def test_a_dtype_that_means_another_scale_is_refused(digits):
    pixels = np.round(digits.X_train * 255).astype(np.uint8)
    clf = bf.DFAClassifier((8,), random_state=0, max_iter=2).fit(pixels, digits.y_train)
    for call in (
        clf.predict,
        clf.predict_proba,
        lambda X: clf.partial_fit(X, digits.y_train),
        lambda X: clf.set_params(warm_start=True, max_iter=4).fit(X, digits.y_train),
    ):
        with pytest.raises(ValueError, match=r"dtype float32, which means input_scale=1\b"):
            call(digits.X_train)
    fixed = bf.DFAClassifier((8,), random_state=0, max_iter=2, input_scale=1 / 255)
    fixed.fit(pixels, digits.y_train)
    np.testing.assert_array_equal(fixed.predict(pixels), fixed.predict(pixels.astype(np.float64)))
    assert bf.DFAClassifier((2,), max_iter=1, input_scale=None).fit(pixels, digits.y_train)


@pytest.mark.parametrize("dtype", ["float16", "int64", "bool", "int8"])
def test_other_dtypes_are_converted(dtype):
    X = np.array([[0, 1], [1, 0], [1, 1]]).astype(dtype)
    a = bf.DFAClassifier((8,), random_state=0).fit(X, [0, 1, 0])
    b = bf.DFAClassifier((8,), random_state=0).fit(X.astype(np.float64), [0, 1, 0])
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X.astype(np.float64)))


def test_column_order_and_strides_mean_nothing(digits):
    X, y = digits.X_train[:300], digits.y_train[:300]
    expected = bf.DFAClassifier((8,), random_state=0).fit(X, y).predict_proba(X)
    wide = np.repeat(X, 2, axis=1)[:, ::2]
    for other in (np.asfortranarray(X), wide, X.tolist()):
        clf = bf.DFAClassifier((8,), random_state=0).fit(np.asarray(other, np.float32), y)
        np.testing.assert_array_equal(clf.predict_proba(X), expected)


@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_a_row_does_not_depend_on_its_batch(cls, digits):
    clf = cls((40, 30), random_state=0, max_iter=2)
    clf.fit(digits.X_train, digits.y_train)
    together = clf.predict_proba(digits.X_test)
    for start, stop in ((0, 1), (7, 24), (100, 359)):
        np.testing.assert_array_equal(
            clf.predict_proba(digits.X_test[start:stop]), together[start:stop]
        )


@pytest.mark.parametrize("kind", [scipy.sparse.csr_matrix, scipy.sparse.csr_array])
def test_sparse_is_refused(kind):
    X = kind(np.eye(3))
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        bf.DFAClassifier().fit(X, [0, 1, 2])


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ([[np.nan], [1.0]], [0, 1], "NaN"),
        ([[np.inf], [1.0]], [0, 1], "infinity"),
        ([[0.0], [1.0]], [0, np.nan], "NaN"),
        (np.empty((0, 3)), [], "0 sample"),
        (np.empty((3, 0)), [0, 1, 0], "0 feature"),
        ([0.0, 1.0], [0, 1], "1D array"),
        (np.zeros((2, 2, 2)), [0, 1], "dim 3"),
        ([[0.0], [1.0]], [0], "inconsistent"),
        ([["a"], ["b"]], [0, 1], "string"),
        (np.array([[1j], [2]]), [0, 1], "[Cc]omplex"),
    ],
)
@pytest.mark.parametrize("cls", [bf.DFAClassifier, bf.BackpropRegressor])
def test_bad_data_is_refused(cls, X, y, message):
    est = cls((4,))
    with pytest.raises(ValueError, match=message):
        est.fit(X, y)
    assert not hasattr(est, "coefs_")


def test_refused_data_leaves_a_fitted_model_as_it_was(digits):
    clf = bf.DFAClassifier((8,), random_state=0, max_iter=2).fit(digits.X_train, digits.y_train)
    before = clf.predict_proba(digits.X_test)
    with pytest.raises(ValueError, match="NaN"):
        clf.partial_fit(np.full((3, 64), np.nan), [0, 1, 2])
    with pytest.raises(ValueError, match="features"):
        clf.predict(digits.X_test[:, :3])
    np.testing.assert_array_equal(clf.predict_proba(digits.X_test), before)
