# SPDX-License-Identifier: BSD-3-Clause
"""The right answers for the layer-local methods in float64, from tests/oracle."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
from layer_local_problem import ForwardForwardProblem, LayerLocalProblem, LocalLossProblem
from numpy.typing import NDArray
from problem import Layers

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from oracle import forward_forward as ff
from oracle import forward_forward_prediction as prediction
from oracle import forward_forward_step, local_loss, losses, optimizers, softmax_head
from oracle.activations import ACTIVATIONS, DERIVATIVES

Array = NDArray[Any]
Gradient = tuple[Array, Array]  # of W and b


class Answer:
    """A network in float64 and the state of its optimizer."""

    def __init__(self, problem: LayerLocalProblem, layers: Layers) -> None:
        self.problem_ = problem
        self.params = [[np.array(p, np.float64) for p in layer] for layer in layers]
        self._states: dict[tuple[int, int], list[Array]] = {}
        self._step = 0

    def layers(self) -> Layers:
        return [(w, b) for w, b in self.params]

    def _epsilon(self) -> float:
        """Of Adam's step, added to the root of the second moment as it is."""
        return 1e-8

    def _update(self, gradients: list[Gradient]) -> None:
        p = self.problem_
        solver = {"momentum": "sgd"}.get(p.optimizer, p.optimizer)
        for layer in self.params:
            layer[0] = layer[0] * (1 - p.lr_at(self._step) * p.weight_decay)
        self._step += 1
        for k, pair in enumerate(gradients):
            for i, g in enumerate(pair):
                now = self.params[k][i]
                state = self._states.get((k, i), [np.zeros_like(now)] * p.n_slots)
                self.params[k][i], self._states[k, i] = optimizers.update(
                    now, g, state, self._step, p.lr_at(self._step - 1), solver=solver,
                    momentum=p.momentum, nesterov=False, beta_1=0.9, beta_2=0.999,
                    epsilon=self._epsilon(),
                )  # fmt: skip


class ForwardForwardAnswer(Answer):
    def __init__(self, problem: ForwardForwardProblem, layers: Layers) -> None:
        super().__init__(problem, layers)
        self.problem = problem
        self._means = [np.zeros(n) for n in problem.hidden]

    def _parts(self) -> tuple[list[Array], list[Array], list[Array], list[Array]]:
        """W and b of the hidden layers, M and c of the heads."""
        n = len(self.problem.hidden)
        w, b = zip(*self.params[:n], strict=True)
        m, c = zip(*self.params[n:], strict=True)
        return list(w), list(b), list(m), list(c)

    def train_step(self, x: Array, y: Array, wrong: Array) -> float:
        """One batch: losses of all layers and of the head, summed."""
        p = self.problem
        weights, biases, heads, head_biases = self._parts()
        positive, negative = (
            ff.with_label(x, t, p.n_classes, p.label_position) for t in (y, wrong)
        )
        layers = forward_forward_step.gradients(
            positive, negative, weights, biases, self._means,
            thresholds=[p.threshold_of(n) for n in p.hidden], kind=p.goodness, loss=p.loss,
            temperature=p.temperature, alpha=p.alpha, peer=p.peer,
        )  # fmt: skip
        states = prediction.head_states(x, weights, biases, **self._reading())
        loss, dm, dc = softmax_head.loss_and_gradients(states, heads, head_biases, y)
        self._means = [new for *_, new in layers]
        self._update([(dw, db) for _, dw, db, _ in layers] + list(zip(dm, dc, strict=True)))
        return float(loss + sum(value for value, *_ in layers))

    def _reading(self) -> dict[str, Any]:
        p = self.problem
        return {
            "n_classes": p.n_classes, "position": p.label_position, "first_head": p.first_head,
        }  # fmt: skip

    def probabilities(self, x: Array) -> Array:
        z = prediction.softmax_logits(x, *self._parts(), **self._reading())
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    def goodness(self, x: Array) -> Array:
        """[n, n_classes] under every label."""
        p, (weights, biases, _, _) = self.problem, self._parts()
        return prediction.label_goodness(
            x, weights, biases, n_classes=p.n_classes, position=p.label_position, kind=p.goodness,
            first_layer=p.first_head,
        )  # fmt: skip


class LocalLossAnswer(Answer):
    """Without batch normalisation and dropout, whose random numbers differ."""

    def __init__(self, problem: LocalLossProblem, layers: Layers) -> None:
        assert not problem.batch_norm
        assert not problem.dropout
        super().__init__(problem, layers)
        self.problem = problem

    def _layer(self, k: int) -> dict[str, Array]:
        """Parameters of a hidden layer and of what belongs to it, by name."""
        p, n = self.problem, len(self.problem.hidden)
        found = dict(zip(("W", "b"), self.params[k], strict=True))
        if p.objective != "sim" or k == n - 1:
            found["M"], found["c"] = self.params[n + min(k, p.n_heads - 1)]
        if p.has_projections:
            found["V"] = self.params[n + p.n_heads + k][0]
        return found

    def train_step(self, x: Array, y: Array) -> float:
        p, total, h = self.problem, 0.0, x
        beta = {"pred": 0.0, "sim": 1.0, "predsim": p.similarity_weight}[p.objective]
        of_layers: list[Gradient] = []
        of_heads: list[Gradient] = []
        of_maps: list[Gradient] = []
        for k in range(len(p.hidden)):
            loss, h, g = local_loss.layer(
                h, np.eye(p.n_classes)[y], np.ones(len(y)), self._layer(k),
                ACTIVATIONS[p.activation], DERIVATIVES[p.activation],
                loss=losses.SAMPLE_LOSSES["softmax_cross_entropy"],
                error=functools.partial(losses.error, "softmax_cross_entropy"),
                pred=1.0 if p.objective == "sim" else 1.0 - beta, sim=beta,
                teaches=p.objective != "sim",
            )  # fmt: skip
            total += loss
            of_layers.append((g["W"], g["b"]))
            if "M" in g:
                of_heads.append((g["M"], g["c"]))
            if "V" in g:
                of_maps.append((g["V"], np.zeros(0)))
        self._update(of_layers + of_heads + of_maps)
        return float(total)
