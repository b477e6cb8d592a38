# SPDX-License-Identifier: BSD-3-Clause
"""JAX, jitted direct feedback alignment, float32 (Nøkland 2016, arXiv:1609.01596)."""

from __future__ import annotations

import jax
from jax import Array

from rivals.jax_common import Gradients, JaxRival, Params, forward, mean_loss


def _gradients(params: Params, x: Array, y: Array, feedback: list[Array]) -> tuple[Array, Params]:
    hs, logits = forward(params, x)
    e = (jax.nn.softmax(logits) - jax.nn.one_hot(y, logits.shape[1])) / len(y)
    deltas = [(e @ b) * (h > 0) for b, h in zip(feedback, hs[1:], strict=True)]
    grads = [(h.T @ d, d.sum(axis=0)) for h, d in zip(hs, [*deltas, e], strict=True)]
    return mean_loss(logits, y), grads


class JaxDFA(JaxRival):
    name = "jax dfa f32"
    method = "dfa"

    def gradients(self) -> Gradients:
        return _gradients


RIVAL = JaxDFA()
