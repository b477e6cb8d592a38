# SPDX-License-Identifier: BSD-3-Clause
"""The product in float32, float64 and bfloat16 against float64, with an elementwise bound."""

import numpy as np
import pytest
from oracle.product import from_bfloat16, product, to_bfloat16
from tolerances import product_bound

from bpfree_fast import _core as core

# Around the widths of vectors (8, 16), panels (16, 32) and tiles (4, 6, 12, 14 rows).
EDGES = [1, 7, 8, 9, 13, 14, 15, 16, 17, 31, 32, 33]
# The shapes that the benchmarks state, in m, k, n.
STATED = [(128, 784, 1024), (128, 1024, 1024), (512, 1024, 1024), (100, 2000, 2000), (64, 64, 64)]
DTYPES = ("float32", "float64", "bfloat16")


def operands(m, k, n, dtype, transpose_a=False, transpose_b=False, seed=0):
    """a and b as the core takes them (bfloat16 as its bits), and the values that they hold."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(k, m) if transpose_a else (m, k))
    b = rng.normal(size=(n, k) if transpose_b else (k, n))
    if dtype == "bfloat16":
        a, b = to_bfloat16(a.astype(np.float32)), to_bfloat16(b.astype(np.float32))
        return a, b, from_bfloat16(a), from_bfloat16(b)
    a, b = a.astype(dtype), b.astype(dtype)
    return a, b, a, b


def output(m, n, dtype, fill=np.nan):
    return np.full((m, n), fill, np.float64 if dtype == "float64" else np.float32)


def check(m, k, n, dtype, transpose_a=False, transpose_b=False, n_threads=0):
    a, b, a_values, b_values = operands(m, k, n, dtype, transpose_a, transpose_b)
    out = output(m, n, dtype)  # every element is written: none stays NaN
    core.product(a, b, out, transpose_a, transpose_b, n_threads)
    exact, magnitude = product(a_values, b_values, transpose_a=transpose_a, transpose_b=transpose_b)
    # One tiny term: the bound is zero where a whole row of |A| |B| is.
    assert (np.abs(out - exact) <= product_bound(k, dtype, magnitude) + 1e-300).all()
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", EDGES)
def test_edges(m, dtype):
    for n in EDGES:
        for k in (1, 2, 7, 16, 33):
            check(m, k, n, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (29, 47, 35), (128, 65, 200), (61, 300, 10), (3, 9, 530)]
)
def test_transposes(shape, transpose_a, transpose_b, dtype):
    check(*shape, dtype, transpose_a, transpose_b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", STATED)
def test_stated_shapes(shape, dtype):
    check(*shape, dtype)


def test_stated_transposed_shape():
    check(1024, 128, 1024, "float32", transpose_a=True)
    check(1024, 128, 1024, "bfloat16", transpose_a=True)


@pytest.mark.parametrize("k", [4095, 4096, 4097, 9001])
@pytest.mark.parametrize("dtype", DTYPES)
def test_deep(k, dtype):
    """Depth is split somewhere above 4,096: nothing is lost or counted twice there."""
    check(17, k, 33, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 3, 4), (130, 100, 170), (14, 700, 1000), (600, 33, 40)])
def test_thread_counts_give_the_same_bits(shape, dtype):
    one = check(*shape, dtype, n_threads=1)
    for n_threads in (0, 2, 3, 7):
        np.testing.assert_array_equal(one, check(*shape, dtype, n_threads=n_threads))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)])
def test_empty(shape, dtype):
    """A sum of no terms is zero."""
    m, k, n = shape
    a, b, _, _ = operands(m, k, n, dtype)
    out = output(m, n, dtype)
    core.product(a, b, out, False, False)
    assert (out == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_stay_in_their_row_and_column(dtype):
    m, k, n = 20, 19, 37
    a, b, a_values, b_values = operands(m, k, n, dtype)
    a_values, b_values = a_values.copy(), b_values.copy()
    a_values[3, 5], b_values[18, 36], a_values[7, 0] = np.nan, np.nan, np.inf
    if dtype == "bfloat16":
        a, b = to_bfloat16(a_values), to_bfloat16(b_values)
    else:
        a, b = a_values, b_values
    out = output(m, n, dtype, fill=0.0)
    core.product(a, b, out, False, False)
    expected = np.zeros((m, n), bool)
    expected[3] = expected[:, 36] = True
    np.testing.assert_array_equal(np.isnan(out), expected)
    assert np.isinf(np.delete(out[7], 36)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_small_numbers_are_not_flushed(dtype):
    tiny = np.finfo(dtype).tiny
    a = np.full((3, 1), tiny, dtype)
    b = np.full((1, 5), 0.25, dtype)
    out = output(3, 5, dtype)
    core.product(a, b, out, False, False)
    assert (out == tiny / 4).all()


def test_bfloat16_products_are_exact_where_float32_is():
    """Small integers: whatever the order, and whether by dot products or widened."""
    rng = np.random.default_rng(0)
    a = rng.integers(-16, 17, (31, 45)).astype(np.float32)
    b = rng.integers(-16, 17, (45, 50)).astype(np.float32)
    out = output(31, 50, "bfloat16")
    core.product(to_bfloat16(a), to_bfloat16(b), out, False, False)
    np.testing.assert_array_equal(out, a @ b)


def test_inputs_are_left_alone():
    a, b, _, _ = operands(33, 21, 40, "float32")
    kept = a.copy(), b.copy()
    a.flags.writeable = b.flags.writeable = False
    core.product(a, b, output(33, 40, "float32"), False, False)
    np.testing.assert_array_equal(a, kept[0])
    np.testing.assert_array_equal(b, kept[1])


def bad(a=(5, 4), b=(4, 3), out=(5, 3), a_type="float32", b_type="float32", out_type="float32"):
    return np.zeros(a, a_type), np.zeros(b, b_type), np.full(out, 7, out_type)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (bad(b=(5, 3)), ["4", "5"]),
        (bad(out=(3, 5)), ["3", "5"]),
        (bad(out=(5, 4)), ["4", "3"]),
        (bad(b_type="float64"), ["float64"]),
        (bad(out_type="float64"), ["float64"]),
        (bad(a_type="int64", b_type="int64", out_type="int64"), ["int64"]),
        (bad(a_type="float16", b_type="float16"), ["float16"]),
        (bad(a_type="uint16", b_type="uint16", out_type="uint16"), ["uint16"]),
        (bad(a=(20,)), ["1"]),
        (bad(a=(5, 4, 1)), ["3"]),
    ],
)
def test_bad_arrays_are_refused_and_change_nothing(arrays, words):
    a, b, out = arrays
    with pytest.raises((TypeError, ValueError)) as error:
        core.product(a, b, out, False, False)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert (out == 7).all()


def test_bad_layouts_are_refused():
    a, b, _, _ = operands(6, 5, 4, "float32")
    out = output(6, 4, "float32")
    with pytest.raises((TypeError, ValueError), match=r"(?i)contiguous|order"):
        core.product(np.repeat(a, 2, axis=1)[:, ::2], b, out, False, False)
    with pytest.raises((TypeError, ValueError), match=r"(?i)contiguous|order"):
        core.product(a, b, output(4, 6, "float32").T, False, False)
    swapped = a.astype(a.dtype.newbyteorder())
    with pytest.raises((TypeError, ValueError)):
        core.product(swapped, b, out, False, False)
    out.flags.writeable = False
    with pytest.raises((TypeError, ValueError), match=r"(?i)read-only|writ"):
        core.product(a, b, out, False, False)
    for wrong in (None, [[1.0]], "abc", 3):
        with pytest.raises((TypeError, ValueError)):
            core.product(wrong, b, output(6, 4, "float32"), False, False)
    with pytest.raises(ValueError, match="-1"):
        core.product(a, b, output(6, 4, "float32"), False, False, -1)


def test_fortran_order_is_the_transpose():
    a, b, _, _ = operands(6, 5, 4, "float32")
    expected, out = output(6, 4, "float32"), output(6, 4, "float32")
    core.product(a, b, expected, False, False)
    core.product(np.asfortranarray(a), np.asfortranarray(b), out, False, False)
    np.testing.assert_array_equal(out, expected)
    core.product(np.asfortranarray(a.T), np.asfortranarray(b.T), out, True, True)
    np.testing.assert_array_equal(out, expected)


def test_overlapping_out_is_refused():
    memory = np.ones(200, np.float32)
    a, b = memory[:36].reshape(6, 6), np.ones((6, 6), np.float32)
    for out in (a, memory[30:66].reshape(6, 6)):
        kept = memory.copy()
        with pytest.raises(ValueError, match=r"(?i)overlap|memory"):
            core.product(a, b, out, False, False)
        with pytest.raises(ValueError, match=r"(?i)overlap|memory"):
            core.product(b, a, out, False, False)
        np.testing.assert_array_equal(memory, kept)
    core.product(a, a, memory[36:72].reshape(6, 6), False, False)  # neighbours do not overlap
    assert (memory[36:72] == 6).all()


def test_unaligned_memory():
    """Rows that begin at any float: nothing assumes a vector's alignment."""
    a, b, _, _ = operands(33, 21, 40, "float32")
    expected = output(33, 40, "float32")
    core.product(a, b, expected, False, False)
    for shift in (1, 3):
        memory = [np.zeros(x.size + shift, np.float32) for x in (a, b, expected)]
        arrays = [m[shift:].reshape(x.shape) for m, x in zip(memory, (a, b, expected), strict=True)]
        arrays[0][:], arrays[1][:] = a, b
        core.product(*arrays, False, False)
        np.testing.assert_array_equal(arrays[2], expected)
        assert not memory[2][:shift].any()
