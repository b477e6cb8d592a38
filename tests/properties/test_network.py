# SPDX-License-Identifier: BSD-3-Clause
"""Networks of any shape: what must hold whatever the sizes are."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle.activations import ACTIVATIONS
from oracle.feedback import RULES
from problems import (
    LOSSES,
    all_parameters,
    assert_parameters_close,
    data,
    make_network,
    method_options,
    pair,
    parameters,
)
from tolerances import FORWARD_F32, STEP_F32, STEP_PARAMETER

from bpfree_fast import _core as core

# Around the widths of vectors and panels, and anything up to two panels and a bit.
SIZE = st.sampled_from([1, 2, 7, 8, 9, 13, 14, 15, 16, 17, 31, 32, 33, 64, 65]) | st.integers(1, 70)
SIZES = st.lists(SIZE, min_size=2, max_size=5)
DTYPE = st.sampled_from(["float32", "bfloat16"])
# No deadline: the machine that runs the tests is shared.
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@SETTINGS
@given(SIZES, st.integers(1, 70), st.sampled_from(list(ACTIVATIONS)), st.sampled_from(LOSSES))
def test_forward(sizes, n, activation, loss):
    weights, biases = parameters(sizes, 0)
    network = make_network(weights, biases, activation, loss)
    reference = pair(sizes, activation, loss, method="backprop")[2]
    x = data(loss, n, sizes[0], sizes[-1], seed=0)[0]
    out = np.full((n, sizes[-1]), np.nan, np.float32)
    network.predict(x, out, logits=True)
    expected = reference.logits(x)
    assert np.abs(out - expected).max() <= FORWARD_F32 * max(1.0, np.abs(expected).max())
    assert network.n_params == sum(p.size for p in all_parameters(network))
    assert list(network.layer_sizes) == sizes


@SETTINGS
@given(SIZES, st.integers(1, 300), DTYPE, st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 3]))
def test_a_rows_prediction_does_not_depend_on_its_batch(sizes, n, dtype, seed, n_threads):
    weights, biases = parameters(sizes, 0)
    network = make_network(weights, biases, "tanh", "softmax_cross_entropy", dtype)
    x = data("squared_error", n, sizes[0], 1, seed=seed)[0]
    together = np.empty((n, sizes[-1]), np.float32)
    network.predict(x, together, n_threads=n_threads)
    rng = np.random.default_rng(seed)
    for rows in (
        [rng.integers(n)],
        np.sort(rng.choice(n, size=rng.integers(1, n + 1), replace=False)),
    ):
        some = np.empty((len(rows), sizes[-1]), np.float32)
        network.predict(np.ascontiguousarray(x[rows]), some, n_threads=1)
        np.testing.assert_array_equal(some, together[rows])


@SETTINGS
@given(SIZES, st.integers(1, 70), st.sampled_from(["backprop", *RULES]), st.sampled_from(LOSSES))
def test_step(sizes, n, rule, loss):
    network, trainer, reference = pair(
        sizes, "tanh", loss, batch_size=n, solver="sgd", momentum=0.0, **method_options(rule)
    )
    before = [*reference.weights, *reference.biases]
    x, y, w = data(loss, n, sizes[0], sizes[-1], seed=1)
    trainer.run_epoch(x, y, w, epoch=0, shuffle=False, learning_rate=0.1)
    reference.train_step(x, y, w, learning_rate=0.1)
    after = [*reference.weights, *reference.biases]
    assert_parameters_close(all_parameters(network), after, before, STEP_F32, STEP_PARAMETER)


@SETTINGS
@given(SIZES, st.integers(1, 50), st.integers(1, 60), DTYPE, st.sampled_from(["backprop", *RULES]))
def test_threads_and_short_batches(sizes, n, batch_size, dtype, rule):
    """Batches that do not divide the data, on one thread and on three: the same finite bits."""
    x, y, _ = data("softmax_cross_entropy", n, sizes[0], sizes[-1], seed=1)
    after = []
    for n_threads in (1, 3):
        network = make_network(*parameters(sizes, 0), "gelu", "softmax_cross_entropy", dtype)
        trainer = core.Trainer(
            network, batch_size=batch_size, n_threads=n_threads, **method_options(rule)
        )
        loss = trainer.run_epoch(x, y, epoch=0, learning_rate=0.01)
        assert trainer.step == -(-n // batch_size)
        after.append([*all_parameters(network), np.float64(loss)])
        assert all(np.isfinite(p).all() for p in after[-1])
    assert all(np.array_equal(p, q) for p, q in zip(*after, strict=True))


@SETTINGS
@given(SIZES, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_parameters_come_back_as_they_were_set(sizes, seed, other):
    network = core.Network(sizes, "relu", "squared_error", "float32")
    network.initialize(seed)
    drawn = all_parameters(network)
    n = len(sizes) - 1
    copy = make_network(drawn[:n], drawn[n:], "relu", "squared_error")
    assert all(np.array_equal(p, q) for p, q in zip(drawn, all_parameters(copy), strict=True))
    if seed != other:
        copy.initialize(other)
        assert not np.array_equal(copy.weights(0), drawn[0])
    copy.initialize(seed)
    assert all(np.array_equal(p, q) for p, q in zip(drawn, all_parameters(copy), strict=True))
