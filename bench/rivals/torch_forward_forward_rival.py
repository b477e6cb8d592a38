# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch, supervised Forward-Forward (Hinton 2022, arXiv:2212.13345) with its softmax head.

As a careful user writes it: positive and negative rows stacked in one batch, a neutral pass without
a graph for the head, layers cut apart by detach, one backward of the summed losses, one optimizer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from layer_local_problem import ForwardForwardProblem
from numpy.typing import NDArray
from problem import F32, Data, Layers, Problem
from torch import Tensor, nn
from torch.nn import functional as F

from rivals.base import Call, Trainee
from rivals.torch_common import TorchRival, TorchTrainee, compile_, linear, variants

TINY = 1e-8
# Rows of one forward when predicting: as fast as 250, 500 or 2,000 of them, and little memory.
CHUNK = 1000


def normalize(x: Tensor) -> Tensor:
    """Rows of unit mean square."""
    return x * torch.rsqrt(x.float().square().mean(1, keepdim=True) + TINY).to(x.dtype)


class Network(nn.Module):
    def __init__(self, problem: ForwardForwardProblem, layers: Layers) -> None:
        super().__init__()
        self.problem = problem
        n_hidden = len(problem.hidden)
        self.hidden = nn.ModuleList([linear(w, b) for w, b in layers[:n_hidden]])
        self.heads = nn.ModuleList([linear(w, b) for w, b in layers[n_hidden:]])
        for i, n in enumerate(problem.hidden):
            self.register_buffer(f"mean{i}", torch.zeros(n))

    def with_label(self, x: Tensor, label: Tensor) -> Tensor:
        """label: one row of n_classes strengths for each row of x."""
        if self.problem.label_position == "append":
            return torch.cat([x, label.to(x.dtype)], 1)
        return torch.cat([label.to(x.dtype), x[:, self.problem.n_classes :]], 1)

    def neutral_states(self, x: Tensor) -> list[Tensor]:
        """Normalised states of the layers that the head reads."""
        n_classes = self.problem.n_classes
        h = normalize(self.with_label(x, x.new_full((len(x), n_classes), 1 / n_classes)))
        states = []
        for layer in self.hidden:
            h = normalize(F.relu(layer(h)))
            states.append(h)
        return states[self.problem.first_head :]

    def logits(self, states: list[Tensor]) -> Tensor:
        total = self.heads[0](states[0])
        for head, h in zip(self.heads[1:], states[1:], strict=True):
            total = total + head(h)
        return total

    def _layer_loss(self, mean_square: Tensor, n_out: int, n: int) -> Tensor:
        p = self.problem
        g = mean_square * n_out if p.goodness == "sum" else mean_square
        if p.loss == "symba":
            return F.softplus(-p.alpha * (g[:n] - g[n:])).mean()
        z = (g - p.threshold_of(n_out)) / p.temperature
        return (F.softplus(-z[:n]) + F.softplus(z[n:])).mean()

    def _peer_loss(self, i: int, a: Tensor, h: Tensor) -> Tensor:
        """Its derivative by a is the peer term: constant in a row, and not gated by ReLU."""
        p, mean = self.problem, getattr(self, f"mean{i}")
        mean.lerp_(h.detach().mean(0, dtype=torch.float32), 0.1)
        factor = 2 * p.peer * (p.alpha if p.loss == "symba" else 1 / p.temperature)
        factor /= a.shape[1] if p.goodness == "mean" else 1
        return factor * torch.dot(a.mean(0, dtype=torch.float32), mean - mean.mean())

    def loss(self, x: Tensor, y: Tensor, wrong: Tensor | None) -> Tensor:
        p, n = self.problem, len(x)
        with torch.no_grad():
            states = self.neutral_states(x)
        logits = self.logits(states).float()
        loss = F.cross_entropy(logits, y)
        if wrong is None:
            guess = logits.detach().softmax(1) + 1e-12
            wrong = torch.multinomial(guess.scatter(1, y[:, None], 0.0), 1)[:, 0]
        labels = F.one_hot(torch.cat([y, wrong]), p.n_classes)
        h = normalize(self.with_label(x.repeat(2, 1), labels))
        for i, layer in enumerate(self.hidden):
            a = layer(h)
            h = F.relu(a)
            mean_square = h.float().square().mean(1)
            loss = loss + self._layer_loss(mean_square, h.shape[1], n)
            if p.peer:
                loss = loss + self._peer_loss(i, a[:n], h[:n])
            r = torch.rsqrt(mean_square.detach() + TINY)
            h = h.detach() * r[:, None].to(h.dtype)
        return loss

    def goodness(self, x: Tensor) -> Tensor:
        """Goodness [n, n_classes] under every label: one forward a label."""
        p = self.problem
        result = []
        for c in range(p.n_classes):
            label = x.new_zeros(p.n_classes)
            label[c] = 1
            h = normalize(self.with_label(x, label.expand(len(x), -1)))
            total = x.new_zeros(len(x), dtype=torch.float32)
            for i, layer in enumerate(self.hidden):
                h = F.relu(layer(h))
                mean_square = h.float().square().mean(1)
                if i >= p.first_head:
                    scale = h.shape[1] if p.goodness == "sum" else 1
                    total = total + scale * mean_square
                h = h * torch.rsqrt(mean_square + TINY)[:, None].to(h.dtype)
            result.append(total)
        return torch.stack(result, 1)


class ForwardForwardTrainee(TorchTrainee):
    _problem: ForwardForwardProblem
    _net: Network

    def _build(self, layers: Layers) -> Network:
        return Network(self._problem, layers)

    def _forward_loss(self, x: Tensor, y: Tensor, wrong: Tensor | None) -> Tensor:
        with self._cast():
            return self._net.loss(x, y, wrong)

    def _losses(self, x: Tensor, y: Tensor) -> Tensor:
        if self._problem.negatives == "hard":
            return self._loss(x, y, None)
        n_classes = self._problem.n_classes
        shift = torch.randint(1, n_classes, y.shape, generator=self._generator)
        return self._loss(x, y, (y + shift) % n_classes)

    def in_order(self, n_steps: int) -> None:
        """With the check's negatives instead of drawn ones."""
        y = self._y.numpy()[: n_steps * self._problem.batch]
        wrong = self._problem.check_negatives(y).astype(np.int64)
        batches = torch.from_numpy(wrong).split(self._problem.batch)
        for i, given in enumerate(batches):
            rows = slice(i * self._problem.batch, (i + 1) * self._problem.batch)
            self._step_on(self._loss(self._x[rows], self._y[rows], given))

    def accuracy(self, x: NDArray[Any], y: NDArray[np.int32]) -> float:
        with torch.inference_mode(), self._cast():
            guess = self._net.logits(self._net.neutral_states(torch.from_numpy(x))).argmax(dim=1)
        return float((guess.numpy() == y).mean())

    def predict_goodness(self, x: NDArray[Any]) -> F32:
        """Goodness [n, n_classes]; the prediction is its argmax."""
        with torch.inference_mode(), self._cast():
            parts = [self._net.goodness(part) for part in torch.from_numpy(x).split(CHUNK)]
        return torch.cat(parts).numpy()


class _Forward(Call):
    def __init__(self, name: str, function: Any, x: Tensor) -> None:
        self.name = name
        self._function, self._parts = function, x.split(CHUNK)

    def many(self, n: int) -> None:
        with torch.inference_mode():
            for _ in range(n):
                self._out = torch.cat([self._function(part) for part in self._parts])

    def result(self) -> NDArray[Any]:
        return self._out.float().numpy()


class TorchForwardForward(TorchRival):
    method = "forward_forward"

    def train(self, problem: Problem, data: Data, layers: Layers) -> Trainee:
        assert isinstance(problem, ForwardForwardProblem)
        return ForwardForwardTrainee(
            self.name, problem, data, layers, autocast=self.autocast, compiled=self.compiled
        )

    def predictor(self, problem: Problem, layers: Layers, x: F32) -> Call:
        """Probabilities of the softmax head, from one neutral pass."""
        net = self._network(problem, layers)

        def predict(x: Tensor) -> Tensor:
            return net.logits(net.neutral_states(x)).float().softmax(1)

        return self._forward(predict, x)

    def goodness_predictor(self, problem: Problem, layers: Layers, x: F32) -> Call:
        return self._forward(self._network(problem, layers).goodness, x)

    def _network(self, problem: Problem, layers: Layers) -> Network:
        assert isinstance(problem, ForwardForwardProblem)
        return Network(problem, layers).to(self.torch_dtype)

    def _forward(self, function: Any, x: F32) -> Call:
        function = compile_(function) if self.compiled else function
        return _Forward(self.name, function, torch.from_numpy(x).to(self.torch_dtype))


VARIANTS = variants(TorchForwardForward, "forward-forward")
RIVAL = VARIANTS[""]
