# SPDX-License-Identifier: BSD-3-Clause
"""One optimizer step of one parameter array.

Sources: scikit-learn's form of momentum; Adam, Kingma & Ba 2014 (arXiv:1412.6980), epsilon outside
the corrected root; decoupled decay, Loshchilov & Hutter 2017 (arXiv:1711.05101); RMSprop, Hinton.
"""

import numpy as np


def n_slots(solver, momentum):
    """State arrays of the parameter's shape that the solver keeps."""
    return {"sgd": int(momentum > 0), "rmsprop": 1, "adam": 2, "adamw": 2}[solver]


def update(p, g, state, t, lr, *, solver, momentum, nesterov, beta_1, beta_2, epsilon, decay=0.0):
    """The new parameter and the new state; t counts from 1, decay is the decoupled one.

    p : the parameter; g : its gradient, L2 term included; state : list of n_slots arrays.
    """
    kept = p * (1.0 - lr * decay)
    if solver == "sgd" and momentum == 0:
        return kept - lr * g, []
    if solver == "sgd":
        v = momentum * state[0] - lr * g
        return kept + (momentum * v - lr * g if nesterov else v), [v]
    if solver == "rmsprop":
        v = beta_2 * state[0] + (1.0 - beta_2) * g**2
        return kept - lr * g / (np.sqrt(v) + epsilon), [v]
    m = beta_1 * state[0] + (1.0 - beta_1) * g
    v = beta_2 * state[1] + (1.0 - beta_2) * g**2
    rate = lr * np.sqrt(1.0 - beta_2**t) / (1.0 - beta_1**t)
    return kept - rate * m / (np.sqrt(v) + epsilon), [m, v]
