# SPDX-License-Identifier: BSD-3-Clause
"""Evolution strategies (Salimans et al. 2017, arXiv:1703.03864; low rank: arXiv:2511.16652).

Members theta + std eps of a network whose tensors are W_0, b_0, W_1, b_1, ..., the noise from its
definition in csrc/random/random.h; and the gradient estimate. Losses are minimised, fitness is not.
"""

import numpy as np
from oracle import random

NOISE, NOISE_RIGHT = 6, 10  # purposes of the streams


def _matrix(kind, shape, purpose, tensor, seed, generation, k):
    """Noise of one tensor: each row starts a block, of 4 normals or 128 signs."""
    name = (random.sign, 128) if kind == "rademacher" else (random.normal, 4)
    word = random.matrix_words(seed, shape, purpose, tensor, generation, k, name[1])
    return name[0](word)[:, : shape[1]]


def noise(shapes, k, *, kind, seed, generation, rank=1):
    """eps_k of every tensor; low rank: sum_q a_q b_q^T / sqrt(rank), vectors plain gaussian."""
    stream = {"seed": seed, "generation": generation, "k": k}
    tensors = []
    for t, shape in enumerate(shapes):
        if kind == "low_rank" and len(shape) == 2:
            a = _matrix("gaussian", (rank, shape[0]), NOISE, t, **stream)
            b = _matrix("gaussian", (rank, shape[1]), NOISE_RIGHT, t, **stream)
            tensors.append(a.T @ b / np.sqrt(rank))
        else:
            of_rows = shape if len(shape) == 2 else (1, shape[0])
            plain = "gaussian" if kind == "low_rank" else kind
            tensors.append(_matrix(plain, of_rows, NOISE, t, **stream).reshape(shape))
    return tensors


def member(theta, i, *, std, antithetic, **stream):
    """Tensors of member i; with pairs, 2k is +eps_k and 2k + 1 is -eps_k."""
    k, sign = (i // 2, 1 - 2 * (i % 2)) if antithetic else (i, 1)
    eps = noise([p.shape for p in theta], k, **stream)
    return [p + sign * std * e for p, e in zip(theta, eps, strict=True)]


def gradient(theta, utilities, *, std, antithetic, **stream):
    """-1 / (n std) sum_i u_i eps_i of every tensor, the sum written out."""
    total = [np.zeros(p.shape) for p in theta]
    for i, u in enumerate(utilities):
        moved = member(theta, i, std=1.0, antithetic=antithetic, **stream)
        for g, p, q in zip(total, moved, theta, strict=True):
            g -= u * (p - q) / (len(utilities) * std)
    return total


def z_score(fitness):
    """(f - mean) / sqrt(variance + 1e-5)."""
    return (fitness - fitness.mean()) / np.sqrt(fitness.var() + 1e-5)
