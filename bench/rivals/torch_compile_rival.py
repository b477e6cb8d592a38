# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch, forward, loss and backward through torch.compile, float32; the optimizer is fused."""

from rivals.torch_common import TorchRival


class TorchCompile(TorchRival):
    name = "torch.compile f32"
    compiled = True


RIVAL = TorchCompile()
