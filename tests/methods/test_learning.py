# SPDX-License-Identifier: BSD-3-Clause
"""Every rule learns scikit-learn's digits, in seconds, to an accuracy that is stated here."""

import numpy as np
import pytest
from oracle.feedback import RULES
from problems import LOCAL_LOSSES, first_head, method_options

from bpfree_fast import _core as core

SIZES = [64, 128, 96, 10]
EPOCHS = 12
BATCH = 32

# Test accuracy with tanh, Adam and a cosine rate from 1e-3, over twelve epochs. The reference of
# tests/oracle reaches 0.95 to 0.98; three errors of 360 are seed noise.
ACCURACY = dict.fromkeys(("backprop", *RULES), 0.93) | {"backprop": 0.96, "sign_symmetric": 0.95}

# Where most of what is projected is common to all samples (ones of a target, nine equal signs), the
# hidden layers need larger steps to get past it. The sign alone stays behind: 0.65 to 0.8.
LARGER_STEPS = {("target", "exact"): (1e-2, 0.94), ("direct", "sign"): (3e-3, 0.55)}


@pytest.fixture(scope="module")
def digits():
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    x, y = datasets.load_digits(return_X_y=True)
    x, y = x.astype(np.uint8), y.astype(np.int32)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    return x[:1437], y[:1437], x[1437:], y[1437:]


def learn(
    digits, rule, *, dtype="float32", error_signal="exact", rate=1e-3, seed=0,
    loss="softmax_cross_entropy", angles=False,
):  # fmt: skip
    """Test accuracy after the last epoch, losses of the epochs, and alignment angles of each."""
    x, y, x_test, y_test = digits
    network = core.Network(SIZES, "tanh", loss, dtype, first_head=first_head(rule))
    network.initialize(seed)
    trainer = core.Trainer(
        network, batch_size=BATCH, seed=seed, error_signal=error_signal, **method_options(rule)
    )
    target = y if loss == "softmax_cross_entropy" else np.eye(10, dtype=np.float32)[y]
    losses, measured = [], []
    for epoch in range(EPOCHS):
        value = trainer.run_epoch(
            x, target, epoch=epoch, learning_rate=rate, input_scale=1 / 16,
            schedule="cosine", total_steps=EPOCHS * -(-len(x) // BATCH),
        )  # fmt: skip
        losses.append(value)
        if angles:
            measured.append(trainer.alignment(x, target, input_scale=1 / 16)[0])
    out = np.empty((len(x_test), 10), np.float32)
    if rule in LOCAL_LOSSES:  # batch normalization is the trainer's
        trainer.predict_by(x_test, out, input_scale=1 / 16)
    else:
        network.predict(x_test, out, input_scale=1 / 16)
    return (out.argmax(axis=1) == y_test).mean(), losses, measured


@pytest.mark.parametrize("rule", [r for r in ACCURACY if r != "target"])
def test_learns_digits(digits, rule):
    accuracy, losses, _ = learn(digits, rule)
    assert accuracy >= ACCURACY[rule]
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(("rule", "error_signal"), LARGER_STEPS)
def test_learns_digits_in_larger_steps(digits, rule, error_signal):
    rate, stated = LARGER_STEPS[rule, error_signal]
    accuracy, losses, _ = learn(digits, rule, error_signal=error_signal, rate=rate)
    assert accuracy >= stated
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("rule", LOCAL_LOSSES)
def test_learns_digits_by_local_losses(digits, rule):
    """Heads start at zero, so that they need the larger steps too: 0.955 to 0.985 over seeds."""
    accuracy, losses, _ = learn(digits, rule, rate=3e-3)
    assert accuracy >= 0.95
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "squared_error"])
@pytest.mark.parametrize("rule", ["backprop", "direct"])
def test_learns_digits_with_other_losses(digits, rule, loss):
    assert learn(digits, rule, loss=loss, rate=5e-3)[0] >= 0.94


@pytest.mark.parametrize("rule", RULES)
def test_alignment_angle_falls_below_90_degrees(digits, rule):
    """At the start random feedback is at about 90 degrees; what learns turns towards backprop."""
    rate = 3e-3 if rule == "target" else 1e-3
    angles = np.array(learn(digits, rule, rate=rate, angles=True)[2])
    assert angles.shape == (EPOCHS, 2)
    assert (angles[1:] < 85).all()
    assert (angles[-1] < 80).all()


@pytest.mark.parametrize("rule", ["backprop", "direct", "kolen_pollack"])
def test_bfloat16_learns_as_float32_does(digits, rule):
    """Mean of three seeds, within two standard errors of one seed's noise (0.005 on 360 digits)."""
    f32 = np.mean([learn(digits, rule, seed=seed)[0] for seed in range(3)])
    bf16 = np.mean([learn(digits, rule, dtype="bfloat16", seed=seed)[0] for seed in range(3)])
    assert bf16 >= f32 - 0.01


def test_the_seed_decides(digits):
    one, other = (learn(digits, "direct", seed=4)[1] for _ in range(2))
    assert one == other
    assert one != learn(digits, "direct", seed=5)[1]
