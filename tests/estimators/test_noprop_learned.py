# SPDX-License-Identifier: BSD-3-Clause
"""NoPropClassifier with class embeddings and a schedule that are learned."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils._testing import assert_array_equal

import bpfree_fast as bf
from bpfree_fast.estimators._labels import orthogonal

X = np.random.default_rng(0).normal(size=(60, 6))
Y = np.repeat(["a", "b", "c"], 20)
LEARNED = [
    {"class_embedding": "learned", "embedding_dim": 5},
    {"class_embedding": "learned_prototype"},
    {"variant": "ct", "noise_schedule": "learned"},
    {"variant": "ct", "noise_schedule": "learned", "class_embedding": "learned"},
    {"variant": "fm", "class_embedding": "learned", "batch_normalization": True},
]


def small(**options):
    defaults = {
        "hidden_layer_sizes": (16,), "input_units": 32, "label_units": 32, "n_blocks": 3,
        "random_state": 0, "max_iter": 3, "batch_size": 16,
    }  # fmt: skip
    return bf.NoPropClassifier(**defaults | options)


def arrays(clf):
    return [*clf.coefs_, *clf.intercepts_, *clf._shared, *clf._trainer.optimizer_state()]


def assert_same(one, other):
    for a, b in zip(arrays(one), arrays(other), strict=True):
        assert_array_equal(a, b)
    assert_array_equal(one.predict_proba(X), other.predict_proba(X))


@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({"class_embedding": "learned", "n_blocks": 4}, 0.92),
        ({"class_embedding": "learned_prototype", "n_blocks": 4}, 0.88),
        ({"class_embedding": "learned", "n_blocks": 4, "block_feedback": "direct"}, 0.85),
        ({"class_embedding": "learned", "variant": "ct", "max_iter": 40}, 0.88),
        ({"noise_schedule": "learned", "variant": "ct", "max_iter": 80}, 0.88),
        ({"class_embedding": "learned", "variant": "fm", "max_iter": 60}, 0.9),
    ],
    ids=str,
)
def test_learns_digits(options, least, digits):
    clf = bf.NoPropClassifier(random_state=0, **options)
    clf.fit(digits.X_train, digits.y_train)
    assert clf.score(digits.X_test, digits.y_test) > least
    assert clf.loss_curve_[-1] < clf.loss_curve_[0]


@pytest.mark.parametrize("options", LEARNED, ids=str)
def test_saved_pickled_and_gone_on_with(options, tmp_path):
    clf = small(**options).fit(X, Y)
    clf.save(tmp_path / "m.safetensors")
    loaded = bf.load(tmp_path / "m.safetensors")
    assert_same(loaded, clf)
    assert_same(pickle.loads(pickle.dumps(clf)), clf)
    for other in (clf, loaded):
        other.set_params(warm_start=True, max_iter=2).fit(X, Y)
    assert_same(loaded, clf)


@pytest.mark.parametrize("options", LEARNED, ids=str)
def test_partial_fit_and_early_stopping(options):
    clf = small(**options)
    for _ in range(3):
        clf.partial_fit(X, Y, classes=["a", "b", "c"])
    shape = clf.class_embedding_.shape
    assert clf.head_coef_.shape == shape[::-1]
    assert clf.head_intercept_.shape == (3,)
    stopped = small(**options, early_stopping=True, max_iter=8, validation_fraction=0.2)
    stopped.fit(X, Y)
    assert max(stopped.validation_scores_) == stopped.best_validation_score_


def test_embeddings_move_where_they_are_learned():
    start = orthogonal(3, 5, 0)
    np.testing.assert_allclose(start @ start.T, np.eye(3), atol=1e-6)
    clf = small(class_embedding="learned", embedding_dim=5).fit(X, Y)
    assert clf.class_embedding_.shape == (3, 5)
    moved = np.abs(clf.class_embedding_ - start)
    assert 0 < moved.max() < 0.1
    fixed, free = (small(class_embedding=k).fit(X, Y) for k in ("prototype", "learned_prototype"))
    moved = np.abs(fixed.class_embedding_ - free.class_embedding_)
    assert 0 < moved.max() < 0.1


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (3, 20), (7, 2), (1, 1), (10, 1)])
def test_orthogonal_starts(rows, columns):
    start = orthogonal(rows, columns, 3)
    assert start.shape == (rows, columns)
    gram = start @ start.T if rows <= columns else start.T @ start
    np.testing.assert_allclose(gram, np.eye(min(rows, columns)), atol=1e-6)
    assert_array_equal(start, orthogonal(rows, columns, 3))
    assert (start != orthogonal(rows, columns, 4)).any() or columns * rows == 1


def test_the_schedule_is_seen():
    clf = small(variant="ct", noise_schedule="learned").fit(X, Y)
    values = clf.alpha_bar_at(np.linspace(0, 1, 9))
    assert (np.diff(values) > 0).all()
    assert values[0] > 0
    assert values[-1] < 1
    before = small(variant="ct", noise_schedule="learned", max_iter=1, learning_rate_init=1e-30)
    assert (values != before.fit(X, Y).alpha_bar_at(np.linspace(0, 1, 9))).any()
    assert_array_equal(clf.alpha_bar_at(np.linspace(0, 1, 9).reshape(3, 3)), values.reshape(3, 3))
    assert clf.alpha_bar_at(1.0).shape == ()
    fixed = small(variant="ct").fit(X, Y)
    assert fixed.alpha_bar_at([0.0, 1.0]).tolist() == pytest.approx([0.0, 0.99])


def test_n_params():
    one_hot = small().fit(X, Y).n_params_
    learned = small(class_embedding="learned", embedding_dim=5).fit(X, Y)
    label_branches = 3 * 2 * 32  # two more inputs
    assert learned.n_params_ == one_hot + label_branches + 3 * 5 + 5 * 3 + 3


def test_a_class_that_is_absent():
    """Prototypes need a sample of each; an embedding that is learned does not."""
    classes = ["a", "b", "c", "d"]
    clf = small(class_embedding="learned").partial_fit(X, Y, classes=classes)
    assert clf.predict_proba(X).shape == (60, 4)
    with pytest.raises(ValueError, match="class 3 of 4 has none"):
        small(class_embedding="learned_prototype").partial_fit(X, Y, classes=classes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"embedding_dim": 0, "class_embedding": "learned"}, "embedding_dim must be at least 1"),
        ({"embedding_dim": 2.5, "class_embedding": "learned"}, "embedding_dim"),
        ({"noise_schedule": "learned"}, "'learned' is for variant='ct', got 'dt'"),
        ({"noise_schedule": "learned", "variant": "fm"}, "for variant='ct', got 'fm'"),
        (
            {"noise_schedule": "learned", "variant": "ct", "max_snr_weight": 5.0},
            "max_snr_weight is 5.0, expected None or 0",
        ),
        (
            {"noise_schedule": "learned", "variant": "ct", "block_feedback": "direct"},
            "block_feedback is 'direct'",
        ),
    ],
)
def test_bad_parameters(options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        small(**options).fit(X, Y)


@pytest.mark.parametrize("options", LEARNED, ids=str)
def test_blocks_that_share_are_not_trained_apart(options):
    words = "is learned from all blocks"
    with ThreadPoolExecutor(2) as pool, pytest.raises(ValueError, match=words):
        small(**options).fit(X, Y, executor=pool)
    clf = small(**options).fit(X, Y)
    with pytest.raises(ValueError, match=words):
        clf.join(clone(clf).fit(X, Y))
    if "variant" not in options:
        with pytest.raises(ValueError, match=words):
            small(**options).fit_blocks(X, Y, range(2))
        assert_same(small(**options).fit_blocks(X, Y, range(3)), clf)


def test_what_is_refused_changes_nothing():
    clf = small(variant="ct", noise_schedule="learned").fit(X, Y)
    before, times = arrays(clf), clf.alpha_bar_at([0.2, 0.7])
    for options, words in (
        ({"block_feedback": "direct"}, "block_feedback is 'direct', expected 'exact'"),
        ({"max_snr_weight": 3.0}, "max_snr_weight is 3.0, expected None or 0"),
        ({"variant": "dt"}, "is for variant='ct', got 'dt'"),
        ({"embedding_dim": 0}, "embedding_dim must be at least 1"),
        ({"warm_start": True, "noise_schedule": "cosine"}, "the model to go on from has"),
        ({"warm_start": True, "class_embedding": "learned"}, "the model to go on from has"),
    ):
        changed = clf.get_params()
        with pytest.raises(ValueError, match=words):
            clf.set_params(**options).fit(X, Y)
        clf.set_params(**{name: changed[name] for name in options})
        for a, b in zip(arrays(clf), before, strict=True):
            assert_array_equal(a, b)
    assert_array_equal(clf.alpha_bar_at([0.2, 0.7]), times)
    with pytest.raises(ValueError, match="expected a number from 0 to 1"):
        clf.alpha_bar_at([0.5, 1.5])


def test_nothing_to_see_where_nothing_is_learned():
    clf = small().fit(X, Y)
    for name in ("head_coef_", "head_intercept_"):
        with pytest.raises(AttributeError, match="after a fit that learns"):
            getattr(clf, name)
    with pytest.raises(ValueError, match="variant 'ct' alone"):
        clf.alpha_bar_at([0.5])
