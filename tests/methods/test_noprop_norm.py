# SPDX-License-Identifier: BSD-3-Clause
"""Batch normalization in NoProp's blocks against tests/oracle/noprop_norm."""

import numpy as np
import pytest
from differences import central_difference
from isas import arrays_under
from noprop_problem import (
    RATE,
    VARIANTS,
    Problem,
    assert_equal,
    parameters,
    predicted,
    slope_of,
)
from oracle import noprop as oracle
from oracle import noprop_norm as normed
from oracle.activations import ACTIVATIONS
from tolerances import ISA_BF16_NORM, ISA_F32_NORM, STEP_BF16_NORM

from bpfree_fast import _core as core


def with_norms(variant="dt", **options):
    return Problem(variant, batch_normalization=True, **VARIANTS[variant] | options)


def double(arrays):
    return [np.asarray(a, np.float64) for a in arrays]


def of_block(problem, t, w, step=0):
    """Loss of a block on the problem's batch, what its arrays get, and its products a."""
    weights, biases = problem.block(t)
    norms = [double(n) for n in problem.norms_of(t)]
    z, target, snr = problem.noisy_label(t, step)
    f, slope = ACTIVATIONS[problem.activation], slope_of(problem.activation)
    states, o, kept = normed.forward(problem.x, z, w, double(weights), double(biases), norms, f)
    loss, e = oracle.loss(o, target, w * snr, problem.embedding, problem.variant == "fm")
    fixed = problem.feedback(t) if problem.block_feedback == "direct" else None
    gradients = normed.gradients(
        problem.x, z, w, e, states, kept, double(weights), norms, slope, fixed
    )
    return loss.sum() / w.sum(), gradients, [a for a, *_ in kept]


def weights_of(problem):
    w = problem.sample_weight
    return np.ones(len(problem.x)) if w is None else w.astype(np.float64)


def close(found, wanted, relative, own=0.0):
    size = np.linalg.norm(wanted)
    assert np.linalg.norm(found - wanted) <= relative * max(size, 0.1) + own


def check_step(problem, relative=2e-5, loss_relative=1e-5):
    trainer = problem.trainer()
    start, w = problem.network, weights_of(problem)
    loss = problem.run(trainer)
    n, losses = problem.n_parts, []
    for t in range(problem.n_blocks):
        value, (of_weights, of_bias, of_norms), products = of_block(problem, t, w)
        losses.append(value)
        for k in range(n):
            at = t * n + k
            # What float32 keeps of a change of its own size.
            ulp = np.linalg.norm(problem.weights[at]) * 2.0**-23 / RATE
            found = (problem.weights[at] - start.weights(at)) / RATE
            close(found, of_weights[k] / w.sum(), relative, ulp)
            bias = (problem.biases[at] - start.biases(at)) / RATE
            if k == n - 1:
                close(bias, of_bias / w.sum(), relative)
                continue
            np.testing.assert_array_equal(bias, 0)
            index = t * (n - 1) + k
            for old, new, wanted in zip(
                problem.norms[index], trainer.norm(index), of_norms[k], strict=False
            ):
                # Below a normalization without a kink a shift changes nothing, and gets rounding.
                own = relative * np.linalg.norm(of_weights[k] / w.sum())
                close((old - new) / RATE, wanted / w.sum(), relative, own)
            mean, variance = normed.moments(products[k], w)
            unbiased = w.sum() / (w.sum() - 1) if w.sum() >= 2 else 1.0
            _, _, old_mean, old_variance = problem.norms[index]
            moved = 0.9 * old_variance + 0.1 * unbiased * variance if len(w) > 1 else old_variance
            found = trainer.norm(index)
            np.testing.assert_allclose(found[2], 0.9 * old_mean + 0.1 * mean, atol=relative)
            np.testing.assert_allclose(found[3], moved, rtol=max(relative, 1e-5))
    assert loss == pytest.approx(np.mean(losses), rel=loss_relative)


@pytest.mark.parametrize("block_feedback", ["exact", "direct"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_step(variant, activation, block_feedback):
    check_step(
        with_norms(
            variant, n=29, dim=9, activation=activation, block_feedback=block_feedback,
            weighted=True,
        )
    )  # fmt: skip


# Of two rows the normalised ones are +1 and -1, whatever is below: what goes back is rounding.
@pytest.mark.parametrize("n", [1, 13, 14, 15, 31, 32, 33, 64, 65, 97])
@pytest.mark.parametrize("block_feedback", ["exact", "direct"])
def test_step_of_other_batches(n, block_feedback):
    check_step(with_norms(n=n, block_feedback=block_feedback), relative=1e-4)


@pytest.mark.parametrize("join", [(), (7,), (33, 65, 9)], ids=str)
def test_step_of_other_blocks(join):
    check_step(with_norms(n=29, join=join))


def test_step_of_more_blocks_than_a_group():
    check_step(with_norms(n_blocks=19, alpha_bar=np.linspace(0.0, 0.97, 20)))


@pytest.mark.parametrize("block_feedback", ["exact", "direct"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16(variant, block_feedback):
    problem = with_norms(variant, dtype="bfloat16", n=64, block_feedback=block_feedback)
    check_step(problem, relative=STEP_BF16_NORM, loss_relative=STEP_BF16_NORM)


@pytest.mark.parametrize("feedback", ["exact", "direct"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_steps_the_second_of_one_row(variant, feedback):
    """A row alone is the shift of each unit: it moves no variance, and nothing below a shift."""
    problem = with_norms(variant, n=34, block_feedback=feedback)
    trainer = problem.trainer(batch_size=33)
    trainer.run_epoch(problem.x[:33], problem.label[:33], epoch=0, shuffle=False, learning_rate=0.1)
    once = [trainer.norm(i) for i in range(trainer.n_norms)]
    weights = [problem.network.weights(k) for k in range(problem.network.n_layers)]
    again = with_norms(variant, n=34, block_feedback=feedback)
    trainer = again.trainer(batch_size=33)
    loss = trainer.run_epoch(again.x, again.label, epoch=0, shuffle=False, learning_rate=0.1)
    assert np.isfinite(loss)
    last = again.n_parts - 1
    for i, (gain, shift, mean, variance) in enumerate(once):
        found = trainer.norm(i)
        np.testing.assert_array_equal(found[0], gain)
        np.testing.assert_array_equal(found[3], variance)
        # Through the normalization above it nothing comes.
        reached = feedback == "direct" or i % last == last - 1
        assert np.array_equal(found[1], shift) != reached
        assert not np.array_equal(found[2], mean)
    for k, before in enumerate(weights):
        assert np.array_equal(again.network.weights(k), before) == (k % again.n_parts != last)


@pytest.mark.parametrize("direct", [False, True])
def test_gradients_of_the_oracle(direct):
    problem = with_norms(n=6, n_blocks=2, weighted=True)
    weights, biases = (double(part) for part in problem.block(1))
    norms = [tuple(double(n[:2])) for n in problem.norms_of(1)]
    z, target, snr = problem.noisy_label(1)
    f, w = ACTIVATIONS["tanh"], problem.sample_weight.astype(np.float64)

    def run():
        return normed.forward(problem.x, z, w, weights, biases, norms, f)

    def value():
        return oracle.loss(run()[1], target, w * snr, problem.embedding)[0].sum()

    states, o, kept = run()
    e = oracle.loss(o, target, w * snr, problem.embedding)[1]
    of_weights, of_bias, of_norms = normed.gradients(
        problem.x, z, w, e, states, kept, weights, norms, slope_of("tanh"),
        [weights[-1].T if k == 2 else np.zeros((5, n)) for k, n in enumerate((96, 40, 24))]
        if direct else None,
    )  # fmt: skip
    # Fed back by the last layer's own weights, the layer below it has its exact gradient too.
    first = len(weights) - 2 if direct else 0
    found = [*of_weights[first:], of_bias, *(g for pair in of_norms[first:] for g in pair)]
    arrays = [*weights[first:], biases[-1], *(a for pair in norms[first:] for a in pair)]
    for p, g in zip(arrays, found, strict=True):
        scale = max(1.0, np.abs(g).max())
        np.testing.assert_allclose(g / scale, central_difference(value, p) / scale, atol=1e-6)


# Prediction: by the running statistics.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("heun", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_predict_blocks(variant, heun, dtype):
    if heun and variant == "dt":
        return
    problem = with_norms(variant, n=150, dtype=dtype)
    trainer = problem.trainer()
    stages = problem.n_blocks if variant == "dt" else 6
    out = np.empty((stages * 150, problem.n_classes), np.float32)
    trainer.predict_blocks(problem.x, out, staged=True, n_steps=6, heun=heun)
    expected, _ = predicted(problem, trainer, n_steps=6, heun=heun)
    atol = 3e-5 if dtype == "float32" else 3e-2
    np.testing.assert_allclose(out.reshape(expected.shape), expected, atol=atol)
    alone = np.empty((1, problem.n_classes), np.float32)
    trainer.predict_blocks(problem.x[7:8], alone, n_steps=6, heun=heun)
    np.testing.assert_array_equal(alone[0], out[-143])


def test_prediction_follows_its_arrays():
    problem = with_norms()
    trainer = problem.trainer()
    out = [np.empty((len(problem.x), problem.n_classes), np.float32) for _ in range(4)]
    trainer.predict_blocks(problem.x, out[0])
    old = trainer.norm(0)
    trainer.set_norm(0, old[0] + 1, *old[1:])
    trainer.predict_blocks(problem.x, out[1])
    trainer.set_norm(0, *old)
    trainer.predict_blocks(problem.x, out[2])
    problem.run(trainer)
    trainer.predict_blocks(problem.x, out[3])
    np.testing.assert_array_equal(out[0], out[2])
    assert not np.array_equal(out[0], out[1])
    assert not np.array_equal(out[0], out[3])


# The same bits.


def train(variant="dt", dtype="float32", n_threads=1, blocks=None, feedback="exact"):
    problem = with_norms(
        variant, n=300, dtype=dtype, n_features=200, join=(190, 70), block_feedback=feedback
    )
    trainer = problem.trainer(solver="adam", weight_decay=0.01, batch_size=121, n_threads=n_threads)
    if blocks is not None:
        trainer.set_blocks(*blocks)
    for epoch in range(3):
        trainer.run_epoch(problem.x, problem.label, epoch=epoch, learning_rate=1e-3)
    out = np.empty((300, problem.n_classes), np.float32)
    trainer.predict_blocks(problem.x, out, n_steps=5, n_threads=n_threads)
    norms = [a for i in range(trainer.n_norms) for a in trainer.norm(i)]
    return problem, trainer, [*parameters(problem.network), *norms, out]


@pytest.mark.parametrize("feedback", ["exact", "direct"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_same_bits_for_any_number_of_threads(variant, dtype, feedback):
    one = train(variant, dtype, 1, feedback=feedback)[2]
    for n_threads in (2, 3, 7):
        assert_equal(one, train(variant, dtype, n_threads, feedback=feedback)[2])
    assert all(np.isfinite(a).all() for a in one)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocks_apart_are_blocks_together(dtype):
    problem, together, _ = train(dtype=dtype)
    n = problem.n_parts - 1
    for first, count in ((0, 2), (2, 1)):
        other, alone, _ = train(dtype=dtype, blocks=(first, count))
        for i in range(together.n_norms):
            trained = first * n <= i < (first + count) * n
            assert_equal(alone.norm(i), together.norm(i) if trained else other.norms[i])
        state, own = together.optimizer_state(), alone.optimizer_state()
        layers = problem.network.n_layers
        slots = (len(state) - 4 * together.n_norms) // layers
        of_norms = slice(layers * slots + 4 * first * n, layers * slots + 4 * (first + count) * n)
        assert_equal(state[of_norms], own[of_norms])
        assert all(a.any() for a in own[of_norms])


SCRIPT = """
import sys
import numpy as np
from bpfree_fast import _core as core
print(core.config()["isa"])
a = dict(np.load(sys.argv[1]))
out = {}
for dtype in ("float32", "bfloat16"):
    for feedback in ("exact", "direct"):
        net = core.Network.of_blocks(
            n_blocks=3, n_features=40, n_input_units=32, n_label=5, n_label_units=32, join=[33, 20],
            n_classes=5, activation="relu", dtype=dtype,
        )
        net.initialize(1)
        trainer = core.Trainer(
            net, method="noprop", batch_size=50, alpha_bar=[0.0, 0.3, 0.7, 0.95], seed=3,
            batch_normalization=True, solver="sgd", block_feedback=feedback,
        )
        before = [net.weights(k) for k in range(net.n_layers)]
        for epoch in range(3):
            trainer.run_epoch(a["x"], a["y"], epoch=epoch, learning_rate=1e-2)
        name = dtype + feedback
        out[name] = np.concatenate([(net.weights(k) - b).ravel() for k, b in enumerate(before)])
        p = np.empty((len(a["x"]), 5), np.float32)
        trainer.predict_blocks(a["x"], p)
        out["p_" + name] = p
np.savez(sys.argv[2], **out)
"""


def test_instruction_sets(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(190, 40)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x, y=rng.integers(0, 5, 190).astype(np.int32))
    found = [arrays_under(isa, SCRIPT, tmp_path) for isa in core.available_isas()]
    for other in found[1:]:
        for dtype, bound in (("float32", ISA_F32_NORM), ("bfloat16", ISA_BF16_NORM)):
            for name in (f"{dtype}exact", f"{dtype}direct"):
                wanted = found[0][name]
                assert np.linalg.norm(other[name] - wanted) <= bound * np.linalg.norm(wanted)
                np.testing.assert_allclose(other[f"p_{name}"], found[0][f"p_{name}"], atol=bound)


def test_bad_norms():
    trainer = Problem().trainer()
    assert trainer.n_norms == 0
    with pytest.raises(ValueError, match="this trainer has no batch normalization"):
        trainer.norm(0)
    trainer = with_norms().trainer()
    assert trainer.n_norms == 12
    with pytest.raises(ValueError, match="batch normalization 12 was asked for, this trainer has"):
        trainer.norm(12)
    gain, shift, mean, variance = trainer.norm(0)
    with pytest.raises(ValueError, match=r"variance\[3\] is -1.0*, expected at least 0"):
        trainer.set_norm(0, gain, shift, mean, np.where(np.arange(32) == 3, -1, variance))
    assert_equal(trainer.norm(0), (gain, shift, mean, variance))
