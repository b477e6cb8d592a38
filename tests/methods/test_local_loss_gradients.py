# SPDX-License-Identifier: BSD-3-Clause
"""The local losses' oracle against central differences in float64, and its closed forms."""

import numpy as np
import pytest
from differences import central_difference
from oracle import local_loss as oracle
from oracle import losses
from oracle.activations import ACTIVATIONS, DERIVATIVES
from tolerances import DIFFERENCES

N, N_IN, N_OUT, N_CLASSES = 7, 5, 6, 3
SHARES = {"pred": (1.0, 0.0), "sim": (0.0, 1.0), "predsim": (0.3, 0.7)}
EXTRAS = {
    "plain": (),
    "projection": ("V",),
    "batch_norm": ("gain", "shift"),
    "both": ("V", "gain", "shift"),
}


def problem(objective, extras, loss="softmax_cross_entropy"):
    """x, y, sample weights and a layer's parameters, its head's far from zero."""
    rng = np.random.default_rng(2)
    shapes = {"W": (N_IN, N_OUT), "b": (N_OUT,), "gain": (N_OUT,), "shift": (N_OUT,)}
    shapes |= {"M": (N_OUT, N_CLASSES), "c": (N_CLASSES,), "V": (N_OUT, N_OUT)}
    names = ["W", "b", *extras, *(("M", "c") if objective != "sim" else ())]
    p = {k: rng.normal(size=shapes[k]) for k in names if k != "V" or objective != "pred"}
    y = np.eye(N_CLASSES)[rng.integers(0, N_CLASSES, N)]
    if loss == "squared_error":
        y = rng.normal(size=y.shape)
    return rng.normal(size=(N, N_IN)), y, rng.uniform(0.2, 2.0, N), p


def options(objective, loss="softmax_cross_entropy"):
    pred, sim = SHARES[objective]
    return {
        "loss": losses.SAMPLE_LOSSES[loss], "error": lambda a, y: losses.error(loss, a, y),
        "pred": pred, "sim": sim,
    }  # fmt: skip


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
@pytest.mark.parametrize("activation", ["tanh", "gelu", "leaky_relu"])
@pytest.mark.parametrize("extras", EXTRAS)
@pytest.mark.parametrize("objective", SHARES)
def test_gradients(objective, extras, activation, loss):
    x, y, w, p = problem(objective, EXTRAS[extras], loss)
    f, df = ACTIVATIONS[activation], DERIVATIVES[activation]

    def value():
        return oracle.layer(x, y, w, p, f, df, **options(objective, loss))[0]

    gradients = oracle.layer(x, y, w, p, f, df, **options(objective, loss))[2]
    assert gradients.keys() == p.keys()
    for name, g in gradients.items():
        scale = max(1.0, np.abs(g).max())
        np.testing.assert_allclose(
            g / scale, central_difference(value, p[name]) / scale, atol=DIFFERENCES, err_msg=name
        )


def test_a_bias_before_batch_normalization_changes_nothing():
    x, y, w, p = problem("predsim", EXTRAS["batch_norm"])
    f, df = ACTIVATIONS["tanh"], DERIVATIVES["tanh"]
    gradient = oracle.layer(x, y, w, p, f, df, **options("predsim"))[2]["b"]
    assert np.abs(gradient).max() < 1e-15


def test_cosines_of_one_hot_targets():
    """1 within a class, -1 / (C - 1) between two."""
    y = np.eye(4)[[0, 1, 1, 3]]
    unit, _ = oracle.centred_rows(y)
    expected = np.where(y @ y.T > 0, 1.0, -1 / 3)
    np.testing.assert_allclose(unit @ unit.T, expected, atol=1e-15)


def test_closed_form_of_the_similarity():
    """The derivative is A times the centred rows, as the core computes it."""
    rng = np.random.default_rng(0)
    z, y, w = rng.normal(size=(N, 9)), rng.normal(size=(N, 4)), rng.uniform(0.2, 2.0, N)
    (unit, norm), (target, _) = oracle.centred_rows(z), oracle.centred_rows(y)
    cosines = unit @ unit.T
    s = 4 * np.outer(w, w) / w.sum() ** 2 * (cosines - target @ target.T)
    a = (s - np.diag((s * cosines).sum(axis=1))) / (norm * norm.T)
    np.testing.assert_allclose(
        a @ (z - z.mean(axis=1, keepdims=True)), oracle.similarity(z, y, w)[1], atol=1e-14
    )


def test_a_head_that_teaches_nothing_still_learns():
    x, y, w, p = problem("predsim", ())
    f, df = ACTIVATIONS["tanh"], DERIVATIVES["tanh"]
    apart = oracle.layer(x, y, w, p, f, df, **options("predsim"), teaches=False)[2]
    both = oracle.layer(x, y, w, p, f, df, **options("predsim"))[2]
    alone = {k: v for k, v in p.items() if k in ("W", "b")}
    sim = oracle.layer(x, y, w, alone, f, df, **options("predsim"))[2]
    np.testing.assert_array_equal(apart["M"], both["M"])
    np.testing.assert_array_equal(apart["W"], sim["W"])
