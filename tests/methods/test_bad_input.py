# SPDX-License-Identifier: BSD-3-Clause
"""What Network and Trainer refuse: with a sentence that names the value, and without a change."""

import numpy as np
import pytest
from problems import all_parameters, data, make_network, parameters

from bpfree_fast import _core as core

SIZES = [6, 9, 4]
REFUSED = (ValueError, TypeError)
METHODS = ("feedback", "local_loss", "forward_forward")


def fresh(loss="softmax_cross_entropy", **options):
    network = make_network(*parameters(SIZES, 0), "relu", loss)
    options = {"method": "feedback", "batch_size": 8} | options
    if options["method"] == "forward_forward":  # x has as many columns as for the others
        options = {"label_position": "overwrite"} | options
    return network, core.Trainer(network, **options)


def refused(*words):
    """An error whose message has all the words."""
    pattern = "".join(f"(?=.*{word})" for word in words)
    return pytest.raises(REFUSED, match=f"(?is){pattern}")


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([], []),
        ([5], []),
        ([5, 0, 3], ["0"]),
        ([0, 3], ["0"]),
        ([5, -2, 3], []),
        ([5, 2.5, 3], []),
        (["a", 3], []),
        ([2**40, 2**40], []),
        ([2**62, 2**62, 4], []),
        ([2**64, 3], []),
    ],
)
def test_layer_sizes(sizes, words):
    with pytest.raises((ValueError, TypeError, OverflowError, MemoryError)) as error:
        core.Network(sizes, "relu", "softmax_cross_entropy", "float32")
    assert all(word in str(error.value) for word in words)


def test_more_parameters_than_memory_is_an_error_and_not_a_crash():
    with pytest.raises((ValueError, MemoryError)):
        core.Network([2**24, 2**24], "relu", "softmax_cross_entropy", "float32")


@pytest.mark.parametrize("position", [1, 2, 3])
@pytest.mark.parametrize("wrong", ["swish", "", "ReLU", "a" * 1000])
def test_unknown_names(position, wrong):
    arguments = [[3, 4, 2], "relu", "softmax_cross_entropy", "float32"]
    arguments[position] = wrong
    with refused(wrong[:20]):
        core.Network(*arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "hope"}, ["hope"]),
        ({"feedback": "diagonal"}, ["diagonal"]),
        ({"error_signal": "loud"}, ["loud"]),
        ({"feedback_distribution": "cauchy"}, ["cauchy"]),
        ({"solver": "lbfgs"}, ["lbfgs"]),
        ({"batch_size": 0}, ["batch_size", "0"]),
        ({"batch_size": -3}, ["batch_size"]),
        ({"batch_size": 2**62}, []),
        ({"n_threads": -1}, ["n_threads", "-1"]),
        ({"momentum": -0.1}, ["momentum", "-0.1"]),
        ({"momentum": 1.5}, ["momentum", "1.5"]),
        ({"beta_1": 1.0}, ["beta_1", "1"]),
        ({"beta_2": -0.5}, ["beta_2", "-0.5"]),
        ({"epsilon": -1e-3}, ["epsilon"]),
        ({"alpha": -1.0}, ["alpha", "-1"]),
        ({"weight_decay": -1.0}, ["weight_decay", "-1"]),
        ({"feedback_scale": float("nan")}, ["feedback_scale", "nan"]),
        ({"feedback_scale": -1.0}, ["feedback_scale", "-1"]),
        ({"alpha": float("nan")}, ["alpha", "nan"]),
        ({"epsilon": float("inf")}, ["epsilon", "inf"]),
        ({"seed": -1}, []),
    ],
    ids=str,
)
def test_trainer_options(options, words):
    with pytest.raises((ValueError, TypeError, MemoryError, OverflowError)) as error:
        fresh(**options)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_initializer_and_its_seed():
    network, _ = fresh()
    before = all_parameters(network)
    with refused("magic"):
        network.initialize(0, "magic")
    with pytest.raises((TypeError, ValueError)):
        network.initialize(-1)
    assert all(np.array_equal(p, q) for p, q in zip(before, all_parameters(network), strict=True))


@pytest.mark.parametrize("name", ["weights", "biases"])
def test_layers_that_do_not_exist(name):
    network, trainer = fresh()
    for layer in (-1, 2, 10**9):
        with pytest.raises((ValueError, TypeError, IndexError)):
            getattr(network, name)(layer)
        with pytest.raises((ValueError, TypeError, IndexError)):
            getattr(network, f"set_{name}")(layer, np.zeros((6, 9), np.float32))
        with pytest.raises((ValueError, TypeError, IndexError)):
            trainer.feedback(layer)


def wrong_arrays(shape):
    """Arrays that are not C-contiguous float32 of this shape."""
    more = tuple(n + 1 for n in shape)
    yield np.zeros(more, np.float32)
    yield np.zeros(shape[::-1] if len(set(shape)) > 1 else (*shape, 1), np.float32)
    yield np.zeros(shape, np.float64)
    yield np.zeros(shape, np.int32)
    yield np.zeros(0, np.float32)
    yield np.zeros((2, *shape), np.float32)
    yield np.zeros([2 * n for n in shape], np.float32)[tuple(slice(None, None, 2) for _ in shape)]
    yield np.zeros(shape, np.dtype(np.float32).newbyteorder())
    if len(shape) == 2:
        yield np.zeros(shape, np.float32, order="F")


def test_setters_refuse_other_arrays():
    network, trainer = fresh()
    before = [*all_parameters(network), trainer.feedback(0)]
    for setter, shape in (
        (network.set_weights, (6, 9)),
        (network.set_biases, (9,)),
        (trainer.set_feedback, (4, 9)),
    ):
        for wrong in [*wrong_arrays(shape), None, "zeros"]:
            with pytest.raises(REFUSED):
                setter(0, wrong)
    after = [*all_parameters(network), trainer.feedback(0)]
    assert all(np.array_equal(p, q) for p, q in zip(before, after, strict=True))


def test_getters_give_copies():
    network, trainer = fresh()
    for get in (network.weights, network.biases, trainer.feedback):
        get(0)[:] = 99
        assert (get(0) != 99).all()


def epoch(trainer, x, y, w=None, **options):
    return trainer.run_epoch(x, y, w, **{"epoch": 0, "learning_rate": 0.1} | options)


@pytest.mark.parametrize("method", METHODS)
def test_training_data(method):
    network, trainer = fresh(method=method)
    x, y, w = data("softmax_cross_entropy", 20, 6, 4, seed=0)
    before = all_parameters(network)
    cases = [
        (x[:, :5].copy(), y, w, ["5", "6"]),
        (x[:0], y[:0], w[:0], ["0"]),
        (x, y[:-1], w, ["19", "20"]),
        (x, y, w[:-1], ["19", "20"]),
        (np.asfortranarray(x), y, w, []),
        (x[::2], y[:10], w[:10], []),
        (x.astype(np.float16), y, w, ["float16"]),
        (x.astype(np.int64), y, w, ["int64"]),
        (x.astype(np.complex64), y, w, ["complex64"]),
        (x[0], y, w, []),
        (x[None], y, w, []),
        (x, y.astype(np.int64), w, ["int64"]),
        (x, y.astype(np.float32), w, ["float32"]),
        (x, y[:, None], w, []),
        (x, np.eye(4, dtype=np.float32)[y], w, []),
        (x, y, w.astype(np.float64), ["float64"]),
        (x, y, w[:, None], []),
        (x, None, w, []),
        (None, y, w, []),
        (x.tolist(), y, w, []),
        (x, np.where(np.arange(20) == 7, 4, y).astype(np.int32), w, ["7", "4"]),
        (x, np.where(np.arange(20) == 7, -1, y).astype(np.int32), w, ["7", "-1"]),
        (x, np.where(np.arange(20) == 19, 2**31 - 1, y).astype(np.int32), w, ["19", "2147483647"]),
    ]
    for a, b, c, words in cases:
        with refused(*words):
            epoch(trainer, a, b, c)
        if method == "feedback":
            with refused(*words):
                trainer.alignment(a, b, c)
    for wrong in (
        np.where(np.arange(20) == 3, v, w).astype(np.float32) for v in (-1, np.nan, np.inf)
    ):
        with refused("sample_weight", "3"):
            epoch(trainer, x, y, wrong)
    assert all(np.array_equal(p, q) for p, q in zip(before, all_parameters(network), strict=True))
    assert trainer.step == 0
    assert np.isfinite(epoch(trainer, x, y, w))  # and nothing is broken


@pytest.mark.parametrize("method", ["feedback", "local_loss"])
@pytest.mark.parametrize("loss", ["binary_cross_entropy", "squared_error"])
def test_targets(loss, method):
    network, trainer = fresh(loss, method=method)
    x, y, _ = data(loss, 20, 6, 4, seed=0)
    before = all_parameters(network)
    for wrong in (
        y[:, :3].copy(), y[:-1], y[:, 0].copy(), y.astype(np.float64), np.asfortranarray(y),
        np.arange(20, dtype=np.int32) % 4, y.astype(np.int32), y[None],
    ):  # fmt: skip
        with pytest.raises(REFUSED):
            epoch(trainer, x, wrong)
    assert all(np.array_equal(p, q) for p, q in zip(before, all_parameters(network), strict=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": "warmup"}, ["warmup"]),
        ({"schedule": "cosine", "total_steps": 0}, ["total_steps", "0"]),
        ({"schedule": "cosine", "total_steps": -5}, []),
        ({"schedule": "step", "step_size": 0}, ["step_size", "0"]),
        ({"epoch": -1}, []),
        ({"learning_rate": float("nan")}, ["learning_rate", "nan"]),
        ({"learning_rate": -0.1}, ["learning_rate", "-0.1"]),
        ({"learning_rate": float("inf")}, ["learning_rate", "inf"]),
        ({"input_scale": float("nan")}, ["input_scale", "nan"]),
        ({"learning_rate": "fast"}, []),
        ({"on_event": 3}, []),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", METHODS)
def test_epoch_options(options, words, method):
    network, trainer = fresh(method=method)
    x, y, _ = data("softmax_cross_entropy", 20, 6, 4, seed=0)
    before = all_parameters(network)
    with refused(*words):
        epoch(trainer, x, y, **options)
    assert all(np.array_equal(p, q) for p, q in zip(before, all_parameters(network), strict=True))


def test_predict():
    network, _ = fresh()
    x = data("softmax_cross_entropy", 20, 6, 4, seed=0)[0]
    good = np.zeros((20, 4), np.float32)
    bad_x = [x[:, :5].copy(), x.astype(np.int32), x.T, x[0], x.tolist(), None]
    bad_out = [
        good[:, :3].copy(), good[:-1], good.astype(np.float64), good.T, good[:, 0].copy(), None,
        np.zeros((4, 20), np.float32).T,
    ]  # fmt: skip
    for a, out in [*((a, good) for a in bad_x), *((x, out) for out in bad_out)]:
        with pytest.raises(REFUSED):
            network.predict(a, out)
    read_only = good.copy()
    read_only.flags.writeable = False
    with refused("read-only|writ"):
        network.predict(x, read_only)
    square = core.Network([4, 4], "relu", "squared_error", "float32")
    memory = np.ones((8, 4), np.float32)
    with refused("overlap|memory"):
        square.predict(memory[:5], memory[3:])
    with refused("n_threads", "-2"):
        network.predict(x, good, n_threads=-2)
    assert not good.any()
    network.predict(x[:0], np.zeros((0, 4), np.float32))  # no rows are no error


def test_nan_in_the_data_stays_visible():
    """The core does not search for NaN, the estimators do: here it must not be hidden."""
    network, _ = fresh()
    x = data("softmax_cross_entropy", 20, 6, 4, seed=0)[0]
    clean = np.empty((20, 4), np.float32)
    network.predict(x, clean)
    x[7, 2] = np.nan
    out = np.empty((20, 4), np.float32)
    network.predict(x, out)
    assert np.isnan(out[7]).all()
    np.testing.assert_array_equal(np.delete(out, 7, 0), np.delete(clean, 7, 0))


def test_a_trainer_keeps_its_network_alive():
    trainer = fresh()[1]
    x, y, w = data("softmax_cross_entropy", 20, 6, 4, seed=0)
    assert np.isfinite(epoch(trainer, x, y, w))


def test_step_is_not_negative():
    trainer = fresh()[1]
    with pytest.raises((TypeError, ValueError)):
        trainer.step = -1
    assert trainer.step == 0


def test_feedback_of_rules_that_have_none():
    _, trainer = fresh(method="backprop")
    assert trainer.n_feedback == 0
    with pytest.raises((ValueError, IndexError, RuntimeError)):
        trainer.feedback(0)
    _, trainer = fresh(feedback="sign_symmetric")
    with refused("sign_symmetric|feedback"):
        trainer.set_feedback(0, np.zeros((9, 4), np.float32))


@pytest.mark.parametrize("activation", ["step", "sign"])
def test_methods_with_derivatives_refuse_what_has_none(activation):
    network = core.Network([3, 4, 2], activation, "softmax_cross_entropy", "float32")
    for method in ("backprop", "feedback", "local_loss", "forward_forward"):
        words = "relu alone" if method == "forward_forward" else f"activation is {activation}"
        with refused(words):
            core.Trainer(network, method=method)
