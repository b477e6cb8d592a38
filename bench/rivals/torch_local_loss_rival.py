# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch, local losses 'pred', 'sim' and 'predsim' (Nøkland & Eidnes 2019, arXiv:1901.06656).

All layers learn in one pass: layers cut apart by detach, one backward of the summed losses, one
optimizer over everything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from layer_local_problem import LocalLossProblem
from numpy.typing import NDArray
from problem import F32, Data, Layers, Problem
from torch import Tensor, nn
from torch.nn import functional as F

from rivals.base import Call, Trainee
from rivals.torch_common import TorchRival, TorchTrainee, linear, variants


def similarity(h: Tensor) -> Tensor:
    """Cosines [batch, batch] between the rows of h, centred each by its own mean."""
    centred = F.normalize(h - h.mean(1, keepdim=True), dim=1, eps=1e-8)
    return centred @ centred.T


class Network(nn.Module):
    def __init__(self, problem: LocalLossProblem, layers: Layers) -> None:
        super().__init__()
        self.problem = problem
        first, last = len(problem.hidden), len(problem.hidden) + problem.n_heads
        self.hidden = nn.ModuleList([linear(w, b) for w, b in layers[:first]])
        self.heads = nn.ModuleList([linear(w, b) for w, b in layers[first:last]])
        self.projections = nn.ModuleList([linear(w, b) for w, b in layers[last:]])
        sizes = problem.hidden if problem.batch_norm else ()
        self.norms = nn.ModuleList([nn.BatchNorm1d(n) for n in sizes])

    def layer(self, i: int, x: Tensor) -> Tensor:
        a = self.hidden[i](x)
        if self.problem.batch_norm:
            a = self.norms[i](a)
        return F.relu(a) if self.problem.activation == "relu" else F.leaky_relu(a, 0.01)

    def _similarity_loss(self, i: int, h: Tensor, target: Tensor) -> Tensor:
        z = self.projections[i](h) if self.problem.has_projections else h
        return F.mse_loss(similarity(z.float()).float(), target)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        p = self.problem
        target = torch.where(y[:, None] == y, 1.0, -1.0 / (p.n_classes - 1))
        beta = {"pred": 0.0, "sim": 1.0, "predsim": p.similarity_weight}[p.objective]
        loss = x.new_zeros(())
        h = x
        for i in range(len(self.hidden)):
            h = self.layer(i, h)
            if p.objective != "sim":
                loss = loss + (1 - beta) * F.cross_entropy(self.heads[i](h).float(), y)
            if p.objective != "pred":
                loss = loss + beta * self._similarity_loss(i, h, target)
            h = F.dropout(h, p.dropout, self.training).detach()
        if p.objective == "sim":
            loss = loss + F.cross_entropy(self.heads[-1](h).float(), y)
        return loss

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the last layer's head."""
        for i in range(len(self.hidden)):
            x = self.layer(i, x)
        return self.heads[-1](x)


class LocalLossTrainee(TorchTrainee):
    _problem: LocalLossProblem
    _net: Network

    def _build(self, layers: Layers) -> Network:
        return Network(self._problem, layers)

    def _forward_loss(self, x: Tensor, y: Tensor) -> Tensor:
        with self._cast():
            return self._net.loss(x, y)

    def accuracy(self, x: NDArray[Any], y: NDArray[np.int32]) -> float:
        self._net.eval()
        result = super().accuracy(x, y)
        self._net.train()
        return result


class TorchLocalLoss(TorchRival):
    method = "local_loss"

    def train(self, problem: Problem, data: Data, layers: Layers) -> Trainee:
        assert isinstance(problem, LocalLossProblem)
        return LocalLossTrainee(
            self.name, problem, data, layers, autocast=self.autocast, compiled=self.compiled
        )

    def predictor(self, problem: Problem, layers: Layers, x: F32) -> Call:
        raise NotImplementedError(f"{self.name}: its prediction is that of a backprop network")


VARIANTS = variants(TorchLocalLoss, "local")
RIVAL = VARIANTS[""]
