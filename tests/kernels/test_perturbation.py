# SPDX-License-Identifier: BSD-3-Clause
"""bf.kernels.perturb and perturbation_gradient: the oracle, pairs, threads, ISAs, refusals."""

import hashlib
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import perturbation as oracle
from tolerances import STANDARD_ERRORS, U

import bpfree_fast as bf
from bpfree_fast import _core as core

kernels = bf.kernels
SEED = 0x0123456789ABCDEF
KINDS = [("gaussian", 1), ("rademacher", 1), ("low_rank", 1), ("low_rank", 3)]
# Edges of vectors, panels, blocks and tiles; matrices of one row or column; nothing at all.
SHAPES = [
    None,
    [(7, 33), (33,), (33, 5), (5,)],
    [(1, 1), (1,), (130, 1), (1, 300), (3, 0)],
    [(20, 1300), (17000,)],
    [],
]

# A normal is within 2e-6 of its float64 value (test_random.py), and at most 6.6.
NORMAL = 2e-6
LARGEST = 6.6


def sizes(shapes):
    return 1000 if shapes is None else sum(int(np.prod(shape)) for shape in shapes)


def shaped(shapes):
    return [(1000,)] if shapes is None else shapes


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def noise_error(kind, rank, eps):
    """What a member's noise may be off by: its normals, or for a product of two both of them."""
    if kind == "rademacher":
        return 0.0
    factors = 2 * LARGEST * np.sqrt(rank) if kind == "low_rank" else 1
    return NORMAL * factors + (rank + 2) * U["float32"] * np.sqrt(rank) * LARGEST**2


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize(("kind", "rank"), KINDS)
@pytest.mark.parametrize("shapes", SHAPES)
def test_members(shapes, kind, rank, antithetic):
    theta = draw(sizes(shapes))
    source = {"seed": SEED, "kind": kind, "antithetic": antithetic, "rank": rank, "generation": 3}
    for member in (0, 5, 2**32 - 1):
        eps = oracle.noise(shaped(shapes), member=member, **source)
        out = kernels.perturb(theta, member=member, std=0.3, shapes=shapes, **source)
        expected = theta.astype(np.float64) + np.float64(np.float32(0.3)) * eps
        assert out.dtype == np.float32
        np.testing.assert_allclose(
            out, expected, rtol=2 * U["float32"], atol=noise_error(kind, rank, eps)
        )


@pytest.mark.parametrize(("kind", "rank"), KINDS)
@pytest.mark.parametrize("shapes", SHAPES)
def test_several_members_are_each_alone(shapes, kind, rank):
    theta = draw(sizes(shapes))
    for antithetic in (False, True):
        keywords = {
            "seed": 1,
            "std": 0.1,
            "kind": kind,
            "rank": rank,
            "shapes": shapes,
            "antithetic": antithetic,
        }
        members = [4, 5, 6, 9, 8, 8, 3]
        rows = kernels.perturb(theta, member=members, **keywords)
        for row, member in zip(rows, members, strict=True):
            np.testing.assert_array_equal(row, kernels.perturb(theta, member=member, **keywords))
        pair = kernels.perturb(np.zeros_like(theta), member=range(2), **keywords)
        if antithetic:
            np.testing.assert_array_equal(pair[0], -pair[1])


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize(("kind", "rank"), KINDS)
@pytest.mark.parametrize("shapes", SHAPES)
def test_gradient_is_the_explicit_sum(shapes, kind, rank, antithetic):
    n, first = 14, 6
    u = draw(n, seed=1)
    u[[2, 3, 8]] = 0
    source = {"seed": SEED, "kind": kind, "antithetic": antithetic, "rank": rank, "generation": 9}
    eps = [oracle.noise(shaped(shapes), member=first + i, **source) for i in range(n)]
    expected = sum((float(u[i]) * eps[i] for i in range(n)), np.zeros(sizes(shapes)))
    out = kernels.perturbation_gradient(
        u, sizes(shapes), first_member=first, shapes=shapes, **source
    )
    weight = np.abs(u).sum()
    size = LARGEST if kind != "low_rank" else np.sqrt(rank) * LARGEST**2
    bound = weight * (noise_error(kind, rank, eps) + (n * rank + 2) * U["float32"] * size)
    np.testing.assert_allclose(out, expected, rtol=0, atol=bound)
    np.testing.assert_array_equal(
        out,
        kernels.perturbation_gradient(
            u.astype(np.float64), sizes(shapes), first_member=first, shapes=shapes, **source
        ),
    )


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_many_members(kind):
    """More than are summed at a time, in rows that begin and end within a block."""
    n, shapes = 1200, [(3, 37), (70,)]
    u = draw(n, seed=1).astype(np.float64)
    out = kernels.perturbation_gradient(u, 181, seed=4, kind=kind, shapes=shapes)
    members = kernels.perturb(
        np.zeros(181, np.float32), seed=4, member=range(n), std=1, kind=kind, shapes=shapes
    )
    bound = 514 * U["float32"] * (np.abs(u) @ np.abs(members))
    assert (np.abs(out - u @ members) <= bound).all()


@pytest.mark.parametrize(("kind", "rank"), KINDS)
def test_threads_change_no_bit(kind, rank):
    shapes = [(300, 257), (40000,), (5, 5)]
    theta, u = draw(sizes(shapes)), draw(600, seed=1)
    keywords = {"seed": 2, "kind": kind, "rank": rank, "shapes": shapes, "antithetic": True}
    one = kernels.perturb(theta, member=range(3), std=0.5, n_threads=1, **keywords)
    gradient = kernels.perturbation_gradient(u, theta.size, n_threads=1, **keywords)
    for n_threads in (2, 3, 7):
        again = kernels.perturb(theta, member=range(3), std=0.5, n_threads=n_threads, **keywords)
        np.testing.assert_array_equal(again, one)
        again = kernels.perturbation_gradient(u, theta.size, n_threads=n_threads, **keywords)
        np.testing.assert_array_equal(again, gradient)


ISA_SCRIPT = """
import hashlib, numpy as np, bpfree_fast as bf
from bpfree_fast import _core
print(_core.isa())
k = bf.kernels
theta = k.normal(1, 20000)
u = k.normal(2, 700)
for kind in ("gaussian", "rademacher", "low_rank"):
    keywords = dict(seed=5, kind=kind, shapes=[(99, 101), (10001,)], antithetic=True)
    out = k.perturb(theta, member=range(3), std=0.5, **keywords)
    print(kind, hashlib.sha256(out.tobytes()).hexdigest())
    if kind != "low_rank":
        out = k.perturbation_gradient(u, theta.size, **keywords)
        print(kind, hashlib.sha256(out.tobytes()).hexdigest())
"""


def test_same_bits_on_every_isa(tmp_path):
    printed = {}
    for isa in core.available_isas():
        done = subprocess.run(
            [sys.executable, "-c", ISA_SCRIPT],
            cwd=tmp_path,
            env=os.environ | {"BPFREE_ISA": isa},
            capture_output=True,
            text=True,
            check=True,
        )
        ran, _, printed[isa] = done.stdout.partition("\n")
        assert ran == isa
    assert set(printed.values()) == {printed["scalar"]}


# Frozen: a population that anyone has stored as a seed stays the same.
FROZEN = {
    "gaussian": "a3da3a9efd1e60a044ff5f5e051c053904916c3efbb0a9a72244a199be5ba101",
    "rademacher": "b611575a1cf8bbd72cc7e85fabdd2cdc4bb94f3f43b926d6b465e0a8e6bbb6f2",
    "low_rank": "e04e59cbabbe94e97afe8c3d360af633c91623b9223b5cea387cbe1ab03914f8",
}


@pytest.mark.parametrize("kind", FROZEN)
def test_frozen(kind):
    out = kernels.perturb(
        np.ones(1147, np.float32), seed=SEED, generation=7, member=[10, 13], std=0.25, kind=kind,
        shapes=[(30, 37), (37,)], antithetic=True, rank=2,
    )  # fmt: skip
    little = out.astype(out.dtype.newbyteorder("<")).tobytes()
    assert hashlib.sha256(little).hexdigest() == FROZEN[kind]


@given(
    shapes=st.lists(
        st.one_of(
            st.tuples(st.integers(0, 40)), st.tuples(st.integers(0, 20), st.integers(0, 140))
        ),
        max_size=4,
    ),
    kind=st.sampled_from(KINDS),
    first=st.integers(0, 5),
    n=st.integers(0, 9),
    antithetic=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_gradient_of_any_shapes_is_a_sum_of_members(shapes, kind, first, n, antithetic):
    first, n = (2 * first, 2 * n) if antithetic else (first, n)
    u = draw(n, seed=n).astype(np.float64)
    keywords = {
        "seed": 3,
        "kind": kind[0],
        "rank": kind[1],
        "shapes": shapes,
        "antithetic": antithetic,
    }
    d = sizes(shapes)
    members = kernels.perturb(
        np.zeros(d, np.float32), member=range(first, first + n), std=1, **keywords
    )
    gradient = kernels.perturbation_gradient(u, d, first_member=first, **keywords)
    bound = (n * kind[1] + 4) * U["float32"] * np.abs(u).sum() * kind[1] * LARGEST**2
    np.testing.assert_allclose(gradient, u @ members, rtol=0, atol=bound)


def test_tensors_generations_and_members_have_noise_of_their_own():
    for kind, rank in KINDS:
        keywords = {
            "seed": 0,
            "std": 1,
            "kind": kind,
            "rank": rank,
            "shapes": [(20, 50), (20, 50), (1000,)],
        }
        zero = np.zeros(3000, np.float32)
        rows = [
            kernels.perturb(zero, member=member, generation=generation, **keywords).reshape(3, 1000)
            for member in (0, 1)
            for generation in (0, 1)
        ]
        correlation = np.corrcoef(np.concatenate(rows)) - np.eye(12)
        # Of a matrix of low rank only m + n numbers are independent.
        n = 20 if kind == "low_rank" else 1000
        assert np.abs(correlation).max() < STANDARD_ERRORS / np.sqrt(n)


@pytest.mark.parametrize(("kind", "rank"), KINDS)
def test_gradient_of_a_quadratic(kind, rank):
    """Within the estimator's standard error; the pairs take the curvature out exactly."""
    shapes, std, n = [(6, 5), (10,)], 0.1, 4000
    theta, target = draw(40), draw(40, seed=1)
    keywords = {"seed": 7, "kind": kind, "rank": rank, "shapes": shapes, "antithetic": True}
    members = kernels.perturb(theta, member=range(n), std=std, **keywords).astype(np.float64)
    fitness = -((members - target) ** 2).sum(axis=1)
    estimate = kernels.perturbation_gradient(fitness, 40, **keywords) / (n * std)
    exact = -2.0 * (theta - target)
    # Of n / 2 pairs each gives eps (eps . g), of variance g_i^2 (E eps^4 - 1) + |g|^2 at most, with
    # a fourth moment of 9 for noise of low rank.
    error = np.sqrt((8 * exact**2 + (exact**2).sum()) / (n / 2))
    assert (np.abs(estimate - exact) < STANDARD_ERRORS * error).all()


def test_pairs_cancel_for_even_functions():
    for kind, rank in KINDS:
        keywords = {"seed": 7, "kind": kind, "rank": rank, "shapes": [(9, 9)], "antithetic": True}
        members = kernels.perturb(np.zeros(81, np.float32), member=range(20), std=1, **keywords)
        even = (members**2).sum(axis=1)
        assert not kernels.perturbation_gradient(even, 81, **keywords).any()


def test_out_and_its_neighbours():
    theta, keywords = draw(500), {"seed": 1, "std": 0.1, "shapes": [(20, 20), (100,)]}
    expected = kernels.perturb(theta, member=3, **keywords)
    out = np.zeros((3, 500), np.float32)
    assert kernels.perturb(theta, member=3, out=out[1], **keywords) is not None
    np.testing.assert_array_equal(out[1], expected)
    assert not out[[0, 2]].any()
    in_place = theta.copy()
    assert kernels.perturb(in_place, member=3, out=in_place, **keywords) is in_place
    np.testing.assert_array_equal(in_place, expected)
    gradient = np.full(504, 7, np.float32)
    u = np.ones(2)
    kernels.perturbation_gradient(u, 500, seed=1, out=gradient[2:502])
    assert (gradient[[0, 1, 502, 503]] == 7).all()
    np.testing.assert_array_equal(gradient[2:502], kernels.perturbation_gradient(u, 500, seed=1))


def test_memory_does_not_grow_with_the_population():
    """What Python sees; the kernels' own workspace is a few tiles."""
    u = np.ones(2000, np.float32)
    tracemalloc.start()
    kernels.perturbation_gradient(u, 10_000, seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000


def test_nan_is_no_error():
    out = kernels.perturbation_gradient(np.float32([1, np.nan]), 5, seed=0)
    assert np.isnan(out).all()
    theta = np.float32([1, np.nan])
    assert np.isnan(kernels.perturb(theta, seed=0, member=0, std=1)).tolist() == [False, True]


THETA = np.zeros(6, np.float32)


@pytest.mark.parametrize(
    ("words", "keywords"),
    [
        ("std must be above 0", {"std": 0}),
        ("std must be above 0", {"std": -1.0}),
        ("nan", {"std": float("nan")}),
        ("seed must be", {"seed": -1}),
        ("generation must be", {"generation": 2**32}),
        ("member must be", {"member": -1}),
        ("4294967296", {"member": [0, 2**32]}),
        ("'uniform'", {"kind": "uniform"}),
        ("rank must be at least 1", {"rank": 0}),
        ("antithetic must be", {"antithetic": 1}),
        ("shapes hold 5 of the 6", {"shapes": [(2, 2), (1,)]}),
        ("shapes hold more than 6", {"shapes": [(2, 2), (3,)]}),
        ("shapes hold more than 6", {"shapes": [(2**40, 2**20)]}),
        ("shapes[1] has 3 dimensions", {"shapes": [(3,), (1, 1, 3)]}),
        ("shapes[0] must be", {"shapes": [(-3,), (9,)]}),
        ("(5,)", {"out": np.zeros(5, np.float32)}),
        ("float64", {"out": np.zeros(6)}),
        ("1 dimension for one member", {"out": np.zeros((1, 6), np.float32)}),
        ("2 for a sequence", {"member": [1], "out": np.zeros(6, np.float32)}),
        ("(2, 6)", {"member": [1, 2], "out": np.zeros((3, 6), np.float32)}),
    ],
)
def test_perturb_refuses(words, keywords):
    with pytest.raises((ValueError, TypeError)) as error:
        kernels.perturb(THETA, **{"seed": 0, "member": 0, "std": 0.1} | keywords)
    assert words in str(error.value), str(error.value)


def test_overlap_is_refused_and_changes_nothing():
    memory = np.arange(12, dtype=np.float32)
    before = memory.copy()
    for theta, out, member in [
        (memory[:6], memory[1:7], 0),
        (memory[:6], memory.reshape(2, 6), [0, 1]),
    ]:
        with pytest.raises(ValueError, match="out overlaps theta"):
            kernels.perturb(theta, seed=0, member=member, std=1.0, out=out)
    np.testing.assert_array_equal(memory, before)
    frozen = np.zeros(6, np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        kernels.perturb(THETA, seed=0, member=0, std=1.0, out=frozen)
    with pytest.raises(TypeError, match="list"):
        kernels.perturb([0.0], seed=0, member=0, std=1.0)


@pytest.mark.parametrize(
    ("words", "arguments", "keywords"),
    [
        ("3 elements, expected an even number", (np.ones(3), 4), {"antithetic": True}),
        ("first_member is 1", (np.ones(2), 4), {"antithetic": True, "first_member": 1}),
        ("first_member is 4294967295", (np.ones(2), 4), {"first_member": 2**32 - 1}),
        ("int64", (np.ones(2, int), 4), {}),
        ("(1, 2)", (np.ones((1, 2)), 4), {}),
        ("n_params must be", (np.ones(2), -4), {}),
        ("(5,)", (np.ones(2), 4), {"out": np.zeros(5, np.float32)}),
        ("float64", (np.ones(2), 4), {"out": np.zeros(4)}),
        ("shapes hold 3 of the 4", (np.ones(2), 4), {"shapes": [(3,)]}),
        ("n_threads", (np.ones(2), 4), {"n_threads": 0}),
    ],
)
def test_gradient_refuses(words, arguments, keywords):
    with pytest.raises((ValueError, TypeError)) as error:
        kernels.perturbation_gradient(*arguments, seed=0, **keywords)
    assert words in str(error.value), str(error.value)
