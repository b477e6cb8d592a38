# SPDX-License-Identifier: BSD-3-Clause
"""Train neural networks without backpropagation, fast on ordinary CPUs.

The names below are loaded when they are first used, so that ``import bpfree_fast`` costs nothing.
The estimators need scikit-learn: ``pip install 'bpfree-fast[sklearn]'``.

Examples
--------
>>> import bpfree_fast as bf
>>> from sklearn.datasets import load_digits
>>> X, y = load_digits(return_X_y=True)
>>> clf = bf.DFAClassifier(random_state=0).fit(X / 16, y)
>>> bool(clf.score(X / 16, y) > 0.9)
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import data, kernels
    from ._core import __version__
    from .ensemble_kalman import EnsembleKalman, KalmanReport, KalmanResult
    from .estimators import (
        BackpropClassifier,
        BackpropRegressor,
        DFAClassifier,
        DFARegressor,
        EnKFClassifier,
        EnKFRegressor,
        ESClassifier,
        ESRegressor,
        ForwardForwardClassifier,
        LocalLossClassifier,
        LocalLossRegressor,
        NoPropClassifier,
        TrainingInfo,
        load,
    )
    from .evolution_strategy import EvolutionStrategy, SearchInfo, SearchResult
    from .info import get_cmake_dir, get_include, show_config

__all__ = [
    "BackpropClassifier",
    "BackpropRegressor",
    "DFAClassifier",
    "DFARegressor",
    "ESClassifier",
    "ESRegressor",
    "EnKFClassifier",
    "EnKFRegressor",
    "EnsembleKalman",
    "EvolutionStrategy",
    "ForwardForwardClassifier",
    "KalmanReport",
    "KalmanResult",
    "LocalLossClassifier",
    "LocalLossRegressor",
    "NoPropClassifier",
    "SearchInfo",
    "SearchResult",
    "TrainingInfo",
    "__version__",
    "data",
    "get_cmake_dir",
    "get_include",
    "kernels",
    "load",
    "show_config",
]

_ESTIMATORS = {
    "BackpropClassifier",
    "BackpropRegressor",
    "DFAClassifier",
    "DFARegressor",
    "ESClassifier",
    "ESRegressor",
    "EnKFClassifier",
    "EnKFRegressor",
    "ForwardForwardClassifier",
    "LocalLossClassifier",
    "LocalLossRegressor",
    "NoPropClassifier",
    "TrainingInfo",
    "load",
}
_SEARCH = {"EvolutionStrategy", "SearchInfo", "SearchResult"}
_KALMAN = {"EnsembleKalman", "KalmanReport", "KalmanResult"}
_MODULES = {"data", "estimators", "kernels"}
_INFO = {"get_cmake_dir", "get_include", "show_config"}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _ESTIMATORS:
        module = importlib.import_module(f"{__name__}.estimators")
    elif name in _SEARCH:
        module = importlib.import_module(f"{__name__}.evolution_strategy")
    elif name in _KALMAN:
        module = importlib.import_module(f"{__name__}.ensemble_kalman")
    elif name in _INFO:
        module = importlib.import_module(f"{__name__}.info")
    elif name == "__version__":
        module = importlib.import_module(f"{__name__}._core")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
