# SPDX-License-Identifier: BSD-3-Clause
"""Forward-Forward as an estimator: labels, negatives, phases, greedy stages, two predictions."""

import numpy as np
import pytest
from oracle import forward_forward as oracle
from oracle import forward_forward_prediction as prediction
from oracle import forward_forward_step as step
from oracle import grouped_goodness as grouped
from tolerances import FORWARD_F32, STEP_F32

import bpfree_fast as bf

POSITIONS = ("append", "overwrite")


def forward_forward(hidden=(64, 64), **options):
    options = {"random_state": 0, "learning_rate_init": 3e-3, **options}
    return bf.ForwardForwardClassifier(hidden, **options)


def strangers(X):
    """Rows with the same pixels, each from another sample: data of no class."""
    return np.random.default_rng(0).permuted(X, axis=0)


def assert_same(a, b, same=True):
    assert all(map(np.array_equal, a, b)) == same


# What it learns.

LEARN = {
    "default": {},
    "overwrite": {"label_position": "overwrite"},
    "hard": {"negatives": "hard"},
    "mean": {"goodness": "mean"},
    "symba": {"goodness": "mean", "goodness_loss": "symba"},
    "grouped_squares": {"goodness": "grouped_squares"},
    "grouped_mean": {"goodness": "grouped_mean"},
    "greedy": {"schedule": "greedy", "max_iter": 10},
    "no peers": {"peer_normalization": 0.0},
    "bfloat16": {"dtype": "bfloat16"},
    "sgd": {"solver": "sgd", "learning_rate_init": 2e-3},
}


@pytest.mark.parametrize("name", LEARN)
def test_learns_digits(name, digits):
    clf = forward_forward((200, 200), **LEARN[name]).fit(digits.X_train, digits.y_train)
    # What grouped squares know of the class is their size, which is normalised away for the head.
    least = {"goodness": 0.85, "softmax": 0.7 if name == "grouped_squares" else 0.85}
    for way in ("softmax", "goodness"):
        clf.set_params(predict_with=way)
        assert clf.score(digits.X_test, digits.y_test) > least[way], way
        probability = clf.predict_proba(digits.X_test)
        np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-6)


def test_bfloat16_learns_what_float32_learns(digits):
    scores = [
        forward_forward(dtype=dtype)
        .fit(digits.X_train, digits.y_train)
        .score(digits.X_test, digits.y_test)
        for dtype in ("float32", "bfloat16")
    ]
    assert abs(scores[0] - scores[1]) < 0.02


def test_one_hidden_layer(digits):
    """The softmax head and the goodness then read the first layer, for want of a second."""
    clf = forward_forward((128,)).fit(digits.X_train, digits.y_train)
    assert [m.shape for m in clf.head_coefs_] == [(128, 10)]
    assert clf.score(digits.X_test, digits.y_test) > 0.85


# Predictions, naively.


def naive(clf):
    """Parameters for the oracle's predictions."""
    position = clf.label_position
    return {
        "weights": clf.coefs_, "biases": clf.intercepts_, "n_classes": clf.n_outputs_,
        "position": position,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["sum", "mean"])
@pytest.mark.parametrize("position", POSITIONS)
def test_all_labels_at_once_are_one_pass_for_each_label(position, kind, digits):
    """The pixels are multiplied once, and a label is a row of W: the same as ten forward passes."""
    clf = forward_forward(
        (48, 40, 36), max_iter=3, label_position=position, goodness=kind, predict_with="goodness"
    ).fit(digits.X_train, digits.y_train)
    g = prediction.label_goodness(digits.X_test.astype(np.float64), kind=kind, **naive(clf))
    expected = g - g.max(axis=1, keepdims=True)
    expected -= np.log(np.exp(expected).sum(axis=1, keepdims=True))
    found = clf.predict_log_proba(digits.X_test)
    tolerance = 2 * FORWARD_F32 * np.abs(g).max() + 2e-7
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=tolerance)
    clear = np.sort(expected, axis=1)[:, -2] < -10 * tolerance
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(clf.predict(digits.X_test)[clear], g.argmax(axis=1)[clear])


@pytest.mark.parametrize("position", POSITIONS)
def test_the_softmax_head_reads_a_neutral_pass(position, digits):
    clf = forward_forward((48, 40, 36), max_iter=3, label_position=position)
    clf.fit(digits.X_train, digits.y_train)
    logits = prediction.softmax_logits(
        digits.X_test, heads=clf.head_coefs_, head_biases=clf.head_intercepts_, **naive(clf)
    )
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(clf.predict_proba(digits.X_test), expected, atol=2e-5)


def test_grouped_goodness_is_one_pass(digits):
    clf = forward_forward(
        (40, 30), goodness="grouped_squares", predict_with="goodness", max_iter=3
    ).fit(digits.X_train, digits.y_train)
    g = grouped.label_goodness(
        digits.X_test, clf.coefs_, clf.intercepts_, clf.n_outputs_, "grouped_squares"
    )
    expected = g - np.log(np.exp(g).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(clf.predict_log_proba(digits.X_test), expected, atol=1e-4)


# Negatives.


@pytest.mark.parametrize("negatives", ["random", "hard"])
@pytest.mark.parametrize("position", POSITIONS)
def test_a_negative_never_has_its_own_label(position, negatives):
    """Of two classes the wrong one is certain: one step of the estimator is one of the oracle."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 7)), np.arange(40) % 2
    clf = forward_forward(
        (9, 8), negatives=negatives, label_position=position, solver="sgd", momentum=0.0,
        learning_rate="constant", learning_rate_init=0.1, shuffle=False, peer_normalization=0.0,
    )  # fmt: skip
    clf.partial_fit(X, y)
    before = clf.coefs_, clf.intercepts_
    clf.partial_fit(X, y)
    rows = [oracle.with_label(X, label, 2, position) for label in (y, 1 - y)]
    layers = step.gradients(*rows, *before, [np.zeros(n) for n in (9, 8)], thresholds=(9, 8))
    for k, (_, dW, db, _) in enumerate(layers):
        for new, old, d in (
            (clf.coefs_[k], before[0][k], dW),
            (clf.intercepts_[k], before[1][k], db),
        ):
            change = (old - new) / 0.1
            np.testing.assert_allclose(change, d, atol=STEP_F32 * np.abs(d).max() + 2e-6)


def test_given_negatives_need_no_labels(digits):
    """The hidden layers learn the same bits from any labels; only the softmax head sees them."""
    fits = [
        forward_forward(negatives="given", max_iter=15).fit(
            digits.X_train, y, X_negative=strangers(digits.X_train)
        )
        for y in (digits.y_train, (digits.y_train + 3) % 10)
    ]
    assert_same(fits[0].coefs_, fits[1].coefs_)
    assert_same(fits[0].head_coefs_, fits[1].head_coefs_, same=False)
    assert fits[0].coefs_[0].shape == (64, 64)
    assert fits[0].score(digits.X_test, digits.y_test) > 0.75


def test_given_negatives_go_where_their_sample_goes(digits):
    """Samples of weight 0 leave with their negatives; shuffling and early stopping keep pairs."""
    X, y, Z = digits.X_train[:300], digits.y_train[:300], strangers(digits.X_train[:300])
    weight = (np.arange(300) % 3 > 0).astype(float)
    used = weight > 0
    few = forward_forward(negatives="given", max_iter=3)
    weighted = few.fit(X, y, weight, X_negative=Z).coefs_
    assert_same(weighted, few.fit(X[used], y[used], X_negative=Z[used]).coefs_)
    with_stopping = forward_forward(negatives="given", max_iter=3, early_stopping=True)
    assert len(with_stopping.fit(X, y, X_negative=Z).validation_scores_) == 3


def test_hard_negatives_are_others_once_the_head_has_learnt(digits):
    one, other = (
        forward_forward(negatives=negatives, max_iter=2).fit(digits.X_train, digits.y_train)
        for negatives in ("random", "hard")
    )
    assert_same(one.coefs_, other.coefs_, same=False)


# Phases.


def test_positive_and_negative_phases_in_turn(digits):
    clf = forward_forward()
    for _ in range(30):
        for phase in ("positive", "negative"):
            clf.partial_fit(digits.X_train, digits.y_train, phase=phase)
    assert clf.n_iter_ == 60
    for way in ("softmax", "goodness"):
        assert clf.set_params(predict_with=way).score(digits.X_test, digits.y_test) > 0.85, way


def test_the_head_learns_in_the_positive_phase_alone(digits):
    clf = forward_forward(max_iter=1).fit(digits.X_train, digits.y_train)
    for phase, learns in (("negative", False), ("positive", True), ("both", True)):
        heads, hidden = clf.head_coefs_, clf.coefs_
        clf.partial_fit(digits.X_train, digits.y_train, phase=phase)
        assert_same(hidden, clf.coefs_, same=False)
        assert_same(heads, clf.head_coefs_, same=not learns)


@pytest.mark.parametrize("phase", ["positive", "negative"])
def test_given_rows_of_one_phase(phase, digits):
    """With given negatives a phase has one kind of rows, which are X."""
    clf = forward_forward(negatives="given")
    losses = [clf.partial_fit(digits.X_train, digits.y_train, phase=phase).loss_ for _ in range(4)]
    assert losses[-1] < losses[0]


def test_fit_is_of_both_phases_whatever_came_before(digits):
    a, b = forward_forward(max_iter=2), forward_forward(max_iter=2)
    a.partial_fit(digits.X_train, digits.y_train, phase="negative")
    for clf in (a, b):
        clf.fit(digits.X_train, digits.y_train)
    assert_same(a.coefs_, b.coefs_)


@pytest.mark.parametrize("n", [128, 200, 256])
def test_the_head_has_no_negative_phase_of_its_own(n, digits):
    """Greedy training in parts: hidden layers learn in each phase, the head in the positive one."""
    X, y = digits.X_train[:n], digits.y_train[:n]
    clf = forward_forward((16, 16), schedule="greedy", max_iter=1)
    for _ in range(2):
        clf.partial_fit(X, y, phase="negative", classes=range(10))
    hidden, heads = clf.coefs_, clf.head_coefs_
    message = "phase='negative' has nothing to teach the softmax head"
    for n_iter, phase in ((2, "positive"), (3, "both"), (4, "positive")):
        with pytest.raises(ValueError, match=message):
            clf.partial_fit(X, y, phase="negative")
        assert clf.n_iter_ == n_iter
        clf.partial_fit(X, y, phase=phase)
    assert_same(hidden, clf.coefs_)
    assert_same(heads, clf.head_coefs_, same=False)


# Greedy training.


def test_greedy_trains_one_layer_after_the_other_then_the_head(digits):
    seen = []

    def note(info):
        if info.epoch_ended:
            est = info.estimator
            seen.append([*est.coefs_, *est.head_coefs_])

    clf = forward_forward((24, 20, 16), schedule="greedy", max_iter=2, callback=note)
    clf.fit(digits.X_train, digits.y_train)
    assert clf.n_iter_ == len(seen) == len(clf.loss_curve_) == 8
    trained = [(0,), (1,), (2,), (3, 4)]  # arrays of each stage: three layers, then two heads
    for epoch in range(1, 8):
        for k in range(5):
            same = np.array_equal(seen[epoch][k], seen[epoch - 1][k])
            assert same == (k not in trained[epoch // 2]), (epoch, k)


@pytest.mark.filterwarnings("ignore:The loss still fell")
def test_greedy_in_parts_is_greedy_at_once(digits):
    """An epoch a call, through all stages; the head goes on for as long as it is asked to."""
    options = {"schedule": "greedy", "max_iter": 2, "learning_rate": "constant", "tol": 0.0}
    whole = forward_forward((24, 16), **options).fit(digits.X_train, digits.y_train)
    parts = forward_forward((24, 16), **options)
    for _ in range(6):
        parts.partial_fit(digits.X_train, digits.y_train)
    assert parts.n_iter_ == whole.n_iter_ == 6
    assert parts.loss_curve_ == whole.loss_curve_
    assert_same(parts.coefs_ + parts.head_coefs_, whole.coefs_ + whole.head_coefs_)
    hidden = parts.coefs_
    assert parts.partial_fit(digits.X_train, digits.y_train).n_iter_ == 7
    assert_same(hidden, parts.coefs_)


def test_greedy_stops_where_the_callback_says(digits):
    clf = forward_forward(
        (24, 16), schedule="greedy", max_iter=3, callback=lambda info: info.epoch == 4
    ).fit(digits.X_train, digits.y_train)
    assert clf.n_iter_ == 4
    clf.set_params(callback=None, warm_start=True).fit(digits.X_train, digits.y_train)
    assert clf.n_iter_ == 9


# Parameters.


@pytest.mark.parametrize(("goodness", "threshold"), [("sum", 32.0), ("mean", 1.0)])
def test_default_threshold(goodness, threshold, digits):
    fits = [
        forward_forward((32, 32), goodness=goodness, threshold=value, max_iter=2)
        .fit(digits.X_train, digits.y_train)
        .coefs_
        for value in (None, threshold, 2 * threshold)
    ]
    assert_same(fits[0], fits[1])
    assert_same(fits[0], fits[2], same=False)


@pytest.mark.parametrize(
    ("name", "value", "options"),
    [
        ("temperature", 3.0, {}),
        ("peer_normalization", 0.5, {}),
        ("symba_scale", 1.0, {"goodness": "mean", "goodness_loss": "symba"}),
    ],
)
def test_parameters_reach_the_training(name, value, options, digits):
    default, changed = (
        forward_forward(max_iter=1, **options, **more).fit(digits.X_train, digits.y_train).coefs_
        for more in ({}, {name: value})
    )
    assert_same(default, changed, same=False)


@pytest.mark.parametrize("name", ["threshold", "negatives", "label_position", "goodness_loss"])
def test_grouped_goodness_has_no_use_for_some_parameters(name, digits):
    value = {"threshold": 5.0, "negatives": "given", "label_position": "overwrite"}
    fits = [
        forward_forward(goodness="grouped_mean", max_iter=1, **more)
        .fit(digits.X_train, digits.y_train)
        .coefs_
        for more in ({}, {name: value.get(name, "symba")})
    ]
    assert_same(*fits)


# Arrays.


@pytest.fixture
def fitted(digits):
    clf = forward_forward((16, 12, 11), max_iter=2, label_position="overwrite")
    return clf.fit(digits.X_train, digits.y_train)


def test_shapes(fitted, digits):
    assert [w.shape for w in fitted.coefs_] == [(64, 16), (16, 12), (12, 11)]
    assert [m.shape for m in fitted.head_coefs_] == [(12, 10), (11, 10)]
    assert [c.shape for c in fitted.head_intercepts_] == [(10,), (10,)]
    arrays = [a for name in fitted._array_lists for a in getattr(fitted, name)]
    assert fitted.n_params_ == sum(a.size for a in arrays)
    appended = forward_forward((16,), max_iter=1).fit(digits.X_train, digits.y_train)
    assert appended.coefs_[0].shape == (74, 16)


@pytest.mark.parametrize("name", bf.ForwardForwardClassifier._array_lists)
def test_lists_are_read_only_and_set_as_a_whole(name, fitted, digits):
    before = getattr(fitted, name)
    with pytest.raises(ValueError, match="read-only"):
        before[0][...] = 0
    said = fitted.predict_proba(digits.X_test)
    setattr(fitted, name, [2.0 * array + 1 for array in before])
    assert_same(getattr(fitted, name), [2 * array + 1 for array in before])
    assert not np.array_equal(fitted.predict_proba(digits.X_test), said)
    setattr(fitted, name, before)
    np.testing.assert_array_equal(fitted.predict_proba(digits.X_test), said)
    with pytest.raises(ValueError, match=rf"{name} has {len(before)} arrays, got 1"):
        setattr(fitted, name, before[:1])
    with pytest.raises(ValueError, match=rf"{name}\[0\] must have shape"):
        setattr(fitted, name, [np.zeros(1), *before[1:]])
    assert_same(getattr(fitted, name), before)
    with pytest.raises(AttributeError, match=f"no {name} before fit"):
        getattr(forward_forward(), name)


# Refusals: one sentence that names the value.

X3, Y3 = np.eye(6)[:, :3], [0, 1, 2, 0, 1, 2]
NEGATIVE = np.zeros((6, 3))
REFUSED = {
    "few columns": ({"label_position": "overwrite"}, X3, Y3, {}, "3 classes over .* X has 3"),
    "one class": ({}, X3, ["a"] * 6, {}, r"one class, \['a'\]"),
    "labels": ({}, X3, np.eye(6)[:, :2], {}, "2 labels a row"),
    "numbers": ({}, X3, np.linspace(0, 1, 6), {}, "continuous"),
    "no layer": ({"hidden_layer_sizes": ()}, X3, Y3, {}, r"hidden_layer_sizes is \[\]"),
    "few units": (
        {"hidden_layer_sizes": (8, 2), "goodness": "grouped_mean"}, X3, Y3, {},
        "each of the 3 classes .* has 2",
    ),
    "activation": ({"activation": "tanh"}, X3, Y3, {}, "activation must be one of 'relu'.*'tanh'"),
    "greedy": (
        {"schedule": "greedy", "early_stopping": True}, X3, Y3, {}, "greedy.*early_stopping=True"
    ),
    "no labels tried": (
        {"negatives": "given", "predict_with": "goodness"}, X3, Y3, {"X_negative": NEGATIVE},
        "predict_with='goodness' tries labels",
    ),
    "none given": ({"negatives": "given"}, X3, Y3, {}, "negatives='given' needs X_negative"),
    "given in vain": ({}, X3, Y3, {"X_negative": NEGATIVE}, "negatives='random' has no use"),
    "given to groups": (
        {"negatives": "given", "goodness": "grouped_mean"}, X3, Y3, {"X_negative": NEGATIVE},
        "goodness='grouped_mean' has no use",
    ),
    "negative shape": (
        {"negatives": "given"}, X3, Y3, {"X_negative": np.zeros((6, 2))}, r"\(6, 3\), got \(6, 2\)"
    ),
    "negative rows": (
        {"negatives": "given"}, X3, Y3, {"X_negative": np.zeros((5, 3))}, r"\(6, 3\), got \(5, 3\)"
    ),
    "negative dtype": (
        {"negatives": "given"}, X3, Y3, {"X_negative": np.zeros((6, 3), np.uint8)},
        "X_negative has dtype uint8 and X float64",
    ),
    "negative NaN": (
        {"negatives": "given"}, X3, Y3, {"X_negative": np.full((6, 3), np.nan)},
        "X_negative contains NaN",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    params, X, y, data, message = REFUSED[name]
    clf = bf.ForwardForwardClassifier(**params)
    with pytest.raises(ValueError, match=message) as caught:
        clf.fit(X, y, **data)
    assert not hasattr(clf, "coefs_")
    if "NaN" not in name and name != "numbers":  # scikit-learn's own words
        assert str(caught.value).endswith(".")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("params", "data", "message"),
    [
        ({}, {"phase": "neutral"}, "phase must be one of 'both', 'positive', 'negative'"),
        ({"goodness": "grouped_mean"}, {"phase": "positive"}, "'positive' means nothing to"),
        ({"goodness_loss": "symba"}, {"phase": "negative"}, "'negative' does not go with"),
        (
            {"negatives": "given"},
            {"phase": "negative", "X_negative": NEGATIVE},
            "phase='negative' has no use",
        ),
    ],
)
def test_phases_that_make_no_sense(params, data, message):
    with pytest.raises(ValueError, match=message) as caught:
        bf.ForwardForwardClassifier(**params).partial_fit(X3, Y3, **data)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_position": "overwrite"}, "label_position is 'overwrite'"),
        ({"goodness": "grouped_mean"}, "label_position is 'none'"),
    ],
)
def test_where_the_label_enters_cannot_change(change, message, digits):
    clf = forward_forward(max_iter=1, warm_start=True).fit(digits.X_train, digits.y_train)
    before = clf.coefs_
    with pytest.raises(ValueError, match=message):
        clf.set_params(max_iter=2, **change).fit(digits.X_train, digits.y_train)
    assert_same(before, clf.coefs_)


def test_prediction_checks_its_parameter(fitted, digits):
    with pytest.raises(ValueError, match="predict_with must be one of 'softmax', 'goodness'"):
        fitted.set_params(predict_with="energy").predict(digits.X_test)
