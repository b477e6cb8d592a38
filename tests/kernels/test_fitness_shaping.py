# SPDX-License-Identifier: BSD-3-Clause
"""bf.kernels.fitness_shaping against its oracle, and the properties that its kinds promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import perturbation as oracle

import bpfree_fast as bf

shape = bf.kernels.fitness_shaping
KINDS = ("centered_rank", "nes", "z_score", "group", "pair", "top_k")


def options(kind, n_pairs):
    return {"top_k": {"top_k": (n_pairs + 1) // 2}, "group": {"group_size": 2}}.get(kind, {})


# Eighths: their sums are exact, so that means of nearly equal values do not cancel to rounding.
values = st.one_of(
    st.integers(-800_000, 800_000).map(lambda k: k / 8),
    st.integers(-2, 2).map(float),
    st.sampled_from([np.nan, np.inf, -np.inf]),
)
populations = st.lists(st.tuples(values, values), min_size=1, max_size=12).map(
    lambda pairs: np.array(pairs).ravel()
)


@pytest.mark.parametrize("kind", KINDS)
@given(f=populations, maximize=st.booleans())
@settings(max_examples=100, deadline=None)
def test_oracle(kind, f, maximize):
    if not np.isfinite(f).any():
        with pytest.raises(ValueError, match=f"for all {len(f)} members"):
            shape(f, maximize=maximize, kind=kind, **options(kind, len(f) // 2))
        return
    keywords = dict(kind=kind, maximize=maximize, **options(kind, len(f) // 2))
    u = shape(f, **keywords)
    assert u.dtype == np.float64
    np.testing.assert_allclose(u, oracle.utilities(f, **keywords), rtol=1e-8, atol=1e-8)
    assert np.isfinite(u).all()
    if kind in ("centered_rank", "nes", "z_score", "pair"):
        assert abs(u.sum()) < 1e-7 * len(u)
    finite = np.isfinite(f)
    if kind in ("centered_rank", "nes", "z_score"):  # a better member has no smaller utility
        order = np.argsort(f[finite] if maximize else -f[finite], kind="stable")
        assert (np.diff(u[finite][order]) >= 0).all()
        assert (u[~finite] <= u.min()).all()


@pytest.mark.parametrize("kind", KINDS)
@given(f=populations)
@settings(max_examples=50, deadline=None)
def test_minimizing_is_maximizing_the_negative(kind, f):
    f[0] = 1.5
    keywords = options(kind, len(f) // 2)
    down = shape(f, maximize=False, kind=kind, **keywords)
    np.testing.assert_array_equal(down, shape(-f, maximize=True, kind=kind, **keywords))


def test_ranks_with_ties_and_lost_members():
    f = np.array([2.0, np.nan, 2.0, 5.0, np.inf, 1.0])
    ranks = shape(f, maximize=True) * 5 + 2.5
    np.testing.assert_allclose(ranks, [3.5, 0.5, 3.5, 5, 0.5, 2])
    ranks = shape(f, maximize=False) * 5 + 2.5
    np.testing.assert_allclose(ranks, [3.5, 0.5, 3.5, 2, 0.5, 5])
    # A lost member is below the worst of the others in ranks, and level with it elsewhere.
    scores = shape(f, maximize=True, kind="z_score")
    assert scores[1] == scores[4] == scores[5] < scores[0]
    # A rank is what it is however far apart the values are.
    np.testing.assert_array_equal(
        shape(np.array([1.0, 2.0, 3.0]), maximize=True),
        shape(np.array([-1e300, 0.0, 1e-300]), maximize=True),
    )


def test_published_utilities():
    """Wierstra et al. 2014 for a population of 10: the better half is above -1/10."""
    u = shape(np.arange(10.0), maximize=True, kind="nes")
    raw = [max(0, np.log(6) - np.log(rank)) for rank in range(10, 0, -1)]
    np.testing.assert_allclose(u, np.array(raw) / sum(raw) - 0.1)
    assert (u[:5] == -0.1).all()


def test_augmented_random_search():
    """Mania et al. 2018: sum of (r+ - r-) delta over the k best directions, by k deviation."""
    rewards = np.random.default_rng(0).normal(3.0, 2.0, 20)
    pairs = rewards.reshape(10, 2)
    best = np.argsort(-pairs.max(axis=1))[:4]
    expected = np.zeros(10)
    expected[best] = (pairs[best, 0] - pairs[best, 1]) / pairs[best].std() / 4
    u = shape(rewards, maximize=True, kind="top_k", top_k=4).reshape(10, 2)
    np.testing.assert_allclose((u[:, 0] - u[:, 1]) / 10, expected)


def test_groups_have_their_own_mean_and_one_variance():
    f = np.array([1.0, 3.0, 101.0, 103.0])
    u = shape(f, maximize=True, kind="group", group_size=2)
    np.testing.assert_allclose(u, np.array([-1, 1, -1, 1]) / np.sqrt(f.var() + 1e-5))
    np.testing.assert_array_equal(
        shape(f, maximize=True, kind="group", group_size=4), shape(f, maximize=True, kind="z_score")
    )


@pytest.mark.parametrize("kind", KINDS)
def test_alike_and_huge(kind):
    keywords = dict(maximize=True, kind=kind, **options(kind, 3))
    np.testing.assert_allclose(shape(np.full(6, 3.25), **keywords), 0, atol=1e-16)
    huge = shape(np.array([-1.5, 1, 1, 0, 0.5, 0]) * 1e308, **keywords)
    assert np.isfinite(huge).all()
    assert huge.any()


def test_types_and_out():
    f = np.float32([3, 1, 2, 5])
    u = shape(f, maximize=True)
    assert u.dtype == np.float32
    out = np.zeros(4, np.float32)
    assert shape(f, maximize=True, out=out) is out
    np.testing.assert_array_equal(out, u)
    assert shape(f, maximize=True, out=f) is f
    np.testing.assert_array_equal(f, u)
    np.testing.assert_array_equal(
        shape(np.arange(8.0)[::2], maximize=True), [-0.5, -1 / 6, 1 / 6, 0.5]
    )


@pytest.mark.parametrize(
    ("words", "f", "keywords"),
    [
        ("0 members", [], {}),
        ("all 2 members", [np.nan, np.inf], {}),
        ("3 members, expected an even", [1, 2, 3], {"kind": "pair"}),
        ("3 members, expected an even", [1, 2, 3], {"kind": "top_k", "top_k": 1}),
        ("top_k is missing", [1, 2], {"kind": "top_k"}),
        ("top_k was given", [1, 2], {"top_k": 1}),
        ("top_k is 2, expected 1 to the 1 pairs", [1, 2], {"kind": "top_k", "top_k": 2}),
        ("top_k is 0", [1, 2], {"kind": "top_k", "top_k": 0}),
        ("group_size is missing", [1, 2], {"kind": "group"}),
        ("group_size is 3, expected a divisor of the 4", [1, 2, 3, 4],
         {"kind": "group", "group_size": 3}),
        ("group_size is 0", [1, 2], {"kind": "group", "group_size": 0}),
        ("'softmax'", [1, 2], {"kind": "softmax"}),
        ("maximize must be", [1, 2], {"maximize": 1}),
        ("(3,)", [1, 2], {"out": np.zeros(3)}),
        ("float32", [1, 2], {"out": np.zeros(2, np.float32)}),
        ("(1, 2)", [[1, 2]], {}),
    ],
)  # fmt: skip
def test_refuses(words, f, keywords):
    with pytest.raises((ValueError, TypeError)) as error:
        shape(np.array(f, np.float64), **{"maximize": True} | keywords)
    assert words in str(error.value), str(error.value)


def test_the_direction_is_said_explicitly():
    with pytest.raises(TypeError, match="maximize"):
        shape(np.ones(2))
    with pytest.raises(TypeError, match="int64"):
        shape(np.ones(2, int), maximize=True)
