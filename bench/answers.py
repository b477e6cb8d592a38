# SPDX-License-Identifier: BSD-3-Clause
"""The right answers, in plain NumPy: float64 to judge a contestant, float32 as the NumPy rival."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from problem import F32, Layers, Problem

Array = NDArray[Any]


class NumpyNetwork:
    """ReLU network with softmax cross-entropy; backprop, or DFA if `feedback` is given."""

    def __init__(
        self, problem: Problem, layers: Layers, feedback: list[F32] | None, dtype: type
    ) -> None:
        self.problem = problem
        self.params: list[list[Array]] = [
            [np.array(p, dtype=dtype) for p in layer] for layer in layers
        ]
        self.feedback: list[Array] | None = None
        if feedback is not None:
            self.feedback = [b.astype(dtype) for b in feedback]
        self.slots = [[[np.zeros_like(p) for p in ps] for ps in self.params] for _ in range(2)]
        self.step = 0

    def forward(self, x: Array) -> tuple[list[Array], Array]:
        """Every layer's input, and the class probabilities."""
        hs = [x]
        for w, b in self.params[:-1]:
            hs.append(np.maximum(hs[-1] @ w + b, 0))
        logits = hs[-1] @ self.params[-1][0] + self.params[-1][1]
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        return hs, p / p.sum(axis=1, keepdims=True)

    def train_step(self, x: Array, y: NDArray[np.int32]) -> float:
        hs, p = self.forward(x)
        rows = np.arange(len(y))
        loss = float(-np.log(p[rows, y] + 1e-30).mean())
        p[rows, y] -= 1
        e = p / len(y)
        deltas = [e]
        for layer in range(len(hs) - 1, 0, -1):
            if self.feedback is None:
                signal = deltas[0] @ self.params[layer][0].T
            else:
                signal = e @ self.feedback[layer - 1]
            deltas.insert(0, signal * (hs[layer] > 0))
        lr = self.problem.lr_at(self.step)
        self.step += 1
        for layer, (h, delta) in enumerate(zip(hs, deltas, strict=True)):
            for i, g in enumerate((h.T @ delta, delta.sum(axis=0))):
                self._update(layer, i, g, lr)
        return loss

    def _update(self, layer: int, i: int, g: Array, lr: float) -> None:
        p, m, v = (s[layer][i] for s in (self.params, *self.slots))
        if self.problem.optimizer == "momentum":
            m *= self.problem.momentum
            m -= lr * g
            p += m
            return
        m += 0.1 * (g - m)
        v += 0.001 * (g * g - v)
        rate = lr * np.sqrt(1 - 0.999**self.step) / (1 - 0.9**self.step)
        p -= rate * m / (np.sqrt(v) + 1e-8)


def change_error(before: Layers, after: Layers, right: Layers) -> float:
    """How wrong the change of the weights is, relative to the change: worst layer, Frobenius.

    The change and not the weights, or a step that does nothing would pass. A norm and not each
    element, since Adam turns a gradient of rounding noise into a whole step of either sign.
    """
    worst = 0.0
    for (w0, _), (w1, _), (w, _) in zip(before, after, right, strict=True):
        moved = np.linalg.norm(w.astype(np.float64) - w0)
        worst = max(worst, float(np.linalg.norm(w1.astype(np.float64) - w) / moved))
    return worst


# Relative error of four steps' change: (dtype, optimizer). A unit whose pre-activation rounds to
# the other side of 0 has the other derivative (1e-3 in float32 on random data). bf16 rounds each
# operand by 2^-9. Adam divides by the root of its own second moment, so small gradients carry
# large errors, and PyTorch adds epsilon after the bias correction, which moves gradients near
# 1e-7 (0.06 here).
CHANGE_TOLERANCE = {
    ("float32", "momentum"): 5e-3,
    ("float32", "adam"): 1e-1,
    ("bfloat16", "momentum"): 5e-2,
    ("bfloat16", "adam"): 3e-1,
}


def product_error(a: Array, b: Array, out: Array, u: float) -> float:
    """Largest |error| as a share of the bound (k + 2) u (|A| |B|); right if at most 1."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    bound = (a.shape[1] + 2) * u * (np.abs(a64) @ np.abs(b64))
    return float((np.abs(out.astype(np.float64) - a64 @ b64) / bound).max())
