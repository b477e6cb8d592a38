# SPDX-License-Identifier: BSD-3-Clause
"""bf.kernels.ensemble_covariance against its oracle, its symmetry, its bits, what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isas import arrays_under
from oracle import ensemble as oracle
from tolerances import U

import bpfree_fast as bf
from bpfree_fast import _core as core

covariance = bf.kernels.ensemble_covariance
TYPES = (np.float32, np.float64)
LOCALIZATIONS = (None, "sec", "sec_fisher", "taper")


def ensembles(n_ens, p, q, dtype):
    """Columns that are correlated, far from 0; one of each does not vary."""
    rng = np.random.default_rng(0)
    a = 10 + rng.normal(size=(n_ens, p))
    b = 5 + a @ rng.normal(size=(p, q)) + rng.normal(size=(n_ens, q))
    if min(p, q) > 2:
        a[:, 1], b[:, 2] = 3, 4
    return a.astype(dtype), b.astype(dtype)


def expected(a, b, localization):
    """The covariances in float64, and how far off they may be."""
    n, u = len(a), U[str(a.dtype)]
    a, b = a.astype(np.float64), b.astype(np.float64)
    c = oracle.covariance(a, b)
    x, y = (np.abs(v - v[0]) for v in (a, b))
    bound = (2 * n + 8) * u * (x + x.mean(0)).T @ (y + y.mean(0)) / (n - 1)
    if localization is None:
        return c, bound
    deviations = np.outer(a.std(0, ddof=1), b.std(0, ddof=1))
    r = np.divide(c, deviations, where=deviations > 0, out=np.zeros_like(c))
    # A factor's own error is that of r, twice of it for the other, and a few roundings.
    own = np.divide(bound, deviations, where=deviations > 0, out=np.zeros_like(c))
    steep = 0 if not isinstance(localization, str) else 1 if localization == "sec" else n
    return oracle.shrink(c, r, localization, n), bound + np.abs(c) * (4 * steep * own + 40 * u)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("localization", LOCALIZATIONS)
@pytest.mark.parametrize(
    "shape", [(4, 1, 1), (5, 3, 33), (31, 40, 7), (100, 130, 129), (20, 250, 65)]
)
def test_oracle(shape, localization, dtype):
    a, b = ensembles(*shape, dtype)
    for other in (b, None):
        second = a if other is None else other
        how = localization
        if how == "taper":
            how = np.random.default_rng(1).uniform(size=(shape[1], second.shape[1])).astype(dtype)
        out = covariance(a, other, localization=how)
        assert out.dtype == dtype
        exact, bound = expected(a, second, how)
        assert (np.abs(out - exact) <= bound).all()
        if other is None and localization != "taper":
            np.testing.assert_array_equal(out, out.T)
    given = np.empty_like(out)
    assert covariance(a, localization=how if localization == "taper" else localization,
                      out=given) is given  # fmt: skip
    np.testing.assert_array_equal(given, out)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("localization", [None, "sec", "sec_fisher"])
def test_threads_change_no_bit(localization, dtype):
    a, b = ensembles(50, 700, 300, dtype)
    for other in (b, None):
        one = covariance(a, other, localization=localization, n_threads=1)
        for n_threads in (2, 3):
            again = covariance(a, other, localization=localization, n_threads=n_threads)
            np.testing.assert_array_equal(again, one)


@given(
    n_ens=st.integers(2, 40), p=st.integers(0, 150), q=st.integers(0, 70), own=st.booleans(),
    dtype=st.sampled_from(TYPES),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_shape(n_ens, p, q, own, dtype):
    a, b = ensembles(n_ens, p, q, dtype)
    out = covariance(a, None if own else b)
    exact, bound = expected(a, a if own else b, None)
    assert (np.abs(out - exact) <= bound).all()


def test_nan_goes_where_it_belongs():
    a, b = ensembles(9, 40, 35, np.float32)
    a[3, 7] = np.nan
    out = covariance(a, b, localization="sec")
    assert np.isnan(out[7]).all()
    assert np.isfinite(np.delete(out, 7, axis=0)).all()


ISA_SCRIPT = """
import sys, numpy as np, bpfree_fast as bf
from bpfree_fast import _core
print(_core.isa())
inputs, found = np.load(sys.argv[1]), {}
for dtype in ("float32", "float64"):
    a, b = inputs["a"].astype(dtype), inputs["b"].astype(dtype)
    for how in (None, "sec", "sec_fisher"):
        found[f"{dtype} {how}"] = bf.kernels.ensemble_covariance(a, b, localization=how)
        found[f"{dtype} {how} own"] = bf.kernels.ensemble_covariance(a, localization=how)
np.savez(sys.argv[2], **found)
"""


def test_every_isa(tmp_path):
    a, b = ensembles(21, 90, 75, np.float64)
    np.savez(tmp_path / "in.npz", a=a, b=b)
    for isa in core.available_isas():
        for name, out in arrays_under(isa, ISA_SCRIPT, tmp_path).items():
            dtype, how, *own = name.split()
            left, right = a.astype(dtype), b.astype(dtype)
            exact, bound = expected(left, left if own else right, None if how == "None" else how)
            assert (np.abs(out - exact) <= bound).all(), (isa, name)


def test_refusals():
    a, b = ensembles(6, 5, 4, np.float64)
    for words, arguments, keywords in [
        ("1 member", (a[:1],), {}),
        ("5 members, expected the 6", (a, b[:5]), {}),
        ("type", (a, b.astype(np.float32)), {}),
        ("int64", (a.astype(int),), {}),
        ("contiguous", (a[:, ::2],), {}),
        ("out is", (a, b), {"out": np.zeros((4, 5))}),
        ("'gc'", (a, b), {"localization": "gc"}),
        (r"shape \(5, 4\)", (a, b), {"localization": np.ones((4, 5))}),
        ("at least 4", (a[:3], b[:3]), {"localization": "sec_fisher"}),
        ("n_threads", (a, b), {"n_threads": 0}),
    ]:
        with pytest.raises((ValueError, TypeError), match=words):
            covariance(*arguments, **keywords)
    square = np.random.default_rng(0).normal(size=(5, 5))
    with pytest.raises(ValueError, match="out overlaps a"):
        covariance(square, out=square)
