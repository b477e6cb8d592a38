# SPDX-License-Identifier: BSD-3-Clause
"""bf.kernels.low_rank_forward: the dense layer with E materialised, bits, ISAs, refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isas import arrays_under
from oracle import perturbation as oracle
from tolerances import ACTIVATION, U

import bpfree_fast as bf
from bpfree_fast import _core as core

kernels = bf.kernels
SEED = 0x0123456789ABCDEF
# batch, n_in, n_out: edges of vectors, panels and row blocks; rows 2 KiB apart; more rows than a
# task takes; nothing at all.
SHAPES = [
    (1, 1, 1),
    (5, 7, 33),
    (16, 31, 32),
    (33, 512, 17),
    (130, 20, 100),
    (600, 9, 40),
    (3, 0, 5),
    (0, 4, 3),
    (2, 3, 0),
]
STD = 0.3

# A normal is within 2e-6 of its float64 value (test_random.py), and at most 6.6.
NORMAL = 2e-6
LARGEST = 6.6


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def layer(batch, n_in, n_out, members=None):
    x = draw(batch, n_in) if members is None else draw(members, batch, n_in)
    return x, draw(n_in, n_out, seed=1), draw(n_out, seed=2)


def materialised(x, W, b, members, *, tensor=0, **source):
    """The members' dense layers in float64, and how far off float32 may be."""
    n_in, n_out = W.shape
    rank = source.get("rank", 1)
    # Tensors before this one have a shape too, but take no part in it.
    shapes = [(1,)] * tensor + [(n_in, n_out), (n_out,)]
    inputs = np.abs(x).astype(np.float64)
    std = np.float64(np.float32(STD))
    expected, bounds = [], []
    for i, member in enumerate(members):
        eps = oracle.noise(shapes, member=member, kind="low_rank", **source)[tensor:]
        E, e = eps[: n_in * n_out].reshape(n_in, n_out), eps[n_in * n_out :]
        rows = x if x.ndim == 2 else x[i]
        a = rows.astype(np.float64) @ (W + std * E)
        # Each of the factors' products is at most this large, whatever E's are after cancelling.
        sizes = inputs if x.ndim == 2 else inputs[i]
        largest = np.sqrt(rank) * LARGEST**2
        magnitude = sizes @ (np.abs(W) + std * largest)
        off = std * sizes.sum(axis=1, keepdims=True) * 2 * np.sqrt(rank) * LARGEST * NORMAL
        if b is not None:
            a = a + b + std * e
            magnitude, off = magnitude + np.abs(b) + std * np.abs(e), off + std * NORMAL
        expected.append(a)
        bounds.append((2 * n_in + rank + 8) * U["float32"] * magnitude + off)
    return np.array(expected), np.array(bounds)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("rank", "antithetic"), [(1, True), (1, False), (3, True)])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_dense_layer(shape, rank, antithetic, shared):
    for first, n_members in ((0, 1), (3, 6), (2**32 - 2, 2)):
        x, W, b = layer(*shape, None if shared else n_members)
        source = {"seed": SEED, "generation": 3, "rank": rank, "antithetic": antithetic}
        members = range(first, first + n_members)
        keywords = source | {"n_members": n_members, "first_member": first, "std": STD}
        out = kernels.low_rank_forward(x, W, b, tensor=2, **keywords)
        assert out.dtype == np.float32
        assert out.shape == (n_members, shape[0], shape[2])
        expected, bound = materialised(x, W, b, members, tensor=2, **source)
        assert (np.abs(out - expected) <= bound).all()
        out = kernels.low_rank_forward(x, W, **keywords)
        expected, bound = materialised(x, W, None, members, **source)
        assert (np.abs(out - expected) <= bound).all()


@pytest.mark.parametrize("shared", [True, False])
def test_a_network_equals_its_perturbed_members(shared):
    """Two layers of one population, from `perturb` and `dense_forward`."""
    shapes, n = [(20, 40), (40,), (40, 3), (3,)], 6
    theta, x = draw(963), draw(50, 20, seed=1)
    theta /= 5
    source = {"seed": 4, "generation": 8, "std": 0.1, "antithetic": True, "rank": 2}
    W, b, V, c = (
        part.reshape(shape)
        for part, shape in zip(np.split(theta, [800, 840, 960]), shapes, strict=True)
    )
    given_x = x if shared else np.broadcast_to(x, (n, 50, 20)).copy()
    h = kernels.low_rank_forward(given_x, W, b, n_members=n, activation="tanh", **source)
    y = kernels.low_rank_forward(h, V, c, n_members=n, tensor=2, **source)
    members = kernels.perturb(theta, member=range(n), kind="low_rank", shapes=shapes, **source)
    for i, member in enumerate(members):
        W, b, V, c = (
            np.ascontiguousarray(part.reshape(shape))
            for part, shape in zip(np.split(member, [800, 840, 960]), shapes, strict=True)
        )
        expected = kernels.dense_forward(kernels.dense_forward(x, W, b, activation="tanh"), V, c)
        np.testing.assert_allclose(y[i], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "activation", ["relu", "leaky_relu", "tanh", "logistic", "gelu", "step", "sign"]
)
@pytest.mark.parametrize("rank", [1, 2])
def test_activations(activation, rank):
    """Those of the dense layer, of the same sums."""
    for shared in (True, False):
        x, W, b = layer(19, 30, 75, None if shared else 4)
        keywords = {"seed": 1, "n_members": 4, "std": STD, "rank": rank, "antithetic": True}
        sums = kernels.low_rank_forward(x, W, b, **keywords)
        out = kernels.low_rank_forward(x, W, b, activation=activation, **keywords)
        eye = np.eye(75, dtype=np.float32)
        expected = kernels.dense_forward(sums.reshape(-1, 75), eye, activation=activation)
        np.testing.assert_allclose(
            out.reshape(-1, 75), expected, rtol=ACTIVATION, atol=0 if activation != "gelu" else 1e-9
        )


@pytest.mark.parametrize("shared", [True, False])
def test_pairs_are_symmetric(shared):
    """Around the layer without noise, as far as its rounding goes; without it to the bit."""
    x, W, b = layer(9, 40, 70, None if shared else 4)
    if not shared:
        x[1::2] = x[::2]
    keywords = {"seed": 1, "n_members": 4, "std": STD, "rank": 2, "antithetic": True}
    out = kernels.low_rank_forward(x, np.zeros_like(W), np.zeros_like(b), **keywords)
    np.testing.assert_array_equal(out[::2], -out[1::2])
    assert np.abs(out[0] - out[2]).min() > 0


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("shape", [(130, 200, 100), (7, 512, 512), (300, 60, 33)])
def test_threads_change_no_bit(shape, shared):
    x, W, b = layer(*shape, None if shared else 8)
    for rank in (1, 40):
        keywords = {"seed": 1, "n_members": 8, "std": STD, "rank": rank, "antithetic": True}
        one = kernels.low_rank_forward(x, W, b, n_threads=1, **keywords)
        for n_threads in (2, 3, 7):
            again = kernels.low_rank_forward(x, W, b, n_threads=n_threads, **keywords)
            np.testing.assert_array_equal(again, one)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("antithetic", [True, False])
def test_members_and_rows_do_not_depend_on_others(antithetic, shared):
    """60 members of rank 40 are more than are worked on at a time."""
    n, shape = 60, (3, 512, 500)
    x, W, b = layer(*shape, None if shared else n)
    keywords = {"seed": 1, "std": STD, "rank": 40, "antithetic": antithetic}
    whole = kernels.low_rank_forward(x, W, b, n_members=n, **keywords)
    for first, count in ((0, 1), (17, 3), (24, 30), (59, 1)):
        part = kernels.low_rank_forward(
            x if shared else x[first : first + count],
            W,
            b,
            n_members=count,
            first_member=first,
            **keywords,
        )
        np.testing.assert_array_equal(part, whole[first : first + count])
    row = np.ascontiguousarray(x[..., 1:2, :])
    alone = kernels.low_rank_forward(row, W, b, n_members=n, **keywords)
    np.testing.assert_array_equal(alone, whole[:, 1:2])


ISA_SCRIPT = """
import sys, numpy as np, bpfree_fast as bf
from bpfree_fast import _core
k, inputs = bf.kernels, np.load(sys.argv[1])
print(_core.isa())
found = {}
for x in ("own", "shared"):
    for rank, activation in ((1, "identity"), (3, "tanh")):
        found[x + activation] = k.low_rank_forward(
            inputs[x], inputs["W"], inputs["b"], seed=5, n_members=4, std=0.3, rank=rank,
            antithetic=True, activation=activation)
np.savez(sys.argv[2], **found)
"""


def test_every_isa(tmp_path):
    """Sums are in another order on each: of 90 and some terms of size 10."""
    x, W, b = layer(21, 90, 75)
    np.savez(tmp_path / "in.npz", shared=x, own=draw(4, 21, 90, seed=3), W=W, b=b)
    found = {}
    for isa in core.available_isas():
        found[isa] = arrays_under(isa, ISA_SCRIPT, tmp_path)
    for arrays in found.values():
        for name, array in arrays.items():
            np.testing.assert_allclose(array, found["scalar"][name], rtol=0, atol=1e-4)


@given(
    shape=st.tuples(st.integers(0, 40), st.integers(0, 70), st.integers(0, 70)),
    rank=st.integers(1, 4),
    first=st.integers(0, 5),
    n_members=st.integers(0, 5),
    antithetic=st.booleans(),
    shared=st.booleans(),
    has_bias=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_shape(shape, rank, first, n_members, antithetic, shared, has_bias):
    x, W, b = layer(*shape, None if shared else n_members)
    b = b if has_bias else None
    source = {"seed": 3, "rank": rank, "antithetic": antithetic, "generation": 1}
    out = np.full((n_members, shape[0], shape[2]), np.nan, np.float32)
    kernels.low_rank_forward(
        x, W, b, n_members=n_members, first_member=first, std=STD, out=out, **source
    )
    if out.size > 0:
        members = range(first, first + n_members)
        expected, bound = materialised(x, W, b, members, **source)
        assert (np.abs(out - expected) <= bound).all()


def test_out_and_its_neighbours():
    x, W, b = layer(5, 7, 33)
    keywords = {"seed": 1, "n_members": 2, "std": STD}
    expected = kernels.low_rank_forward(x, W, b, **keywords)
    memory = np.full((4, 5, 33), 7, np.float32)
    out = memory[1:3]
    assert kernels.low_rank_forward(x, W, b, out=out, **keywords) is out
    np.testing.assert_array_equal(out, expected)
    assert (memory[[0, 3]] == 7).all()


def test_nan_is_no_error():
    x, W, b = layer(3, 4, 5, 2)
    x[1, 2, 0] = np.nan
    out = kernels.low_rank_forward(x, W, b, seed=0, n_members=2, std=STD)
    nan = np.isnan(out)
    assert nan[1, 2].all()
    assert nan.sum() == 5


X, WEIGHTS, BIAS = layer(3, 4, 5)


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("std must be above 0", {"std": 0}),
        ("std must be above 0", {"std": -1.0}),
        ("nan", {"std": float("nan")}),
        ("expected a finite number above 0", {"std": 1e-60}),
        ("seed must be", {"seed": -1}),
        ("generation must be", {"generation": 2**32}),
        ("first_member must be", {"first_member": 2**32}),
        ("first_member is 4294967295 with 2 members", {"first_member": 2**32 - 1}),
        ("n_members must be", {"n_members": -1}),
        ("rank must be at least 1", {"rank": 0}),
        ("tensor must be", {"tensor": 2**24 - 1}),
        ("antithetic must be", {"antithetic": 1}),
        ("'softplus'", {"activation": "softplus"}),
        ("n_threads", {"n_threads": 0}),
        ("x has 1 dimension", {"x": X[0]}),
        ("W has 1 dimension", {"W": BIAS}),
        ("(3, 3)", {"x": np.zeros((3, 3), np.float32)}),
        ("(3, 3, 4)", {"x": np.zeros((3, 3, 4), np.float32)}),
        ("float64", {"x": X.astype(np.float64)}),
        ("float64", {"W": WEIGHTS.astype(np.float64)}),
        ("(4,)", {"b": np.zeros(4, np.float32)}),
        ("float64", {"out": np.zeros((2, 3, 5))}),
        ("(3, 3, 5)", {"out": np.zeros((3, 3, 5), np.float32)}),
        ("(6, 5)", {"out": np.zeros((6, 5), np.float32)}),
        ("expected a C-contiguous float32 array of shape (2, n, 4)", {"x": X[None]}),
        ("(2, 3, 4)", {"out": np.zeros((2, 3, 4), np.float32)}),
        ("(2, 4, 5)", {"out": np.zeros((2, 4, 5), np.float32)}),
    ],
)
def test_refuses(words, changed):
    arguments = {"x": X, "W": WEIGHTS, "b": BIAS, "seed": 0, "n_members": 2, "std": 0.1} | changed
    with pytest.raises((ValueError, TypeError)) as error:
        kernels.low_rank_forward(**arguments)
    assert words in str(error.value), str(error.value)


def test_overlap_is_refused_and_changes_nothing():
    memory = np.arange(40, dtype=np.float32)
    before = memory.copy()
    x, W, out = memory[:12].reshape(3, 4), memory[12:32].reshape(4, 5), memory[10:40]
    for arguments in [(x, WEIGHTS), (X, W), (X, WEIGHTS, memory[35:40])]:
        with pytest.raises(ValueError, match="h overlaps"):
            kernels.low_rank_forward(
                *arguments, seed=0, n_members=2, std=0.1, out=out.reshape(2, 3, 5)
            )
    np.testing.assert_array_equal(memory, before)
    frozen = np.zeros((2, 3, 5), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        kernels.low_rank_forward(X, WEIGHTS, seed=0, n_members=2, std=0.1, out=frozen)
    strided = np.zeros((2, 3, 10), np.float32)[..., ::2]
    with pytest.raises(ValueError, match="C-contiguous"):
        kernels.low_rank_forward(X, WEIGHTS, seed=0, n_members=2, std=0.1, out=strided)
    with pytest.raises(TypeError, match="list"):
        kernels.low_rank_forward([[0.0]], WEIGHTS, seed=0, n_members=2, std=0.1)
