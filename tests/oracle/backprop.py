# SPDX-License-Identifier: BSD-3-Clause
"""Backprop's deltas: delta_L = e, delta_l = (delta_{l+1} W_{l+1}^T) * f'(a_l)."""


def deltas(e, preactivations, weights, df):
    """Deltas of all layers, the output's last. e [n, n_outputs] carries the sample weights."""
    result = [e]
    for a, w in zip(preactivations[-2::-1], weights[:0:-1], strict=True):
        result.insert(0, (result[0] @ w.T) * df(a))
    return result
