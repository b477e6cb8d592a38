# SPDX-License-Identifier: BSD-3-Clause
"""Every row of the benchmark, in the order in which they run."""

from __future__ import annotations

from rows import (
    ensemble,
    ensemble_training,
    evolution,
    fitting,
    forward_forward,
    local_loss,
    memory,
    mnist,
    noprop,
    noprop_mnist,
    normals,
    predicting,
    products,
    search,
    steps,
    threads,
)
from rows.common import Row

MODULES = (
    products,
    normals,
    steps,
    fitting,
    predicting,
    threads,
    memory,
    local_loss,
    forward_forward,
    noprop,
    evolution,
    search,
    ensemble,
    ensemble_training,
    noprop_mnist,
    mnist,
)
ROWS: dict[str, Row] = {row.name: row for module in MODULES for row in module.ROWS}
