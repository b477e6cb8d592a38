# SPDX-License-Identifier: BSD-3-Clause
"""Populations from their definition: noise of members, its weighted sum, utilities of fitness."""

import numpy as np

from . import random

NOISE, NOISE_RIGHT = 6, 10


def _draw(seed, shape, tensor, generation, k, sign=False, purpose=NOISE):
    per_block = 128 if sign else 4
    word = random.matrix_words(seed, shape, purpose, tensor, generation, k, per_block)
    return (random.sign if sign else random.normal)(word)[:, : shape[1]]


def noise(shapes, seed, generation, member, kind="gaussian", antithetic=False, rank=1):
    """eps of a member, all tensors one after the other."""
    k, sign = (member // 2, 1 - 2 * (member % 2)) if antithetic else (member, 1)
    parts = []
    for tensor, shape in enumerate(shapes):
        place = tensor, generation, k
        if kind == "low_rank" and len(shape) == 2:
            a = _draw(seed, (rank, shape[0]), *place)
            b = _draw(seed, (rank, shape[1]), *place, purpose=NOISE_RIGHT)
            parts.append((a.T @ b / np.sqrt(rank)).ravel())
        else:
            rows = shape if len(shape) == 2 else (1, *shape)
            parts.append(_draw(seed, rows, *place, sign=kind == "rademacher").ravel())
    return sign * np.concatenate(parts) if parts else np.zeros(0)


def utilities(f, kind, maximize, top_k=None, group_size=None):
    f = np.asarray(f, np.float64) * (1 if maximize else -1)
    n, lost = len(f), ~np.isfinite(f)
    if kind in ("centered_rank", "nes"):
        f = np.where(lost, -np.inf, f)
        below = (f[None] < f[:, None]).sum(axis=1)  # places are shared with those that tie
        ties = (f[None] == f[:, None]).sum(axis=1)
        value = np.arange(n) / max(n - 1, 1) - (0.5 if n > 1 else 0)
        if kind == "nes":
            value = np.maximum(0, np.log(n / 2 + 1) - np.log(n - np.arange(n)))
            value = value / value.sum() - 1 / n
        return np.array([value[b : b + t].mean() for b, t in zip(below, ties, strict=True)])
    f = np.where(lost, f[~lost].min(), f)
    if kind == "pair":
        d = f[0::2] - f[1::2]
        half = d / (2 * np.sqrt((d**2).mean() + 1e-5))
        return np.stack([half, -half], axis=1).ravel()
    if kind == "top_k":
        pairs = f.reshape(-1, 2)
        used = np.argsort(-pairs.max(axis=1), kind="stable")[:top_k]
        out, deviation = np.zeros_like(pairs), pairs[used].std()
        if deviation > 0:
            out[used] = (pairs[used] - pairs[used].mean()) / deviation * len(pairs) / top_k
        return out.ravel()
    mean = f.reshape(-1, group_size or n).mean(axis=1).repeat(group_size or n)
    return (f - mean) / np.sqrt(f.var() + 1e-5)
