# SPDX-License-Identifier: BSD-3-Clause
"""Evolution strategies of the core against tests/oracle: members, fitness, and one step."""

from itertools import chain

import numpy as np
import pytest
from oracle import evolution as oracle
from oracle import losses, network, optimizers
from oracle.activations import ALL_ACTIVATIONS
from problems import SOLVERS, all_parameters, data, make_network, parameters

from bpfree_fast import _core as core
from bpfree_fast import kernels

SIZES = [19, 70, 33, 5]
SEED = 2**40 + 7
STD = 0.1
KINDS = [("gaussian", 1), ("rademacher", 1), ("low_rank", 1), ("low_rank", 3)]
# Of outputs, relative to the largest: float32 sums of some hundred terms, and the factors' own
# rounding; bfloat16 rounds activations, weights and noise by 2^-9 each.
MEMBERS = {"float32": 2e-6, "bfloat16": 2e-2}


class Problem:
    def __init__(
        self,
        kind="gaussian",
        rank=1,
        *,
        sizes=SIZES,
        n=23,
        activation="tanh",
        loss="softmax_cross_entropy",
        dtype="float32",
        antithetic=True,
        **options,
    ):
        self.weights, self.biases = parameters(sizes, 0)
        self.activation, self.loss = activation, loss
        self.network = make_network(self.weights, self.biases, activation, loss, dtype)
        self.x, self.y, self.sample_weight = data(loss, n, sizes[0], sizes[-1], seed=1)
        self.population = options.setdefault("population_size", 12)
        self.stream = {"kind": kind, "seed": SEED, "rank": rank, "antithetic": antithetic}
        options = {"batch_size": n, "fitness_shaping": "z_score", "std": STD} | options
        self.std = options["std"]
        self.trainer = core.Trainer(
            self.network, method="evolution", perturbation=kind, rank=rank, seed=SEED,
            antithetic=antithetic, **options,
        )  # fmt: skip

    @property
    def theta(self):
        """W_0, b_0, W_1, b_1, ... as the network has them."""
        layers = range(len(self.weights))
        pairs = [(self.network.weights(k), self.network.biases(k)) for k in layers]
        return [p.astype(np.float64) for p in chain(*pairs)]

    def logits(self, theta, x):
        f = ALL_ACTIVATIONS[self.activation]
        return network.forward(x, theta[0::2], theta[1::2], f)[0][-1]

    def member_logits(self, theta, x, generation=0):
        return np.stack([
            self.logits(
                oracle.member(theta, i, std=self.std, generation=generation, **self.stream), x
            )
            for i in range(self.population)
        ])  # fmt: skip

    def fitness(self, member_logits, rows=slice(None), sample_weight=None):
        y = self.y[rows]
        if self.loss == "softmax_cross_entropy":
            y = losses.one_hot(y, member_logits.shape[2])
        return np.array([-losses.mean_loss(self.loss, a, y, sample_weight) for a in member_logits])

    def begin(self, **options):
        options = {"epoch": 0, "shuffle": False, "learning_rate": 0.5} | options
        self.trainer.begin_epoch(self.x, self.y, **options)

    def run(self, sample_weight=None, **options):
        options = {"epoch": 0, "shuffle": False, "learning_rate": 0.5} | options
        return self.trainer.run_epoch(self.x, self.y, sample_weight, **options)

    def evaluate(self, first, n, **options):
        out = np.full((n, len(self.trainer.next_batch()), SIZES[-1]), np.nan, np.float32)
        self.trainer.evaluate(first, out, **options)
        return out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize(("kind", "rank"), KINDS)
def test_members(kind, rank, antithetic, activation, dtype):
    p = Problem(kind, rank, antithetic=antithetic, activation=activation, dtype=dtype)
    p.begin()
    expected = p.member_logits(p.theta, p.x)
    actual = p.evaluate(0, p.population, logits=True)
    assert np.abs(actual - expected).max() <= MEMBERS[dtype] * np.abs(expected).max()
    # Some of them, and what predict would say.
    np.testing.assert_array_equal(p.evaluate(3, 5, logits=True), actual[3:8])
    outputs = losses.OUTPUTS[p.loss](expected[4].astype(np.float64))
    assert np.abs(p.evaluate(4, 1)[0] - outputs).max() <= 20 * MEMBERS[dtype]


@pytest.mark.parametrize("n", [1, 14, 129, 300])
@pytest.mark.parametrize("sizes", [[7, 5], [3, 40, 5], [33, 64, 64, 64, 5], [100, 300, 5]], ids=str)
@pytest.mark.parametrize(("kind", "rank"), [("gaussian", 1), ("low_rank", 1), ("low_rank", 2)])
def test_shapes(kind, rank, sizes, n):
    p = Problem(kind, rank, sizes=sizes, n=n, activation="relu", population_size=70)
    p.begin()
    theta = p.theta
    for i in (0, 1, 64, 69):
        moved = oracle.member(theta, i, std=STD, generation=0, **p.stream)
        expected = p.logits(moved, p.x)
        actual = p.evaluate(i, 1, logits=True)[0]
        assert np.abs(actual - expected).max() <= MEMBERS["float32"] * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize(("kind", "rank"), KINDS)
def test_step_of_a_given_fitness(kind, rank, antithetic, dtype):
    """The gradient of known utilities is the explicit sum, in either type: it is float32 work."""
    p = Problem(kind, rank, antithetic=antithetic, dtype=dtype, solver="sgd", momentum=0.0)
    theta = p.theta
    fitness = np.random.default_rng(5).normal(size=p.population)
    p.begin()
    assert p.trainer.next_batch().tolist() == list(range(len(p.x)))
    p.trainer.update(fitness)
    assert p.trainer.next_batch() is None
    assert p.trainer.step == 1
    expected = oracle.gradient(theta, oracle.z_score(fitness), std=STD, generation=0, **p.stream)
    for before, after, g in zip(theta, p.theta, expected, strict=True):
        assert np.abs((before - after) / 0.5 - g).max() <= 2e-6 * np.abs(g).max() + 1e-6
    report = p.trainer.evolution_reports()[0]
    norm = np.sqrt(sum((g**2).sum() for g in expected))
    np.testing.assert_allclose(
        report[:6],
        [fitness.mean(), fitness.min(), fitness.max(), fitness.std(), norm, 0],
        rtol=1e-6,
    )
    assert np.isnan(report[6])


@pytest.mark.parametrize("shaping", ["centered_rank", "nes", "pair", "top_k"])
def test_shaped_fitness(shaping):
    """The step is that of kernels.fitness_shaping and kernels.perturbation_gradient."""
    options = {"kind": shaping, "top_k": 2 if shaping == "top_k" else None}
    p = Problem(fitness_shaping=shaping, top_k=options["top_k"] or 0, solver="sgd", momentum=0.0)
    before = p.theta
    fitness = np.random.default_rng(5).normal(size=p.population)
    fitness[3] = np.nan
    p.begin()
    p.trainer.next_batch()
    p.trainer.update(fitness)
    utilities = kernels.fitness_shaping(fitness, maximize=True, **options)
    shapes = [q.shape for q in before]
    gradient = kernels.perturbation_gradient(
        utilities, sum(q.size for q in before), seed=SEED, shapes=shapes, antithetic=True
    )
    expected = np.concatenate([q.ravel() for q in before]) + 0.5 / (12 * STD) * gradient
    actual = np.concatenate([q.ravel() for q in p.theta])
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", losses.SAMPLE_LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("kind", "rank"), KINDS)
def test_epoch(kind, rank, weighted, loss):
    """Two steps, the second with fewer rows, other noise and the solver's state of the first."""
    options = SOLVERS["momentum"]
    p = Problem(kind, rank, loss=loss, batch_size=14, **options)
    theta, w = p.theta, p.sample_weight if weighted else None
    state, sums = [[np.zeros(q.shape)] for q in theta], []
    for t, rows in enumerate([slice(0, 14), slice(14, 23)]):
        fitness = p.fitness(
            p.member_logits(theta, p.x[rows], generation=t), rows, None if w is None else w[rows]
        )
        weight = len(p.x[rows]) if w is None else float(w[rows].sum())
        sums.append((fitness, weight))
        gradient = oracle.gradient(
            theta, oracle.z_score(fitness), std=STD, generation=t, **p.stream
        )
        for k, g in enumerate(gradient):
            if k % 2 == 0:
                g = g + options["alpha"] * theta[k] / weight
            theta[k], state[k] = optimizers.update(
                theta[k], g, state[k], t + 1, 0.5, beta_1=0, beta_2=0, epsilon=0,
                **{key: options[key] for key in ("solver", "momentum", "nesterov")},
            )  # fmt: skip
    before = p.theta
    mean_loss = p.run(w)
    expected = -np.average([f.mean() for f, _ in sums], weights=[weight for _, weight in sums])
    np.testing.assert_allclose(mean_loss, expected, rtol=1e-5)
    for actual, q, r in zip(p.theta, theta, before, strict=True):
        assert np.linalg.norm(actual - q) <= 1e-4 * np.linalg.norm(q - r)
    reports = p.trainer.evolution_reports()
    for report, (fitness, _) in zip(reports, sums, strict=True):
        np.testing.assert_allclose(
            report[:4], [fitness.mean(), fitness.min(), fitness.max(), fitness.std()], rtol=1e-4
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("kind", "rank"), KINDS)
def test_given_fitness_equals_the_trainers_own(kind, rank, dtype):
    """The loss worked out here from the outputs, a generation at a time: the same training."""
    a = Problem(kind, rank, dtype=dtype, batch_size=9, fitness_shaping="centered_rank")
    b = Problem(kind, rank, dtype=dtype, batch_size=9, fitness_shaping="centered_rank")
    for epoch in range(2):
        a.run(epoch=epoch, shuffle=True, learning_rate=0.01)
        b.begin(epoch=epoch, shuffle=True, learning_rate=0.01)
        while (batch := b.trainer.next_batch()) is not None:
            logits = b.evaluate(0, 12, logits=True).astype(np.float64)
            b.trainer.update(b.fitness(logits, batch))
    assert a.trainer.step == b.trainer.step == 6
    for p, q in zip(all_parameters(a.network), all_parameters(b.network), strict=True):
        np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_accuracy_as_fitness(loss):
    p = Problem(loss=loss, fitness="accuracy", n=40, population_size=30)
    p.begin()
    logits = p.evaluate(0, 30, logits=True)
    if loss == "softmax_cross_entropy":
        right = logits.argmax(axis=2) == p.y
    else:
        right = ((logits > 0) == (p.y > 0.5)).all(axis=2)
    mean_error = p.run(p.sample_weight)
    accuracy = np.average(right, axis=1, weights=p.sample_weight)
    np.testing.assert_allclose(mean_error, 1 - accuracy.mean(), rtol=1e-5)
    report = p.trainer.evolution_reports()[0]
    np.testing.assert_allclose(report[1:3], [accuracy.min(), accuracy.max()], rtol=1e-5)


@pytest.mark.parametrize(("kind", "rank"), KINDS)
def test_uint8_rows_and_their_scale(kind, rank):
    p, q = Problem(kind, rank), Problem(kind, rank)
    p.x = np.random.default_rng(3).integers(0, 256, p.x.shape).astype(np.uint8)
    q.x = (p.x / 255.0).astype(np.float32)
    p.begin(input_scale=1 / 255)
    q.begin()
    np.testing.assert_allclose(
        p.evaluate(0, 12, logits=True), q.evaluate(0, 12, logits=True), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("kind", "rank"), KINDS)
def test_pairs_cancel_for_an_even_function(kind, rank):
    """At theta = 0 and without a hidden layer the squared outputs of a pair are the same."""
    p = Problem(kind, rank, sizes=[19, 5], loss="squared_error")
    p.network.set_weights(0, np.zeros((19, 5), np.float32))
    p.network.set_biases(0, np.zeros(5, np.float32))
    p.y[:] = 0
    p.run()
    assert all((v == 0).all() for v in all_parameters(p.network))


def test_equal_layers_get_different_noise():
    p = Problem(sizes=[40, 40, 40, 5])
    eps = oracle.noise([(40, 40), (40,), (40, 40), (40,)], 0, kind="gaussian", seed=1, generation=0)
    assert abs(np.corrcoef(eps[0].ravel(), eps[2].ravel())[0, 1]) < 0.1
    p.begin()
    moved = oracle.member(p.theta, 0, std=STD, generation=0, **p.stream)
    expected = p.logits(moved, p.x)
    np.testing.assert_allclose(p.evaluate(0, 1, logits=True)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "rank"), [("gaussian", 1), ("low_rank", 1)])
def test_the_gradient_is_backprops_in_the_limit(kind, rank):
    """Its cosine to backprop's is near sqrt(n / (n + d)) for n pairs and d parameters."""
    p = Problem(kind, rank, sizes=[6, 8, 5], n=60, population_size=4000, std=0.01)
    p.trainer.set_report_cosine(True)
    p.run()
    cosine = p.trainer.evolution_reports()[0, 6]
    d = 6 * 8 + 8 + 8 * 5 + 5
    assert abs(cosine - np.sqrt(2000 / (2000 + d))) < 0.02
    p.trainer.set_report_cosine(False)
    p.run()
    assert np.isnan(p.trainer.evolution_reports()[0, 6])


@pytest.mark.parametrize("activation", ["step", "sign"])
@pytest.mark.parametrize(("kind", "rank"), KINDS)
def test_networks_without_derivatives_learn(kind, rank, activation, digits):
    x, y = digits.X_train.astype(np.float32), digits.y_train.astype(np.int32)
    network = core.Network([64, 64, 10], activation, "softmax_cross_entropy", "float32")
    network.initialize(0, "glorot_uniform")
    trainer = core.Trainer(
        network, method="evolution", perturbation=kind, rank=rank, population_size=200, std=0.05
    )
    for epoch in range(20):
        trainer.run_epoch(x, y, epoch=epoch, learning_rate=0.02)
    out = np.empty((len(digits.X_test), 10), np.float32)
    network.predict(digits.X_test.astype(np.float32), out)
    assert (out.argmax(1) == digits.y_test).mean() > 0.8


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("kind", "rank"), KINDS)
def test_same_bits_for_any_number_of_threads(kind, rank, dtype):
    results = []
    for n_threads in (1, 2, 3, 7):
        p = Problem(kind, rank, dtype=dtype, sizes=[99, 131, 85, 5], n=147, batch_size=90,
                    population_size=90, n_threads=n_threads, activation="relu")  # fmt: skip
        losses = [p.run(epoch=epoch, learning_rate=0.01) for epoch in range(2)]
        reports = p.trainer.evolution_reports()[:, :6]
        results.append([*all_parameters(p.network), np.array(losses), reports])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert all(np.isfinite(a).all() for a in results[0])


def test_members_that_are_not_finite():
    p = Problem(solver="sgd", momentum=0.0, fitness_shaping="centered_rank")
    fitness = np.arange(12.0)
    fitness[[2, 7]] = np.nan, np.inf
    p.begin()
    p.trainer.next_batch()
    p.trainer.update(fitness)
    report = p.trainer.evolution_reports()[0]
    assert report[5] == 2
    assert report[2] == 11
    q = Problem(solver="sgd", momentum=0.0, fitness_shaping="centered_rank")
    q.begin()
    q.trainer.next_batch()
    q.trainer.update(np.where(np.isfinite(fitness), fitness, -1.0))
    for a, b in zip(all_parameters(p.network), all_parameters(q.network), strict=True):
        np.testing.assert_array_equal(a, b)


def test_all_members_bad():
    p = Problem()
    p.begin()
    p.trainer.next_batch()
    before = all_parameters(p.network)
    with pytest.raises(ValueError, match="NaN or infinite"):
        p.trainer.update(np.full(12, np.nan))
    p.trainer.update(np.arange(12.0))  # nothing was lost
    p = Problem()
    p.x[:] = np.nan
    before = all_parameters(p.network)
    with pytest.raises(ValueError, match="all 12 members of generation 0"):
        p.run()
    for a, b in zip(all_parameters(p.network), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("population_size is 7.*even", {"population_size": 7}),
        ("population_size is 1", {"population_size": 1}),
        ("population_size is -4", {"population_size": -4}),
        ("std is 0", {"std": 0.0}),
        ("std is -1", {"std": -1.0}),
        ("std is nan", {"std": np.nan}),
        ("std_decay is 0", {"std_decay": 0.0}),
        ("rank is 0", {"rank": 0}),
        ("rank is 2", {"rank": 2}),
        ("perturbation is 'uniform'", {"perturbation": "uniform"}),
        ("fitness_shaping is 'x'", {"fitness_shaping": "x"}),
        ("fitness_shaping is pair", {"fitness_shaping": "pair", "antithetic": False}),
        ("fitness_shaping is top_k", {"fitness_shaping": "top_k", "antithetic": False}),
        ("top_k is 0", {"fitness_shaping": "top_k"}),
        ("top_k is -2", {"fitness_shaping": "top_k", "top_k": -2}),
        ("fitness is 'f1'", {"fitness": "f1"}),
    ],
)
def test_refused(words, options):
    network = core.Network([3, 4, 2], "relu", "softmax_cross_entropy", "float32")
    with pytest.raises(ValueError, match=words):
        core.Trainer(network, method="evolution", **options)


def test_refused_calls():
    p = Problem()
    with pytest.raises(ValueError, match="squared error"):
        Problem(loss="squared_error", fitness="accuracy")
    with pytest.raises(ValueError, match="next_batch"):
        p.trainer.update(np.zeros(12))
    p.begin()
    p.trainer.next_batch()
    out = np.zeros((5, 23, 5), np.float32)
    for wrong in (out[:, :22], out.astype(np.float64), out[:, :, :4].copy(), out[0]):
        with pytest.raises(ValueError, match=r"shape \(n, 23, 5\)"):
            p.trainer.evaluate(0, wrong)
    with pytest.raises(ValueError, match="members 8 to 13"):
        p.trainer.evaluate(8, out)
    with pytest.raises(ValueError, match="-1"):
        p.trainer.evaluate(-1, out)
    with pytest.raises(ValueError, match="fitness has 11 values"):
        p.trainer.update(np.zeros(11))
    backprop = core.Trainer(p.network, method="backprop")
    with pytest.raises(ValueError, match="evolution strategies"):
        backprop.evolution_reports()
    step = Problem(activation="step")
    with pytest.raises(ValueError, match="step"):
        step.trainer.set_report_cosine(True)
