# SPDX-License-Identifier: BSD-3-Clause
"""NoProp's steps and predictions against tests/oracle, and blocks apart against blocks together."""

import numpy as np
import pytest
from differences import central_difference
from isas import arrays_under
from noprop_problem import (
    JOIN,
    VARIANTS,
    Problem,
    assert_equal,
    parameters,
    predicted,
    slope_of,
)
from oracle import noprop as oracle
from oracle.activations import ACTIVATIONS
from tolerances import DIFFERENCES, ISA_BF16_NORM, ISA_F32_NORM, STEP_BF16_NORM

from bpfree_fast import _core as core


@pytest.mark.parametrize("block_feedback", ["exact", "direct"])
@pytest.mark.parametrize("dim", [None, 9], ids=["one_hot", "embedding"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_step(variant, activation, dim, block_feedback):
    problem = Problem(
        variant, activation=activation, dim=dim, block_feedback=block_feedback, weighted=True,
        **VARIANTS[variant],
    )  # fmt: skip
    expected, *gradients = problem.expected()
    assert problem.run() == pytest.approx(expected, rel=1e-5)
    problem.check(*gradients)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_step_of_other_schedules(variant, schedule):
    problem = Problem(variant, schedule=schedule, **VARIANTS[variant])
    expected, *gradients = problem.expected()
    assert problem.run() == pytest.approx(expected, rel=1e-5)
    problem.check(*gradients)


@pytest.mark.parametrize("n", [1, 2, 13, 14, 15, 31, 32, 33, 64, 65, 97])
@pytest.mark.parametrize("n_classes", [2, 33])
def test_step_of_other_batches(n, n_classes):
    problem = Problem(n=n, n_classes=n_classes)
    expected, *gradients = problem.expected()
    assert problem.run() == pytest.approx(expected, rel=1e-5)
    problem.check(*gradients)


@pytest.mark.parametrize("join", [(), (7,), (33, 65, 9)], ids=str)
def test_step_of_other_blocks(join):
    problem = Problem(join=join)
    expected, *gradients = problem.expected()
    assert problem.run() == pytest.approx(expected, rel=1e-5)
    problem.check(*gradients)


def test_step_of_more_blocks_than_a_group():
    problem = Problem(n_blocks=19, alpha_bar=np.linspace(0.0, 0.97, 20))
    expected, *gradients = problem.expected()
    assert problem.run() == pytest.approx(expected, rel=1e-5)
    problem.check(*gradients)


@pytest.mark.parametrize("block_feedback", ["exact", "direct"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16(variant, block_feedback):
    options = VARIANTS[variant] | {"block_feedback": block_feedback, "n": 64}
    problem = Problem(variant, dtype="bfloat16", **options)
    problem.run()
    _, *gradients = problem.expected()
    problem.check(*gradients, relative=STEP_BF16_NORM)


@pytest.mark.parametrize("cut", [0.8, 3.0])
def test_weights_are_cut(cut):
    problem = Problem("ct", n=64, n_blocks=1, max_snr_weight=cut)
    weight = problem.noisy_label(0)[2]
    assert weight.max() == problem.eta / 2 * cut > weight.min()
    expected, *gradients = problem.expected()
    assert problem.run() == pytest.approx(expected, rel=1e-5)
    problem.check(*gradients)


@pytest.mark.parametrize("block_feedback", ["exact", "direct"])
@pytest.mark.parametrize(("n", "batch"), [(34, 33), (65, 33), (97, 64)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_steps_the_second_of_them_shorter(variant, n, batch, block_feedback):
    """The noise of a step is its own, and a tail's rows are divided by their own weights."""
    problem = Problem(
        variant, n=n, dim=9, weighted=True, block_feedback=block_feedback, **VARIANTS[variant]
    )
    x, label, weight, rate = problem.x, problem.label, problem.sample_weight, 0.02
    trainer = problem.trainer(batch_size=batch)
    trainer.run_epoch(x, label, weight, epoch=0, shuffle=False, learning_rate=rate)
    start = [p.astype(np.float64) for p in problem.weights + problem.biases]
    w, b = ([p.astype(np.float64) for p in part] for part in (problem.weights, problem.biases))
    f = ACTIVATIONS["tanh"]
    for step, first in enumerate(range(0, n, batch)):
        rows = slice(first, first + batch)
        problem.x, problem.label, share = x[rows], label[rows], weight[rows].astype(np.float64)
        for t in range(problem.n_blocks):
            z, target, snr = problem.noisy_label(t, step)
            own = slice(t * problem.n_parts, (t + 1) * problem.n_parts)
            states, o = oracle.forward(problem.x, z, w[own], b[own], f)
            e = oracle.loss(o, target, share * snr, problem.embedding, variant == "fm")[1]
            fixed = problem.feedback(t) if block_feedback == "direct" else None
            of_w, of_b = oracle.gradients(problem.x, z, e, states, w[own], slope_of("tanh"), fixed)
            for k in range(problem.n_parts):
                w[own.start + k] = w[own.start + k] - rate * of_w[k] / share.sum()
                b[own.start + k] = b[own.start + k] - rate * of_b[k] / share.sum()
    for found, expected, before in zip(parameters(problem.network), w + b, start, strict=True):
        change = np.linalg.norm(expected - before) + 1e-4 * np.linalg.norm(before)
        assert np.linalg.norm(found - expected) < 1e-3 * change


def test_pixels_are_scaled():
    problem = Problem()
    pixels = np.random.default_rng(0).integers(0, 256, problem.x.shape).astype(np.uint8)
    problem.x = pixels
    loss = problem.run(input_scale=1 / 255)
    problem.x = pixels / 255
    expected, *gradients = problem.expected()
    assert loss == pytest.approx(expected, rel=1e-5)
    problem.check(*gradients)


@pytest.mark.parametrize("flow", [False, True])
def test_logit_gradient_of_the_oracle(flow):
    rng = np.random.default_rng(0)
    o, target, embedding = rng.normal(size=(4, 5)), rng.normal(size=(4, 7)), rng.normal(size=(5, 7))
    weight = rng.uniform(0.5, 2.0, 4)
    _, e = oracle.loss(o, target, weight, embedding, flow)
    numeric = central_difference(
        lambda: oracle.loss(o, target, weight, embedding, flow)[0].sum(), o
    )
    np.testing.assert_allclose(e, numeric, atol=DIFFERENCES * max(1, np.abs(e).max()))


def test_gradients_of_the_oracle_inside_a_block():
    problem = Problem(n=6, n_blocks=2)
    weights, biases = ([np.array(v, np.float64) for v in part] for part in problem.block(1))
    z, target, weight = problem.noisy_label(1)
    f = ACTIVATIONS["tanh"]

    def value():
        o = oracle.forward(problem.x, z, weights, biases, f)[1]
        return oracle.loss(o, target, weight, problem.embedding)[0].sum()

    states, o = oracle.forward(problem.x, z, weights, biases, f)
    e = oracle.loss(o, target, weight, problem.embedding)[1]
    of_weights, of_biases = oracle.gradients(problem.x, z, e, states, weights, slope_of("tanh"))
    for p, g in zip(biases + weights, of_biases + of_weights, strict=True):
        scale = max(1.0, np.abs(g).max())
        np.testing.assert_allclose(g / scale, central_difference(value, p) / scale, atol=1e-7)


# Noise.


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("n", [2, 5, 10])
def test_tables(kind, n):
    alpha_bar = core.noise_schedule(kind, n)
    np.testing.assert_allclose(alpha_bar, oracle.schedule(kind, n), rtol=1e-15, atol=1e-16)
    table = core.posterior_coefficients(alpha_bar)
    for t in range(n):
        expected = oracle.coefficients(alpha_bar[t], alpha_bar[t + 1])
        np.testing.assert_allclose(table[t], expected, rtol=1e-12)
    weights = core.snr_weights(alpha_bar, 0.3)
    np.testing.assert_allclose(weights, n * 0.3 / 2 * np.diff(oracle.snr(alpha_bar)), rtol=1e-12)


def test_published_weights():
    """The differences of the signal-to-noise ratio for 10 blocks, as worked out by hand."""
    weights = core.snr_weights(core.noise_schedule("cosine", 10), 0.2)
    expected = [0.025, 0.080, 0.154, 0.268, 0.472, 0.894, 1.96, 5.62, 30.4, 59.1]
    np.testing.assert_allclose(weights, expected, rtol=0.02)


@pytest.mark.parametrize("n", [16, 25, 100])
def test_long_schedules_rise(n):
    alpha_bar = np.array(core.noise_schedule("cosine", n))
    assert (np.diff(alpha_bar) > 0).all()
    assert alpha_bar[-1] < 1
    assert (np.array(core.snr_weights(list(alpha_bar), 1.0)) > 0).all()


def test_the_chain_has_the_marginals_of_its_noise():
    """z_t after a, b and c, with the true embedding as the estimate, is q(z_t | y)."""
    alpha_bar = core.noise_schedule("cosine", 10)
    table = core.posterior_coefficients(alpha_bar)
    rng = np.random.default_rng(0)
    u, n = np.array([1.5, -0.5]), 200_000
    z = np.sqrt(alpha_bar[0]) * u + np.sqrt(1 - alpha_bar[0]) * rng.normal(size=(n, 2))
    for t, (a, b, c) in enumerate(table, start=1):
        z = a * u + b * z + np.sqrt(c) * rng.normal(size=(n, 2))
        variance = 1 - alpha_bar[t]
        np.testing.assert_allclose(
            z.mean(axis=0), np.sqrt(alpha_bar[t]) * u, atol=5 * np.sqrt(variance / n)
        )
        np.testing.assert_allclose(z.var(axis=0), variance, rtol=5 * np.sqrt(2 / n))


def test_noise_of_the_oracles_labels():
    """Means and spread of z; test_step shows that the core learns from the same z, by z^T delta."""
    problem = Problem(n=4096, n_blocks=2, dim=3)
    for t in range(2):
        z, u, _ = problem.noisy_label(t)
        for label in range(problem.n_classes):
            rows = z[problem.label == label]
            spread = np.sqrt((1 - problem.alpha_bar[t]) / len(rows))
            mean = np.sqrt(problem.alpha_bar[t]) * u[problem.label == label][0]
            np.testing.assert_allclose(rows.mean(axis=0), mean, atol=5 * spread)


# Prediction.


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("dim", [None, 9], ids=["one_hot", "embedding"])
def test_predict_blocks(dim, noise):
    problem = Problem(n=150, dim=dim)
    trainer = problem.trainer()
    out = np.empty((3 * 150, problem.n_classes), np.float32)
    trainer.predict_blocks(problem.x, out, staged=True, noise=noise)
    expected, _ = predicted(problem, trainer, noise=noise)
    np.testing.assert_allclose(out.reshape(expected.shape), expected, atol=1e-5)
    last = np.empty((150, problem.n_classes), np.float32)
    trainer.predict_blocks(problem.x, last, noise=noise)
    np.testing.assert_array_equal(last, out[-150:])
    two = np.empty((150, problem.n_classes), np.float32)
    trainer.predict_blocks(problem.x, two, n_blocks=2, noise=noise)
    np.testing.assert_array_equal(two, out[150:300])


@pytest.mark.parametrize("heun", [False, True])
@pytest.mark.parametrize("dim", [None, 9], ids=["one_hot", "embedding"])
@pytest.mark.parametrize("variant", ["ct", "fm"])
@pytest.mark.parametrize("join", [(), JOIN], ids=str)
def test_predict_in_continuous_time(variant, dim, heun, join):
    problem = Problem(variant, n=40, n_blocks=1, dim=dim, join=join)
    trainer = problem.trainer()
    out = np.empty((6 * 40, problem.n_classes), np.float32)
    trainer.predict_blocks(problem.x, out, staged=True, n_steps=6, heun=heun)
    expected, _ = predicted(problem, trainer, n_steps=6, heun=heun)
    np.testing.assert_allclose(out.reshape(expected.shape), expected, atol=2e-5)


@pytest.mark.parametrize("dim", [None, 9], ids=["one_hot", "embedding"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_predict_in_bfloat16(variant, dim):
    problem = Problem(variant, n=40, dim=dim, dtype="bfloat16", **VARIANTS[variant])
    trainer = problem.trainer()
    stages = 3 if variant == "dt" else 6
    out = np.empty((stages * 40, problem.n_classes), np.float32)
    trainer.predict_blocks(problem.x, out, staged=True, n_steps=6)
    expected, _ = predicted(problem, trainer, n_steps=6)
    # Distances of embeddings that are no unit vectors go into an exponential.
    atol = 0.15 if variant == "fm" and dim else 0.01
    np.testing.assert_allclose(out.reshape(expected.shape), expected, atol=atol)


@pytest.mark.parametrize("heun", [False, True])
def test_predict_in_continuous_time_on_a_line(heun):
    problem = Problem("ct", n=40, n_blocks=1, schedule="linear")
    trainer = problem.trainer()
    out = np.empty((6 * 40, problem.n_classes), np.float32)
    trainer.predict_blocks(problem.x, out, staged=True, n_steps=6, heun=heun)
    expected, _ = predicted(problem, trainer, n_steps=6, heun=heun)
    np.testing.assert_allclose(out.reshape(expected.shape), expected, atol=2e-5)


def test_a_schedule_that_reaches_1_ends_at_the_last_estimate():
    problem = Problem(alpha_bar=[0.0, 0.4, 0.8, 1.0])
    np.testing.assert_array_equal(core.posterior_coefficients([0.0, 0.4, 0.8, 1.0])[-1], [1, 0, 0])
    trainer = problem.trainer()
    out = np.empty((len(problem.x), problem.n_classes), np.float32)
    trainer.predict_blocks(problem.x, out)
    # z before the last block, from the oracle; the core's answer is its softmax alone.
    cut = Problem(n_blocks=2, alpha_bar=[0.0, 0.4, 0.8])
    cut.x, cut.weights, cut.biases = problem.x, problem.weights, problem.biases
    _, z = predicted(cut, trainer)
    o = oracle.forward(problem.x, z, *problem.block(2), ACTIVATIONS["tanh"])[1]
    np.testing.assert_allclose(out, oracle.softmax(o), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_depends_on_no_other(variant, dtype):
    problem = Problem(variant, n=130, dtype=dtype, **VARIANTS[variant])
    trainer = problem.trainer()
    together = np.empty((130, problem.n_classes), np.float32)
    trainer.predict_blocks(problem.x, together, n_steps=4)
    for rows in (slice(0, 1), slice(3, 20), slice(100, 130)):
        alone = np.empty((len(problem.x[rows]), problem.n_classes), np.float32)
        trainer.predict_blocks(np.ascontiguousarray(problem.x[rows]), alone, n_steps=4, n_threads=1)
        np.testing.assert_array_equal(alone, together[rows])


# The same bits.


def train(variant="dt", dtype="float32", n_threads=1, blocks=None, epochs=3, feedback="exact"):
    problem = Problem(
        variant, n=300, dtype=dtype, n_features=200, join=(190, 70), block_feedback=feedback,
        **VARIANTS[variant],
    )  # fmt: skip
    trainer = problem.trainer(solver="adam", weight_decay=0.01, batch_size=121, n_threads=n_threads)
    if blocks is not None:
        trainer.set_blocks(*blocks)
    losses = [
        trainer.run_epoch(problem.x, problem.label, epoch=epoch, learning_rate=1e-3)
        for epoch in range(epochs)
    ]
    out = np.empty((300, problem.n_classes), np.float32)
    trainer.predict_blocks(problem.x, out, n_steps=5, n_threads=n_threads)
    return problem, trainer, [*parameters(problem.network), np.array(losses), out]


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
    problem, trainer, _ = train(dtype=dtype)
    state, n = trainer.optimizer_state(), problem.n_parts
    for first, count in ((0, 2), (2, 1)):
        other, alone, _ = train(dtype=dtype, blocks=(first, count))
        start = Problem(n=300, n_features=200, join=(190, 70))
        for k in range(problem.network.n_layers):
            trained = first * n <= k < (first + count) * n
            wanted = problem.network.weights(k) if trained else start.weights[k]
            np.testing.assert_array_equal(other.network.weights(k), wanted)
        slots = len(state) // problem.network.n_layers
        own = slice(first * n * slots, (first + count) * n * slots)
        assert_equal(alone.optimizer_state()[own], state[own])


SCRIPT = """
import sys
import numpy as np
from bpfree_fast import _core as core
print(core.config()["isa"])
a = dict(np.load(sys.argv[1]))
out = {}
for dtype in ("float32", "bfloat16"):
    net = core.Network.of_blocks(
        n_blocks=3, n_features=40, n_input_units=32, n_label=5, n_label_units=32, join=[33, 20],
        n_classes=5, activation="relu", dtype=dtype,
    )
    net.initialize(1)
    before = [net.weights(k) for k in range(net.n_layers)]
    trainer = core.Trainer(
        net, method="noprop", batch_size=50, alpha_bar=[0.0, 0.3, 0.7, 0.95], seed=3,
    )
    for epoch in range(3):
        trainer.run_epoch(a["x"], a["y"], epoch=epoch, learning_rate=1e-3)
    out[dtype] = np.concatenate([(net.weights(k) - b).ravel() for k, b in enumerate(before)])
    p = np.empty((len(a["x"]), 5), np.float32)
    trainer.predict_blocks(a["x"], p)
    out["p_" + dtype] = p
np.savez(sys.argv[2], **out)
"""


def test_instruction_sets(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(190, 40)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x, y=rng.integers(0, 5, 190).astype(np.int32))
    found = [arrays_under(isa, SCRIPT, tmp_path) for isa in core.available_isas()]
    for other in found[1:]:
        for dtype, bound in (("float32", ISA_F32_NORM), ("bfloat16", ISA_BF16_NORM)):
            wanted = found[0][dtype]
            assert np.linalg.norm(other[dtype] - wanted) <= bound * np.linalg.norm(wanted)
            np.testing.assert_allclose(other["p_" + dtype], found[0]["p_" + dtype], atol=bound)


# What is refused.


def blocks_of(**changes):
    shape = {
        "n_blocks": 3, "n_features": 4, "n_input_units": 32, "n_label": 5, "n_label_units": 32,
        "join": [8], "n_classes": 5, "activation": "relu", "dtype": "float32",
    }  # fmt: skip
    return core.Network.of_blocks(**shape | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_blocks": 0}, "n_blocks is 0, expected at least 1"),
        ({"n_features": 0}, "n_features is 0, expected at least 1"),
        ({"n_input_units": 40}, "n_input_units is 40, expected a multiple of 32"),
        ({"n_label_units": 0}, "n_label_units is 0, expected at least 1"),
        ({"n_label": -1}, "n_label is 0, expected at least 1"),
        ({"join": [8, 0]}, "a layer of join is 0, expected at least 1"),
        ({"activation": "swish"}, "activation is 'swish'"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
    ],
)
def test_bad_shapes(changes, words):
    with pytest.raises(ValueError, match=words):
        blocks_of(**changes)


ALPHA_BAR = [0.0, 0.3, 0.7, 0.95]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha_bar": [0.0, 0.7, 0.3, 0.9]}, r"noise_schedule\[2\] is 0.3\d*, expected more than"),
        ({"alpha_bar": [0.0, 0.3, 0.3, 0.9]}, r"noise_schedule\[2\] is 0.3\d*, expected more than"),
        ({"alpha_bar": [0.0, 0.3, 0.5, 1.1]}, r"noise_schedule\[3\] is 1.1\d*, expected a number"),
        ({"alpha_bar": [0.0, 0.3, np.nan, 1]}, r"noise_schedule\[2\] is nan, expected a number"),
        ({"alpha_bar": [0.0, 0.3]}, "noise_schedule has 2 values, expected 4"),
        ({"eta": -1.0}, "eta is -1"),
        ({"variant": "sde"}, "variant is 'sde', expected one of 'dt', 'ct', 'fm'"),
        ({"variant": "ct"}, "label branch has 5 inputs, expected 69"),
        ({"block_feedback": "none"}, "block_feedback is 'none'"),
        ({"embedding_dim": -1}, "embedding_dim is -1, expected at least 0"),
        ({"embedding_dim": 4}, "label branch has 5 inputs, expected 4"),
        ({"method": "backprop"}, "method is 'backprop', a network of blocks trains by 'noprop'"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        core.Trainer(blocks_of(), **{"method": "noprop", "alpha_bar": ALPHA_BAR} | options)


def test_other_networks_are_refused():
    plain = core.Network([4, 8, 5], "relu", "softmax_cross_entropy", "float32")
    with pytest.raises(ValueError, match="NoProp needs a network of blocks"):
        core.Trainer(plain, method="noprop")
    with pytest.raises(ValueError, match="activation is 'gelu'"):
        core.Trainer(blocks_of(activation="gelu"), method="noprop", alpha_bar=ALPHA_BAR)
    with pytest.raises(ValueError, match="predicts by its trainer"):
        blocks_of().predict(np.zeros((2, 4), np.float32), np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match="expected at least 2, got 1"):
        core.Trainer(blocks_of(n_classes=1, n_label=1), method="noprop", alpha_bar=ALPHA_BAR)
    with pytest.raises(ValueError, match="n_blocks is 2, expected the 1"):
        core.Trainer(blocks_of(n_blocks=2, n_label=69), method="noprop", variant="fm")


def test_bad_use():
    problem = Problem()
    trainer = problem.trainer()
    for first, n in ((0, 4), (3, 1), (2, 2)):
        with pytest.raises(ValueError, match="expected at least 1 of the 3"):
            trainer.set_blocks(first, n)
    with pytest.raises(ValueError, match="n is 0, expected at least 1"):
        trainer.set_blocks(0, 0)
    with pytest.raises(ValueError, match="are one-hot, and stay so"):
        trainer.set_embedding(np.eye(5, dtype=np.float32))
    out = np.empty((len(problem.x), 5), np.float32)
    with pytest.raises(ValueError, match="n_blocks is 4, the network has 3"):
        trainer.predict_blocks(problem.x, out, n_blocks=4)
    with pytest.raises(ValueError, match="the steps 3 to 3 were asked for, expected at least 1"):
        trainer.predict_blocks(problem.x, out, first=3)
    with pytest.raises(ValueError, match="the steps 1 to 4 were asked for"):
        trainer.predict_blocks(problem.x, out, first=1, n_run=3)
    with pytest.raises(ValueError, match="first is 1, but there is no state to go on from"):
        trainer.predict_blocks(problem.x, out, first=1)
    with pytest.raises(ValueError, match="Heun"):
        trainer.predict_blocks(problem.x, out, heun=True)
    with pytest.raises(ValueError, match="out is float32 of shape"):
        trainer.predict_blocks(problem.x, out[:3], staged=False)
    other = core.Trainer(
        core.Network([4, 8, 5], "relu", "softmax_cross_entropy", "float32"), method="backprop"
    )
    with pytest.raises(ValueError, match="does not train by NoProp"):
        other.set_blocks(0, 1)
