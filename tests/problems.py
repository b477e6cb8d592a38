# SPDX-License-Identifier: BSD-3-Clause
"""Small training problems, and the core's trainer beside the reference on the same parameters."""

from itertools import pairwise

import numpy as np
from reference import Reference

from bpfree_fast import _core as core

LOSSES = ("softmax_cross_entropy", "binary_cross_entropy", "squared_error")

# The epsilons are far larger than the defaults: with 1e-8 the step of a gradient near zero is its
# sign, and rounding decides it.
SOLVERS = {
    "sgd": {"solver": "sgd", "momentum": 0.0},
    "momentum": {"solver": "sgd", "momentum": 0.9, "nesterov": False, "alpha": 0.05},
    "nesterov": {"solver": "sgd", "momentum": 0.8, "nesterov": True, "weight_decay": 0.03},
    "adam": {"solver": "adam", "beta_1": 0.85, "beta_2": 0.95, "epsilon": 1e-2, "alpha": 0.05},
    "adamw": {"solver": "adamw", "epsilon": 1e-3, "weight_decay": 0.1},
    "rmsprop": {"solver": "rmsprop", "beta_2": 0.9, "epsilon": 1e-2, "weight_decay": 0.02},
}


def parameters(sizes, seed):
    """Weights [n_in, n_out] and biases [n_out] of every layer, in float32."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=s) * 1.2 / np.sqrt(s[0]) for s in pairwise(sizes)]
    biases = [0.3 * rng.normal(size=n) for n in sizes[1:]]
    return [w.astype(np.float32) for w in weights], [b.astype(np.float32) for b in biases]


def data(loss, n, n_features, n_outputs, seed):
    """x [n, n_features] in float32, targets of the loss's kind, and sample weights [n]."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, n_features)).astype(np.float32)
    if loss == "softmax_cross_entropy":
        y = rng.integers(0, n_outputs, n).astype(np.int32)
    elif loss == "binary_cross_entropy":
        y = rng.integers(0, 2, (n, n_outputs)).astype(np.float32)
    else:
        y = rng.normal(size=(n, n_outputs)).astype(np.float32)
    return x, y, rng.uniform(0.2, 2.0, n).astype(np.float32)


def make_network(weights, biases, activation, loss, dtype="float32", first_head=None):
    """A core network with these parameters; heads beyond the output layer are zero."""
    sizes = [weights[0].shape[0], *(w.shape[1] for w in weights)]
    network = core.Network(sizes, activation, loss, dtype, first_head=first_head)
    for layer, (w, b) in enumerate(zip(weights, biases, strict=True)):
        network.set_weights(layer, np.ascontiguousarray(w, np.float32))
        network.set_biases(layer, np.ascontiguousarray(b, np.float32))
    return network


def all_parameters(network):
    """Copies of all weights, then all biases."""
    layers = range(len(network.layer_sizes) - 1 + network.n_heads)
    return [network.weights(k) for k in layers] + [network.biases(k) for k in layers]


def all_feedback(trainer):
    return [trainer.feedback(k) for k in range(trainer.n_feedback)]


# Local losses by name, together with all that may come with them.
LOCAL_LOSSES = {
    "local_pred": {"local_loss": "pred"},
    "local_sim": {"local_loss": "sim"},
    "local_predsim": {"local_loss": "predsim", "batch_normalization": True, "dropout": 0.2},
    "local_projection": {"local_loss": "predsim", "sim_projection": True},
    "local_dropout": {"local_loss": "sim", "sim_projection": True, "dropout": 0.1},
}


# Forward-Forward. The label is written over the first columns: x has as many as the network.
FORWARD_FORWARD = {
    "forward_forward": {"peer_normalization": 0.3},
    "forward_forward_hard": {"peer_normalization": 0.3, "negatives": "hard"},
    "forward_forward_grouped": {"goodness": "grouped_squares"},
}


def all_local(trainer):
    """What local losses learn beside the network: projections, then batch normalizations."""
    projections = [trainer.projection(k) for k in range(trainer.n_projections)]
    return projections + [v for k in range(trainer.n_norms) for v in trainer.norm(k)]


def method_options(rule):
    """Keywords of Trainer for 'backprop', a rule of feedback, a local loss or Forward-Forward."""
    if rule == "backprop":
        return {"method": "backprop"}
    if rule in LOCAL_LOSSES:
        return {"method": "local_loss"} | LOCAL_LOSSES[rule]
    if rule in FORWARD_FORWARD:
        position = "none" if rule == "forward_forward_grouped" else "overwrite"
        return {"method": "forward_forward", "label_position": position} | FORWARD_FORWARD[rule]
    return {"method": "feedback", "feedback": rule}


def first_head(rule):
    """What the method expects of its network."""
    if rule in FORWARD_FORWARD:
        return 1
    return 0 if rule in LOCAL_LOSSES and LOCAL_LOSSES[rule]["local_loss"] != "sim" else None


def pair(sizes, activation, loss, *, seed=0, dtype="float32", **options):
    """A core network, its trainer, and the reference with the same parameters and feedback."""
    weights, biases = parameters(sizes, seed)
    network = make_network(weights, biases, activation, loss, dtype)
    trainer = core.Trainer(network, seed=seed, **options)
    options = {k: v for k, v in options.items() if k not in ("n_threads", "feedback_distribution")}
    matrices = all_feedback(trainer)
    return (
        network,
        trainer,
        Reference(weights, biases, activation, loss, **options, matrices=matrices),
    )


def assert_parameters_close(actual, expected, before, relative, absolute):
    """|actual - expected| <= relative * (largest change of the array) + absolute * |before|."""
    for p, q, r in zip(actual, expected, before, strict=True):
        bound = relative * np.abs(q - r).max(initial=0.0) + absolute * np.abs(r)
        excess = np.abs(p - q) - bound
        assert (excess <= 0).all(), (
            f"shape {p.shape}: {excess.max()} beyond a bound of {bound.max()}"
        )


def assert_changes_close_in_norm(actual, expected, before, relative):
    """The norm of every array's change: for types whose single elements may be far off."""
    for p, q, r in zip(actual, expected, before, strict=True):
        error = np.linalg.norm(p - q) / np.linalg.norm(q - r)
        assert error <= relative, f"shape {p.shape}: the change is off by {error:.3g}"
