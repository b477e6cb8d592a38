# SPDX-License-Identifier: BSD-3-Clause
"""Initial parameters: range and moments of every scheme, and what they depend on."""

import numpy as np
import pytest
from oracle.network import INITIAL_SCALE
from tolerances import STANDARD_ERRORS

from bpfree_fast import _core as core

SIZES = [300, 200, 40, 33]


def draw(scheme="uniform", seed=0, sizes=SIZES, dtype="float32"):
    network = core.Network(sizes, "relu", "softmax_cross_entropy", dtype)
    network.initialize(seed, scheme)
    layers = range(len(sizes) - 1)
    return [network.weights(k) for k in layers], [network.biases(k) for k in layers]


@pytest.mark.parametrize("scheme", INITIAL_SCALE)
def test_scheme(scheme):
    weights, biases = draw(scheme)
    for w, b in zip(weights, biases, strict=True):
        scale = INITIAL_SCALE[scheme](*w.shape)
        if scheme == "zeros":
            assert not w.any()
            assert not b.any()
            continue
        std = scale if scheme == "he_normal" else scale / np.sqrt(3)
        tolerance = STANDARD_ERRORS / np.sqrt(w.size)
        assert abs(w.mean()) <= tolerance * std
        assert w.std() == pytest.approx(std, rel=tolerance)
        if scheme == "he_normal":
            assert 3 * scale < np.abs(w).max() < 6 * scale
        else:
            assert 0.99 * scale < np.abs(w).max() <= scale
        if scheme == "uniform":
            assert 0.7 * scale < np.abs(b).max() <= scale
        else:
            assert not b.any()


def test_seed_and_layer_decide():
    one, again, other = draw(seed=1), draw(seed=1), draw(seed=2)
    for a, b, c in zip(one[0] + one[1], again[0] + again[1], other[0] + other[1], strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).mean() > 0.99
    same_shapes = draw(sizes=[50, 50, 50])
    assert (same_shapes[0][0] != same_shapes[0][1]).mean() > 0.99
    assert (same_shapes[1][0] != same_shapes[1][1]).mean() > 0.99
    assert (same_shapes[0][0][0] != same_shapes[1][0]).mean() > 0.99  # weights are not biases


def test_the_first_layer_does_not_depend_on_those_above():
    np.testing.assert_array_equal(draw()[0][0], draw(sizes=[300, 200, 7])[0][0])


def test_bfloat16_keeps_float32_parameters():
    for a, b in zip(draw()[0], draw(dtype="bfloat16")[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_and_feedback_are_different_numbers():
    """Same seed, same shape: streams of another purpose."""
    network = core.Network([40, 40, 40], "relu", "squared_error", "float32")
    network.initialize(3)
    trainer = core.Trainer(network, method="feedback", feedback="layerwise", seed=3)
    drawn = trainer.feedback(0)
    for layer in (0, 1):
        assert (drawn != network.weights(layer)).mean() > 0.99
        assert abs(np.corrcoef(drawn.ravel(), network.weights(layer).ravel())[0, 1]) < 0.15
