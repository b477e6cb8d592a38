# SPDX-License-Identifier: BSD-3-Clause
"""Blocks that share embeddings or a schedule which are learned: their whole loss, in float64."""

import numpy as np
from differences import central_difference
from noprop_problem import (
    NOISY_LABEL,
    RATE,
    SEED,
    TIME_TENSOR,
    Problem,
    time_features,
)
from oracle import noprop as oracle
from oracle import noprop_learned as learned
from oracle import noprop_norm as normed
from oracle import random
from oracle.activations import ACTIVATIONS

HEAD_TENSOR = 0xFFFFFD


class LearnedProblem(Problem):
    """`learn`: 'embedding', 'schedule' or 'both'."""

    def __init__(self, variant="dt", *, learn="embedding", dim=3, **options):
        super().__init__(variant, dim=None if learn == "schedule" else dim, **options)
        rng = np.random.default_rng(11)
        self.learns_embedding = learn in ("embedding", "both")
        self.learns_schedule = learn in ("schedule", "both")
        shape = (self.dim, self.n_classes)
        self.head = (
            (0.5 * rng.normal(size=shape)).astype(np.float32),
            (0.2 * rng.normal(size=self.n_classes)).astype(np.float32),
        )
        around = learned.initial_schedule() + 0.2 * rng.uniform(-1, 1, 3 + 3 * learned.UNITS)
        self.curve = around.astype(np.float32)

    def trainer(self, **options):
        if self.learns_embedding:
            options["learn_embedding"] = True
        if self.learns_schedule:
            options["noise_schedule"] = "learned"
        trainer = super().trainer(**options)
        trainer.set_head(*self.head)
        if self.learns_schedule:
            trainer.set_schedule_parameters(self.curve)
        return trainer

    def values(self):
        """What is learned, in float64: embedding, head's matrix and biases, schedule."""
        return [v.astype(np.float64) for v in (self.embedding, *self.head, self.curve)]

    def values_of(self, trainer):
        curve = trainer.schedule_parameters() if self.learns_schedule else self.curve
        return [trainer.embedding(), *trainer.head(), curve]

    def logits(self, t, z):
        """Of a block, with batch normalization where the problem has it."""
        f = ACTIVATIONS[self.activation]
        if not self.norms:
            return oracle.forward(self.x, z, *self.block(t), f)[1]
        return normed.forward(self.x, z, self.row_weights(), *self.block(t), self.norms_of(t), f)[1]

    def row_weights(self):
        n = len(self.x)
        return np.ones(n) if self.sample_weight is None else self.sample_weight.astype(np.float64)

    def loss(self, embedding, weights, biases, curve, *, step=0, noise_of=None):
        """The whole of it; `noise_of` the embedding that z is made of where it counts as data."""
        w, u = self.row_weights(), embedding[self.label]
        u_in_z = u if noise_of is None else noise_of[self.label]
        n = len(self.x)
        word = random.matrix_words(SEED, (1, n), NOISY_LABEL, TIME_TENSOR, step)
        time = random.uniform(word[0, :n])
        terms = []
        ahead = None
        for t in range(self.n_blocks):
            eps = self.noise(t, step)
            if self.variant == "fm":
                z = time[:, None] * u_in_z + (1 - time)[:, None] * eps
                v = self.logits(t, np.hstack([z, time_features(time)])) @ embedding
                terms.append(self.eta * np.sum((v - (u - eps)) ** 2, axis=1))
                ahead = time[:, None] * u + (1 - time)[:, None] * (eps + v)
                continue
            if self.variant == "dt":
                share, features = np.full(n, self.alpha_bar[t]), np.zeros((n, 0))
                rise = oracle.snr(self.alpha_bar[t + 1]) - oracle.snr(self.alpha_bar[t])
                weight = np.full(n, self.n_blocks * self.eta / 2 * rise)
            else:
                share, slope = self.noise_level(curve, time)
                weight, features = self.eta / 2 * slope, time_features(time)
            z = np.sqrt(share)[:, None] * u_in_z + np.sqrt(1 - share)[:, None] * eps
            p = oracle.softmax(self.logits(t, np.hstack([z, features])))
            terms.append(weight * np.sum((p @ embedding - u) ** 2, axis=1))
        rows = np.mean(terms, axis=0)
        if ahead is None:
            ends = np.array([0.0, 1.0])
            first, last = (
                (self.alpha_bar[0], self.alpha_bar[-1])
                if self.variant == "dt"
                else self.noise_level(curve, ends)[0]
            )
            word = random.matrix_words(SEED, (n, self.dim), NOISY_LABEL, HEAD_TENSOR, step)
            eps = random.normal(word)[:, : self.dim]
            ahead = np.sqrt(last) * u + np.sqrt(1 - last) * eps
            rows = rows + learned.divergence(first, u)
        rows = rows + learned.cross_entropy(ahead, weights, biases, self.label)
        return float(w @ rows / w.sum())

    def noise_level(self, curve, t):
        if self.learns_schedule:
            return learned.schedule(curve, t)
        s = np.sin(np.pi * t / 2) ** 2 if self.schedule == "cosine" else t
        ds = np.pi / 2 * np.sin(np.pi * t) if self.schedule == "cosine" else np.ones_like(t)
        share = oracle.CUT * s
        slope = oracle.CUT * ds / (1 - share) ** 2
        return share, np.minimum(slope, self.max_snr_weight or np.inf)

    def gradients(self, **options):
        """Of the loss by all that is learned, by central differences."""
        values = self.values()
        return [central_difference(lambda: self.loss(*values, **options), v) for v in values]

    def check_learned(self, trainer, wanted, relative=1e-4):
        for k, (before, after, gradient) in enumerate(
            zip(self.values(), self.values_of(trainer), wanted, strict=True)
        ):
            if (k == 0 and not self.learns_embedding) or (k == 3 and not self.learns_schedule):
                np.testing.assert_array_equal(before, after)
                continue
            error = np.linalg.norm((before - after) / RATE - gradient)
            norm = np.linalg.norm(gradient)
            assert error <= relative * max(norm, 0.1), (k, error, norm)
