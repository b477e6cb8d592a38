# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch, eager: training under bf16 autocast; products and predictions in plain bf16."""

import torch

from rivals.torch_common import TorchRival


class TorchAutocast(TorchRival):
    name = "torch bf16"
    dtype = "bfloat16"
    torch_dtype = torch.bfloat16
    autocast = True


RIVAL = TorchAutocast()
