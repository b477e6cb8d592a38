# SPDX-License-Identifier: BSD-3-Clause
"""Going on from a copied state equals never having stopped; events stop, cancel and report."""

import _thread
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from oracle.feedback import LAYERWISE, RULES
from problems import (
    FORWARD_FORWARD,
    LOCAL_LOSSES,
    SOLVERS,
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

SIZES = [20, 40, 33, 6]
LEARNED = ("kolen_pollack", "direct_kolen_pollack")


def start(rule, weights=None, biases=None, **options):
    drawn = parameters(SIZES, 0)
    activation = "relu" if rule in FORWARD_FORWARD else "tanh"
    network = make_network(
        weights or drawn[0], biases or drawn[1], activation, "softmax_cross_entropy",
        first_head=first_head(rule),
    )  # fmt: skip
    return network, core.Trainer(network, batch_size=16, seed=9, **method_options(rule), **options)


def epochs(trainer, which):
    x, y, _ = data("softmax_cross_entropy", 70, SIZES[0], SIZES[-1], seed=1)
    for epoch in which:
        trainer.run_epoch(x, y, epoch=epoch, learning_rate=0.01, schedule="cosine", total_steps=40)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rule", ["backprop", *RULES])
def test_resume_equals_never_having_stopped(rule, solver):
    network, trainer = start(rule, **SOLVERS[solver])
    epochs(trainer, range(3))
    n = len(SIZES) - 1
    copied = [network.weights(k) for k in range(n)], [network.biases(k) for k in range(n)]
    state, step, feedback = trainer.optimizer_state(), trainer.step, all_feedback(trainer)
    epochs(trainer, range(3, 6))

    other_network, other = start(rule, *copied, **SOLVERS[solver])
    other.set_optimizer_state(state)
    other.step = step
    if rule in (*LAYERWISE, *LEARNED, "direct", "target", "sign_symmetric_fixed"):
        for layer, b in enumerate(feedback):
            other.set_feedback(layer, b)
    epochs(other, range(3, 6))
    for p, q in zip(all_parameters(network), all_parameters(other_network), strict=True):
        np.testing.assert_array_equal(p, q)
    for p, q in zip(all_feedback(trainer), all_feedback(other), strict=True):
        np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rule", [*LOCAL_LOSSES, *FORWARD_FORWARD])
def test_resume_of_layers_that_learn_by_themselves(rule, solver):
    """Heads, projections and batch normalizations are copied too; their state is the solver's.

    The running means of peer normalisation are part of that state.
    """
    network, trainer = start(rule, **SOLVERS[solver])
    epochs(trainer, range(3))
    n = len(SIZES) - 1
    kept, local = all_parameters(network), all_local(trainer)
    state, step = trainer.optimizer_state(), trainer.step
    epochs(trainer, range(3, 6))

    other_network, other = start(rule, **SOLVERS[solver])
    n += network.n_heads
    for k in range(n):
        other_network.set_weights(k, kept[k])
        other_network.set_biases(k, kept[n + k])
    for k in range(trainer.n_projections):
        other.set_projection(k, local[k])
    for k in range(trainer.n_norms):
        other.set_norm(k, *local[trainer.n_projections + 4 * k :][:4])
    other.set_optimizer_state(state)
    other.step = step
    epochs(other, range(3, 6))
    for p, q in zip(
        [*all_parameters(network), *all_local(trainer)],
        [*all_parameters(other_network), *all_local(other)],
        strict=True,
    ):
        np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize(
    ("solver", "slots"), [("sgd", 0), ("momentum", 1), ("adam", 2), ("rmsprop", 1)]
)
def test_optimizer_state(solver, slots):
    """For each layer, for each slot: weights, then biases; zero at first, copies, not views."""
    _, trainer = start("backprop", **SOLVERS[solver])
    expected = []
    for n_in, n_out in pairwise(SIZES):
        expected += [(n_in, n_out), (n_out,)] * slots
    state = trainer.optimizer_state()
    assert [s.shape for s in state] == expected
    assert all(s.dtype == np.float32 and not s.any() for s in state)
    epochs(trainer, [0])
    assert all(s.any() for s in trainer.optimizer_state())
    assert not any(s.any() for s in state)


def test_optimizer_state_of_another_shape_is_refused():
    _, trainer = start("backprop")
    epochs(trainer, [0])
    state = trainer.optimizer_state()
    for wrong in (state[:-1], [*state, state[0]], [s[:1].copy() for s in state]):
        with pytest.raises((ValueError, TypeError)):
            trainer.set_optimizer_state(wrong)
    for a, b in zip(state, trainer.optimizer_state(), strict=True):
        np.testing.assert_array_equal(a, b)


# At least half a second of work for two threads of any machine, in some thousand steps.
BIG = [256, 512, 512, 10]


def big(seed=0):
    network = core.Network(BIG, "relu", "softmax_cross_entropy", "float32")
    network.initialize(seed)
    trainer = core.Trainer(network, method="feedback", batch_size=32, n_threads=2)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60000, BIG[0]), dtype=np.uint8)
    return network, trainer, x, rng.integers(0, 10, len(x)).astype(np.int32)


def test_events_report_progress_and_stop():
    network, trainer, x, y = big()
    seen, times = [], []

    def on_event(done, steps, loss):
        seen.append((done, steps, loss))
        times.append(time.monotonic())
        return len(seen) == 3

    before = network.weights(0)
    trainer.run_epoch(x, y, epoch=0, learning_rate=1e-3, input_scale=1 / 255, on_event=on_event)
    assert trainer.stopped
    assert len(seen) == 3
    assert all(steps == 1875 for _, steps, _ in seen)
    assert 0 < seen[0][0] < seen[1][0] < seen[2][0] < 1875
    assert all(np.isfinite(loss) and loss > 0 for _, _, loss in seen)
    assert trainer.step == seen[-1][0]
    assert max(np.diff(times)) < 2.0  # about 0.1 s on a quiet machine
    assert not np.array_equal(before, network.weights(0))
    # It goes on.
    trainer.run_epoch(x[:500], y[:500], epoch=1, learning_rate=1e-3, input_scale=1 / 255)
    assert not trainer.stopped
    assert np.isfinite(network.weights(0)).all()


def test_the_last_event_is_the_end_of_the_epoch():
    _, trainer, x, y = big()
    seen = []
    loss = trainer.run_epoch(
        x[:100], y[:100], epoch=0, learning_rate=1e-3, input_scale=1 / 255,
        on_event=lambda *event: seen.append(event) or False,
    )  # fmt: skip
    assert seen[-1] == (4, 4, loss)
    assert not trainer.stopped


def test_events_change_no_bit():
    after = []
    for on_event in (None, lambda *_: False):
        network, trainer, x, y = big()
        options = {"learning_rate": 1e-3, "input_scale": 1 / 255, "on_event": on_event}
        trainer.run_epoch(x[:9600], y[:9600], epoch=0, **options)
        after.append(all_parameters(network))
    assert all(np.array_equal(a, b) for a, b in zip(*after, strict=True))


def test_an_exception_of_the_callback_comes_out():
    network, trainer, x, y = big()

    def on_event(*_):
        raise LookupError("from the callback")

    with pytest.raises(LookupError, match="from the callback"):
        trainer.run_epoch(x, y, epoch=0, learning_rate=1e-3, on_event=on_event)
    assert np.isfinite(network.weights(0)).all()
    trainer.run_epoch(x[:64], y[:64], epoch=1, learning_rate=1e-3, input_scale=1 / 255)


def test_ctrl_c_ends_the_epoch_and_leaves_a_usable_network():
    network, trainer, x, y = big()
    pressed = []

    def press():
        pressed.append(time.monotonic())
        _thread.interrupt_main()

    timer = threading.Timer(0.15, press)
    timer.start()
    options = {"learning_rate": 1e-3, "input_scale": 1 / 255}
    with pytest.raises(KeyboardInterrupt):  # the epoch takes seconds
        trainer.run_epoch(x, y, epoch=0, **options)
    timer.join()
    assert time.monotonic() - pressed[0] < 1.0  # 0.2 s on a quiet machine
    out = np.empty((10, 10), np.float32)
    network.predict(x[:10].copy(), out, input_scale=1 / 255)
    assert np.isfinite(out).all()
    trainer.run_epoch(x[:64], y[:64], epoch=0, learning_rate=1e-3, input_scale=1 / 255)


def test_a_trainer_inside_its_own_callback_is_refused():
    network, trainer, x, y = big()
    errors = []

    def on_event(*_):
        try:
            trainer.run_epoch(x[:64], y[:64], epoch=1, learning_rate=1e-3)
        except RuntimeError as error:
            errors.append(str(error))
        return True

    trainer.run_epoch(x, y, epoch=0, learning_rate=1e-3, input_scale=1 / 255, on_event=on_event)
    assert errors
    assert np.isfinite(network.weights(0)).all()


def test_a_trainer_in_two_threads_is_refused():
    network, trainer, x, y = big()
    first_event, refused = threading.Event(), threading.Event()

    def on_event(*_):
        first_event.set()
        return refused.is_set()

    options = {"epoch": 0, "learning_rate": 1e-3, "input_scale": 1 / 255}
    thread = threading.Thread(
        target=trainer.run_epoch, args=(x, y), kwargs=options | {"on_event": on_event}
    )
    thread.start()
    first_event.wait(timeout=60)
    with pytest.raises(RuntimeError, match="already running"):
        trainer.run_epoch(x[:64], y[:64], **options)
    refused.set()
    thread.join(timeout=120)
    assert 0 < trainer.step <= 1875
    assert np.isfinite(network.weights(0)).all()


def test_weights_may_be_read_and_set_in_a_callback():
    """Between steps nothing runs: what is set is what the next step starts from."""
    network, trainer, x, y = big()
    read = []

    def on_event(*_):
        read.append(network.weights(2))
        network.set_weights(2, np.zeros_like(read[-1]))
        return True

    trainer.run_epoch(x, y, epoch=0, learning_rate=1e-3, input_scale=1 / 255, on_event=on_event)
    assert np.abs(read[0]).max() > 0
    assert not network.weights(2).any()


def test_data_may_be_read_only_and_on_disk(tmp_path):
    """Rows are read where they lie: a memory map of pixels gives the bits of the array."""
    _, trainer, x, y = big()
    x, y = x[:2000], y[:2000]
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    y.flags.writeable = False
    options = {"epoch": 0, "learning_rate": 1e-3, "input_scale": 1 / 255}
    assert trainer.run_epoch(mapped, y, **options) == big()[1].run_epoch(x, y, **options)
