# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch, forward, loss and backward through torch.compile, float32; the optimizer is fused."""

import torch._inductor.config as inductor

from rivals.torch_common import TorchRival

inductor.compile_threads = 1  # no worker processes that stay beside the timing


class TorchCompile(TorchRival):
    name = "torch.compile f32"
    compiled = True


RIVAL = TorchCompile()
