# SPDX-License-Identifier: BSD-3-Clause
"""`fit` on scikit-learn's digits with defaults, against MLPClassifier."""

from __future__ import annotations

import numpy as np
from harness import Floor, Result

from rows.common import Context, Entry, Row, compete, judge_ratios

HIDDEN, EPOCHS = (100,), 20


def _run(ctx: Context) -> Result:
    result = Result("digits-fit", f"fit on the digits, hidden {HIDDEN}, {EPOCHS} epochs, defaults")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        result.skipped = f"scikit-learn is missing: {error}"
        return result
    x, y = load_digits(return_X_y=True)
    x /= 16.0
    entries = []
    mine = [("dfa", "float32"), ("backprop", "float32")]
    for rival in ctx.entrants(result, mine, ("sklearn_mlp",)):
        call = rival.fit_classifier(x, y, HIDDEN, EPOCHS)
        call.many(1)
        accuracy = float((np.asarray(call.result()) == y).mean())
        result.extra[f"training accuracy, {call.name}"] = accuracy
        if accuracy < 0.85:  # chance is 0.1; 20 epochs are few
            result.wrong.append(f"{call.name}: training accuracy {accuracy:.3f} after the fit")
            continue
        entries.append(Entry(call))
    ratios = compete(ctx, result, entries, unit="ms/fit")
    judge_ratios(result, ratios, [Floor("sklearn MLPClassifier", 4.0, 8.0)])
    return result


ROWS = (Row("digits-fit", "fit on the digits against MLPClassifier", _run),)
