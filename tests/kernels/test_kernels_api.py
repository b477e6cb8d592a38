# SPDX-License-Identifier: BSD-3-Clause
"""bf.kernels: every function against NumPy, its bits against a Trainer's, and what it refuses."""

import sys

import numpy as np
import pytest
from oracle import optimizers, random
from oracle.activations import ACTIVATIONS, ALL_ACTIVATIONS, DERIVATIVES
from oracle.product import from_bfloat16, to_bfloat16
from oracle.product import product as exact_product
from tolerances import ACTIVATION, ACTIVATION_ABSOLUTE, STEP_F32, STEP_PARAMETER, U, product_bound

import bpfree_fast as bf
from bpfree_fast import _core as core

kernels = bf.kernels
FILLS = ("random_bits", "uniform", "normal", "sign")
# batch, n_in, n_out: edges of vectors and panels, rows 2 KiB apart, more rows than a task takes.
SHAPES = [(1, 1, 1), (5, 7, 33), (16, 31, 32), (33, 512, 17), (130, 20, 100), (1000, 9, 40)]
SOLVERS = [
    {"solver": "sgd"},
    {"solver": "sgd", "momentum": 0.9},
    {"solver": "sgd", "momentum": 0.8, "nesterov": False},
    {"solver": "adam", "weight_decay": 0.1},
    {"solver": "adamw", "alpha": 0.5, "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-4},
    {"solver": "rmsprop", "n_samples": 12.5},
]
DEFAULTS = {
    "momentum": 0.0,
    "nesterov": True,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "epsilon": 1e-8,
}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def zeros_of_state(W, b, options):
    slots = optimizers.n_slots(options["solver"], options.get("momentum", 0.0))
    arrays = [W] if b is None else [W, b]
    return [np.zeros_like(array) for _ in range(slots) for array in arrays]


class Lender:
    """An array of another library: nothing but DLPack."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **keywords):
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("name", FILLS)
def test_fills_are_the_streams(name):
    seed, stream, offset, n = 2**63 + 5, 2**40 + 1, 7, 1001
    out = getattr(kernels, name)(seed, n, stream=stream, offset=offset)
    if name == "sign":
        first = offset // 32
        words = random.words(seed, n // 32 + 2, stream, first)
        expected = random.sign(words[None])[0][offset - 32 * first :][:n]
    else:
        words = random.words(seed, n + 1 + offset, stream)
        expected = (
            words if name == "random_bits" else getattr(random, name)(words[: n // 2 * 2 + 8])
        )
        expected = expected[offset : offset + n]
    assert out.dtype == (np.uint32 if name == "random_bits" else np.float32)
    if name == "normal":
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6)
    else:
        np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(
        getattr(kernels, name)(seed, n - 5, stream=stream, offset=offset + 5, n_threads=3), out[5:]
    )


@pytest.mark.parametrize("name", FILLS)
def test_fills_write_into_out(name):
    fill = getattr(kernels, name)
    kind = np.uint32 if name == "random_bits" else np.float32
    out = np.zeros(50, kind)
    assert fill(3, 50, out=out) is out
    np.testing.assert_array_equal(out, fill(3, 50))
    lent = np.zeros(50, kind)
    fill(3, 50, out=Lender(lent))
    np.testing.assert_array_equal(lent, out)
    assert fill(3, 0).shape == (0,)
    if name != "random_bits":
        wide = fill(3, 50, dtype=np.float64)
        assert wide.dtype == np.float64
        np.testing.assert_array_equal(wide, out)


@pytest.mark.parametrize("name", FILLS)
def test_fills_refuse(name):
    fill = getattr(kernels, name)
    kind = np.uint32 if name == "random_bits" else np.float32
    for words, arguments, keywords in [
        ("-1", (-1, 3), {}),
        ("18446744073709551616", (2**64, 3), {}),
        ("-3", (0, -3), {}),
        ("2.5", (0, 2.5), {}),
        ("-7", (0, 3), {"offset": -7}),
        ("-8", (0, 3), {"stream": -8}),
        ("0", (0, 3), {"n_threads": 0}),
        ("(4,)", (0, 3), {"out": np.zeros(4, kind)}),
        ("int64", (0, 3), {"out": np.zeros(3, np.int64)}),
        ("contiguous", (0, 3), {"out": np.zeros(6, kind)[::2]}),
        ("list", (0, 3), {"out": [0, 0, 0]}),
    ]:
        with pytest.raises((ValueError, TypeError)) as error:
            fill(*arguments, **keywords)
        assert words in str(error.value), str(error.value)
    frozen = np.zeros(3, kind)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        fill(0, 3, out=frozen)
    if name != "random_bits":
        with pytest.raises(ValueError, match="float16"):
            fill(0, 3, dtype="float16")


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("transposes", [(False, False), (True, False), (False, True), (True, True)])
def test_product(dtype, transposes):
    m, k, n = 19, 65, 41
    a = draw(*((k, m) if transposes[0] else (m, k)))
    b = draw(*((n, k) if transposes[1] else (k, n)), seed=1)
    if dtype == "bfloat16":
        a, b = to_bfloat16(a), to_bfloat16(b)
        values = from_bfloat16(a), from_bfloat16(b)
    else:
        a, b = a.astype(dtype), b.astype(dtype)
        values = a, b
    exact, magnitude = exact_product(*values, transpose_a=transposes[0], transpose_b=transposes[1])
    flags = {"transpose_a": transposes[0], "transpose_b": transposes[1]}
    out = kernels.product(a, b, **flags, dtype=dtype)
    assert out.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert (np.abs(out - exact) <= product_bound(k, dtype, magnitude)).all()
    # A transposed view is the flag, not a copy.
    views = {"transpose_a": not transposes[0], "transpose_b": not transposes[1]}
    np.testing.assert_array_equal(kernels.product(a.T, b.T, **views, dtype=dtype), out)
    given = np.full_like(out, np.nan)
    assert kernels.product(Lender(a), b, **flags, dtype=dtype, out=given, n_threads=2) is given
    np.testing.assert_array_equal(given, out)


def test_product_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    a, b = draw(5, 40), draw(40, 3, seed=1)
    bits = kernels.product(to_bfloat16(a), to_bfloat16(b), dtype="bfloat16")
    a, b = a.astype(ml_dtypes.bfloat16), b.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(kernels.product(a, b), bits)
    np.testing.assert_array_equal(kernels.product(a, b, dtype=ml_dtypes.bfloat16), bits)


@pytest.mark.parametrize(
    ("words", "a", "b", "keywords"),
    [
        ("3", draw(4, 3), draw(4, 5), {}),
        ("float64", draw(4, 3), draw(3, 5).astype(np.float64), {}),
        ("uint16", np.zeros((4, 3), np.uint16), np.zeros((3, 5), np.uint16), {}),
        ("int32", np.zeros((4, 3), np.int32), np.zeros((3, 5), np.int32), {}),
        ("nothing is converted", draw(4, 3), draw(3, 5), {"dtype": "bfloat16"}),
        ("float16", draw(4, 3), draw(3, 5), {"dtype": np.float16}),
        ("1 dimension", draw(3), draw(3, 5), {}),
        ("contiguous", draw(4, 6)[:, ::2], draw(3, 5), {}),
        ("(4, 4)", draw(4, 3), draw(3, 5), {"out": draw(4, 4)}),
        ("transpose_a", draw(4, 3), draw(3, 5), {"transpose_a": 1}),
        ("list", [[1.0]], draw(1, 5), {}),
    ],
)
def test_product_refuses(words, a, b, keywords):
    with pytest.raises((ValueError, TypeError)) as error:
        kernels.product(a, b, **keywords)
    assert words in str(error.value), str(error.value)


@pytest.mark.parametrize("activation", ALL_ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_dense_forward(shape, activation):
    batch, n_in, n_out = shape
    x, W, b = draw(batch, n_in), draw(n_in, n_out, seed=1), draw(n_out, seed=2)
    exact, magnitude = exact_product(x, W, transpose_a=False, transpose_b=False)
    a = exact + b
    h = kernels.dense_forward(x, W, b, activation=activation)
    expected = ALL_ACTIVATIONS[activation](a)
    bound = product_bound(n_in + 1, "float32", magnitude + np.abs(b))
    if activation in (
        "step",
        "sign",
    ):  # on the right side of the edge, where rounding cannot cross it
        clear = np.abs(a) > 1.2 * bound
        np.testing.assert_array_equal(h[clear], expected[clear])
        return
    allowed = 1.2 * bound + ACTIVATION * np.abs(expected) + ACTIVATION_ABSOLUTE * np.abs(a)
    assert (np.abs(h - expected) <= allowed).all()
    out = np.full_like(h, np.nan)
    assert kernels.dense_forward(x, W, b, activation=activation, out=out, n_threads=1) is out
    np.testing.assert_array_equal(out, h)
    np.testing.assert_array_equal(
        kernels.dense_forward(x[-1:], Lender(W), b, activation=activation), h[-1:]
    )


def test_dense_forward_without_biases_and_with_the_preactivation():
    x, W, b = draw(70, 12), draw(12, 45, seed=1), draw(45, seed=2)
    np.testing.assert_array_equal(
        kernels.dense_forward(x, W), kernels.dense_forward(x, W, np.zeros_like(b))
    )
    a = np.full((70, 45), np.nan, np.float32)
    h = kernels.dense_forward(x, W, b, activation="gelu", preactivation=a)
    np.testing.assert_array_equal(a, kernels.dense_forward(x, W, b))
    np.testing.assert_array_equal(h, kernels.dense_forward(x, W, b, activation="gelu"))
    with pytest.raises(ValueError, match="gelu"):
        kernels.dense_forward(x, W, b, activation="relu", preactivation=a)


def trained(solver, momentum, method="feedback"):
    """A network after one step on one batch, and its layers before."""
    sizes = [37, 70, 5]
    network = core.Network(sizes, "tanh", "squared_error", "float32")
    network.initialize(11)
    trainer = core.Trainer(
        network, method=method, solver=solver, momentum=momentum, batch_size=50, seed=9
    )
    layers = [(network.weights(i), network.biases(i)) for i in range(2)]
    x, y = draw(50, 37), draw(50, 5, seed=1)
    trainer.run_epoch(x, y, epoch=0, shuffle=False, learning_rate=0.01)
    return network, trainer, layers, x, y


@pytest.mark.parametrize(("solver", "momentum"), [("sgd", 0.0), ("sgd", 0.9), ("adam", 0.9)])
def test_a_step_from_kernels_has_the_bits_of_the_trainer(solver, momentum):
    network, trainer, layers, x, y = trained(solver, momentum)
    (W0, b0), (W1, b1) = layers
    h = kernels.dense_forward(x, W0, b0, activation="tanh")
    e = kernels.dense_forward(h, W1, b1) - y
    delta = kernels.project_feedback(e, 70, seed=9, h=h, activation="tanh")
    options = {"learning_rate": 0.01, "solver": solver, "momentum": momentum}
    states = []
    for W, b, inputs, deltas in ((W0, b0, x, delta), (W1, b1, h, e)):
        states += (state := zeros_of_state(W, b, options))
        kernels.dense_update(W, b, inputs, deltas, **options, state=state)
    for i, (W, b) in enumerate(layers):
        np.testing.assert_array_equal(W, network.weights(i))
        np.testing.assert_array_equal(b, network.biases(i))
    for ours, theirs in zip(states, trainer.optimizer_state(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(kernels.feedback_matrix(5, 70, seed=9), trainer.feedback(0))


@pytest.mark.parametrize("options", SOLVERS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("has_bias", [True, False])
def test_dense_update(shape, options, has_bias):
    batch, n_in, n_out = shape
    W, b = draw(n_in, n_out), draw(n_out, seed=1) if has_bias else None
    x, delta = draw(batch, n_in, seed=2), draw(batch, n_out, seed=3)
    state = zeros_of_state(W, b, options)
    known = {key: options.get(key, value) for key, value in DEFAULTS.items()}
    total, decay = options.get("n_samples", batch), options.get("weight_decay", 0.0)
    per_slot = 2 if has_bias else 1
    step, lr = 4, 0.05
    # A state that is not zero, so that the moments' formulas count.
    for i, array in enumerate(state):
        array[:] = np.abs(draw(*array.shape, seed=4 + i))
    gradient = x.T.astype(np.float64) @ delta / total
    expected = []
    for i, (p, g, keep) in enumerate(
        [(W, gradient + options.get("alpha", 0.0) / total * W, decay)]
        + [(b, delta.sum(0, dtype=np.float64) / total, 0.0)] * has_bias
    ):
        slots = [np.array(s, np.float64) for s in state[i::per_slot]]
        expected.append(
            optimizers.update(
                p.astype(np.float64),
                g,
                slots,
                step,
                lr,
                solver=options["solver"],
                **known,
                decay=keep,
            )
        )
    before = [array.copy() for array in ([W, b] if has_bias else [W])]
    assert kernels.dense_update(
        W, b, x, delta, learning_rate=lr, step=step, state=state, **options
    ) is None  # fmt: skip
    for i, (new, slots) in enumerate(expected):
        now = [W, b][i]
        change = np.abs(new - before[i]).max()
        allowed = STEP_F32 * change + STEP_PARAMETER * np.abs(new)
        assert (np.abs(now - new) <= allowed).all()
        for ours, theirs in zip(state[i::per_slot], slots, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=STEP_F32, atol=STEP_F32)


def test_dense_update_has_the_same_bits_for_any_number_of_threads():
    x, delta = draw(200, 300), draw(200, 130, seed=1)
    results = []
    for n_threads in (1, 2, 5):
        W, b = draw(300, 130, seed=2), draw(130, seed=3)
        kernels.dense_update(W, b, x, delta, learning_rate=0.1, n_threads=n_threads)
        results.append((W, b))
    for W, b in results[1:]:
        np.testing.assert_array_equal(W, results[0][0])
        np.testing.assert_array_equal(b, results[0][1])


@pytest.mark.parametrize("distribution", ["uniform", "normal", "sign"])
@pytest.mark.parametrize("shape", [(1, 1), (10, 33), (300, 129)])
def test_feedback_matrix(shape, distribution):
    seed, layer, scale = 2**40 + 3, 5, 1.5
    per_block = 128 if distribution == "sign" else 4
    words = random.matrix_words(seed, shape, 4, tensor=layer, per_block=per_block)
    unit = getattr(random, distribution)(words)[:, : shape[1]]
    if distribution == "uniform":
        unit = 2 * unit - 1
    keywords = {"seed": seed, "layer": layer, "distribution": distribution, "scale": scale}
    out = kernels.feedback_matrix(*shape, **keywords)
    expected = unit * scale / np.sqrt(shape[0])
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    given = np.full(shape, np.nan, np.float32)
    assert kernels.feedback_matrix(*shape, **keywords, out=given, n_threads=1) is given
    np.testing.assert_array_equal(given, out)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize(
    ("batch", "n_outputs", "n_hidden"), [(1, 1, 1), (19, 10, 70), (900, 3, 33)]
)
def test_project_feedback(batch, n_outputs, n_hidden, activation):
    e, a = draw(batch, n_outputs), draw(batch, n_hidden, seed=1)
    name = activation or "identity"
    h = a if name == "gelu" else ACTIVATIONS[name](a).astype(np.float32)
    B = kernels.feedback_matrix(n_outputs, n_hidden, seed=4, layer=2, distribution="normal")
    exact, magnitude = exact_product(e, B, transpose_a=False, transpose_b=False)
    slope = DERIVATIVES[name](a.astype(np.float64))
    keywords = {"h": None if activation is None else h, "activation": activation}
    out = kernels.project_feedback(e, n_hidden, seed=4, layer=2, distribution="normal", **keywords)
    # h was rounded, and the slope made from it.
    allowed = product_bound(n_outputs + 8, "float32", magnitude) * 1.2 + 8 * U["float32"] * np.abs(
        exact
    )
    assert (np.abs(out - exact * slope) <= allowed).all()
    given = np.full_like(out, np.nan)
    kernels.project_feedback(e, n_hidden, feedback=B, **keywords, out=given, n_threads=1)
    np.testing.assert_array_equal(given, out)


def test_empty_arrays():
    assert kernels.dense_forward(draw(0, 3), draw(3, 4)).shape == (0, 4)
    assert kernels.dense_forward(draw(2, 3), draw(3, 0)).shape == (2, 0)
    np.testing.assert_array_equal(
        kernels.dense_forward(draw(2, 0), draw(0, 3), np.float32([1, 2, 3])), [[1, 2, 3]] * 2
    )
    assert kernels.feedback_matrix(0, 5, seed=0).shape == (0, 5)
    np.testing.assert_array_equal(kernels.project_feedback(draw(2, 0), 3, seed=0), np.zeros((2, 3)))
    b = np.zeros(3, np.float32)
    kernels.dense_update(draw(0, 3), b, draw(2, 0), np.ones((2, 3), "f"), learning_rate=1.0)
    np.testing.assert_array_equal(b, [-1, -1, -1])


def test_nan_stays_in_its_row_and_column():
    x, W = draw(40, 20), draw(20, 50, seed=1)
    x[7, 3] = W[2, 49] = np.nan
    bad = np.isnan(kernels.dense_forward(x, W, activation="tanh"))
    assert bad[7].all()
    assert bad[:, 49].all()
    assert bad.sum() == 50 + 40 - 1


X, WEIGHTS, BIASES, DELTA = draw(6, 4), draw(4, 3), draw(3), draw(6, 3)


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("(3, n)", lambda: kernels.dense_forward(draw(6, 3), WEIGHTS)),
        ("float64", lambda: kernels.dense_forward(X.astype(np.float64), WEIGHTS)),
        ("(4,)", lambda: kernels.dense_forward(X, WEIGHTS, draw(4))),
        ("not C-contiguous", lambda: kernels.dense_forward(X, np.asfortranarray(WEIGHTS))),
        ("swish", lambda: kernels.dense_forward(X, WEIGHTS, activation="swish")),
        ("(6, 4)", lambda: kernels.dense_forward(X, WEIGHTS, out=draw(6, 4))),
        ("h overlaps x", lambda: kernels.dense_forward(X, draw(4, 4), out=X)),
        ("str", lambda: kernels.dense_forward("x", WEIGHTS)),
        ("-1", lambda: kernels.dense_forward(X, WEIGHTS, n_threads=-1)),
        ("(4,)", lambda: update(W=draw(4, 4))),
        ("(5, 3)", lambda: update(delta=draw(5, 3))),
        ("0 rows", lambda: update(x=draw(0, 4), delta=draw(0, 3))),
        ("-0.1", lambda: update(learning_rate=-0.1)),
        ("nan", lambda: update(learning_rate=np.nan)),
        ("sgdx", lambda: update(solver="sgdx")),
        ("step", lambda: update(step=0)),
        ("n_samples", lambda: update(n_samples=0)),
        ("momentum", lambda: update(momentum=1.0)),
        ("expected 4", lambda: update(solver="adam")),
        ("state[0]", lambda: update(solver="rmsprop", state=[draw(3), draw(3)])),
        ("-2", lambda: kernels.feedback_matrix(-2, 3, seed=0)),
        ("16777216", lambda: kernels.feedback_matrix(2, 3, seed=0, layer=2**24)),
        ("cauchy", lambda: kernels.feedback_matrix(2, 3, seed=0, distribution="cauchy")),
        ("scale", lambda: kernels.feedback_matrix(2, 3, seed=0, scale=np.inf)),
        ("(3, 2)", lambda: kernels.feedback_matrix(2, 3, seed=0, out=draw(3, 2))),
        ("neither", lambda: kernels.project_feedback(DELTA, 4)),
        ("both", lambda: kernels.project_feedback(DELTA, 4, seed=0, feedback=draw(3, 4))),
        ("(2, 4)", lambda: kernels.project_feedback(DELTA, 4, feedback=draw(2, 4))),
        ("h is missing", lambda: kernels.project_feedback(DELTA, 4, seed=0, activation="relu")),
        ("without activation", lambda: kernels.project_feedback(DELTA, 4, seed=0, h=draw(6, 4))),
        ("n_hidden is 5", lambda: kernels.project_feedback(DELTA, 5, seed=0, out=draw(6, 4))),
    ],
)
def test_bad_input_gets_a_sentence(words, call):
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    assert words in str(error.value), str(error.value)


def update(**changes):
    arguments = {"W": WEIGHTS, "b": BIASES, "x": X, "delta": DELTA, "learning_rate": 0.1} | changes
    kept = {key: np.array(arguments[key]) for key in ("W", "b")}
    try:
        kernels.dense_update(**arguments)
    finally:
        for key, value in kept.items():
            np.testing.assert_array_equal(arguments[key], value)


def test_overlaps_are_refused():
    memory = draw(40)
    W, x = memory[:12].reshape(4, 3), memory[8:32].reshape(6, 4)
    with pytest.raises(ValueError, match="W overlaps x"):
        update(W=W, x=x)
    with pytest.raises(ValueError, match="b overlaps delta"):
        update(b=memory[17:20], delta=memory[:18].reshape(6, 3))
    state = [np.zeros_like(WEIGHTS), np.zeros_like(BIASES)] * 2  # twice the same two
    with pytest.raises(ValueError, match="the first state of W overlaps the second state of W"):
        update(solver="adam", state=state)
    with pytest.raises(ValueError, match="delta overlaps e"):
        kernels.project_feedback(X, 4, seed=0, out=X)


def test_read_only_outputs_are_refused():
    frozen = draw(6, 3)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        kernels.dense_forward(X, WEIGHTS, out=frozen)
    with pytest.raises(ValueError, match="out is read-only"):
        kernels.project_feedback(X, 3, seed=0, out=frozen)
    weights = WEIGHTS.copy()
    weights.flags.writeable = False
    with pytest.raises(ValueError, match="W is read-only"):
        update(W=weights)


def test_torch_tensors_are_read_and_written_where_they_lie():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, W = torch.randn(6, 4), torch.randn(4, 3)
    out = torch.zeros(6, 3)
    kernels.dense_forward(x, W, out=out)
    torch.testing.assert_close(out, x @ W)
    a, b = (t.to(torch.bfloat16) for t in (x, W))
    with pytest.raises(ValueError, match="uint16"):
        kernels.product(a, b)
    bits = kernels.product(a.view(torch.uint16), b.view(torch.uint16), dtype="bfloat16")
    np.testing.assert_allclose(bits, (a.float() @ b.float()).numpy(), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="gradient"):
        kernels.dense_forward(x.requires_grad_(), W)


def test_jax_arrays_are_read_where_they_lie():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    x = jax.numpy.ones((6, 4))
    np.testing.assert_array_equal(kernels.product(x, x, transpose_b=True), np.full((6, 6), 4.0))
    with pytest.raises(ValueError, match="read-only"):
        kernels.product(x, x, transpose_b=True, out=jax.numpy.ones((6, 6)))


def test_kernels_need_numpy_only():
    assert "bpfree_fast.kernels" in sys.modules
    assert set(kernels.__all__) <= set(dir(kernels))
