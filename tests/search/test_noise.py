# SPDX-License-Identifier: BSD-3-Clause
"""Members and sums of search distributions: from the streams' definition, in any cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import random as streams

from bpfree_fast import _core as core

NOISE = 6  # the purpose
SEED, GENERATION = 0xFEDCBA9876543210, 7

# A normal against float64, as in the tests of the streams.
NORMAL = 2e-6


def members(
    n,
    d,
    *,
    kind="gaussian",
    antithetic=False,
    dtype=np.float64,
    mean=None,
    scale=None,
    std=1.0,
    chosen=None,
    n_threads=1,
):
    out = np.empty((n if chosen is None else len(chosen), d), dtype)
    core.search_members(
        out,
        np.zeros(d, dtype) if mean is None else mean,
        scale,
        std,
        np.array(np.arange(n) if chosen is None else chosen, np.uint32),
        SEED,
        GENERATION,
        kind,
        antithetic,
        n_threads,
    )
    return out


def expected(n, d, kind, antithetic):
    rows = []
    for i in range(n):
        member = i // 2 if antithetic else i
        per_block = 4 if kind == "gaussian" else 128
        word = streams.matrix_words(SEED, (1, d), NOISE, 0, GENERATION, member, per_block)
        noise = (streams.normal if kind == "gaussian" else streams.sign)(word)[0, :d]
        rows.append(-noise if antithetic and i % 2 else noise)
    return np.array(rows)


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("d", [1, 7, 33, 511, 512, 513, 1000])
def test_noise_is_that_of_the_streams(kind, antithetic, d):
    assert (
        np.abs(
            members(6, d, kind=kind, antithetic=antithetic) - expected(6, d, kind, antithetic)
        ).max()
        <= NORMAL
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("d", [1, 3, 15, 16, 17, 600])
def test_members_and_sums_are_the_formulas(dtype, antithetic, d):
    n = 8
    rng = np.random.default_rng(d)
    mean, scale = rng.normal(size=d).astype(dtype), rng.uniform(0.5, 2, d).astype(dtype)
    u, v = rng.normal(size=n).astype(dtype), rng.normal(size=n).astype(dtype)
    z = members(n, d, antithetic=antithetic)
    x = members(n, d, antithetic=antithetic, dtype=dtype, mean=mean, scale=scale, std=0.25)
    eps = np.finfo(dtype).eps
    assert np.abs(x - (mean + 0.25 * scale * z)).max() <= 2 * eps * 8
    first, second = np.empty(d, dtype), np.empty(d, dtype)
    core.search_sums(first, u, second, v, SEED, GENERATION, "gaussian", antithetic, 1)
    assert np.abs(first - u @ z).max() <= n * eps * (np.abs(u) @ np.abs(z)).max()
    assert np.abs(second - v @ z**2).max() <= n * eps * (np.abs(v) @ z**2).max()
    alone = np.empty(d, dtype)
    core.search_sums(alone, u, None, None, SEED, GENERATION, "gaussian", antithetic, 1)
    assert np.array_equal(alone, first)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    st.integers(1, 1500),
    st.lists(st.integers(0, 9), min_size=1, max_size=12),
    st.booleans(),
    st.sampled_from([1, 2, 3]),
)
def test_any_choice_of_members_has_the_same_bits(d, chosen, antithetic, n_threads):
    whole = members(10, d, antithetic=antithetic)
    some = members(10, d, antithetic=antithetic, chosen=chosen, n_threads=n_threads)
    assert np.array_equal(some, whole[chosen])


def test_threads_change_no_bit():
    n, d = 40, 5000
    u = np.random.default_rng(0).normal(size=n)
    found = []
    for n_threads in (1, 2, 3):
        first, second = np.empty(d), np.empty(d)
        core.search_sums(first, u, second, u, SEED, 0, "gaussian", False, n_threads)
        found.append((first, second, members(n, d, n_threads=n_threads)))
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_one_member_may_take_the_means_place():
    mean = np.linspace(-1, 1, 700).astype(np.float32)
    right = members(2, 700, dtype=np.float32, mean=mean, std=0.5, antithetic=True)[1]
    core.search_members(
        mean[None], mean, None, 0.5, np.array([1], np.uint32), SEED, GENERATION, "gaussian", True
    )
    assert np.array_equal(mean, right)


def test_what_does_not_fit_is_refused():
    out, mean, index = np.empty((2, 4)), np.zeros(4), np.arange(2, dtype=np.uint32)
    with pytest.raises(ValueError, match="mean is float32"):
        core.search_members(out, mean.astype(np.float32), None, 1.0, index, 0, 0)
    with pytest.raises(ValueError, match="out overlaps mean"):
        core.search_members(out, out[1], None, 1.0, index, 0, 0)
    with pytest.raises(ValueError, match="kind is 'cauchy'"):
        core.search_members(out, mean, None, 1.0, index, 0, 0, "cauchy")
    with pytest.raises(ValueError, match="u has 3 members, expected pairs"):
        core.search_sums(mean, np.ones(3), None, None, 0, 0, "gaussian", True)
    with pytest.raises(ValueError, match="one is missing"):
        core.search_sums(mean, np.ones(2), np.ones(4), None, 0, 0)
    with pytest.raises(ValueError, match="second overlaps first"):
        core.search_sums(mean, np.ones(2), mean, np.ones(2), 0, 0)
