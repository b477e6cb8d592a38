# SPDX-License-Identifier: BSD-3-Clause
"""A layer with a loss of its own: Nøkland & Eidnes 2019 (arXiv:1901.06656); pred is Mono-Forward.

x [n, n_in], y [n, n_outputs] (one-hot or values), w [n] sample weights. p: the layer's W, b, its
head's M, c, its projection V, its batch normalization's gain and shift, where it has them.
"""

import numpy as np


def centred_rows(z):
    """Rows minus their means over their norms, and the norms; infinite where there is no norm."""
    z = z - z.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(z, axis=1, keepdims=True)
    norm = np.where(norm > 1e-8, norm, np.inf)
    return z / norm, norm


def similarity(z, y, w):
    """Weighted mean of (cosines of z - cosines of y)^2, and its derivative by z."""
    (unit, norm), (target, _) = centred_rows(z), centred_rows(y)
    off = unit @ unit.T - target @ target.T
    weighted = np.outer(w, w) / w.sum() ** 2 * off
    d = 4.0 * weighted @ unit
    g = (d - unit * np.sum(unit * d, axis=1, keepdims=True)) / norm
    return np.sum(weighted * off), g - g.mean(axis=1, keepdims=True)


def batch_norm(a, w, gain, shift, epsilon=1e-5):
    """gain a^ + shift, the normalised a^ and 1 / deviation; a weight of 2 is two rows."""
    mean = np.average(a, axis=0, weights=w)
    inverse = 1.0 / np.sqrt(np.average((a - mean) ** 2, axis=0, weights=w) + epsilon)
    normalized = (a - mean) * inverse
    return gain * normalized + shift, normalized, inverse


def layer(x, y, w, p, f, df, *, loss, error, pred=1.0, sim=0.0, teaches=True):
    """The layer's loss, its output h and the gradients of p, by name.

    loss(logits, y) and error(logits, y) are the head's; it counts `pred` times, the similarity
    `sim` times. teaches: whether the head's error reaches the layer.
    """
    a = x @ p["W"] + p["b"]
    if "gain" in p:
        a, normalized, inverse = batch_norm(a, w, p["gain"], p["shift"])
    h, value, dh, g = f(a), 0.0, np.zeros_like(a), {}
    if "M" in p:
        logits = h @ p["M"] + p["c"]
        e = pred * w[:, None] * error(logits, y) / w.sum()
        value += pred * np.sum(w * loss(logits, y)) / w.sum()
        g |= {"M": h.T @ e, "c": e.sum(axis=0)}
        dh += e @ p["M"].T if teaches else 0.0
    if sim > 0:
        off, dz = similarity(h @ p["V"] if "V" in p else h, y, w)
        value += sim * off
        dh += sim * (dz @ p["V"].T if "V" in p else dz)
        g |= {"V": sim * h.T @ dz} if "V" in p else {}
    delta = dh * df(a)
    if "gain" in p:
        g |= {"gain": np.sum(delta * normalized, axis=0), "shift": delta.sum(axis=0)}
        share = w[:, None] / w.sum()
        delta = delta - share * (g["shift"] + normalized * g["gain"])
        delta *= p["gain"] * inverse
    return value, h, g | {"W": x.T @ delta, "b": delta.sum(axis=0)}
