# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch, NoProp (Li, Teh & Pascanu 2025, arXiv:2503.24322) with dense blocks and one-hot classes.

As a careful user writes it: one fused AdamW a block, which steps as soon as its block has its
gradient; predictions in chunks that stay in the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from denoising_answers import label_noise, start_noise
from denoising_problem import NoPropProblem
from numpy.typing import NDArray
from problem import F32, Data, Layers, Problem
from torch import Tensor, nn
from torch.nn import functional as F

from rivals.base import Call, Trainee
from rivals.torch_common import TorchRival, TorchTrainee, compile_, linear, variants

# Rows of one forward when predicting.
CHUNK = 1000


class Block(nn.Module):
    """Logits from the sample and a noisy label; its noise level and the weight of its loss."""

    signal: Tensor
    noise: Tensor
    weight: Tensor

    def __init__(self, layers: Layers, alpha_bar: float, weight: float) -> None:
        super().__init__()
        self.input, self.label = linear(*layers[0]), linear(*layers[1])
        self.join = nn.ModuleList([linear(w, b) for w, b in layers[2:]])
        # Tensors, for a compiled block that takes any of them.
        self.register_buffer("signal", torch.tensor(alpha_bar**0.5))
        self.register_buffer("noise", torch.tensor((1 - alpha_bar) ** 0.5))
        self.register_buffer("weight", torch.tensor(weight))

    def chain(self, a: Tensor, first: int = 0) -> Tensor:
        """Logits from the pre-activations of joining layer `first`."""
        for layer in self.join[first + 1 :]:
            a = layer(F.relu(a))
        return a

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h = torch.cat([F.relu(self.input(x)), F.relu(self.label(z))], 1)
        return self.chain(self.join[0](h))

    def loss(self, x: Tensor, label: Tensor, noise: Tensor) -> Tensor:
        z = self.signal * label + self.noise * noise
        p = self(x, z).float().softmax(1)
        return self.weight * (p - label).square().sum(1).mean()


def blocks(problem: NoPropProblem, layers: Layers) -> nn.ModuleList:
    levels = problem.alpha_bar.tolist(), problem.loss_weights.tolist()
    return nn.ModuleList(
        [
            Block(problem.of_block(layers, i), level, weight)
            for i, (level, weight) in enumerate(zip(levels[0][:-1], levels[1], strict=True))
        ]
    )


class NoPropTrainee(TorchTrainee):
    _problem: NoPropProblem
    _net: nn.ModuleList

    def __init__(self, name: str, problem: NoPropProblem, data: Data, layers: Layers,
                 *, autocast: bool, compiled: bool) -> None:  # fmt: skip
        super().__init__(name, problem, data, layers, autocast=autocast, compiled=compiled)
        self._optimizers = [self._make_optimizer(block) for block in self._net]

    def _make_optimizer(self, block: nn.Module) -> torch.optim.Optimizer:
        p = self._problem
        if p.optimizer == "momentum":
            return torch.optim.SGD(block.parameters(), p.learning_rate, momentum=p.momentum)
        return torch.optim.AdamW(
            block.parameters(), p.learning_rate, weight_decay=p.weight_decay, fused=True
        )

    def _build(self, layers: Layers) -> nn.ModuleList:
        return blocks(self._problem, layers)

    def _forward_loss(self, block: Block, x: Tensor, label: Tensor, noise: Tensor) -> Tensor:
        with self._cast():
            return block.loss(x, label, noise)

    def _train_step(self, x: Tensor, y: Tensor, given: list[Tensor] | None = None) -> Tensor:
        """`given`: the noise of each block, None to draw it."""
        label = F.one_hot(y, self._problem.n_classes).float()
        total = torch.zeros(())
        for i, (block, optimizer) in enumerate(zip(self._net, self._optimizers, strict=True)):
            noise = given[i] if given else torch.randn(label.shape, generator=self._generator)
            if self._problem.total_steps:
                for group in optimizer.param_groups:
                    group["lr"] = self._problem.lr_at(self._step)
            loss = self._loss(block, x, label, noise)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            total += loss.detach()
        self._step += 1
        return total / len(self._net)

    def in_order(self, n_steps: int) -> None:
        """With the check's noise instead of drawn one."""
        p = self._problem
        for i in range(n_steps):
            rows = slice(i * p.batch, (i + 1) * p.batch)
            noise = [torch.from_numpy(label_noise(p, block, i)) for block in range(p.n_blocks)]
            self._train_step(self._x[rows], self._y[rows], noise)

    def accuracy(self, x: NDArray[Any], y: NDArray[np.int32]) -> float:
        predict = _discrete(self._problem, self._net, False)
        with torch.inference_mode(), self._cast():
            guess = [predict(part).argmax(1) for part in torch.from_numpy(x).split(CHUNK)]
        return float((torch.cat(guess).numpy() == y).mean())


def _start(problem: NoPropProblem) -> Tensor:
    """One draw for all rows."""
    return torch.from_numpy(start_noise(problem))


def _discrete(problem: NoPropProblem, net: nn.ModuleList, compiled: bool) -> Any:
    steps, start = torch.tensor(problem.denoising_steps), _start(problem)

    def step(block: Block, x: Tensor, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return a * block(x, z.to(x.dtype)).float().softmax(1) + b * z

    step = compile_(step) if compiled else step

    def predict(x: Tensor) -> Tensor:
        z = start.expand(len(x), -1)
        for block, (a, b) in zip(net, steps, strict=True):
            z = step(block, x, z, a, b)
        return z

    return predict


def _continuous(problem: NoPropProblem, net: nn.ModuleList, compiled: bool) -> Any:
    """The whole block at every step."""
    (block,) = net
    dtype = block.input.weight.dtype
    time = torch.from_numpy(problem.time_features).to(dtype)
    steps, start = torch.tensor(problem.denoising_steps), _start(problem)

    def step(x: Tensor, z: Tensor, t: Tensor, a: Tensor, b: Tensor) -> Tensor:
        seen = torch.cat([z.to(dtype), t.expand(len(x), -1)], 1)
        return a * block(x, seen).float().softmax(1) + b * z

    step = compile_(step) if compiled else step

    def predict(x: Tensor) -> Tensor:
        z = start.expand(len(x), -1)
        for t, (a, b) in zip(time, steps, strict=True):
            z = step(x, z, t, a, b)
        return z

    return predict


def _hoisted(problem: NoPropProblem, net: nn.ModuleList, compiled: bool) -> Any:
    """The input branch and its half of the layer above once, and time as a bias."""
    (block,) = net
    dtype = block.input.weight.dtype
    of_input, of_label = block.join[0].weight.split([problem.input_units, problem.label_units], 1)
    of_z, of_time = block.label.weight.split(
        [problem.n_classes, problem.n_label - problem.n_classes], 1
    )
    times = torch.from_numpy(problem.time_features).to(dtype)
    steps, start = torch.tensor(problem.denoising_steps), _start(problem)

    def step(half: Tensor, z: Tensor, bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
        h = F.relu(F.linear(z.to(dtype), of_z, bias))
        o = block.chain(half + F.linear(h, of_label))
        return a * o.float().softmax(1) + b * z

    step = compile_(step) if compiled else step

    def predict(x: Tensor) -> Tensor:
        half = F.linear(F.relu(block.input(x)), of_input, block.join[0].bias)
        biases = F.linear(times, of_time, block.label.bias)
        z = start.expand(len(x), -1)
        for bias, (a, b) in zip(biases, steps, strict=True):
            z = step(half, z, bias, a, b)
        return z

    return predict


class _Predictor(Call):
    def __init__(self, name: str, problem: NoPropProblem, function: Any, x: Tensor) -> None:
        self.name = name
        self._problem, self._function, self._parts = problem, function, x.split(CHUNK)

    def many(self, n: int) -> None:
        with torch.inference_mode():
            for _ in range(n):
                self._out = torch.cat([self._function(part) for part in self._parts])

    def result(self) -> NDArray[Any]:
        return self._problem.class_weights(self._out.numpy(), start_noise(self._problem))


class TorchNoProp(TorchRival):
    method = "noprop"

    def train(self, problem: Problem, data: Data, layers: Layers) -> Trainee:
        assert isinstance(problem, NoPropProblem)
        assert problem.variant == "dt"
        return NoPropTrainee(
            self.name, problem, data, layers, autocast=self.autocast, compiled=self.compiled
        )

    def predictor(self, problem: Problem, layers: Layers, x: F32) -> Call:
        assert isinstance(problem, NoPropProblem)
        net = self._net(problem, layers)
        make = _discrete if problem.variant == "dt" else _continuous
        found = make(problem, net, self.compiled)
        return _Predictor(self.name, problem, found, torch.from_numpy(x).to(self.torch_dtype))

    def hoisted_predictor(self, problem: NoPropProblem, layers: Layers, x: F32) -> Call:
        """Continuous time, with everything that time does not change computed once."""
        found = _hoisted(problem, self._net(problem, layers), self.compiled)
        name = f"{self.name} hoisted"
        return _Predictor(name, problem, found, torch.from_numpy(x).to(self.torch_dtype))

    def _net(self, problem: NoPropProblem, layers: Layers) -> nn.ModuleList:
        return blocks(problem, layers).to(self.torch_dtype)


VARIANTS = variants(TorchNoProp, "noprop")
RIVAL = VARIANTS[""]
