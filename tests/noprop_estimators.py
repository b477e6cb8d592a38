# SPDX-License-Identifier: BSD-3-Clause
"""Small NoPropClassifiers, and what of them must agree."""

import numpy as np
from sklearn.utils._testing import assert_array_equal

import bpfree_fast as bf

X = np.random.default_rng(0).normal(size=(60, 6))
Y = np.repeat(["a", "b", "c"], 20)


def small(**options):
    return bf.NoPropClassifier(
        (16,), input_units=32, label_units=32, n_blocks=4, random_state=0, max_iter=3,
        batch_size=16, **options,
    )  # fmt: skip


# What adds arrays to a block, or to all.
ARRAYS = [{}, {"class_embedding": "prototype"}, {"batch_normalization": True}]


def arrays(clf):
    norms = [array for name in clf._norm_lists for array in getattr(clf, name)]
    return [*clf.coefs_, *clf.intercepts_, *norms, *clf._trainer.optimizer_state()]


def assert_same(one, other):
    for a, b in zip(arrays(one), arrays(other), strict=True):
        assert_array_equal(a, b)
    for a, b in zip(one.staged_predict_proba(X), other.staged_predict_proba(X), strict=True):
        assert_array_equal(a, b)
    np.testing.assert_allclose(one.loss_curve_, other.loss_curve_, rtol=1e-6)
    assert_array_equal(one.block_loss_curve_, other.block_loss_curve_)
