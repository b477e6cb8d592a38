# SPDX-License-Identifier: BSD-3-Clause
"""A small network of blocks, its batch, and what tests/oracle says of one step of it."""

from itertools import pairwise

import numpy as np
from oracle import noprop as oracle
from oracle import noprop_norm as normed
from oracle import random
from oracle.activations import ACTIVATIONS

from bpfree_fast import _core as core

NOISY_LABEL, FEEDBACK = 7, 4  # random::Purpose
TIME_TENSOR, TIME_FEATURES = 0xFFFFFE, 64
INPUT_UNITS, LABEL_UNITS, JOIN = 32, 64, (40, 24)
INFERENCE_TENSOR = 0xFFFFFF
RATE, SEED = 0.5, 7  # of one SGD step: the gradient is the change divided by it
VARIANTS = {"dt": {}, "ct": {"n_blocks": 1}, "fm": {"n_blocks": 1}}


def time_features(t):
    """[n, 64]: sines, then cosines, of 32 frequencies from 1 to 100."""
    angle = t[:, None] * 100.0 ** (np.arange(TIME_FEATURES // 2) / (TIME_FEATURES // 2 - 1))
    return np.hstack([np.sin(angle), np.cos(angle)])


def slope_of(activation):
    """f' as a function of f's value: no kink is hit."""
    return {
        "relu": lambda h: (h > 0).astype(float),
        "tanh": lambda h: 1 - h**2,
        "logistic": lambda h: h * (1 - h),
        "identity": np.ones_like,
        "leaky_relu": lambda h: np.where(h > 0, 1.0, 0.01),
    }[activation]


class Problem:
    def __init__(
        self, variant="dt", n=23, n_blocks=3, n_classes=5, dim=None, activation="tanh",
        dtype="float32", schedule="cosine", weighted=False, join=JOIN, n_features=19,
        block_feedback="exact", alpha_bar=None, eta=0.7, max_snr_weight=0.0,
        batch_normalization=False,
    ):  # fmt: skip
        rng = np.random.default_rng(3)
        self.variant, self.n_blocks, self.n_classes = variant, n_blocks, n_classes
        self.activation, self.schedule, self.eta = activation, schedule, eta
        self.block_feedback, self.join = block_feedback, join
        self.max_snr_weight = max_snr_weight
        self.dim = dim or n_classes
        self.n_label = self.dim + (0 if variant == "dt" else TIME_FEATURES)
        self.network = core.Network.of_blocks(
            n_blocks=n_blocks, n_features=n_features, n_input_units=INPUT_UNITS,
            n_label=self.n_label, n_label_units=LABEL_UNITS, join=list(join),
            n_classes=n_classes, activation=activation, dtype=dtype,
        )  # fmt: skip
        chain = [INPUT_UNITS + LABEL_UNITS, *join, n_classes]
        shapes = [(n_features, INPUT_UNITS), (self.n_label, LABEL_UNITS)]
        self.shapes = [*shapes, *pairwise(chain)]
        self.n_parts = len(self.shapes)
        self.weights = [
            (rng.normal(size=s) * 1.5 / np.sqrt(s[0])).astype(np.float32)
            for _ in range(n_blocks)
            for s in self.shapes
        ]
        self.biases = [
            (0.3 * rng.normal(size=s[1])).astype(np.float32)
            for _ in range(n_blocks)
            for s in self.shapes
        ]
        for k, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            self.network.set_weights(k, w)
            self.network.set_biases(k, b)
        self.embedding = rng.normal(size=(n_classes, self.dim)).astype(np.float32)
        if dim is None:
            self.embedding = np.eye(n_classes, dtype=np.float32)
        self.one_hot = dim is None
        self.x = rng.normal(size=(n, n_features)).astype(np.float32)
        self.label = rng.integers(0, n_classes, n).astype(np.int32)
        self.sample_weight = rng.uniform(0.2, 2.0, n).astype(np.float32) if weighted else None
        # Gain, shift, and the running mean and variance of all layers but the classes.
        hidden = [s[1] for s in self.shapes[:-1]] * n_blocks if batch_normalization else []
        self.norms = [
            tuple(
                (centre + 0.3 * rng.uniform(-1, 1, size=n)).astype(np.float32)
                for centre in (1.0, 0.0, 0.0, 1.0)
            )
            for n in hidden
        ]
        self.alpha_bar = oracle.schedule(schedule, n_blocks) if alpha_bar is None else alpha_bar

    def trainer(self, **options):
        defaults = {
            "solver": "sgd", "momentum": 0.0, "seed": SEED, "batch_size": len(self.x),
            "variant": self.variant, "noise_schedule": self.schedule, "eta": self.eta,
            "block_feedback": self.block_feedback, "max_snr_weight": self.max_snr_weight,
            "alpha_bar": list(self.alpha_bar) if self.variant == "dt" else [],
            "embedding_dim": 0 if self.one_hot else self.dim,
            "batch_normalization": bool(self.norms),
        }  # fmt: skip
        trainer = core.Trainer(self.network, method="noprop", **defaults | options)
        if not self.one_hot:
            trainer.set_embedding(self.embedding)
        for index, arrays in enumerate(self.norms):
            trainer.set_norm(index, *arrays)
        return trainer

    def run(self, trainer=None, **options):
        trainer = trainer or self.trainer()
        return trainer.run_epoch(
            self.x, self.label, self.sample_weight, epoch=0, shuffle=False, learning_rate=RATE,
            **options,
        )  # fmt: skip

    def block(self, t):
        """Matrices and biases of a block."""
        own = slice(t * self.n_parts, (t + 1) * self.n_parts)
        return self.weights[own], self.biases[own]

    def norms_of(self, t):
        n = self.n_parts - 1
        return self.norms[t * n : (t + 1) * n]

    def predicting_block(self, t):
        """The same with batch normalization by the running statistics in them."""
        return normed.folded(*self.block(t), self.norms_of(t))

    def noise(self, t, step=0):
        shape = (len(self.x), self.dim)
        word = random.matrix_words(SEED, shape, NOISY_LABEL, t, step)
        return random.normal(word)[:, : self.dim]

    def noisy_label(self, t, step=0):
        """A row each: z with its time features, the estimate's target, and the loss's weight."""
        u, eps = self.embedding[self.label].astype(np.float64), self.noise(t, step)
        n = len(u)
        if self.variant == "dt":
            share = np.full(n, self.alpha_bar[t])
            rise = oracle.snr(self.alpha_bar[t + 1]) - oracle.snr(self.alpha_bar[t])
            weight = np.full(n, self.n_blocks * self.eta / 2 * rise)
            return np.sqrt(share)[:, None] * u + np.sqrt(1 - share)[:, None] * eps, u, weight
        word = random.matrix_words(SEED, (1, n), NOISY_LABEL, TIME_TENSOR, step)
        time = random.uniform(word[0, :n])
        features = time_features(time)
        if self.variant == "fm":
            z = time[:, None] * u + (1 - time)[:, None] * eps
            return np.hstack([z, features]), u - eps, np.full(n, self.eta)
        s = np.sin(np.pi * time / 2) ** 2 if self.schedule == "cosine" else time
        ds = np.pi / 2 * np.sin(np.pi * time) if self.schedule == "cosine" else 1.0
        share = oracle.CUT * s
        slope = oracle.CUT * ds / (1 - share) ** 2
        weight = self.eta / 2 * np.minimum(slope, self.max_snr_weight or np.inf)
        z = np.sqrt(share)[:, None] * u + np.sqrt(1 - share)[:, None] * eps
        return np.hstack([z, features]), u, weight

    def feedback(self, t):
        """The fixed matrices [n_classes, n] of a block's hidden layers."""
        widths = [INPUT_UNITS + LABEL_UNITS, *self.join]
        matrices = []
        for k, n in enumerate(widths):
            word = random.matrix_words(SEED, (self.n_classes, n), FEEDBACK, t * len(widths) + k)
            matrices.append((2 * random.uniform(word)[:, :n] - 1) / np.sqrt(self.n_classes))
        return matrices

    def expected(self, blocks=None):
        """Mean loss of the blocks, and the gradients of all their arrays."""
        f, slope = ACTIVATIONS[self.activation], slope_of(self.activation)
        n = len(self.x)
        w = np.ones(n) if self.sample_weight is None else self.sample_weight.astype(np.float64)
        chosen = range(self.n_blocks) if blocks is None else blocks
        losses, of_weights, of_biases = [], [], []
        for t in range(self.n_blocks):
            weights, biases = self.block(t)
            if t not in chosen:
                of_weights += [np.zeros_like(v) for v in weights]
                of_biases += [np.zeros_like(v) for v in biases]
                continue
            z, target, weight = self.noisy_label(t)
            states, o = oracle.forward(self.x, z, weights, biases, f)
            loss, e = oracle.loss(o, target, w * weight, self.embedding, self.variant == "fm")
            fixed = self.feedback(t) if self.block_feedback == "direct" else None
            gw, gb = oracle.gradients(self.x, z, e, states, weights, slope, fixed)
            losses.append(loss.sum() / w.sum())
            of_weights += [g / w.sum() for g in gw]
            of_biases += [g / w.sum() for g in gb]
        return np.mean(losses), of_weights, of_biases

    def check(self, of_weights, of_biases, relative=2e-5):
        for k, (p, q) in enumerate(zip(of_weights, of_biases, strict=True)):
            ours = (self.weights[k] - self.network.weights(k)) / RATE
            of_bias = (self.biases[k] - self.network.biases(k)) / RATE
            for actual, wanted in ((ours, p), (of_bias, q)):
                error, norm = np.linalg.norm(actual - wanted), np.linalg.norm(wanted)
                assert error <= relative * max(norm, 0.1), (k, error, norm)


def parameters(network):
    layers = range(network.n_layers)
    return [network.weights(k) for k in layers] + [network.biases(k) for k in layers]


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def predicted(problem, trainer, n_steps=None, heun=False, noise=False, end=None):
    """Class weights after each stage, from the oracle."""
    f = ACTIVATIONS[problem.activation]
    n, embedding = len(problem.x), problem.embedding.astype(np.float64)

    def draw(index):
        word = random.matrix_words(7, (1, problem.dim), 7, INFERENCE_TENSOR, index)
        return random.normal(word)[:, : problem.dim]

    def estimate(t, z, time=None):
        if time is not None:
            z = np.hstack([z, time_features(np.full(n, time))])
        o = oracle.forward(problem.x, z, *problem.predicting_block(t), f)[1]
        return o if problem.variant == "fm" else oracle.softmax(o)

    z = np.repeat(draw(0), n, axis=0)
    weights, mass, stages = np.zeros((n, problem.n_classes)), 0.0, []
    count = problem.n_blocks if problem.variant == "dt" else n_steps
    for s in range(count):
        shift = 0.0
        if problem.variant == "dt":
            a, b, c = oracle.coefficients(problem.alpha_bar[s], problem.alpha_bar[s + 1])
            p = estimate(s, z)
            shift = np.sqrt(c) * draw(s + 1) if noise else 0.0
        else:
            now, then = s / n_steps, (s + 1) / n_steps
            a, b = 1 / n_steps, 1.0
            if problem.variant == "ct":
                line = problem.schedule == "linear"
                rise = [t if line else np.sin(np.pi * t / 2) ** 2 for t in (now, then)]
                share = [oracle.CUT * value for value in rise]
                b = np.sqrt((1 - share[1]) / (1 - share[0]))
                a = np.sqrt(share[1]) - b * np.sqrt(share[0])
            p = estimate(0, z, now)
            if heun:
                p = (p + estimate(0, a * p @ embedding + b * z, then)) / 2
        z = a * p @ embedding + b * z + shift
        weights, mass = a * p + b * weights, a + b * mass
        if problem.variant == "fm":
            squares = ((z[:, None] - embedding) ** 2).sum(axis=2)
            stages.append(oracle.softmax(-squares))
        else:
            stages.append(weights / mass)
    return np.stack(stages), z
