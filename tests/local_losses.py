# SPDX-License-Identifier: BSD-3-Clause
"""The core's local-loss trainer beside the reference on the same parameters."""

from itertools import pairwise

import numpy as np
from oracle import local_loss as oracle
from oracle import losses
from oracle.activations import ACTIVATIONS, DERIVATIVES
from problems import data

from bpfree_fast import _core as core

RATE = 0.1  # of one SGD step: the gradient is the change divided by it


class Problem:
    """A network with heads, its trainer, its parameters by layer, and a batch."""

    def __init__(
        self, sizes=(19, 40, 33, 7), n=25, *, objective="pred", activation="relu",
        loss="softmax_cross_entropy", dtype="float32", weighted=False, weight=0.6, seed=0,
        **options,
    ):  # fmt: skip
        rng = np.random.default_rng(seed)
        self.objective, self.activation, self.loss, self.weight = (
            objective, activation, loss, weight,
        )  # fmt: skip
        self.n_hidden = len(sizes) - 2
        first_head = None if objective == "sim" else 0
        self.network = core.Network(list(sizes), activation, loss, dtype, first_head=first_head)
        self.trainer = core.Trainer(
            self.network, method="local_loss", local_loss=objective, similarity_weight=weight,
            batch_size=options.pop("batch_size", n), seed=seed,
            **({"solver": "sgd", "momentum": 0.0} | options),
        )  # fmt: skip
        self.x, self.y, w = data(loss, n, sizes[0], sizes[-1], seed=seed + 1)
        self.sample_weight = w if weighted else None

        def draw(*shape, scale=1.0):
            return (scale * rng.normal(size=shape)).astype(np.float32)

        self.layers = []
        for layer, (n_in, n_out) in enumerate(pairwise(sizes[:-1])):
            p = {"W": draw(n_in, n_out, scale=1.2 / np.sqrt(n_in)), "b": draw(n_out, scale=0.3)}
            if self.has_head(layer):
                p |= {"M": draw(n_out, sizes[-1], scale=0.5), "c": draw(sizes[-1], scale=0.3)}
            if options.get("sim_projection") and objective != "pred":
                p["V"] = draw(n_out, n_out, scale=1 / np.sqrt(n_out))
            if options.get("batch_normalization"):
                p |= {"gain": 1 + draw(n_out, scale=0.2), "shift": draw(n_out, scale=0.3)}
            self.layers.append(p)
            self.write(layer)

    def has_head(self, layer):
        return self.objective != "sim" or layer + 1 == self.n_hidden

    def head(self, layer):
        """The head's index among the network's weights."""
        return self.n_hidden + (0 if layer + 1 == self.n_hidden else layer + 1)

    def write(self, layer):
        p = self.layers[layer]
        self.network.set_weights(layer, p["W"])
        self.network.set_biases(layer, p["b"])
        if "M" in p:
            self.network.set_weights(self.head(layer), p["M"])
            self.network.set_biases(self.head(layer), p["c"])
        if "V" in p:
            self.trainer.set_projection(layer, p["V"])
        if "gain" in p:
            n = len(p["b"])
            zero, one = np.zeros(n, np.float32), np.ones(n, np.float32)
            self.trainer.set_norm(layer, p["gain"], p["shift"], zero, one)

    def read(self, layer):
        """The layer's parameters as the core has them now."""
        p = {"W": self.network.weights(layer), "b": self.network.biases(layer)}
        if self.has_head(layer):
            head = self.head(layer)
            p |= {"M": self.network.weights(head), "c": self.network.biases(head)}
        if "V" in self.layers[layer]:
            p["V"] = self.trainer.projection(layer)
        if "gain" in self.layers[layer]:
            p["gain"], p["shift"], *_ = self.trainer.norm(layer)
        return p

    def all_parameters(self):
        return [v for layer in range(self.n_hidden) for v in self.read(layer).values()]

    def run(self, epoch=0, learning_rate=RATE, **options):
        return self.trainer.run_epoch(
            self.x, self.y, self.sample_weight, epoch=epoch, learning_rate=learning_rate,
            **({"shuffle": False} | options),
        )  # fmt: skip

    def layer_options(self):
        pred, sim = {
            "pred": (1.0, 0.0), "sim": (1.0, 1.0), "predsim": (1 - self.weight, self.weight),
        }[self.objective]  # fmt: skip
        return {
            "loss": losses.SAMPLE_LOSSES[self.loss],
            "error": lambda logits, y: losses.error(self.loss, logits, y),
            "pred": pred, "sim": sim, "teaches": self.objective != "sim",
        }  # fmt: skip

    def expected(self, scale_inputs=None):
        """Loss and gradients of a step on the batch; scale_inputs(layer, h): what dropout does."""
        f, df = ACTIVATIONS[self.activation], DERIVATIVES[self.activation]
        y = losses.one_hot(self.y, self.network.layer_sizes[-1]) if self.y.ndim == 1 else self.y
        w = np.ones(len(self.x)) if self.sample_weight is None else self.sample_weight
        h, total, gradients = np.asarray(self.x, np.float64), 0.0, []
        for layer, p in enumerate(self.layers):
            p = {k: np.asarray(v, np.float64) for k, v in p.items()}
            value, h, g = oracle.layer(
                h, y.astype(np.float64), w.astype(np.float64), p, f, df, **self.layer_options()
            )
            h = h if scale_inputs is None else scale_inputs(layer, h)
            total += value
            gradients.append(g)
        return total, gradients

    def changes(self):
        """What a step did, as gradients by layer and name."""
        return [
            {k: (p[k] - v) / RATE for k, v in self.read(layer).items()}
            for layer, p in enumerate(self.layers)
        ]

    def check(self, gradients, relative=2e-5, without=()):
        for layer, (actual, expected) in enumerate(zip(self.changes(), gradients, strict=True)):
            assert actual.keys() == expected.keys()
            for name in actual.keys() - set(without):
                error = np.linalg.norm(actual[name] - expected[name])
                size = np.linalg.norm(expected[name])
                # A parameter's own rounding, divided by the rate.
                own = np.linalg.norm(self.layers[layer][name]) * 2.0**-23 / RATE
                assert error <= relative * size + own, (layer, name, error, size)
