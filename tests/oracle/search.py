# SPDX-License-Identifier: BSD-3-Clause
"""Steps of search distributions, with the noise z [n_members, n_params] given.

Sources: Salimans et al. 2017; Mania et al. 2018; Sehnke et al. 2010; Wierstra et al. 2014; Ros &
Hansen 2008 and Hansen 2016, table 1; Toklu et al. 2020, algorithm 1.
"""

import numpy as np


def openai_gradient(z, u, std):
    return -sum(ui * zi for ui, zi in zip(u, z, strict=True)) / (len(u) * std)


def ars_gradient(z, losses, n_top):
    plus, minus = losses[0::2], losses[1::2]
    used = np.argsort(np.minimum(plus, minus), kind="stable")[:n_top]
    spread = np.concatenate([plus[used], minus[used]]).std()
    return sum((plus[k] - minus[k]) * z[2 * k] for k in used) / (n_top * spread)


def pgpe(z, u, std, lr_std):
    """Gradient of the mean, and the new deviations; z of odd members is minus that of even ones."""
    plus, minus, eps = u[0::2], u[1::2], std * z[0::2]
    gradient = -np.mean(0.5 * (plus - minus)[:, None] * eps, axis=0)
    centred = (0.5 * (plus + minus) - u.mean())[:, None]
    change = lr_std * np.mean(centred * (eps**2 - std**2) / std, axis=0)
    return gradient, std + np.clip(change, -0.2 * std, 0.2 * std)


def clipup(theta, gradient, velocity, lr, momentum, max_speed):
    velocity = momentum * velocity - lr * gradient / np.linalg.norm(gradient)
    velocity *= min(1.0, max_speed / np.linalg.norm(velocity))
    return theta + velocity, velocity


def snes(mean, std, z, u, lr, lr_std):
    return mean + lr * std * (u @ z), std * np.exp(0.5 * lr_std * (u @ (z**2 - 1)))


def xnes(mean, std, B, z, u, lr, lr_std):
    d, expm = (
        len(mean),
        lambda m: np.linalg.eigh(m)[1] * np.exp(np.linalg.eigvalsh(m)) @ np.linalg.eigh(m)[1].T,
    )
    m = sum(ui * (np.outer(zi, zi) - np.eye(d)) for ui, zi in zip(u, z, strict=True))
    of_std = np.trace(m) / d
    B_new = B @ expm(0.5 * lr_std * (m - of_std * np.eye(d)))
    return mean + lr * std * B @ (u @ z), std * np.exp(0.5 * lr_std * of_std), B_new


def sep_cma(mean, std, C, p_std, p_c, z, order, generation):
    """The state after a generation; `order` lists members from the best."""
    n, d = z.shape
    w = np.maximum(np.log((n + 1) / 2) - np.log(np.arange(1, n + 1)), 0)
    w /= w.sum()
    mu = 1 / np.sum(w**2)
    cs = (mu + 2) / (d + mu + 5)
    ds = 1 + 2 * max(0, np.sqrt((mu - 1) / (d + 1)) - 1) + cs
    cc = (4 + mu / d) / (d + 4 + 2 * mu / d)
    c1 = min(1, (d + 2) / 3 * 2 / ((d + 1.3) ** 2 + mu))
    cmu = min(1 - c1, (d + 2) / 3 * 2 * (mu - 2 + 1 / mu) / ((d + 2) ** 2 + mu))
    expected = np.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d**2))
    y = np.sqrt(C) * z[order]
    p_std = (1 - cs) * p_std + np.sqrt(cs * (2 - cs) * mu) * (w @ z[order])
    bias = np.sqrt(1 - (1 - cs) ** (2 * (generation + 1)))
    h = np.linalg.norm(p_std) / bias < (1.4 + 2 / (d + 1)) * expected
    p_c = (1 - cc) * p_c + h * np.sqrt(cc * (2 - cc) * mu) * (w @ y)
    kept = 1 - c1 - cmu + (1 - h) * c1 * cc * (2 - cc)
    C = kept * C + c1 * p_c**2 + cmu * (w @ y**2)
    mean = mean + std * (w @ y)
    return mean, std * np.exp(cs / ds * (np.linalg.norm(p_std) / expected - 1)), C, p_std, p_c
