# SPDX-License-Identifier: BSD-3-Clause
"""One layer trained on a loss of its own (Nøkland & Eidnes 2019, arXiv:1901.06656).

Shapes: x [n, n_in], W [n_in, n_out], h [n, n_out], head M [n_out, k] with c [k], targets y [n, k]
(one-hot for softmax), sample weights s [n]. Every loss is a weighted mean, of rows or of pairs.
"""

import numpy as np
from oracle import losses
from oracle.activations import ACTIVATIONS, DERIVATIVES

SHARE = {"pred": 0.0, "sim": 1.0}  # of the similarity; predsim has a number of its own


def unit_rows(rows):
    """Rows without their means, of norm 1, and what they were divided by; 0 if without norm."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    norm = np.where(norm > 1e-8, norm, np.inf)
    return centred / norm, norm


def similarity(h, y, s):
    """Weighted mean of (R_h - R_y)^2 over all pairs of rows, and its derivative by h."""
    unit, norm = unit_rows(h)
    wanted, _ = unit_rows(y)
    pairs = np.outer(s, s) / s.sum() ** 2
    off = unit @ unit.T - wanted @ wanted.T
    d = 4.0 * (pairs * off) @ unit
    d -= unit * np.sum(unit * d, axis=1, keepdims=True)
    return np.sum(pairs * off**2), (d - d.mean(axis=1, keepdims=True)) / norm


def objective(x, W, b, M, c, y, s, *, loss, share, activation):
    """The local loss as a function of its parameters, for central differences."""
    h = ACTIVATIONS[activation](x @ W + b)
    rows = losses.mean_loss(loss, h @ M + c, y, s)
    return (1.0 - share) * rows + share * similarity(h, y, s)[0]


def gradients(x, W, b, M, c, y, s, *, loss, local_loss, share, activation):
    """Local loss, dW, db, and dM, dc; with 'sim' the head follows its own loss."""
    share = SHARE.get(local_loss, share)
    a = x @ W + b
    h = ACTIVATIONS[activation](a)
    logits = h @ M + c
    e = s[:, None] * losses.error(loss, logits, y) / s.sum()
    total, dh = (1.0 - share) * losses.mean_loss(loss, logits, y, s), (1.0 - share) * e @ M.T
    if share > 0:
        value, d = similarity(h, y, s)
        total, dh = total + share * value, dh + share * d
    delta = dh * DERIVATIVES[activation](a)
    e = e if local_loss == "sim" else (1.0 - share) * e
    return total, x.T @ delta, delta.sum(axis=0), h.T @ e, e.sum(axis=0)
