# SPDX-License-Identifier: BSD-3-Clause
"""NoPropClassifier: its variants, what it has learned, and what it refuses."""

import pickle

import numpy as np
import pytest
from noprop_estimators import ARRAYS, X, Y, arrays, assert_same, small
from sklearn.utils._testing import assert_array_equal

import bpfree_fast as bf
from bpfree_fast import _core as core
from bpfree_fast.estimators import _noprop
from bpfree_fast.estimators._labels import prototypes
from bpfree_fast.estimators._training import Samples


# Flow matching needs longer: after 20 epochs it has 0.84 to 0.96, by the seed, after 60 some 0.98.
@pytest.mark.parametrize(("variant", "epochs"), [("dt", 20), ("ct", 20), ("fm", 60)])
def test_variants_learn_digits(variant, epochs, digits):
    clf = bf.NoPropClassifier(
        variant=variant, n_blocks=5, max_iter=epochs, n_steps=20, random_state=0
    )
    clf.fit(digits.X_train, digits.y_train)
    assert clf.score(digits.X_test, digits.y_test) > 0.93
    assert clf.loss_curve_[-1] < clf.loss_curve_[0]


@pytest.mark.parametrize("options", [{"class_embedding": "prototype"}, {"dtype": "bfloat16"},
                                     {"block_feedback": "direct"}, {"noise_schedule": "linear"},
                                     {"activation": "tanh"}, {"batch_normalization": True},
                                     {"batch_normalization": True, "block_feedback": "direct"},
                                     ], ids=str)  # fmt: skip
def test_options_learn_digits(options, digits):
    clf = bf.NoPropClassifier(n_blocks=4, max_iter=20, random_state=0, **options)
    assert clf.fit(digits.X_train, digits.y_train).score(digits.X_test, digits.y_test) > 0.9


def test_accuracy_rises_from_block_to_block(digits):
    rises = []
    for seed in range(3):
        clf = bf.NoPropClassifier(n_blocks=5, max_iter=10, random_state=seed)
        clf.fit(digits.X_train, digits.y_train)
        scores = clf.staged_score(digits.X_test, digits.y_test)
        assert len(scores) == 5
        assert scores[-1] == clf.score(digits.X_test, digits.y_test)
        rises.append(scores[-1] - scores[0])
    # By seed 0.011 to 0.028.
    assert np.mean(rises) > 0.005
    stages = list(clf.staged_predict_proba(digits.X_test))
    assert_array_equal(stages[-1], clf.predict_proba(digits.X_test))


@pytest.mark.parametrize("variant", ["dt", "ct", "fm"])
def test_probabilities(variant):
    clf = small(variant=variant).fit(X, Y)
    p = clf.predict_proba(X)
    assert p.shape == (60, 3)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    assert (p >= 0).all()
    assert_array_equal(clf.predict(X), clf.classes_[p.argmax(axis=1)])


def test_attributes():
    clf = small(class_embedding="prototype").fit(X, Y)
    assert clf.class_embedding_.shape == (3, 6)
    assert not clf.class_embedding_.flags.writeable
    for row, label in zip(clf.class_embedding_, clf.classes_, strict=True):
        assert any(np.array_equal(row, x.astype(np.float32)) for x in X[label == Y])
    assert_array_equal(small().fit(X, Y).class_embedding_, np.eye(3))
    assert_array_equal(clf.alpha_bar_, core.noise_schedule("cosine", 4))
    assert small(variant="ct").fit(X, Y).alpha_bar_.size == 0
    assert [w.shape for w in clf.coefs_[:4]] == [(6, 32), (6, 32), (64, 16), (16, 3)]
    assert clf.n_params_ == sum(w.size for w in clf.coefs_ + clf.intercepts_)
    with pytest.raises(AttributeError, match="no class_embedding_ before fit"):
        _ = small().class_embedding_
    with pytest.raises(AttributeError, match="no alpha_bar_ before fit"):
        _ = small().alpha_bar_


def test_prototypes_are_the_most_central():
    x = np.array([0.0, 4.0, 5.0, 6.0, 20.0, 9.0, 11.0, 12.0, 13.0, 30.0])[:, None]
    found = prototypes(Samples(x, np.repeat([0, 1], 5), None), 2, 0.5)
    assert_array_equal(found, [[2.5], [6.0]])


@pytest.mark.parametrize("options", ARRAYS, ids=str)
def test_saving(options, tmp_path):
    clf = small(**options).fit_blocks(X, Y, range(2))
    clf.save(tmp_path / "m.safetensors")
    for other in (bf.load(tmp_path / "m.safetensors"), pickle.loads(pickle.dumps(clf))):
        assert other.trained_blocks_ == [0, 1]
        assert_same(other, clf)
        assert_array_equal(other.class_embedding_, clf.class_embedding_)
        rest = small(**options).fit_blocks(X, Y, range(2, 4))
        assert_same(other.join(rest), small(**options).fit(X, Y))


def test_losses_of_blocks():
    clf = small().fit(X, Y)
    losses = np.array(clf.block_loss_curve_)
    assert losses.shape == (3, 4)
    np.testing.assert_allclose(losses.mean(axis=1), clf.loss_curve_, rtol=1e-6)
    # By their weights in the loss, which rise from block to block.
    assert (np.diff(losses, axis=1) > 0).all()
    part = small().fit_blocks(X, Y, [1, 2])
    assert_array_equal(np.array(part.block_loss_curve_)[:, 1:3], losses[:, 1:3])
    assert np.isnan(np.array(part.block_loss_curve_)[:, [0, 3]]).all()
    w = np.linspace(0, 2, 60)
    weighted = small(variant="ct").fit(X, Y, w)
    np.testing.assert_allclose(weighted.block_loss_curve_, np.c_[weighted.loss_curve_], rtol=1e-6)


@pytest.mark.parametrize("rule", ["euler", "heun"])
@pytest.mark.parametrize("variant", ["dt", "ct", "fm"])
def test_stages_some_at_a_time(variant, rule, monkeypatch):
    clf = small(variant=variant, n_steps=7, ode_rule=rule, class_embedding="prototype").fit(X, Y)
    whole = list(clf.staged_predict_proba(X))
    assert len(whole) == (4 if variant == "dt" else 7)
    for at_once in (1, 3):
        monkeypatch.setattr(_noprop, "_STAGED_BYTES", at_once * 4 * 60 * 3)
        assert_array_equal(list(clf.staged_predict_proba(X)), whole)
    assert_array_equal(whole[-1], clf.predict_proba(X))


@pytest.mark.parametrize("variant", ["dt", "ct", "fm"])
def test_batch_normalization(variant):
    clf = small(variant=variant, batch_normalization=True).fit(X, Y)
    n_blocks = 4 if variant == "dt" else 1
    for name in clf._norm_lists:
        assert [a.shape for a in getattr(clf, name)] == [(32,), (32,), (16,)] * n_blocks
    plain = small(variant=variant).fit(X, Y)
    assert plain.norm_gains_ == []
    assert clf.n_params_ == plain.n_params_ + n_blocks * 2 * (32 + 32 + 16)
    assert not np.array_equal(clf.predict_proba(X), plain.predict_proba(X))
    # By running statistics: a row depends on no other.
    assert_array_equal(clf.predict_proba(X)[7:8], clf.predict_proba(X[7:8]))
    # A unit's own scale changes nothing but what a prediction is folded from.
    before = clf.predict_proba(X)
    clf.norm_gains_ = [2 * gain for gain in clf.norm_gains_]
    assert not np.array_equal(clf.predict_proba(X), before)
    with pytest.raises(ValueError, match=r"norm_variances_\[0\] must be at least 0"):
        clf.norm_variances_ = [-1 - variance for variance in clf.norm_variances_]


def test_a_weight_of_two_is_the_row_twice_with_batch_normalization():
    w = np.repeat([1.0, 2.0], 30)
    weighted = small(batch_normalization=True, shuffle=False).set_params(max_iter=1, batch_size=90)
    repeated = small(batch_normalization=True, shuffle=False).set_params(max_iter=1, batch_size=90)
    weighted.fit(X, Y, w)
    twice = np.repeat(np.arange(60), w.astype(int))
    repeated.fit(X[twice], Y[twice])
    # The input branch, whose rows have no noise.
    for name in ("norm_means_", "norm_variances_"):
        one, other = getattr(weighted, name)[0], getattr(repeated, name)[0]
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_batch_normalization_goes_on():
    options = {"batch_normalization": True, "warm_start": True}
    clf = small(**options).fit(X, Y)
    norms = clf.norm_means_
    clf.set_params(max_iter=5, learning_rate_init=1e-4).fit(X, Y)
    assert not np.array_equal(clf.norm_means_[0], norms[0])
    before = arrays(clf)
    # Another solver wants another trainer, which takes over what was learned.
    clf.set_params(solver="sgd", max_iter=5).fit(X, Y)
    for one, other in zip(clf.norm_gains_, before[2 * 16 : 2 * 16 + 12], strict=True):
        assert_array_equal(one, other)
    with pytest.raises(ValueError, match="batch_normalization is False, but the model to go on"):
        clf.set_params(batch_normalization=False, max_iter=6).fit(X, Y)
    parts = small(batch_normalization=True)
    for _ in range(2):
        parts.partial_fit(X, Y, ["a", "b", "c"])
    assert np.isfinite(parts.predict_proba(X)).all()


def test_early_stopping_keeps_the_best_normalization(digits):
    clf = bf.NoPropClassifier(
        (32,), input_units=32, label_units=32, n_blocks=2, max_iter=6, early_stopping=True,
        batch_normalization=True, learning_rate_init=0.05, random_state=0,
    ).fit(digits.X_train, digits.y_train)  # fmt: skip
    best = clf._best_weights is None and clf._last_weights is not None
    assert best
    assert clf.best_validation_score_ == max(clf.validation_scores_)
    n = 2 * clf._network.n_layers
    assert len(clf._last_weights) == n + 4 * 6


def test_schedules_as_arrays():
    given = small(noise_schedule=core.noise_schedule("linear", 4)).fit(X, Y)
    assert_same(given, small(noise_schedule="linear").fit(X, Y))
    assert small(noise_schedule=np.array([0.1, 0.3, 0.5, 0.9, 1.0])).fit(X, Y).score(X, Y) > 0


def test_inference_noise_is_one_draw_for_all_rows():
    clf = small(inference_noise=True).fit(X, Y)
    p = clf.predict_proba(X)
    assert not np.array_equal(p, clf.set_params(inference_noise=False).predict_proba(X))
    clf.set_params(inference_noise=True)
    assert_array_equal(clf.predict_proba(X[:5]), p[:5])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_blocks": 1}, "n_blocks must be at least 2, got 1"),
        ({"input_units": 33}, "input_units must be a multiple of 32, got 33"),
        ({"label_units": 0}, "label_units must be at least 32, got 0"),
        ({"class_embedding": "learnt"}, "class_embedding must be one of"),
        ({"variant": "sde"}, "variant must be one of"),
        ({"noise_schedule": "sigmoid"}, "noise_schedule must be one of"),
        ({"noise_schedule": [0, 0.5, 0.4, 0.8, 0.9]}, r"noise_schedule\[2\] is 0.4\d*, expected"),
        ({"noise_schedule": [0, 0.5, 0.9]}, r"has shape \(3,\), expected \(5,\)"),
        ({"noise_schedule": [0.99, 0.992, 0.995, 0.997, 1]}, "begins at 0.99, expected less than"),
        ({"noise_schedule": [0, 1, 2], "variant": "ct"}, "variant='ct' needs one of"),
        ({"eta": 0.0}, "eta must be above 0"),
        ({"max_snr_weight": -1.0}, "max_snr_weight must be at least 0"),
        ({"n_steps": 0}, "n_steps must be at least 1"),
        ({"ode_rule": "rk4"}, "ode_rule must be one of"),
        ({"inference_noise": True, "variant": "fm"}, "inference_noise=True is for variant='dt'"),
        ({"block_feedback": "none"}, "block_feedback must be one of"),
        ({"activation": "gelu"}, "activation must be one of"),
    ],
)
def test_bad_parameters(options, words):
    with pytest.raises(ValueError, match=words):
        small().set_params(**options).fit(X, Y)


def test_bad_data():
    with pytest.raises(TypeError, match="batch_normalization must be True or False"):
        small(batch_normalization=1.5).fit(X, Y)
    with pytest.raises(ValueError, match=r"y has one class, \['a'\]: NoProp needs at least two"):
        small().fit(X, np.repeat("a", 60))
    with pytest.raises(ValueError, match="NoProp tells one class from the others"):
        small().fit(X, np.tile([[0, 1], [1, 1]], (30, 1)))
    with pytest.raises(ValueError, match="class 2 of 3 has none"):
        small(class_embedding="prototype").partial_fit(X[:40], Y[:40], classes=["a", "b", "c"])
