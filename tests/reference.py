# SPDX-License-Identifier: BSD-3-Clause
"""Whole training steps of the reference, put together from tests/oracle.

The keywords are those of _core.Network, _core.Trainer and run_epoch: a test writes them once.
"""

from dataclasses import dataclass, field

import numpy as np
from oracle import backprop, feedback, losses, network, optimizers, schedules
from oracle.activations import ALL_ACTIVATIONS, DERIVATIVES

SCHEDULE = {"total_steps": 0, "step_size": 10, "gamma": 0.1, "power_t": 0.5}


@dataclass
class Reference:
    """A network and the state of its training, in float64."""

    weights: list
    biases: list
    activation: str
    loss: str
    method: str = "backprop"
    feedback: str = "direct"
    error_signal: str = "exact"
    feedback_scale: float = 1.0
    solver: str = "adam"
    momentum: float = 0.9
    nesterov: bool = True
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    alpha: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 128
    matrices: list = field(default_factory=list)  # the feedback, as the rule stores it
    step: int = 0

    def __post_init__(self):
        self.weights = [np.array(w, np.float64) for w in self.weights]
        self.biases = [np.array(b, np.float64) for b in self.biases]
        self.matrices = [np.array(b, np.float64) for b in self.matrices]
        self.states = {}

    def logits(self, x):
        return network.forward(x, self.weights, self.biases, ALL_ACTIVATIONS[self.activation])[0][
            -1
        ]

    def predict(self, x):
        return losses.OUTPUTS[self.loss](self.logits(x))

    def targets(self, y):
        return losses.one_hot(y, len(self.biases[-1])) if np.ndim(y) == 1 else np.asarray(y)

    def effective_feedback(self):
        """The matrices that the next step multiplies with."""
        if self.feedback in feedback.SIGN_SYMMETRIC:
            magnitudes = self.matrices or self.weights[1:]
            return [
                feedback.sign_symmetric(self.feedback, w, b, self.feedback_scale)
                for w, b in zip(self.weights[1:], magnitudes, strict=True)
            ]
        return self.matrices

    def deltas(self, x, y, sample_weight=None, method=None):
        """Deltas of all layers on a batch, the output's last, and what made them."""
        f, df = ALL_ACTIVATIONS[self.activation], DERIVATIVES[self.activation]
        a, inputs = network.forward(x, self.weights, self.biases, f)
        y = self.targets(y)
        e = losses.error(self.loss, a[-1], y)
        w = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        w = w[:, None]
        if (method or self.method) == "backprop":
            return backprop.deltas(w * e, a, self.weights, df), a, inputs
        b = self.effective_feedback()
        return feedback.deltas(self.feedback, e, y, w, a, b, df, self.error_signal), a, inputs

    def train_step(self, x, y, sample_weight=None, *, learning_rate):
        """One minibatch. Returns its loss before the step."""
        deltas, a, inputs = self.deltas(x, y, sample_weight)
        loss = losses.mean_loss(self.loss, a[-1], self.targets(y), sample_weight)
        total = len(x) if sample_weight is None else np.sum(sample_weight, dtype=np.float64)
        of_weights, of_biases = network.gradients(inputs, deltas, self.weights, total, self.alpha)
        self.step += 1
        decay = self.weight_decay
        new_matrices = []
        if self.method == "feedback":
            plain, _ = network.gradients(inputs, deltas, self.weights, total, 0.0)
            g = feedback.feedback_gradients(self.feedback, deltas[-1], inputs[1:], plain, total)
            new_matrices = [
                self._updated(("B", k), b, gb + self.alpha / total * b, learning_rate, decay)
                for k, (b, gb) in enumerate(zip(self.matrices, g, strict=False))
            ]
        self.matrices = new_matrices or self.matrices
        for k, (gw, gb) in enumerate(zip(of_weights, of_biases, strict=True)):
            self.weights[k] = self._updated(("W", k), self.weights[k], gw, learning_rate, decay)
            self.biases[k] = self._updated(("b", k), self.biases[k], gb, learning_rate, 0.0)
        return loss

    def run_epoch(
        self, x, y, sample_weight=None, *, order=None, epoch=0, learning_rate, **schedule
    ):
        """All minibatches in the given order. Returns the mean loss of the samples."""
        kind = schedule.pop("schedule", "constant")
        order = np.arange(len(x)) if order is None else order
        total = weight = 0.0
        for begin in range(0, len(x), self.batch_size):
            rows = order[begin : begin + self.batch_size]
            lr = schedules.learning_rate(
                kind, learning_rate, step=self.step, epoch=epoch, **(SCHEDULE | schedule)
            )
            w = None if sample_weight is None else sample_weight[rows]
            batch_weight = len(rows) if w is None else np.sum(w, dtype=np.float64)
            total += batch_weight * self.train_step(x[rows], y[rows], w, learning_rate=lr)
            weight += batch_weight
        return total / weight

    def _updated(self, key, p, g, lr, decay):
        slots = optimizers.n_slots(self.solver, self.momentum)
        state = self.states.setdefault(key, [np.zeros_like(p)] * slots)
        options = {
            name: getattr(self, name)
            for name in ("solver", "momentum", "nesterov", "beta_1", "beta_2", "epsilon")
        }
        p, self.states[key] = optimizers.update(p, g, state, self.step, lr, **options, decay=decay)
        return p
