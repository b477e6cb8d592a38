# SPDX-License-Identifier: BSD-3-Clause
"""The eight feedback rules: how the output error reaches a hidden layer without W transposed.

feedback[l] of hidden layer l: [n_outputs, n_l] for the direct rules and 'target', otherwise of
weights[l + 1]'s shape. Random feedback is given, not drawn. Sources: Lillicrap et al. 2016 (FA),
Nøkland 2016 (DFA), Liao et al. 2016 and Moskovitz et al. 2018 (sign-symmetric), Akrout et al. 2019
(Kolen-Pollack), Webster et al. 2021 (direct Kolen-Pollack), Frenkel et al. 2021 (DRTP).
"""

import numpy as np

DIRECT = ("direct", "direct_kolen_pollack")
LAYERWISE = ("layerwise", "kolen_pollack")
SIGN_SYMMETRIC = ("sign_symmetric", "sign_symmetric_batchwise", "sign_symmetric_fixed")
RULES = (*DIRECT, *LAYERWISE, *SIGN_SYMMETRIC, "target")


def sign_symmetric(rule, w, magnitude, scale):
    """The feedback of W's shape that a sign-symmetric rule makes from W as it is now."""
    if rule == "sign_symmetric":
        return np.sign(w) * scale * np.sqrt(2.0 / sum(w.shape))
    return np.sign(w) * np.abs(magnitude)  # 'batchwise' draws the magnitude anew in every step


def deltas(rule, e, y, w, preactivations, feedback, df, error_signal):
    """Deltas of all layers, the output's last, which is exact under every rule.

    e [n, n_outputs]; y [n, n_outputs] is projected by 'target'; w [n, 1] the sample weights, which
    multiply whatever is projected, so that weight 2 is the same as a sample given twice.
    """
    hidden = preactivations[:-1]
    signal = np.sign(e) if error_signal == "sign" else e
    if rule == "target":
        signal = y
    if rule == "target" or rule in DIRECT:
        projected = [(w * signal @ b) * df(a) for a, b in zip(hidden, feedback, strict=True)]
        return [*projected, w * e]
    result = [w * signal]
    for a, b in zip(hidden[::-1], feedback[::-1], strict=True):
        result.insert(0, (result[0] @ b.T) * df(a))
    return [*result[:-1], w * e]


def feedback_gradients(rule, e, hidden_outputs, weight_gradients, total_weight):
    """Gradients by which a rule's feedback learns, or an empty list where it is fixed."""
    if rule == "kolen_pollack":  # what the weights of the layer above get, so that B goes to W
        return weight_gradients[1:]
    if rule == "direct_kolen_pollack":
        return [e.T @ h / total_weight for h in hidden_outputs]
    return []


def distribution_scale(shape, scale):
    """Bound of 'uniform', standard deviation of 'normal' and absolute value of 'sign' feedback."""
    return scale / np.sqrt(shape[0])
