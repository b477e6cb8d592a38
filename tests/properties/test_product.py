# SPDX-License-Identifier: BSD-3-Clause
"""Products of any shape: bound, transposes, threads, and rows that do not know each other."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle.product import from_bfloat16, product, to_bfloat16
from tolerances import product_bound

from bpfree_fast import _core as core

SIZE = st.sampled_from([1, 7, 8, 9, 13, 14, 15, 16, 17, 31, 32, 33]) | st.integers(1, 150)
DTYPE = st.sampled_from(["float32", "float64", "bfloat16"])
SETTINGS = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def matrix(rng, rows, columns, dtype):
    values = rng.normal(size=(rows, columns)) * 10.0 ** rng.integers(-3, 4, (rows, columns))
    return to_bfloat16(values.astype(np.float32)) if dtype == "bfloat16" else values.astype(dtype)


def compute(a, b, transpose_a=False, transpose_b=False, n_threads=0):
    m = a.shape[1] if transpose_a else a.shape[0]
    n = b.shape[0] if transpose_b else b.shape[1]
    out = np.full((m, n), np.nan, np.float64 if a.dtype == np.float64 else np.float32)
    core.product(a, b, out, transpose_a, transpose_b, n_threads)
    return out


@SETTINGS
@given(SIZE, SIZE, SIZE, DTYPE, st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_bound_and_threads(m, k, n, dtype, transpose_a, transpose_b, seed):
    rng = np.random.default_rng(seed)
    a = matrix(rng, *((k, m) if transpose_a else (m, k)), dtype)
    b = matrix(rng, *((n, k) if transpose_b else (k, n)), dtype)
    out = compute(a, b, transpose_a, transpose_b)
    values = (from_bfloat16(a), from_bfloat16(b)) if dtype == "bfloat16" else (a, b)
    exact, magnitude = product(*values, transpose_a=transpose_a, transpose_b=transpose_b)
    assert (np.abs(out - exact) <= product_bound(k, dtype, magnitude)).all()
    np.testing.assert_array_equal(out, compute(a, b, transpose_a, transpose_b, n_threads=3))


@SETTINGS
@given(SIZE, SIZE, SIZE, DTYPE, st.integers(0, 2**32 - 1))
def test_a_row_does_not_depend_on_the_others(m, k, n, dtype, seed):
    rng = np.random.default_rng(seed)
    a, b = matrix(rng, m, k, dtype), matrix(rng, k, n, dtype)
    together = compute(a, b)
    row = rng.integers(m)
    np.testing.assert_array_equal(compute(a[row : row + 1], b)[0], together[row])
    np.testing.assert_array_equal(compute(a, b, n_threads=1), together)


@SETTINGS
@given(SIZE, SIZE, SIZE, DTYPE, st.integers(0, 2**32 - 1))
def test_transposed_operands_give_the_same_bits(m, k, n, dtype, seed):
    """The depth is walked in the same order however an operand lies."""
    rng = np.random.default_rng(seed)
    a, b = matrix(rng, m, k, dtype), matrix(rng, k, n, dtype)
    plain = compute(a, b)
    a_t, b_t = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
    np.testing.assert_array_equal(compute(a_t, b, transpose_a=True), plain)
    np.testing.assert_array_equal(compute(a, b_t, transpose_b=True), plain)
    np.testing.assert_array_equal(compute(a_t, b_t, transpose_a=True, transpose_b=True), plain)
