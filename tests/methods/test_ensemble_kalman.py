# SPDX-License-Identifier: BSD-3-Clause
"""Ensemble Kalman training of the core against tests/oracle: members, and one iteration."""

import numpy as np
import pytest
from isas import arrays_under
from oracle import ensemble_kalman as oracle
from oracle import losses, network
from oracle.activations import ALL_ACTIVATIONS
from problems import LOSSES, all_parameters, data, make_network, parameters

from bpfree_fast import _core as core

SIZES = [19, 70, 33, 5]
SEED = 2**40 + 7
# Of a step, relative to its norm: float32 sums of some hundred terms; in bfloat16 anomalies, the
# mean's weights and activations are rounded by up to 2^-8 each, independently.
STEP = {"float32": 1e-5, "bfloat16": 2e-2}


class Problem:
    def __init__(
        self,
        *,
        sizes=SIZES,
        n=23,
        activation="tanh",
        loss="softmax_cross_entropy",
        dtype="float32",
        **options,
    ):
        self.weights, self.biases = parameters(sizes, 0)
        self.activation, self.loss = activation, loss
        self.network = make_network(self.weights, self.biases, activation, loss, dtype)
        self.x, self.y, self.sample_weight = data(loss, n, sizes[0], sizes[-1], seed=1)
        options = {"batch_size": n, "n_ens": 30, "spread": 0.4, "obs_noise_var": 0.7} | options
        self.options = {
            "squared_error": False, "gauss_newton": False, "redraw": True, "update": "eki",
        } | options  # fmt: skip
        self.trainer = core.Trainer(self.network, method="ensemble_kalman", seed=SEED, **options)

    @property
    def shapes(self):
        return [p.shape for pair in zip(self.weights, self.biases, strict=True) for p in pair]

    @property
    def mean(self):
        """The network's parameters, flat: W_0, b_0, W_1, b_1, ..."""
        n = len(self.weights)
        parts = [q for k in range(n) for q in (self.network.weights(k), self.network.biases(k))]
        return np.concatenate([q.ravel() for q in parts]).astype(np.float64)

    def logits(self, theta, x):
        parts, at = [], 0
        for shape in self.shapes:
            parts.append(theta[at : at + np.prod(shape)].reshape(shape))
            at += np.prod(shape)
        return network.forward(x, parts[0::2], parts[1::2], ALL_ACTIVATIONS[self.activation])[0][-1]

    def run(self, weighted=False, **options):
        options = {"epoch": 0, "shuffle": False, "learning_rate": 0.8} | options
        w = self.sample_weight if weighted else None
        return self.trainer.run_epoch(self.x, self.y, w, **options)

    def expected(self, members, weighted, dt, iteration=0, rows=slice(None)):
        """What one iteration makes of the members, and what it reports."""
        members = members.astype(np.float64)
        x, y = self.x[rows], self.y[rows]
        weight = self.sample_weight[rows].astype(np.float64) if weighted else np.ones(len(x))
        target = losses.one_hot(y, SIZES[-1]) if y.ndim == 1 else y.astype(np.float64)
        logits = np.stack([self.logits(theta, x) for theta in members])
        o = self.options
        g, residual, metric, misfit = oracle.observed(
            self.loss, logits, target, weight, o["squared_error"], o["gauss_newton"]
        )
        T, rank = oracle.transform(
            g, residual, metric, noise_var=o["obs_noise_var"], dt=dt, update=o["update"],
            seed=SEED, iteration=iteration,
        )  # fmt: skip
        centered = g - g.mean(0)
        if not (o["squared_error"] or o["gauss_newton"]) and self.loss == "softmax_cross_entropy":
            centered = centered - centered.mean(2, keepdims=True)
        report = [
            misfit.mean(),
            misfit.min(),
            misfit.max(),
            np.sqrt((centered**2).mean()),
            dt,
            rank,
            0,
        ]
        return members + T @ (members - members.mean(0)), T, report


# Loss of the network, squared errors in its place, Gauss-Newton: a squared error has one curvature.
KINDS = [(loss, True, False) for loss in LOSSES] + [
    (loss, False, newton)
    for loss in LOSSES
    for newton in (False, True)
    if not (newton and loss == "squared_error")
]


@pytest.mark.parametrize("redraw", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_members(dtype, redraw):
    """Redrawn: the mean and the noise of the iteration. Kept: moved so that their mean is exact."""
    p = Problem(dtype=dtype, redraw=redraw)
    p.run(learning_rate=0.0)
    eps = [oracle.noise(p.shapes, j, seed=SEED, iteration=int(redraw)) for j in range(30)]
    expected = 0.4 * np.stack(eps)
    if not redraw:
        expected -= expected.mean(0)
    members = p.trainer.members()
    np.testing.assert_allclose(members - p.mean, expected, atol=1e-6)
    np.testing.assert_allclose(p.mean, Problem().mean, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("redraw", [True, False])
@pytest.mark.parametrize(("loss", "squared", "newton"), KINDS)
def test_iteration(loss, squared, newton, redraw, dtype, weighted):
    p = Problem(loss=loss, squared_error=squared, gauss_newton=newton, redraw=redraw, dtype=dtype)
    p.run(learning_rate=0.0)  # settles the first members; with a step of 0 nothing moves
    before, members = p.mean, p.trainer.members()
    moved, T, report = p.expected(members, weighted, 0.8, iteration=1)
    mean_loss = p.run(weighted)
    if redraw:
        w = T.mean(0) - T.mean()
        expected = before + w @ (members - before)
    else:
        expected = moved.mean(0)
        actual = p.trainer.members()
        size = np.linalg.norm(moved - members)
        assert np.linalg.norm(actual - moved) <= STEP[dtype] * size
        np.testing.assert_allclose(p.mean, actual.mean(0, np.float64), atol=1e-6)
    assert np.linalg.norm(p.mean - expected) <= STEP[dtype] * np.linalg.norm(expected - before)
    np.testing.assert_allclose(p.trainer.kalman_reports()[0], report, rtol=STEP[dtype])
    np.testing.assert_allclose(mean_loss, report[0], rtol=STEP[dtype])


@pytest.mark.parametrize("update", ["etki", "denkf", "enkf"])
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
def test_updates_of_a_kept_ensemble(update, loss):
    p = Problem(loss=loss, update=update, redraw=False, squared_error=update == "enkf")
    p.run(learning_rate=0.0)
    members = p.trainer.members()
    moved, _, _ = p.expected(members, True, 0.8, iteration=1)
    p.run(weighted=True)
    error = np.linalg.norm(p.trainer.members() - moved)
    assert error <= STEP["float32"] * np.linalg.norm(moved - members)


@pytest.mark.parametrize("n", [1, 14, 129, 300])
@pytest.mark.parametrize("sizes", [[7, 5], [3, 40, 5], [33, 64, 64, 64, 5], [100, 300, 5]], ids=str)
@pytest.mark.parametrize("redraw", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shapes(sizes, n, redraw, dtype):
    p = Problem(sizes=sizes, n=n, activation="tanh", redraw=redraw, n_ens=9, dtype=dtype)
    p.run(learning_rate=0.0)
    before, members = p.mean, p.trainer.members()
    moved, T, _ = p.expected(members, False, 0.8, iteration=1)
    p.run()
    expected = before + (T.mean(0) - T.mean()) @ (members - before) if redraw else moved.mean(0)
    bound = 3e-5 if dtype == "float32" else 5e-2
    assert np.linalg.norm(p.mean - expected) <= bound * np.linalg.norm(expected - before)


@pytest.mark.parametrize("redraw", [True, False])
def test_minibatches(redraw):
    """Two iterations, the second with fewer rows and other noise."""
    p = Problem(batch_size=14, redraw=redraw)
    p.run(learning_rate=0.0)
    before, losses_of_steps = p.mean, []
    members = p.trainer.members()
    mean = before
    for iteration, rows in ((2, slice(0, 14)), (3, slice(14, 23))):
        if redraw:
            eps = [oracle.noise(p.shapes, j, seed=SEED, iteration=iteration) for j in range(30)]
            members = mean + 0.4 * np.stack(eps)
        members_after, T, report = p.expected(members, True, 0.8, iteration, rows)
        mean = mean + (T.mean(0) - T.mean()) @ (members - mean) if redraw else None
        members = members_after
        losses_of_steps.append((report[0], p.sample_weight[rows].sum()))
    expected = mean if redraw else members.mean(0)
    mean_loss = p.run(weighted=True)
    assert np.linalg.norm(p.mean - expected) <= 1e-4 * np.linalg.norm(expected - before)
    values, weights = np.array(losses_of_steps).T
    np.testing.assert_allclose(mean_loss, np.average(values, weights=weights), rtol=1e-5)


@pytest.mark.parametrize("redraw", [True, False])
@pytest.mark.parametrize(("loss", "squared", "newton"), KINDS)
def test_rows_without_weight(loss, squared, newton, redraw):
    """They move nothing; where no row has weight, nothing moves."""
    options = {"loss": loss, "squared_error": squared, "gauss_newton": newton, "redraw": redraw}
    p, q = Problem(**options), Problem(**options)
    for each in (p, q):
        each.run(learning_rate=0.0)
    before, members = p.mean, p.trainer.members()
    p.sample_weight[:] = 0
    p.run(weighted=True)
    np.testing.assert_allclose(p.mean, before, atol=1e-6)
    if not redraw:
        np.testing.assert_allclose(p.trainer.members(), members, atol=1e-6)
    p = Problem(**options)
    p.run(learning_rate=0.0)
    p.sample_weight[9:] = 0
    q.x, q.y, q.sample_weight = p.x[:9], p.y[:9], p.sample_weight[:9]
    losses_of_both = [each.run(weighted=True) for each in (p, q)]
    np.testing.assert_allclose(*losses_of_both, rtol=1e-5)
    assert np.linalg.norm(p.mean - q.mean) <= STEP["float32"] * np.linalg.norm(q.mean - before)


@pytest.mark.parametrize("redraw", [True, False])
def test_uint8_rows_and_their_scale(redraw):
    p, q = Problem(redraw=redraw), Problem(redraw=redraw)
    p.x = np.random.default_rng(3).integers(0, 256, p.x.shape).astype(np.uint8)
    q.x = (p.x / 255.0).astype(np.float32)
    p.run(input_scale=1 / 255)
    q.run()
    np.testing.assert_allclose(p.mean, q.mean, rtol=1e-4, atol=1e-5)


def test_a_linear_network_goes_to_the_posterior():
    """More members than parameters, one unit step: the mean is the regularised least squares."""
    p = Problem(sizes=[6, 5], n=40, loss="squared_error", redraw=False, n_ens=400, spread=1.0)
    p.run(learning_rate=0.0)
    members = p.trainer.members().astype(np.float64)
    prior = np.cov(members.T)
    before = p.mean
    x = np.column_stack([p.x.astype(np.float64), np.ones(40)])
    G = np.kron(x, np.eye(5))  # W_0 row-major, then b_0: as the parameters lie
    residual = p.y.astype(np.float64).ravel() - G @ before
    gain = prior @ G.T @ np.linalg.inv(G @ prior @ G.T + 0.7 * np.eye(200))
    p.run(learning_rate=1.0)
    np.testing.assert_allclose(p.mean, before + gain @ residual, atol=1e-5)


def test_weights_that_are_set_move_the_ensemble():
    p = Problem(redraw=False)
    p.run()
    spread = p.trainer.members() - p.mean
    for k, w in enumerate(p.weights):
        p.network.set_weights(k, np.ascontiguousarray(w + 1))
    p.run(learning_rate=0.0)
    np.testing.assert_allclose(p.network.weights(0), p.weights[0] + 1, atol=1e-6)
    np.testing.assert_allclose(p.trainer.members() - p.mean, spread, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("redraw", [True, False])
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy", "squared_error"])
def test_same_bits_for_any_number_of_threads(loss, redraw, dtype):
    results = []
    for n_threads in (1, 2, 3, 7):
        p = Problem(dtype=dtype, loss=loss, sizes=[99, 131, 85, 5], n=147, batch_size=90,
                    n_ens=70, n_threads=n_threads, activation="relu", redraw=redraw)  # fmt: skip
        losses_ = [p.run(epoch=epoch) for epoch in range(2)]
        results.append([*all_parameters(p.network), np.array(losses_), p.trainer.kalman_reports()])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert all(np.isfinite(a).all() for a in results[0])


@pytest.mark.parametrize("redraw", [True, False])
def test_state_resumes_bit_for_bit(redraw):
    p, q = Problem(redraw=redraw, batch_size=9), Problem(redraw=redraw, batch_size=9)
    for epoch in range(3):
        p.run(epoch=epoch)
    q.run(epoch=0)
    r = Problem(redraw=redraw, batch_size=9)
    for k in range(len(SIZES) - 1):
        r.network.set_weights(k, q.network.weights(k))
        r.network.set_biases(k, q.network.biases(k))
    assert len(q.trainer.optimizer_state()) == (0 if redraw else 1)
    r.trainer.set_optimizer_state(q.trainer.optimizer_state())
    r.trainer.step = q.trainer.step
    for epoch in (1, 2):
        r.run(epoch=epoch)
    for a, b in zip(all_parameters(p.network), all_parameters(r.network), strict=True):
        np.testing.assert_array_equal(a, b)


SCRIPT = """
import sys
import numpy as np
from bpfree_fast import _core as core
given = np.load(sys.argv[1])
found = {}
for dtype in ("float32", "bfloat16"):
    for redraw in (True, False):
        network = core.Network([40, 37, 5], "relu", "softmax_cross_entropy", dtype)
        network.initialize(0, "uniform")
        trainer = core.Trainer(network, method="ensemble_kalman", n_ens=50, redraw=redraw,
                               batch_size=64)
        for epoch in range(3):
            trainer.run_epoch(given["x"], given["y"], epoch=epoch, learning_rate=4.0)
        found[f"{dtype} {redraw}"] = network.weights(0)
np.savez(sys.argv[2], **found)
print(core.isa())
"""


@pytest.mark.parametrize("isa", [isa for isa in core.available_isas() if isa != core.isa()])
def test_instruction_sets_agree(isa, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 40)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x, y=rng.integers(0, 5, 150).astype(np.int32))
    here = arrays_under(core.isa(), SCRIPT, tmp_path)
    for name, value in arrays_under(isa, SCRIPT, tmp_path).items():
        bound = 1e-3 if name.startswith("float32") else 5e-2
        assert np.linalg.norm(value - here[name]) <= bound * np.linalg.norm(here[name])


@pytest.mark.parametrize("redraw", [True, False])
def test_a_member_that_is_not_finite(redraw):
    p = Problem(redraw=redraw)
    p.run()
    before = all_parameters(p.network)
    p.x[3, 4] = np.nan
    with pytest.raises(ValueError, match="member 0 of iteration 1 has the loss nan"):
        p.run()
    for a, b in zip(all_parameters(p.network), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isnan(p.trainer.kalman_reports()[-1, 0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("newton", [True, False])
@pytest.mark.parametrize("loss", ["binary_cross_entropy", "squared_error"])
def test_redrawn_members_that_fail_are_left_out(loss, newton, dtype):
    """A row without weight is so large that the outputs of some overflow."""
    net = core.Network([1, 1], "identity", loss, dtype)
    trainer = core.Trainer(
        net, method="ensemble_kalman", seed=SEED, n_ens=200, spread=1.0, batch_size=2,
        gauss_newton=newton,
    )  # fmt: skip
    members = trainer.members().astype(np.float64)
    x, y = np.array([[1.0], [2.0**127]], np.float32), np.array([[0.25], [0.0]], np.float32)
    weight = np.array([1, 0], np.float32)
    mean_loss = trainer.run_epoch(x, y, weight, epoch=0, shuffle=False, learning_rate=0.8)
    logits = members[:, None, :1] * x + members[:, None, 1:]
    mantissa, exponent = np.frexp(members[:, 0])
    bits = 8 if dtype == "bfloat16" else 24
    run = np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)
    good = np.abs(run) < 2  # less what float32 ends short of 2^128
    assert 0 < np.argmin(good) < 199
    members = members[good]
    g, residual, metric, misfit = oracle.observed(
        loss, logits[good], y.astype(np.float64), weight.astype(np.float64), False, newton
    )
    T, rank = oracle.transform(g, residual, metric, noise_var=1.0, dt=0.8, update="eki")
    expected = (T.mean(0) - T.mean()) @ (members - members.mean(0))
    found = np.concatenate([net.weights(0).ravel(), net.biases(0)])
    assert np.linalg.norm(found - expected) <= STEP[dtype] * np.linalg.norm(expected)
    report = trainer.kalman_reports()[0, [0, 1, 2, 5, 6]]
    expected = [misfit.mean(), misfit.min(), misfit.max(), rank, (~good).sum()]
    np.testing.assert_allclose(report[1:], expected[1:], rtol=STEP[dtype], atol=STEP[dtype])
    np.testing.assert_allclose([mean_loss, report[0]], expected[0], rtol=STEP[dtype])


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("n_ens is 1, expected at least 2", {"n_ens": 1}),
        ("n_ens is -3, expected at least 2", {"n_ens": -3}),
        ("spread is 0", {"spread": 0.0}),
        ("spread is nan", {"spread": np.nan}),
        ("obs_noise_var is -1", {"obs_noise_var": -1.0}),
        ("update is 'kf'", {"update": "kf"}),
        ("expected the update eki", {"update": "etki"}),
        ("expected a squared error", {"update": "enkf", "redraw": False}),
    ],
)
def test_refused(words, options):
    network = core.Network([3, 4, 2], "relu", "softmax_cross_entropy", "float32")
    with pytest.raises(ValueError, match=words):
        core.Trainer(network, method="ensemble_kalman", **options)


def test_refused_calls():
    network = core.Network([3, 4, 2], "relu", "softmax_cross_entropy", "float32")
    backprop = core.Trainer(network, method="backprop")
    for call in (backprop.kalman_reports, backprop.members):
        with pytest.raises(ValueError, match="does not train by ensemble Kalman methods"):
            call()
    heads = core.Network([3, 4, 4, 2], "relu", "softmax_cross_entropy", "float32", first_head=0)
    with pytest.raises(ValueError, match="a network without heads"):
        core.Trainer(heads, method="ensemble_kalman")
