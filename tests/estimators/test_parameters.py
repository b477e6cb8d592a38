# SPDX-License-Identifier: BSD-3-Clause
"""Parameters: the defaults that are promised, and refusals that name the offending value."""

import inspect

import numpy as np
import pytest

import bpfree_fast as bf
from bpfree_fast import estimators

ESTIMATORS = list(estimators.ESTIMATORS.values())
CLASSIFIERS = list(estimators.CLASSIFIERS.values())
FEEDBACK = [bf.DFAClassifier, bf.DFARegressor]
EVOLUTION = [bf.ESClassifier, bf.ESRegressor]
KALMAN = [bf.EnKFClassifier, bf.EnKFRegressor]

DEFAULTS = {
    "activation": "relu",
    "solver": "adam",
    "learning_rate": "cosine",
    "learning_rate_init": 1e-3,
    "batch_size": 128,
    "max_iter": 20,
    "alpha": 0.0,
    "dtype": "float32",
    "input_scale": "auto",
    "momentum": 0.9,
    "nesterovs_momentum": True,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "epsilon": 1e-8,
    "random_state": None,
    "warm_start": False,
}


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_defaults(cls):
    params = cls().get_params()
    # The estimate of a gradient is mostly noise, and Adam divides by it: its steps must be longer.
    expected = DEFAULTS | ({"learning_rate_init": 3e-2} if cls in EVOLUTION else {})
    if cls in KALMAN:  # no gradient, and so no optimizer
        expected = {name: value for name, value in expected.items() if name in params}
        assert (params["dt"], params["redraw_spread"], "solver" in params) == (None, 0.1, False)
    assert {name: params[name] for name in expected} == expected
    # NoProp has the decay of its paper.
    assert (params.get("weight_decay") or 0) == (1e-3 if cls is bf.NoPropClassifier else 0)
    if cls in FEEDBACK:
        assert (params["feedback"], params["feedback_distribution"]) == ("direct", "uniform")


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_every_parameter_is_documented(cls):
    for name in cls().get_params():
        assert (
            f"{name} : " in cls.__doc__
            or f"{name}, " in cls.__doc__
            or (f", {name} : " in cls.__doc__)
        )
    assert "{parameters}" not in cls.__doc__
    assert "{attributes}" not in cls.__doc__
    assert "{decay" not in cls.__doc__
    keywords = inspect.signature(cls).parameters
    assert keywords["batch_size"].kind is inspect.Parameter.KEYWORD_ONLY


BAD = [
    ("hidden_layer_sizes", (0,), ValueError),
    ("hidden_layer_sizes", (8, -1), ValueError),
    ("hidden_layer_sizes", "64", TypeError),
    ("hidden_layer_sizes", (2.5,), TypeError),
    ("activation", "square", ValueError),
    ("activation", None, ValueError),
    ("solver", "lbfgs", ValueError),
    ("alpha", -1e-3, ValueError),
    ("alpha", "0", TypeError),
    ("batch_size", 0, ValueError),
    ("batch_size", "auto", TypeError),
    ("batch_size", 1.5, TypeError),
    ("learning_rate", "linear", ValueError),
    ("learning_rate_init", 0, ValueError),
    ("learning_rate_init", np.inf, ValueError),
    ("learning_rate_init", np.nan, ValueError),
    ("power_t", -1, ValueError),
    ("step_size", 0, ValueError),
    ("gamma", 1.5, ValueError),
    ("max_iter", 0, ValueError),
    ("max_iter", True, TypeError),
    ("shuffle", 1, TypeError),
    ("random_state", -1, ValueError),
    ("random_state", 2**64, ValueError),
    ("random_state", "0", TypeError),
    ("tol", -1, ValueError),
    ("warm_start", "yes", TypeError),
    ("momentum", 1.0, ValueError),
    ("nesterovs_momentum", None, TypeError),
    ("early_stopping", 3, TypeError),
    ("validation_fraction", 1.0, ValueError),
    ("beta_1", 1.0, ValueError),
    ("beta_2", -0.1, ValueError),
    ("epsilon", 0, ValueError),
    ("n_iter_no_change", 0, ValueError),
    ("weight_decay", -1, ValueError),
    ("initializer", "ones", ValueError),
    ("input_scale", 0, ValueError),
    ("input_scale", "255", TypeError),
    ("dtype", "float64", ValueError),
    ("n_threads", 0, ValueError),
    ("n_threads", 2.0, TypeError),
    ("verbose", -1, ValueError),
    ("verbose", "loud", TypeError),
    ("callback", 3, TypeError),
]
# Of one method: the others have no such parameter.
BAD_OWN = [
    ("feedback", "random", ValueError),
    ("error_signal", "none", ValueError),
    ("feedback_distribution", "cauchy", ValueError),
    ("feedback_scale", 0, ValueError),
    ("track_alignment", "no", TypeError),
    ("goodness", "max", ValueError),
    ("goodness_loss", "hinge", ValueError),
    ("threshold", -1, ValueError),
    ("threshold", "n", TypeError),
    ("temperature", 0, ValueError),
    ("symba_scale", np.inf, ValueError),
    ("peer_normalization", -0.1, ValueError),
    ("negatives", "wrong", ValueError),
    ("label_position", "front", ValueError),
    ("schedule", "layerwise", ValueError),
    ("predict_with", "energy", ValueError),
    ("local_loss", "mse", ValueError),
    ("similarity_weight", 1.5, ValueError),
    ("sim_projection", "yes", TypeError),
    ("cache_inputs", 1, TypeError),
    ("batch_normalization", None, TypeError),
    ("dropout", 1.0, ValueError),
    ("dropout", "0", TypeError),
    ("population_size", 1, ValueError),
    ("population_size", 7, ValueError),
    ("population_size", 8.0, TypeError),
    ("std", 0, ValueError),
    ("std", np.nan, ValueError),
    ("std_decay", 0, ValueError),
    ("std_decay", 1.5, ValueError),
    ("perturbation", "uniform", ValueError),
    ("rank", 0, ValueError),
    ("antithetic", 1, TypeError),
    ("fitness_shaping", "rank", ValueError),
    ("fitness", "f1", ValueError),
    ("loss", 3, TypeError),
    ("loss", "mse", ValueError),
    ("report_cosine", None, TypeError),
    ("n_ens", 1, ValueError),
    ("n_ens", 8.0, TypeError),
    ("update", "kf", ValueError),
    ("update", "etki", ValueError),
    ("dt", 0, ValueError),
    ("dt", np.inf, ValueError),
    ("obs_noise_var", 0, ValueError),
    ("redraw_spread", -1, ValueError),
    ("init_spread", 0, ValueError),
    ("curvature", "hessian", ValueError),
]


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize(("name", "value", "error"), BAD + BAD_OWN)
def test_bad_parameters_are_named(cls, name, value, error):
    if name not in cls().get_params():
        with pytest.raises(TypeError, match=name):
            cls(**{name: value})
        return
    est = cls(**{name: value})  # refused in fit, never before
    with pytest.raises(error, match=name) as caught:
        est.fit([[0.0], [1.0]], [0, 1])
    message = str(caught.value)
    assert message.count("\n") == 0
    assert message.endswith(".")
    shown = value[-1] if isinstance(value, tuple) else value
    assert repr(shown) in message
    assert not hasattr(est, "coefs_")


@pytest.mark.parametrize("state", [0, 7, 2**40, np.int64(5), np.random.RandomState(3)])
def test_seeds(state):
    X, y = np.eye(6), [0, 1, 2, 0, 1, 2]
    clf = bf.DFAClassifier((8,), random_state=state).fit(X, y)
    if not isinstance(state, np.random.RandomState):
        assert clf.seed_ == state
    again = bf.DFAClassifier((8,), random_state=clf.seed_).fit(X, y)
    np.testing.assert_array_equal(clf.predict_proba(X), again.predict_proba(X))


def test_no_seed_draws_one_and_keeps_it():
    X, y = np.eye(4), [0, 1, 0, 1]
    first, second = (bf.DFAClassifier((8,)).fit(X, y) for _ in range(2))
    assert first.seed_ != second.seed_
    again = bf.DFAClassifier((8,), random_state=first.seed_).fit(X, y)
    np.testing.assert_array_equal(first.coefs_[0], again.coefs_[0])


def test_generators_advance():
    generator = np.random.default_rng(0)
    X, y = np.eye(4), [0, 1, 0, 1]
    seeds = {bf.DFAClassifier((4,), random_state=generator).fit(X, y).seed_ for _ in range(3)}
    assert len(seeds) == 3


def test_seed_zero_is_a_seed_of_its_own():
    X, y = np.eye(4), [0, 1, 0, 1]
    a, b = (bf.DFAClassifier((8,), random_state=seed).fit(X, y) for seed in (0, 1))
    assert not np.array_equal(a.coefs_[0], b.coefs_[0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cls", CLASSIFIERS)
def test_threads_change_no_bit(cls, dtype, digits):
    fits = [
        cls((96, 40), random_state=0, max_iter=2, n_threads=n, dtype=dtype).fit(
            digits.X_train, digits.y_train
        )
        for n in (1, 2, 5)
    ]
    for other in fits[1:]:
        for name in cls._array_lists:
            for a, b in zip(getattr(fits[0], name), getattr(other, name), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("activation", ["identity", "leaky_relu", "tanh", "logistic", "gelu"])
def test_activations_learn(activation, digits):
    clf = bf.DFAClassifier((64,), activation=activation, random_state=0, learning_rate_init=5e-3)
    clf.fit(digits.X_train, digits.y_train)
    assert clf.score(digits.X_test, digits.y_test) > 0.85


def test_sigmoid_is_logistic(digits):
    fits = [
        bf.DFAClassifier((8,), activation=name, random_state=0, max_iter=2)
        .fit(digits.X_train, digits.y_train)
        .coefs_[0]
        for name in ("sigmoid", "logistic")
    ]
    np.testing.assert_array_equal(*fits)


@pytest.mark.parametrize("solver", ["sgd", "adam", "adamw", "rmsprop"])
@pytest.mark.parametrize("cls", [bf.BackpropClassifier, bf.DFAClassifier])
def test_solvers_learn(cls, solver, digits):
    rate = 0.1 if solver == "sgd" else 3e-3
    clf = cls((64,), solver=solver, learning_rate_init=rate, random_state=0)
    clf.fit(digits.X_train, digits.y_train)
    assert clf.score(digits.X_test, digits.y_test) > 0.9


@pytest.mark.parametrize("name", ["glorot_uniform", "he_uniform", "he_normal"])
def test_initializers(name, digits):
    clf = bf.BackpropClassifier((64,), initializer=name, random_state=0)
    clf.fit(digits.X_train, digits.y_train)
    assert clf.score(digits.X_test, digits.y_test) > 0.85


def test_direct_feedback_learns_from_zeros(digits):
    """With W = 0 backpropagation has no hidden error; direct feedback has one."""
    clf = bf.DFAClassifier((64,), activation="tanh", initializer="zeros", random_state=0)
    clf.fit(digits.X_train, digits.y_train)
    assert clf.score(digits.X_test, digits.y_test) > 0.8
    still = bf.BackpropClassifier((64,), initializer="zeros", random_state=0, activation="tanh")
    still.fit(digits.X_train, digits.y_train)
    assert not still.coefs_[0].any()
