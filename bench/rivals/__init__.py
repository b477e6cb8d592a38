# SPDX-License-Identifier: BSD-3-Clause
"""One file a rival; `load` imports one, so that a missing package costs only its own rows."""

from __future__ import annotations

import importlib
from functools import cache

from rivals.base import Rival

NAMES = (
    "numpy",
    "torch_eager",
    "torch_compile",
    "torch_autocast",
    "jax_backprop",
    "jax_dfa",
    "sklearn_mlp",
    "torch_forward_forward",
    "torch_local_loss",
    "torch_noprop",
    "evosax_network",
    "evotorch_network",
    "evosax_search",
    "pycma_search",
    "numpy_ensemble",
    "smoother",
    "torch_ensemble",
)


@cache
def load(name: str) -> Rival | str:
    """The rival, or the sentence that says why it cannot run here.

    'name:variant' asks a file that has VARIANTS for one of them, such as 'compile-bf16'.
    """
    file, _, variant = name.partition(":")
    try:
        module = importlib.import_module(f"rivals.{file}_rival")
    except ImportError as error:
        return f"{name} left out: {error}"
    rival = module.VARIANTS[variant] if variant else module.RIVAL
    assert isinstance(rival, Rival)
    return rival
