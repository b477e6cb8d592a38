# SPDX-License-Identifier: BSD-3-Clause
"""The same bits for any number of threads, for forks, and for trainers that run side by side."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from oracle.feedback import RULES
from problems import (
    FORWARD_FORWARD,
    LOCAL_LOSSES,
    all_feedback,
    all_local,
    all_parameters,
    data,
    first_head,
    make_network,
    method_options,
    parameters,
)

from bpfree_fast import _core as core

METHODS = ("backprop", *RULES, *LOCAL_LOSSES, *FORWARD_FORWARD)
# Work enough that seven threads are worth it (a thread per 1e6 products), and sizes that neither
# panels nor tiles divide.
SIZES = [70, 260, 190, 10]


def train(rule, n_threads, *, dtype="float32", sizes=SIZES, batch_size=121, steps=50, **options):
    """All parameters, feedback and losses after some epochs of five steps."""
    weights, biases = parameters(sizes, 0)
    network = make_network(
        weights, biases, "relu", "softmax_cross_entropy", dtype, first_head(rule)
    )
    options = {"weight_decay": 0.01} | options
    trainer = core.Trainer(
        network, n_threads=n_threads, batch_size=batch_size, **method_options(rule), **options
    )
    x, y, w = data("softmax_cross_entropy", 5 * batch_size - 30, sizes[0], sizes[-1], seed=1)
    losses = [
        trainer.run_epoch(x, y, w, epoch=epoch, learning_rate=1e-3) for epoch in range(steps // 5)
    ]
    assert trainer.step == steps
    learned = [*all_feedback(trainer), *all_local(trainer)]
    return [*all_parameters(network), *learned, np.array(losses)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rule", METHODS)
def test_same_bits(rule, dtype):
    one = train(rule, 1, dtype=dtype)
    for n_threads in (2, 3, 7):
        other = train(rule, n_threads, dtype=dtype)
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True)), n_threads
    assert all(np.isfinite(a).all() for a in one)


@pytest.mark.parametrize("rule", METHODS)
def test_same_bits_with_many_outputs(rule):
    """Two panels of outputs, and a batch that is one more than whole batch panels."""
    options = {"sizes": [301, 333, 250, 47], "batch_size": 129, "steps": 5, "solver": "sgd"}
    one = train(rule, 1, **options)
    for n_threads in (2, 3, 7):
        other = train(rule, n_threads, **options)
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True)), n_threads


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("hidden", [(90, 40, 30), (64, 33), (32,)], ids=str)
@pytest.mark.parametrize("rule", FORWARD_FORWARD)
def test_same_bits_in_narrow_layers(rule, hidden, dtype):
    """Layers of one to three panels: the rows are then what is split between threads."""
    options = {"sizes": [800, *hidden, 10], "batch_size": 300, "steps": 5, "dtype": dtype}
    one = train(rule, 1, **options)
    for n_threads in (2, 3, 7):
        other = train(rule, n_threads, **options)
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True)), n_threads
    assert all(np.isfinite(a).all() for a in one)


def test_every_run_gives_the_same_bits():
    first = train("direct", 2, steps=20)
    for _ in range(5):
        assert all(
            np.array_equal(a, b) for a, b in zip(first, train("direct", 2, steps=20), strict=True)
        )


def test_trainers_side_by_side():
    """Python threads, each with a network of its own: the GIL is released, nothing is shared."""
    expected = [train(rule, 2, steps=20) for rule in METHODS[:4]]
    results = [None] * 4

    def work(k):
        results[k] = train(METHODS[k], 2, steps=20)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    for one, other in zip(expected, results, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


FORK = """
import os, sys
sys.path[:0] = {path!r}
import numpy as np
from methods import test_threads  # before the fork, with a team of two awake
parent = test_threads.train("direct", 2, steps=10)
child = os.fork()
if child == 0:
    mine = test_threads.train("direct", 2, steps=10)
    same = all(np.array_equal(a, b) for a, b in zip(parent, mine))
    os._exit(0 if same else 3)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
after = test_threads.train("direct", 2, steps=10)  # the parent's team still works
assert all(np.array_equal(a, b) for a, b in zip(parent, after))
sys.exit(code)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_trains_and_does_not_hang(tmp_path):
    tests = str(Path(__file__).resolve().parent.parent)
    script = FORK.format(path=[tests])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
