# SPDX-License-Identifier: BSD-3-Clause
"""Evolution strategies as estimators: kinds of noise and fitness, losses that a user wrote."""

import numpy as np
import pytest
from evolution_estimators import assert_same, cross_entropy, es, flat, mistakes, shapes
from oracle import losses, network
from oracle.activations import ACTIVATIONS
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale

import bpfree_fast as bf

FIELDS = (
    "fitness_mean", "fitness_min", "fitness_max", "fitness_std", "gradient_norm", "n_not_finite",
    "cosine",
)  # fmt: skip


# What it learns.

LEARN = {
    "gaussian": {},
    "rademacher": {"perturbation": "rademacher"},
    "low rank": {"perturbation": "low_rank"},
    "rank 3": {"perturbation": "low_rank", "rank": 3},
    "no pairs": {"antithetic": False},
    "z score": {"fitness_shaping": "z_score"},
    "nes": {"fitness_shaping": "nes"},
    "pair": {"fitness_shaping": "pair"},
    "top k": {"fitness_shaping": "top_k", "n_top": 3},
    "group": {"fitness_shaping": "group", "group_size": 2},
    "accuracy": {"fitness": "accuracy", "std": 0.1, "hidden": (64,)},
    "step": {"activation": "step"},
    "sign": {"activation": "sign"},
    "mistakes": {"loss": mistakes, "std": 0.1, "hidden": (64,)},
    "sgd": {"solver": "sgd", "learning_rate_init": 1e-2},
    "decaying std": {"std_decay": 0.9},
    "two layers": {"hidden": (32, 24)},
    "linear": {"hidden": ()},
    "bfloat16": {"dtype": "bfloat16"},
    "low rank in bfloat16": {"dtype": "bfloat16", "perturbation": "low_rank"},
}


@pytest.mark.parametrize("name", LEARN)
def test_learns_digits(name, digits):
    clf = es(**LEARN[name]).fit(digits.X_train, digits.y_train)
    assert clf.score(digits.X_test, digits.y_test) > 0.8
    np.testing.assert_allclose(clf.predict_proba(digits.X_test).sum(axis=1), 1, atol=1e-6)


def test_defaults_learn_digits(digits):
    clf = bf.ESClassifier(random_state=0).fit(digits.X_train, digits.y_train)
    assert clf.score(digits.X_test, digits.y_test) > 0.9


def test_several_labels(digits):
    Y = np.column_stack([digits.y_train % 2, digits.y_train > 4, digits.y_train == 0]).astype(int)
    clf = es().fit(digits.X_train, Y)
    assert clf.out_activation_ == "logistic"
    assert clf.score(digits.X_train, Y) > 0.7


def test_several_columns_of_values():
    X, y = load_diabetes(return_X_y=True)
    X = scale(X)
    Y = np.column_stack([y, 1e6 * y + 3e7, -1e-6 * y])
    reg = bf.ESRegressor((16,), random_state=0).fit(X, Y)
    assert reg.score(X, Y) > 0.4


# Members and steps are what the kernels say.


def member(est, theta, i, *, generation, std, kind="gaussian", antithetic=True, rank=1):
    """Weights and biases of one member, from the kernel."""
    out = bf.kernels.perturb(
        theta, seed=est.seed_, generation=generation, member=i, std=std, kind=kind,
        shapes=shapes(est), antithetic=antithetic, rank=rank,
    )  # fmt: skip
    parts, at = [], 0
    for shape in shapes(est):
        size = int(np.prod(shape))
        parts.append(out[at : at + size].reshape(shape))
        at += size
    return parts[::2], parts[1::2]


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("kind", ["gaussian", "rademacher", "low_rank"])
def test_members_are_those_of_the_kernel(kind, antithetic, digits):
    """The generation counts minibatches, and std falls by the epoch: here each has one."""
    seen = []

    def note(y, output):
        seen.append(output.copy())
        return cross_entropy(y, output)

    X, y = digits.X_train[:40], digits.y_train[:40]
    rank = 2 if kind == "low_rank" else 1
    clf = es(
        (9, 8), "tanh", loss=note, population_size=6, perturbation=kind, antithetic=antithetic,
        rank=rank, std=0.3, std_decay=0.5, shuffle=False, random_state=2**40 + 7,
    )  # fmt: skip
    clf.partial_fit(X, y)
    for epoch in (1, 2):
        theta = flat(clf)
        seen.clear()
        clf.partial_fit(X, y)
        assert len(seen) == 6
        for i, output in enumerate(seen):
            weights, biases = member(
                clf, theta, i, generation=epoch, std=0.3 * 0.5**epoch, kind=kind,
                antithetic=antithetic, rank=rank,
            )  # fmt: skip
            logits = network.forward(X, weights, biases, ACTIVATIONS["tanh"])[0][-1]
            expected = losses.OUTPUTS["softmax_cross_entropy"](logits)
            np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kind", ["gaussian", "rademacher", "low_rank"])
def test_a_step_is_the_sum_of_the_noise(kind, own, digits):
    X, y = digits.X_train[:40], digits.y_train[:40]
    found = []

    def note(y, output):
        found.append(cross_entropy(y, output))
        return found[-1]

    clf = es(
        (9,), loss=note if own else None, population_size=32, perturbation=kind, std=0.2,
        fitness_shaping="z_score", solver="sgd", momentum=0.0, learning_rate="constant",
        learning_rate_init=0.1, shuffle=False,
    )  # fmt: skip
    clf.partial_fit(X, y)
    theta = flat(clf)
    found.clear()
    clf.partial_fit(X, y)
    total, of_members = 0.0, []
    for i in range(32):
        weights, biases = member(clf, theta, i, generation=1, std=0.2, kind=kind)
        logits = network.forward(X, weights, biases, ACTIVATIONS["relu"])[0][-1]
        of_members.append(losses.mean_loss("softmax_cross_entropy", logits, np.eye(10)[y], None))
    if own:
        np.testing.assert_allclose(found, of_members, rtol=1e-5)
    fitness = -np.array(of_members)
    utilities = (fitness - fitness.mean()) / np.sqrt(fitness.var() + 1e-5)
    for i, u in enumerate(utilities):
        parts = zip(*member(clf, theta, i, generation=1, std=0.2, kind=kind), strict=True)
        total += u * (np.concatenate([p.ravel() for pair in parts for p in pair]) - theta) / 0.2
    expected = 0.1 * total / (32 * 0.2)
    np.testing.assert_allclose(
        flat(clf) - theta, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
    )
    assert clf.loss_ == pytest.approx(np.mean(of_members), rel=1e-5)
    last = clf.generations_[-1]
    assert last["fitness_mean"] == pytest.approx(fitness.mean(), rel=1e-5)
    assert last["fitness_min"] == pytest.approx(fitness.min(), rel=1e-5)
    assert last["fitness_max"] == pytest.approx(fitness.max(), rel=1e-5)
    assert last["fitness_std"] == pytest.approx(fitness.std(), rel=1e-3)
    assert last["gradient_norm"] == pytest.approx(np.linalg.norm(expected) / 0.1, rel=1e-3)


# What is promised.


@pytest.mark.parametrize("options", [{}, {"perturbation": "low_rank"}, {"loss": mistakes}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_threads_change_no_bit(dtype, options, digits):
    X, y = digits.X_train[:200], digits.y_train[:200]
    options = {"dtype": dtype, "max_iter": 2, "population_size": 20, **options}
    one, more = (es((20, 17), n_threads=n, **options).fit(X, y) for n in (1, 3))
    assert_same(one, more)
    assert one.loss_curve_ == more.loss_curve_
    for field in FIELDS:  # NaN is equal to NaN so
        np.testing.assert_array_equal(one.generations_[field], more.generations_[field])


RESUMED = [
    {},
    {"perturbation": "low_rank", "rank": 2},
    {"perturbation": "rademacher", "antithetic": False, "solver": "sgd"},
    {"std_decay": 0.7, "dtype": "bfloat16", "fitness": "accuracy"},
    {"loss": mistakes, "activation": "step"},
    {"early_stopping": True, "fitness_shaping": "pair"},
]


@pytest.mark.parametrize("options", RESUMED)
def test_a_saved_model_goes_on_bit_for_bit(options, digits, tmp_path):
    X, y = digits.X_train[:400], digits.y_train[:400]
    options = {"max_iter": 4, "population_size": 32, **options}
    whole = es(**options).fit(X, y)
    half = es(**options, callback=lambda info: info.epoch_ended and info.epoch == 2).fit(X, y)
    half.save(tmp_path / "m.safetensors")
    other = bf.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(other.predict_proba(X), half.predict_proba(X))
    assert len(other.generations_) == 0
    if "loss" in options:
        assert other.loss == "function mistakes"
        with pytest.raises(ValueError, match="loss is 'function mistakes', which a file cannot"):
            other.set_params(warm_start=True).fit(X, y)
        other.set_params(loss=mistakes)
    other.set_params(warm_start=True).fit(X, y)
    assert_same(other, whole)
    assert other.evolution_curve_ == whole.evolution_curve_


def test_reports(digits):
    lengths = []

    def note(info):
        found = info.estimator.generations_
        assert found.dtype.names == FIELDS
        lengths.append((info.step, len(found)))

    clf = es(max_iter=3, report_cosine=True, callback=note)
    clf.fit(digits.X_train, digits.y_train)
    assert all(step == n for step, n in lengths)
    found = clf.generations_
    assert (found["fitness_min"] <= found["fitness_mean"]).all()
    assert (found["fitness_mean"] <= found["fitness_max"]).all()
    assert (found["gradient_norm"] > 0).all()
    assert not found["n_not_finite"].any()
    # sqrt(n / (n + d)) of 128 pairs in 2,410 dimensions is 0.22, where the loss is smooth.
    assert 0.1 < found["cosine"].mean() < 0.4
    assert len(clf.evolution_curve_) == 3
    assert clf.evolution_curve_[-1]["cosine"] == pytest.approx(found["cosine"].mean())
    assert clf.loss_curve_[-1] == pytest.approx(-clf.evolution_curve_[-1]["fitness_mean"], rel=0.1)
    clf.set_params(report_cosine=False, max_iter=1).fit(digits.X_train, digits.y_train)
    assert np.isnan(clf.generations_["cosine"]).all()
    assert clf.evolution_curve_[-1]["cosine"] is None


def test_the_cosine_is_that_of_the_kernels_gradient(digits):
    """One step of each from the same weights, plain SGD."""
    X, y = digits.X_train[:64], digits.y_train[:64]
    options = {
        "solver": "sgd", "momentum": 0.0, "learning_rate": "constant", "random_state": 0,
        "shuffle": False, "learning_rate_init": 1e-3,
    }  # fmt: skip
    clf = bf.ESClassifier((16,), "tanh", report_cosine=True, **options).partial_fit(X, y)
    exact = bf.BackpropClassifier((16,), "tanh", **options).partial_fit(X, y)
    exact.coefs_, exact.intercepts_ = clf.coefs_, clf.intercepts_
    theta = flat(clf)
    clf.partial_fit(X, y)
    exact.partial_fit(X, y)
    a, b = (flat(est).astype(np.float64) - theta for est in (clf, exact))
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert clf.generations_["cosine"][0] == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"population_size": 7}, ValueError, "population_size must be even with antithetic=True"),
        ({"std": 0}, ValueError, "std must be above 0 and finite, got 0"),
        ({"std_decay": 1.5}, ValueError, "std_decay must be above 0 and at most 1"),
        (
            {"fitness_shaping": "pair", "antithetic": False},
            ValueError,
            "fitness_shaping='pair' is of pairs: it needs antithetic=True",
        ),
        (
            {"fitness_shaping": "top_k", "antithetic": False},
            ValueError,
            "fitness_shaping='top_k' is of pairs: it needs antithetic=True",
        ),
        ({"n_top": 2}, ValueError, "n_top is for fitness_shaping='top_k', got 2"),
        (
            {"fitness_shaping": "top_k", "n_top": 4, "population_size": 6},
            ValueError,
            "n_top must be from 1 to 3, got 4",
        ),
        ({"fitness_shaping": "group"}, ValueError, "group_size is missing"),
        ({"group_size": 2}, ValueError, "group_size was given"),
        (
            {"fitness_shaping": "group", "group_size": 4, "population_size": 6},
            ValueError,
            "group_size must divide population_size 6, got 4",
        ),
        ({"fitness": "f1"}, ValueError, "fitness must be one of 'loss', 'accuracy', got 'f1'"),
        ({"fitness": "accuracy", "loss": mistakes}, ValueError, "but loss says what fitness is"),
        ({"loss": "mse"}, ValueError, "loss is 'mse', which a file cannot hold"),
        ({"report_cosine": True, "activation": "step"}, ValueError, "has no derivative"),
        ({"report_cosine": True, "loss": mistakes}, ValueError, "it needs loss=None"),
    ],
)
def test_bad_parameters(options, error, message, digits):
    with pytest.raises(error, match=message):
        es(**options).fit(digits.X_train[:20], digits.y_train[:20])


def test_a_regressor_has_no_accuracy():
    with pytest.raises(ValueError, match="fitness='accuracy' counts right classes"):
        bf.ESRegressor(fitness="accuracy").fit([[0.0], [1.0]], [0, 1])


@pytest.mark.parametrize("activation", ["step", "sign"])
@pytest.mark.parametrize("cls", [bf.BackpropClassifier, bf.DFAClassifier, bf.LocalLossClassifier])
def test_other_methods_need_a_derivative(cls, activation):
    with pytest.raises(ValueError, match="activation must be one of"):
        cls((4,), activation).fit([[0.0], [1.0]], [0, 1])


def test_no_reports_before_fit():
    with pytest.raises(AttributeError, match="has no generations_ before fit"):
        _ = es().generations_
