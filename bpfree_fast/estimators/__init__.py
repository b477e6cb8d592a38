# SPDX-License-Identifier: BSD-3-Clause
"""Estimators in the manner of scikit-learn, one file for each method."""

from __future__ import annotations

from .._extras import require

require("sklearn", "safetensors", "tqdm")

from ._progress import TrainingInfo  # noqa: E402
from ._saving import load  # noqa: E402
from ._targets import NetworkClassifier, NetworkRegressor  # noqa: E402
from .backprop import BackpropClassifier, BackpropRegressor  # noqa: E402
from .ensemble_kalman import EnKFClassifier, EnKFRegressor  # noqa: E402
from .evolution import ESClassifier, ESRegressor  # noqa: E402
from .feedback import DFAClassifier, DFARegressor  # noqa: E402
from .forward_forward import ForwardForwardClassifier  # noqa: E402
from .local_loss import LocalLossClassifier, LocalLossRegressor  # noqa: E402
from .noprop import NoPropClassifier  # noqa: E402

__all__ = [
    "CLASSIFIERS",
    "ESTIMATORS",
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
]

ESTIMATORS: dict[str, type[NetworkClassifier] | type[NetworkRegressor]] = {
    "BackpropClassifier": BackpropClassifier,
    "BackpropRegressor": BackpropRegressor,
    "DFAClassifier": DFAClassifier,
    "DFARegressor": DFARegressor,
    "ESClassifier": ESClassifier,
    "ESRegressor": ESRegressor,
    "EnKFClassifier": EnKFClassifier,
    "EnKFRegressor": EnKFRegressor,
    "ForwardForwardClassifier": ForwardForwardClassifier,
    "LocalLossClassifier": LocalLossClassifier,
    "LocalLossRegressor": LocalLossRegressor,
    "NoPropClassifier": NoPropClassifier,
}
"""Every estimator by the name of its class: what a saved model may hold."""

CLASSIFIERS: dict[str, type[NetworkClassifier]] = {
    cls.method: cls
    for cls in (
        DFAClassifier,
        LocalLossClassifier,
        ForwardForwardClassifier,
        NoPropClassifier,
        ESClassifier,
        EnKFClassifier,
        BackpropClassifier,
    )
}
"""Every classifier by the name of its method on the command line."""
