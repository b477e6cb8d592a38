# SPDX-License-Identifier: BSD-3-Clause
"""Activations and output functions as a network computes them, against float64."""

import numpy as np
import pytest
from oracle.activations import ALL_ACTIVATIONS
from oracle.losses import OUTPUTS
from oracle.product import from_bfloat16, to_bfloat16
from tolerances import ACTIVATION, U

from bpfree_fast import _core as core

SPECIAL = [0.0, -0.0, 1e-30, -1e-30, 1e-38, 88.0, -88.0, 104.0, -104.0, 1e4, -1e4, 3e38, -3e38]
VALUES = np.concatenate(
    [
        np.linspace(-12, 12, 4001),
        np.geomspace(1e-8, 100, 500),
        -np.geomspace(1e-8, 100, 500),
        SPECIAL,
    ]
).astype(np.float32)


def through_one_unit(values, activation, dtype="float32"):
    """f(a) for each value: weights of one, one input, one hidden unit, one output."""
    network = core.Network([1, 1, 1], activation, "squared_error", dtype)
    for layer in (0, 1):
        network.set_weights(layer, np.ones((1, 1), np.float32))
        network.set_biases(layer, np.zeros(1, np.float32))
    out = np.empty((len(values), 1), np.float32)
    network.predict(np.ascontiguousarray(values[:, None]), out)
    return out[:, 0]


@pytest.mark.parametrize("name", ALL_ACTIVATIONS)
def test_activation(name):
    with np.errstate(over="ignore"):
        expected = ALL_ACTIVATIONS[name](VALUES.astype(np.float64))
    actual = through_one_unit(VALUES, name)
    assert np.isfinite(actual).all()
    # Where a factor of gelu or sigmoid is itself below float32's range, the distance counts. So it
    # does where 1 + erf cancels: gelu's left tail is exact to one unit of 1, not of itself.
    floor = np.finfo(np.float32).tiny
    if name == "gelu":
        floor = floor + 4 * U["float32"] * np.where(VALUES < 0, np.minimum(-VALUES, 6.0), 0.0)
    assert (np.abs(actual - expected) <= ACTIVATION * np.abs(expected) + floor).all()


@pytest.mark.parametrize("name", ALL_ACTIVATIONS)
def test_activation_in_bfloat16(name):
    """The argument is a bfloat16 number; the result is rounded once, from a good float32."""
    values = from_bfloat16(to_bfloat16(VALUES[np.abs(VALUES) < 1e30]))
    if name in ("step", "sign"):  # the CPU's product takes a denormal number for zero
        values = values[(np.abs(values) >= np.finfo(np.float32).tiny) | (values == 0)]
    actual = through_one_unit(values, name, "bfloat16")
    expected = ALL_ACTIVATIONS[name](values.astype(np.float64))
    bound = 1.02 * U["bfloat16"] * np.abs(expected) + 4 * U["float32"] * np.minimum(
        np.abs(values), 6
    )
    assert (np.abs(actual - expected) <= bound + 1e-37).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ALL_ACTIVATIONS)
def test_nan_in_nan_out(name, dtype):
    values = np.array([1.0, np.nan, -2.0], np.float32)
    assert np.isnan(through_one_unit(values, name, dtype)).tolist() == [False, True, False]


@pytest.mark.parametrize("name", ALL_ACTIVATIONS)
def test_infinite_arguments(name):
    values = np.array([np.inf, -np.inf], np.float32)
    limits = {
        "step": [1, 0], "sign": [1, -1],
        "identity": [np.inf, -np.inf], "relu": [np.inf, 0], "leaky_relu": [np.inf, -np.inf],
        "tanh": [1, -1], "logistic": [1, 0],
    }  # fmt: skip
    if name == "gelu":
        assert through_one_unit(values, name)[0] == np.inf  # -inf times 0 is NaN in the formula
    else:
        assert through_one_unit(values, name).tolist() == limits[name]


@pytest.mark.parametrize("n_outputs", [1, 2, 7, 8, 9, 10, 16, 17, 31, 32, 33, 100])
@pytest.mark.parametrize("loss", OUTPUTS)
def test_outputs(loss, n_outputs):
    """predict() from given logits: the identity network shows the output function alone."""
    network = core.Network([n_outputs, n_outputs], "relu", loss, "float32")
    network.set_weights(0, np.eye(n_outputs, dtype=np.float32))
    network.set_biases(0, np.zeros(n_outputs, np.float32))
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, n_outputs)) * np.geomspace(0.01, 60, 50)[:, None]
    logits = logits.astype(np.float32)
    out = np.empty_like(logits)
    network.predict(logits, out)
    # An argument of 100 is off by 100 u after the subtraction of the maximum: exp carries it on.
    expected = OUTPUTS[loss](logits.astype(np.float64))
    bound = ACTIVATION + 4 * U["float32"] * np.abs(logits).max(axis=1, keepdims=True)
    assert (np.abs(out - expected) <= bound * np.abs(expected) + np.finfo(np.float32).tiny).all()
    network.predict(logits, out, logits=True)
    np.testing.assert_array_equal(out, logits)


@pytest.mark.parametrize("loss", OUTPUTS)
def test_huge_logits(loss):
    network = core.Network([4, 4], "relu", loss, "float32")
    network.set_weights(0, np.eye(4, dtype=np.float32))
    network.set_biases(0, np.zeros(4, np.float32))
    logits = np.array([[1e4, -1e4, 0, 1], [3e38, -3e38, 0, 0], [-3e38] * 4], np.float32)
    out = np.empty_like(logits)
    network.predict(logits, out)
    assert np.isfinite(out).all()
    if loss == "softmax_cross_entropy":
        assert out.tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0.25] * 4]
    if loss == "binary_cross_entropy":
        assert out[1:].tolist() == [[1, 0, 0.5, 0.5], [0] * 4]
