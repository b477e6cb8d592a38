# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of ESClassifier and ESRegressor share."""

import numpy as np

import bpfree_fast as bf


def es(hidden=(32,), *arguments, **options):
    return bf.ESClassifier(hidden, *arguments, **{"random_state": 0, **options})


def cross_entropy(y, output, weight=None):
    found = -np.log(output[np.arange(len(y)), y].astype(np.float64))
    return np.average(found, weights=weight)


def mistakes(y, output):
    return (output.argmax(axis=1) != y).mean()


def arrays(est):
    return [*est.coefs_, *est.intercepts_]


def assert_same(a, b, same=True):
    assert all(map(np.array_equal, arrays(a), arrays(b))) == same


def flat(est):
    """The parameters in the order of the noise: W_0, b_0, W_1, b_1, ..."""
    pairs = zip(est.coefs_, est.intercepts_, strict=True)
    return np.concatenate([p.ravel() for pair in pairs for p in pair])


def shapes(est):
    pairs = zip(est.coefs_, est.intercepts_, strict=True)
    return [p.shape for pair in pairs for p in pair]
