# SPDX-License-Identifier: BSD-3-Clause
"""What NoProp's shared arrays get from one step: gradients of the losses of noprop_learned.

Shapes: u and z [n, d], y and w [n] (labels, sample weights), E [n_classes, d], W [d, n_classes].
z is made as sqrt(alpha_bar) u + sqrt(1 - alpha_bar) eps, alpha_bar a number or one for each row.
"""

import numpy as np


def of_embedding(p, d, scale, by_z, y):
    """From a block with d = d loss / d (p E - u_y), and by_z at z = scale u_y + noise."""
    g = p.T @ d
    np.add.at(g, y, scale[:, None] * by_z - d)
    return g


def by_alpha_bar(by_z, u, eps, alpha_bar):
    """Derivative [n] of what has by_z [n, d] at z."""
    a = np.broadcast_to(alpha_bar, len(u))[:, None]
    return np.sum(by_z * (u / np.sqrt(a) - eps / np.sqrt(1 - a)), axis=1) / 2


def of_schedule(schedule, parameters, t, by_alpha_bar, by_slope=0.0):
    """Of what has these derivatives at times t; schedule gives both, for complex parameters too."""
    found = []
    for step in 1e-30j * np.eye(len(parameters)):
        alpha_bar, slope = schedule(parameters + step, t)
        found.append(np.sum(by_alpha_bar * alpha_bar.imag + by_slope * slope.imag) * 1e30)
    return np.array(found)


def of_logits(z, y, w, W, b):
    """Of w times the head's cross-entropy."""
    o = z @ W + b
    p = np.exp(o - o.max(axis=1, keepdims=True))
    return w[:, None] * (p / p.sum(axis=1, keepdims=True) - np.eye(len(b))[y])


def of_divergence(u, w, alpha_bar):
    """Of w times the divergence: by u, and by alpha_bar."""
    d, squares = u.shape[1], np.sum(u**2, axis=1)
    return w[:, None] * alpha_bar * u, w / 2 * (squares - d + d / (1 - alpha_bar))
