# SPDX-License-Identifier: BSD-3-Clause
"""A step of blocks that share what they learn: gradients of every array, by hand."""

import numpy as np
from noprop_learned_problem import HEAD_TENSOR, LearnedProblem
from noprop_problem import NOISY_LABEL, SEED, TIME_TENSOR, parameters, slope_of, time_features
from oracle import noprop as oracle
from oracle import noprop_learned as learned
from oracle import noprop_learned_gradients as by_hand
from oracle import noprop_norm as normed
from oracle import random
from oracle.activations import ACTIVATIONS


def double(arrays):
    return [np.array(a, np.float64) for a in arrays]


class WholeStep(LearnedProblem):
    """Arrays are weights, biases, gains and shifts, then embedding, head's two and schedule."""

    def own(self):
        norms = [a for n in self.norms for a in n[:2]]
        return double((*self.weights, *self.biases, *norms, self.embedding, *self.head, self.curve))

    def set_own(self, arrays):
        """Go on from these: what the oracle begins with next, not what the core has."""
        n, m = len(self.weights), 2 * len(self.norms)
        self.weights, self.biases = arrays[:n], arrays[n : 2 * n]
        pairs = arrays[2 * n : 2 * n + m]
        norms = enumerate(self.norms)
        self.norms = [(pairs[2 * i], pairs[2 * i + 1], *old[2:]) for i, old in norms]
        self.embedding, *self.head, self.curve = arrays[2 * n + m :]

    def found(self, trainer):
        """The same from the core."""
        norms = [a for i in range(trainer.n_norms) for a in trainer.norm(i)[:2]]
        return [*parameters(self.network), *norms, *self.values_of(trainer)]

    def time(self, step):
        word = random.matrix_words(SEED, (1, len(self.x)), NOISY_LABEL, TIME_TENSOR, step)
        return random.uniform(word[0, : len(self.x)])

    def levels(self, t, step):
        """Of each row: how much of the label and of the noise is in z, and the loss's weight."""
        n = len(self.x)
        if self.variant == "fm":
            time = self.time(step)
            return time, 1 - time, np.full(n, self.eta)
        if self.variant == "dt":
            share, rise = self.alpha_bar[t], np.diff(oracle.snr(self.alpha_bar))[t]
            share, weight = np.full(n, share), np.full(n, self.n_blocks * self.eta / 2 * rise)
        else:
            share, slope = self.noise_level(self.curve.astype(np.float64), self.time(step))
            weight = self.eta / 2 * slope
        return np.sqrt(share), np.sqrt(1 - share), weight

    def forward(self, t, z):
        """Logits, and of any error of theirs what the block's arrays get and what reaches z."""
        f, slope, w = ACTIVATIONS[self.activation], slope_of(self.activation), self.row_weights()
        weights, biases = (double(part) for part in self.block(t))
        norms = [double(n) for n in self.norms_of(t)]
        fixed = self.feedback(t) if self.block_feedback == "direct" else None
        if norms:
            states, o, kept = normed.forward(self.x, z, w, weights, biases, norms, f)
        else:
            states, o = oracle.forward(self.x, z, weights, biases, f)

        def gradients(z, e):
            if not norms:
                of_w, of_b = oracle.gradients(self.x, z, e, states, weights, slope, fixed)
                return of_w, of_b, []
            args = (self.x, z, w, e, states, kept, weights, norms, slope, fixed)
            of_w, of_last, pairs = normed.gradients(*args)
            of_b = [np.zeros_like(b) for b in biases[:-1]] + [of_last]
            return of_w, of_b, [a for pair in pairs for a in pair]

        def back(e):
            # In place of z the identity: its matrix then gets delta itself.
            delta = gradients(np.eye(len(z)), e)[0][1] * (fixed is None)
            return *gradients(z, e), (delta @ weights[1].T)[:, : self.dim]

        return o, back

    def expected_step(self, step=0):
        """Loss, and every gradient: of a block's arrays that of its own loss."""
        w, y, flow = self.row_weights(), self.label, self.variant == "fm"
        E, W, b, curve = self.values()
        u, n = E[y], len(y)
        of_E, of_curve = np.zeros_like(E), np.zeros_like(curve)
        of_weights, of_biases, of_norms = [], [], []
        for t in range(self.n_blocks):
            signal, noise, weight = self.levels(t, step)
            eps, omega = self.noise(t, step), w * weight
            target = u - eps if flow else u
            z = signal[:, None] * u + noise[:, None] * eps
            features = np.zeros((n, 0)) if self.variant == "dt" else time_features(self.time(step))
            o, back = self.forward(t, np.hstack([z, features]))
            loss, e = oracle.loss(o, target, omega, E, flow)
            p = o if flow else oracle.softmax(o)
            d = 2 * omega[:, None] * (p @ E - target)
            if flow:  # the head reads where the velocity leads
                rest = noise[:, None]
                z_end = z + rest * (p @ E)
                of_head = by_hand.of_logits(z_end, y, w, W, b)
                by_end = of_head @ W.T
                e = e + rest * by_end @ E.T
                of_E += p.T @ (rest * by_end)
                np.add.at(of_E, y, signal[:, None] * by_end)
            of_w, of_b, of_n, by_z = back(e)
            of_E += by_hand.of_embedding(p, d, signal, by_z, y) / self.n_blocks
            of_weights, of_biases, of_norms = of_weights + of_w, of_biases + of_b, of_norms + of_n
            if self.learns_schedule:
                by_share = by_hand.by_alpha_bar(by_z, u, eps, signal**2)
                by_slope = loss / (2 * weight / self.eta)
                args = (learned.schedule, curve, self.time(step), by_share, by_slope)
                of_curve += by_hand.of_schedule(*args)
        if not flow:
            first, last = self.alpha_bar[0], self.alpha_bar[-1]
            if self.variant == "ct":
                first, last = self.noise_level(curve, np.array([0.0, 1.0]))[0]
            word = random.matrix_words(SEED, (n, self.dim), NOISY_LABEL, HEAD_TENSOR, step)
            eps = random.normal(word)[:, : self.dim]
            z_end = np.sqrt(last) * u + np.sqrt(1 - last) * eps
            of_head = by_hand.of_logits(z_end, y, w, W, b)
            by_u, by_first = by_hand.of_divergence(u, w, first)
            np.add.at(of_E, y, np.sqrt(last) * of_head @ W.T + by_u)
            if self.learns_schedule:
                by_last = by_hand.by_alpha_bar(of_head @ W.T, u, eps, last)
                for end, by_share in ((0.0, by_first), (1.0, by_last)):
                    args = (learned.schedule, curve, np.full(n, end), by_share)
                    of_curve += by_hand.of_schedule(*args)
        shared = [of_E * self.learns_embedding, z_end.T @ of_head, of_head.sum(axis=0), of_curve]
        gradients = [*of_weights, *of_biases, *of_norms, *shared]
        return self.loss(E, W, b, curve, step=step), [g / w.sum() for g in gradients]
