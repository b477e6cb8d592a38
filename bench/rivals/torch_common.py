# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch as its users write it: resident tensors, fused optimizer, gradients set to None."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from problem import F32, Data, Layers, Problem
from torch import Tensor, nn
from torch.nn import functional as F

from rivals.base import Call, Perturbing, Rival, Trainee

Loss = Callable[..., Tensor]


def linear(w: F32, b: F32) -> nn.Linear:
    """A layer of these weights [n_in, n_out]; without a bias if b is empty."""
    layer = nn.Linear(*w.shape, bias=len(b) > 0)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(w.T.copy()))
        if len(b):
            layer.bias.copy_(torch.from_numpy(b))
    return layer


def build(layers: Layers) -> nn.Sequential:
    parts: list[nn.Module] = []
    for w, b in layers:
        parts += [linear(w, b), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def linear_layers(net: nn.Module) -> Layers:
    """All linear layers of a network, in the order of its modules."""
    return [
        (
            m.weight.detach().numpy().T.copy(),
            np.zeros(0, np.float32) if m.bias is None else m.bias.detach().numpy().copy(),
        )
        for m in net.modules()
        if isinstance(m, nn.Linear)
    ]


def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
    import torch._inductor.config as inductor

    inductor.compile_threads = 1  # no worker processes that stay beside the timing
    return torch.compile(function)


def _optimizer(net: nn.Module, problem: Problem) -> torch.optim.Optimizer:
    params, lr = list(net.parameters()), problem.learning_rate
    if problem.optimizer == "momentum":
        return torch.optim.SGD(params, lr, momentum=problem.momentum, fused=True)
    if not problem.weight_decay:
        return torch.optim.Adam(params, lr, fused=True)
    groups = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": problem.weight_decay},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr, fused=True)


class TorchTrainee(Trainee):
    def __init__(
        self,
        name: str,
        problem: Problem,
        data: Data,
        layers: Layers,
        *,
        autocast: bool = False,
        compiled: bool = False,
    ) -> None:
        self.name = name
        self._problem = problem
        self._net = self._build(layers)
        self._x = torch.from_numpy(data.x_float)
        self._y = torch.from_numpy(data.y.astype(np.int64))
        self._autocast = autocast
        self._loss: Loss = self._forward_loss
        if compiled:
            self._loss = compile_(self._forward_loss)
        self._optimizer = _optimizer(self._net, problem)
        self._order = torch.empty(0, dtype=torch.int64)
        self._generator = torch.Generator().manual_seed(0)
        self._step = 0

    def _build(self, layers: Layers) -> nn.Module:
        return build(layers)

    def _cast(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if self._autocast else nullcontext()

    def _forward_loss(self, x: Tensor, y: Tensor) -> Tensor:
        with self._cast():
            return F.cross_entropy(self._net(x), y)

    def _losses(self, x: Tensor, y: Tensor) -> Tensor:
        return self._loss(x, y)

    def _train_step(self, x: Tensor, y: Tensor) -> Tensor:
        return self._step_on(self._losses(x, y))

    def _step_on(self, loss: Tensor) -> Tensor:
        if self._problem.total_steps:
            for group in self._optimizer.param_groups:
                group["lr"] = self._problem.lr_at(self._step)
        self._step += 1
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss

    def _shuffled(self) -> Tensor:
        return torch.randperm(len(self._y), generator=self._generator)

    def many(self, n: int) -> None:
        batch = self._problem.batch
        for _ in range(n):
            if len(self._order) < batch:
                self._order = self._shuffled()
            rows, self._order = self._order[:batch], self._order[batch:]
            self._train_step(self._x[rows], self._y[rows])

    def in_order(self, n_steps: int) -> None:
        for i in range(n_steps):
            rows = slice(i * self._problem.batch, (i + 1) * self._problem.batch)
            self._train_step(self._x[rows], self._y[rows])

    def epoch(self, epoch: int) -> float:
        loss = torch.zeros(())
        for rows in self._shuffled().split(self._problem.batch):
            loss = self._train_step(self._x[rows], self._y[rows])
        return float(loss.detach())

    def layers(self) -> Layers:
        return linear_layers(self._net)

    def accuracy(self, x: NDArray[Any], y: NDArray[np.int32]) -> float:
        with torch.inference_mode(), self._cast():
            guess = self._net(torch.from_numpy(x)).argmax(dim=1)
        return float((guess.numpy() == y).mean())


class _Product(Call):
    def __init__(self, name: str, a: F32, b: F32, transpose_a: bool, dtype: torch.dtype) -> None:
        self.name = name
        a_, b_ = (torch.from_numpy(v).to(dtype) for v in (a, b))
        self._a, self._b = a_.T if transpose_a else a_, b_
        self._out = torch.empty((self._a.shape[0], b.shape[1]), dtype=dtype)

    def many(self, n: int) -> None:
        for _ in range(n):
            torch.mm(self._a, self._b, out=self._out)

    def result(self) -> NDArray[Any]:
        return self._out.float().numpy()


class _Normals(Call):
    def __init__(self, name: str, n: int) -> None:
        self.name = name
        self._out = torch.empty(n)

    def many(self, n: int) -> None:
        for _ in range(n):
            self._out.normal_()

    def result(self) -> NDArray[Any]:
        return self._out.numpy()


class _Perturbing(Perturbing):
    def __init__(self, name: str, theta: F32, utilities: F32) -> None:
        self.name = name
        self._theta, self._utilities = torch.from_numpy(theta), utilities.tolist()
        self._noise, self._out, self._sum = (torch.empty_like(self._theta) for _ in range(3))
        self._generator = torch.Generator()

    def _draw(self, i: int) -> None:
        self._noise.normal_(generator=self._generator.manual_seed(i))

    def _perturb(self, i: int) -> None:
        self._draw(i)
        torch.add(self._theta, self._noise, alpha=self.std, out=self._out)

    def many(self, n: int) -> None:
        for _ in range(n):
            for i in range(len(self._utilities)):
                self._perturb(i)
            self._sum.zero_()
            for i, u in enumerate(self._utilities):
                self._draw(i)
                self._sum.add_(self._noise, alpha=u)

    def member(self, i: int) -> F32:
        self._perturb(i)
        return self._out.numpy().copy()

    def result(self) -> NDArray[Any]:
        return self._sum.numpy()


class _Predictor(Call):
    def __init__(self, name: str, net: nn.Module, x: Tensor) -> None:
        self.name = name
        self._net, self._x, self._out = net, x, x

    def many(self, n: int) -> None:
        with torch.inference_mode():
            for _ in range(n):
                self._out = torch.softmax(self._net(self._x), dim=1)

    def result(self) -> NDArray[Any]:
        return self._out.float().numpy()


class TorchRival(Rival):
    torch_dtype = torch.float32
    autocast = False
    compiled = False

    def set_threads(self, n_threads: int) -> None:
        torch.set_num_threads(n_threads)

    def train(self, problem: Problem, data: Data, layers: Layers) -> Trainee:
        return TorchTrainee(
            self.name, problem, data, layers, autocast=self.autocast, compiled=self.compiled
        )

    def product(self, a: F32, b: F32, *, transpose_a: bool = False) -> Call:
        return _Product(self.name, a, b, transpose_a, self.torch_dtype)

    def normals(self, n: int) -> Call:
        return _Normals(self.name, n)

    def perturbing(self, theta: F32, utilities: F32) -> Perturbing:
        return _Perturbing(self.name, theta, utilities)

    def predictor(self, problem: Problem, layers: Layers, x: F32) -> Call:
        net: nn.Module = build(layers).to(self.torch_dtype)
        x_ = torch.from_numpy(x).to(self.torch_dtype)
        return _Predictor(self.name, compile_(net) if self.compiled else net, x_)

    def clean_up(self) -> None:
        if self.compiled:
            torch._dynamo.reset()


def variants(cls: type[TorchRival], label: str) -> dict[str, TorchRival]:
    """The rival in float32 and under bf16 autocast, eager and compiled: 'bf16', 'compile', ..."""
    made = {}
    for compiled in (False, True):
        for bf16 in (False, True):
            rival = cls()
            rival.compiled, rival.autocast = compiled, bf16
            if bf16:
                rival.dtype, rival.torch_dtype = "bfloat16", torch.bfloat16
            short = "bf16" if bf16 else "f32"
            rival.name = f"{'torch.compile' if compiled else 'torch'} {label} {short}"
            made["-".join(["compile"] * compiled + ["bf16"] * bf16)] = rival
    return made
