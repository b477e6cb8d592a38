# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch, eager, float32."""

from rivals.torch_common import TorchRival


class TorchEager(TorchRival):
    name = "torch f32"


RIVAL = TorchEager()
