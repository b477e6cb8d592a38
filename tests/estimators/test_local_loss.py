# SPDX-License-Identifier: BSD-3-Clause
"""Local losses as estimators: three losses, two predictions, greedy stages, extra arrays."""

import numpy as np
import pytest
from oracle import local_loss as oracle
from oracle import losses
from oracle.activations import ACTIVATIONS, DERIVATIVES
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale

import bpfree_fast as bf
from bpfree_fast import _core as core

EVERYTHING = {
    "local_loss": "predsim", "sim_projection": True, "batch_normalization": True,
}  # fmt: skip


def local_loss(hidden=(64, 48), **options):
    options = {"random_state": 0, "learning_rate_init": 3e-3, **options}
    return bf.LocalLossClassifier(hidden, **options)


def assert_same(a, b, same=True):
    assert all(map(np.array_equal, a, b)) == same


def arrays(clf):
    return [array for name in clf._array_lists for array in getattr(clf, name)]


# What it learns.

LEARN = {
    "pred": {},
    "sim": {"local_loss": "sim", "learning_rate_init": 1e-2},
    "predsim": {"local_loss": "predsim", "learning_rate_init": 1e-2},
    "projection": {"local_loss": "predsim", "sim_projection": True},
    "batch norm": {"batch_normalization": True},
    "dropout": {"dropout": 0.1},
    "greedy": {"schedule": "greedy"},
    "tanh": {"activation": "tanh"},
    "bfloat16": {"dtype": "bfloat16"},
    "all": {**EVERYTHING, "dropout": 0.1, "dtype": "bfloat16"},
}


@pytest.mark.parametrize("name", LEARN)
def test_learns_digits(name, digits):
    clf = local_loss(**LEARN[name]).fit(digits.X_train, digits.y_train)
    for way in ("last", "sum"):
        clf.set_params(predict_with=way)
        assert clf.score(digits.X_test, digits.y_test) > 0.92, way
        probability = clf.predict_proba(digits.X_test)
        np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-6)


def test_as_accurate_as_backpropagation(digits):
    scores = [
        cls((256, 256), random_state=0, initializer="he_uniform")
        .fit(digits.X_train, digits.y_train)
        .score(digits.X_test, digits.y_test)
        for cls in (bf.LocalLossClassifier, bf.BackpropClassifier)
    ]
    assert scores[0] > scores[1] - 0.02


@pytest.mark.parametrize("kind", ["pred", "sim", "predsim"])
def test_several_labels(kind, digits):
    Y = np.column_stack([digits.y_train % 2, digits.y_train > 4, digits.y_train == 0]).astype(int)
    clf = local_loss(local_loss=kind, learning_rate_init=1e-2).fit(digits.X_train, Y)
    assert clf.out_activation_ == "logistic"
    assert clf.score(digits.X_train, Y) > 0.8
    assert clf.set_params(predict_with="sum").score(digits.X_train, Y) > 0.8


@pytest.mark.parametrize("options", [{}, {"local_loss": "predsim"}, {"batch_normalization": True}])
def test_several_columns_of_values(options):
    X, y = load_diabetes(return_X_y=True)
    X = scale(X)
    Y = np.column_stack([y, 1e6 * y + 3e7, -1e-6 * y])
    reg = bf.LocalLossRegressor((64, 32), learning_rate_init=1e-2, random_state=0, **options)
    reg.fit(X, Y)
    for way in ("last", "sum"):
        assert reg.set_params(predict_with=way).score(X, Y) > 0.45


# One step, and the predictions, naively.


def parameters(clf, layer):
    """A layer's arrays under the oracle's names, in float64."""
    p = {"W": clf.coefs_[layer], "b": clf.intercepts_[layer]}
    if len(clf.head_coefs_) > 1:
        p |= {"M": clf.head_coefs_[layer], "c": clf.head_intercepts_[layer]}
    elif layer == len(clf.coefs_) - 2:
        p |= {"M": clf.head_coefs_[0], "c": clf.head_intercepts_[0]}
    if clf.projection_coefs_:
        p |= {"V": clf.projection_coefs_[layer]}
    if clf.norm_gains_:
        p |= {"gain": clf.norm_gains_[layer], "shift": clf.norm_shifts_[layer]}
    return {name: value.astype(np.float64) for name, value in p.items()}


@pytest.mark.parametrize("extras", [{}, EVERYTHING])
@pytest.mark.parametrize("kind", ["pred", "sim", "predsim"])
def test_one_step_is_the_oracles(kind, extras):
    rng = np.random.default_rng(0)
    X, y, w = rng.normal(size=(40, 7)), np.arange(40) % 3, rng.uniform(0.5, 2, 40)
    clf = local_loss(
        (9, 8), activation="tanh", solver="sgd", momentum=0.0, learning_rate="constant",
        learning_rate_init=0.1, shuffle=False, similarity_weight=0.7,
        **{**extras, "local_loss": kind},
    )  # fmt: skip
    for _ in range(3):  # heads begin at zero
        clf.partial_fit(X, y, sample_weight=w)
    before = [parameters(clf, layer) for layer in range(2)]
    clf.partial_fit(X, y, sample_weight=w)
    shares = {"pred": (1.0, 0.0), "sim": (1.0, 1.0), "predsim": (0.3, 0.7)}[kind]
    h, total = X, 0.0
    for layer, p in enumerate(before):
        value, h, g = oracle.layer(
            h, np.eye(3)[y], w, p, ACTIVATIONS["tanh"], DERIVATIVES["tanh"],
            loss=losses.SAMPLE_LOSSES["softmax_cross_entropy"],
            error=lambda logits, y: losses.error("softmax_cross_entropy", logits, y),
            pred=shares[0], sim=shares[1], teaches=kind != "sim",
        )  # fmt: skip
        total += value
        after = parameters(clf, layer)
        for name in p.keys() - ({"b"} if "gain" in p else set()):
            change = (p[name] - after[name]) / 0.1
            np.testing.assert_allclose(change, g[name], rtol=1e-3, atol=1e-5, err_msg=name)
    assert clf.loss_ == pytest.approx(total, rel=1e-5)


def forward(clf, X):
    """Outputs of the hidden layers, as scikit-learn's users would write them."""
    rows, result = X.astype(np.float64), []
    for layer, (W, b) in enumerate(zip(clf.coefs_[:-1], clf.intercepts_[:-1], strict=True)):
        a = rows @ W + b
        if clf.norm_gains_:
            deviation = np.sqrt(clf.norm_variances_[layer] + 1e-5)
            a = clf.norm_gains_[layer] * (a - clf.norm_means_[layer]) / deviation
            a = a + clf.norm_shifts_[layer]
        rows = np.maximum(a, 0)
        result.append(rows)
    return result


@pytest.mark.parametrize("options", [{}, {"local_loss": "sim"}, {"batch_normalization": True}])
def test_the_last_head_makes_a_plain_network(options, digits):
    clf = local_loss(max_iter=3, **options).fit(digits.X_train, digits.y_train)
    np.testing.assert_array_equal(clf.coefs_[-1], clf.head_coefs_[-1])
    np.testing.assert_array_equal(clf.intercepts_[-1], clf.head_intercepts_[-1])
    h = forward(clf, digits.X_test)
    logits = h[-1] @ clf.coefs_[-1] + clf.intercepts_[-1]
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(clf.predict_proba(digits.X_test), expected, atol=2e-5)


@pytest.mark.parametrize("options", [{}, {"batch_normalization": True}])
def test_the_sum_of_heads(options, digits):
    clf = local_loss(max_iter=3, predict_with="sum", **options)
    clf.fit(digits.X_train, digits.y_train)
    of_heads = zip(forward(clf, digits.X_test), clf.head_coefs_, clf.head_intercepts_, strict=True)
    logits = sum(h @ M + c for h, M, c in of_heads)
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(clf.predict_proba(digits.X_test), expected, atol=2e-5)


def test_a_regressor_takes_the_mean_of_its_heads():
    X, y = load_diabetes(return_X_y=True)
    X = scale(X)
    reg = bf.LocalLossRegressor((32, 16, 8), random_state=0, max_iter=5, predict_with="sum")
    reg.fit(X, y)
    of_heads = zip(forward(reg, X), reg.head_coefs_, reg.head_intercepts_, strict=True)
    values = np.mean([h @ M + c for h, M, c in of_heads], axis=0)[:, 0]
    expected = values * reg.target_scale_ + reg.target_mean_
    np.testing.assert_allclose(reg.predict(X), expected, rtol=1e-4)


def test_with_sim_both_predictions_are_one(digits):
    clf = local_loss(local_loss="sim", max_iter=2).fit(digits.X_train, digits.y_train)
    last = clf.predict_proba(digits.X_test)
    np.testing.assert_array_equal(
        clf.set_params(predict_with="sum").predict_proba(digits.X_test), last
    )


def test_a_weight_of_two_is_the_row_twice_with_batch_normalization(digits):
    """One minibatch, whose equal rows become one with their weight."""
    X, y = digits.X_train[:40], digits.y_train[:40]
    counts = np.arange(40) % 3 + 1
    options = {"batch_normalization": True, "max_iter": 5}
    weighted = local_loss(**options).fit(X, y, sample_weight=counts)
    repeated = local_loss(**options).fit(np.repeat(X, counts, axis=0), np.repeat(y, counts))
    assert_same(arrays(weighted), arrays(repeated))
    kept = local_loss(shuffle=False, **options)  # rows as they are
    kept.fit(np.repeat(X, counts, axis=0), np.repeat(y, counts))
    np.testing.assert_allclose(kept.loss_curve_, weighted.loss_curve_, rtol=1e-4)
    np.testing.assert_allclose(kept.norm_variances_[0], weighted.norm_variances_[0], rtol=1e-3)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "identity", "tanh", "gelu"])
def test_blank_rows_do_not_blow_up_the_similarity(activation, digits):
    X = digits.X_train.copy()
    X[::50] = 0
    clf = local_loss(
        local_loss="sim", activation=activation, solver="sgd", learning_rate_init=0.05,
        max_iter=40,
    ).fit(X, digits.y_train)  # fmt: skip
    assert clf.score(digits.X_test, digits.y_test) > 0.8


@pytest.mark.filterwarnings("ignore:invalid value|overflow:RuntimeWarning")
@pytest.mark.parametrize("kind", ["sim", "predsim"])
def test_norms_that_overflow_are_an_error(kind, digits):
    X = digits.X_train.astype(np.float32) * np.float32(1e25)
    with pytest.raises(ValueError, match="diverged"):
        local_loss(local_loss=kind, activation="identity").fit(X, digits.y_train)


# Layers by themselves.


@pytest.mark.parametrize("options", [{}, {"local_loss": "predsim"}, {"batch_normalization": True}])
def test_a_layer_does_not_know_of_those_above(options, digits):
    low, high = (
        local_loss(hidden, max_iter=3, **options).fit(digits.X_train, digits.y_train)
        for hidden in ((40, 32), (40, 32, 24))
    )
    assert_same(low.coefs_[:2], high.coefs_[:2])
    assert_same(low.head_coefs_, high.head_coefs_[:2])


def test_greedy_trains_one_layer_with_its_head_after_the_other(digits):
    seen = []

    def note(info):
        if info.epoch_ended:
            est = info.estimator
            seen.append([*est.coefs_[:-1], *est.head_coefs_])

    clf = local_loss((24, 20, 16), schedule="greedy", max_iter=2, callback=note)
    clf.fit(digits.X_train, digits.y_train)
    assert clf.n_iter_ == len(seen) == len(clf.loss_curve_) == 6
    for epoch in range(1, 6):
        for k in range(6):
            same = np.array_equal(seen[epoch][k], seen[epoch - 1][k])
            assert same == (k % 3 != epoch // 2), (epoch, k)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dropout": 0.2, "dtype": "bfloat16"},
        {**EVERYTHING, "dropout": 0.1},
    ],
)
def test_kept_inputs_change_no_bit(options, digits):
    kept, computed = (
        local_loss((40, 33, 20), schedule="greedy", max_iter=3, cache_inputs=cache, **options).fit(
            digits.X_train, digits.y_train
        )
        for cache in (True, False)
    )
    assert kept.loss_curve_ == computed.loss_curve_
    assert_same(arrays(kept), arrays(computed))


@pytest.mark.filterwarnings("ignore:The loss still fell")
def test_inputs_are_kept_only_where_they_are_read_again(digits, monkeypatch):
    """The first epoch fills: it would pay with memory and time for nobody."""
    asked = []
    set_cache = core.Trainer.set_cache
    monkeypatch.setattr(
        core.Trainer, "set_cache", lambda self, on: (asked.append(on), set_cache(self, on))[1]
    )
    clf = local_loss((24, 16), schedule="greedy", max_iter=2, learning_rate="constant")
    clf.fit(digits.X_train, digits.y_train)
    clf.set_params(max_iter=1).fit(digits.X_train, digits.y_train)
    clf.partial_fit(digits.X_train, digits.y_train)
    assert asked == [True, True, False, False, False]


def test_what_was_kept_is_forgotten_after_the_fit(digits):
    """The same array with other samples in it is other samples."""
    X = digits.X_train.copy()
    clf = local_loss(schedule="greedy", max_iter=2, callback=lambda info: info.epoch == 4)
    clf.fit(X, digits.y_train)
    X[:] = digits.X_train[::-1]
    other = local_loss(schedule="greedy", max_iter=2).fit(X, digits.y_train)
    clf.set_params(callback=None).fit(X, digits.y_train)
    assert_same(arrays(clf), arrays(other))
    clf.set_params(warm_start=True, max_iter=3).fit(digits.X_train, digits.y_train)
    other.set_params(warm_start=True, max_iter=3, cache_inputs=False)
    other.fit(digits.X_train, digits.y_train)
    assert_same(arrays(clf), arrays(other))


@pytest.mark.filterwarnings("ignore:The loss still fell")
def test_greedy_in_parts_is_greedy_at_once(digits):
    options = {"schedule": "greedy", "max_iter": 2, "learning_rate": "constant", "tol": 0.0}
    whole = local_loss((24, 16), **options).fit(digits.X_train, digits.y_train)
    parts = local_loss((24, 16), **options)
    for _ in range(4):
        parts.partial_fit(digits.X_train, digits.y_train)
    assert parts.loss_curve_ == whole.loss_curve_
    assert_same(arrays(parts), arrays(whole))


# Going on.


@pytest.mark.parametrize("change", [{"batch_size": 50}, {"dropout": 0.3}, {"similarity_weight": 0}])
def test_what_is_learnt_beside_stays_when_options_change(change, digits):
    options = {**EVERYTHING, "warm_start": True, "max_iter": 2}
    clf = local_loss((20, 16), **options).fit(digits.X_train, digits.y_train)
    names = ("projection_coefs_", "norm_gains_", "norm_shifts_")
    before = [a for name in names for a in getattr(clf, name)]
    clf.set_params(max_iter=3, learning_rate_init=1e-9, **change)
    clf.fit(digits.X_train, digits.y_train)
    after = [a for name in names for a in getattr(clf, name)]
    for a, b in zip(after, before, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_early_stopping_keeps_the_best_of_everything(digits):
    scores = []

    def note(info):
        if info.epoch_ended:
            scores.append(info.estimator.validation_scores_[-1])

    options = {**EVERYTHING, "early_stopping": True, "learning_rate_init": 0.02, "max_iter": 60}
    clf = local_loss((24, 16), n_iter_no_change=3, callback=note, **options)
    clf.fit(digits.X_train, digits.y_train)
    best = scores.index(max(scores)) + 1
    assert best < clf.n_iter_ < 60
    again = local_loss(
        (24, 16), callback=lambda info: info.epoch_ended and info.epoch == best, **options
    ).fit(digits.X_train, digits.y_train)
    assert_same(arrays(clf), arrays(again))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"local_loss": "predsim"}, "local_loss is 'predsim'"),
        ({"batch_normalization": True}, "batch_normalization is True"),
        ({"sim_projection": True}, "sim_projection is True"),
    ],
)
def test_what_cannot_change_while_going_on(change, message, digits):
    clf = local_loss(max_iter=1, warm_start=True).fit(digits.X_train, digits.y_train)
    with pytest.raises(ValueError, match=message):
        clf.set_params(max_iter=2, **change).fit(digits.X_train, digits.y_train)


# Arrays.


@pytest.fixture
def fitted(digits):
    return local_loss((16, 12), max_iter=2, **EVERYTHING).fit(digits.X_train, digits.y_train)


def test_shapes(fitted, digits):
    assert [w.shape for w in fitted.coefs_] == [(64, 16), (16, 12), (12, 10)]
    assert [m.shape for m in fitted.head_coefs_] == [(16, 10), (12, 10)]
    assert [v.shape for v in fitted.projection_coefs_] == [(16, 16), (12, 12)]
    for name in ("norm_gains_", "norm_shifts_", "norm_means_", "norm_variances_"):
        assert [a.shape for a in getattr(fitted, name)] == [(16,), (12,)]
    names = ("head_coefs_", "head_intercepts_", "projection_coefs_", "norm_gains_", "norm_shifts_")
    learnt = fitted.coefs_[:-1] + fitted.intercepts_[:-1]
    learnt += [a for name in names for a in getattr(fitted, name)]
    assert fitted.n_params_ == sum(a.size for a in learnt)
    sim = local_loss((16, 12), local_loss="sim", max_iter=1).fit(digits.X_train, digits.y_train)
    assert [m.shape for m in sim.head_coefs_] == [(12, 10)]
    assert sim.projection_coefs_ == sim.norm_gains_ == []


@pytest.mark.parametrize("name", bf.LocalLossClassifier._array_lists)
def test_lists_are_read_only_and_set_as_a_whole(name, fitted, digits):
    before = getattr(fitted, name)
    with pytest.raises(ValueError, match="read-only"):
        before[0][...] = 0
    said = fitted.set_params(predict_with="sum").predict_proba(digits.X_test)
    new = [2 * np.abs(array) + 1 for array in before]
    setattr(fitted, name, new)
    assert_same(getattr(fitted, name), new)
    used = not np.array_equal(fitted.predict_proba(digits.X_test), said)
    assert used != (name == "projection_coefs_")  # they serve the training alone
    setattr(fitted, name, before)
    np.testing.assert_array_equal(fitted.predict_proba(digits.X_test), said)
    with pytest.raises(ValueError, match=rf"{name} has {len(before)} arrays, got 1"):
        setattr(fitted, name, before[:1])
    with pytest.raises(ValueError, match=rf"{name}\[1\] must have shape"):
        setattr(fitted, name, [before[0], np.zeros((1, 1)), *before[2:]])
    assert_same(getattr(fitted, name), before)
    with pytest.raises(AttributeError, match=f"no {name} before fit"):
        getattr(local_loss(), name)


def test_a_variance_is_no_negative_number(fitted):
    before = fitted.norm_variances_
    with pytest.raises(ValueError, match=r"norm_variances_\[1\] must be at least 0"):
        fitted.norm_variances_ = [before[0] + 1, -before[1]]
    assert_same(fitted.norm_variances_, before)


# Refusals.

X3 = np.eye(6)[:, :3]


@pytest.mark.parametrize(
    ("cls", "params", "y", "message"),
    [
        (bf.LocalLossRegressor, {"local_loss": "sim"}, np.arange(6), "'sim' compares .* y has 1"),
        (bf.LocalLossRegressor, {"local_loss": "predsim"}, np.arange(6), "take 'pred'"),
        (bf.LocalLossClassifier, {"local_loss": "sim"}, ["a"] * 6, "y has 1: take 'pred'"),
        (
            bf.LocalLossClassifier, {"hidden_layer_sizes": ()}, [0, 1] * 3,
            r"hidden_layer_sizes is \[\]",
        ),
        (
            bf.LocalLossClassifier, {"schedule": "greedy", "early_stopping": True}, [0, 1] * 3,
            "greedy.*early_stopping=True",
        ),
    ],
)  # fmt: skip
def test_refusals(cls, params, y, message):
    est = cls(**params)
    with pytest.raises(ValueError, match=message) as caught:
        est.fit(X3, y)
    assert not hasattr(est, "coefs_")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_one_output_is_enough_for_pred():
    reg = bf.LocalLossRegressor((16,), learning_rate_init=0.05, max_iter=100, random_state=0)
    assert reg.fit(X3, np.arange(6)).n_outputs_ == 1
    clf = local_loss().fit(X3, ["only"] * 6)
    assert clf.predict(X3[:1]).tolist() == ["only"]


def test_prediction_checks_its_parameter(fitted, digits):
    with pytest.raises(ValueError, match="predict_with must be one of 'last', 'sum'"):
        fitted.set_params(predict_with="goodness").predict(digits.X_test)
