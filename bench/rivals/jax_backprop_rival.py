# SPDX-License-Identifier: BSD-3-Clause
"""JAX, jitted backprop, float32."""

from __future__ import annotations

import jax
from jax import Array

from rivals.jax_common import Gradients, JaxRival, Params, forward, mean_loss


def _loss(params: Params, x: Array, y: Array) -> Array:
    return mean_loss(forward(params, x)[1], y)


def _gradients(params: Params, x: Array, y: Array, feedback: list[Array]) -> tuple[Array, Params]:
    return jax.value_and_grad(_loss)(params, x, y)


class JaxBackprop(JaxRival):
    name = "jax backprop f32"

    def gradients(self) -> Gradients:
        return _gradients


RIVAL = JaxBackprop()
