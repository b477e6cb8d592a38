# SPDX-License-Identifier: BSD-3-Clause
"""The reference trains as scikit-learn's perceptron does, where the two mean the same."""

import warnings

import numpy as np
import pytest
from oracle.product import from_bfloat16, to_bfloat16
from reference import Reference

SOLVERS = [
    {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False},
    {"solver": "sgd", "momentum": 0.8, "nesterovs_momentum": False},
    {"solver": "sgd", "momentum": 0.8, "nesterovs_momentum": True},
    {"solver": "adam", "beta_1": 0.85, "beta_2": 0.95, "epsilon": 1e-6},
]


def fit(estimator, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it has not converged
        return estimator.fit(x, y)


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "logistic"])
@pytest.mark.parametrize("options", SOLVERS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("kind", ["classes", "two classes", "regression"])
def test_reference_is_scikit_learns_perceptron(kind, options, activation):
    neural_network = pytest.importorskip(
        "sklearn.neural_network", reason="scikit-learn is not installed"
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 6))
    shared = {
        "hidden_layer_sizes": (9, 8), "activation": activation, "random_state": 0, "alpha": 0.05,
        "batch_size": 16, "shuffle": False, "max_iter": 3, **options,
    }  # fmt: skip
    if kind == "regression":
        make, y, loss = neural_network.MLPRegressor, x @ rng.normal(size=6), "squared_error"
        target = y[:, None]
    elif kind == "two classes":
        make, y, loss = neural_network.MLPClassifier, (x[:, 0] > 0) * 1, "binary_cross_entropy"
        target = y[:, None]
    else:
        make, y, loss = neural_network.MLPClassifier, np.arange(50) % 3, "softmax_cross_entropy"
        target = y
    # A learning rate that changes nothing shows the initial parameters.
    start = fit(make(**(shared | {"learning_rate_init": 1e-300, "solver": "sgd"})), x, y)
    theirs = fit(make(**shared, learning_rate_init=0.02), x, y)
    ours = dict(options)
    ours["nesterov"] = ours.pop("nesterovs_momentum", True)
    ours = Reference(
        start.coefs_, start.intercepts_, activation, loss, alpha=0.05, batch_size=16, **ours
    )
    for epoch in range(3):
        ours.run_epoch(x, target, epoch=epoch, learning_rate=0.02)
    for a, b in zip(ours.weights + ours.biases, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_bfloat16_of_the_oracle_is_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    rng = np.random.default_rng(0)
    x = (rng.normal(size=20000) * 10.0 ** rng.integers(-37, 37, 20000)).astype(np.float32)
    x[:8] = [0, -0.0, np.inf, -np.inf, 1.00390625, 1.01171875, 3.4e38, 1e-40]
    expected = x.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(to_bfloat16(x), expected.view(np.uint16))
    np.testing.assert_array_equal(from_bfloat16(to_bfloat16(x)), expected.astype(np.float32))
    assert np.isnan(from_bfloat16(to_bfloat16(np.float32([np.nan])))).all()
