# SPDX-License-Identifier: BSD-3-Clause
"""bf.kernels.ensemble_update and ensemble_transform: oracle, closed forms, bits, refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isas import arrays_under
from oracle import ensemble as oracle
from tolerances import U

import bpfree_fast as bf
from bpfree_fast import _core as core

kernels = bf.kernels
METHODS = ("eki", "enkf", "esmda", "etki", "denkf")
TYPES = (np.float32, np.float64)
# n_ens, n_params, n_obs: edges of vectors, panels and row blocks, more than one stretch of each.
SHAPES = [(2, 1, 1), (3, 7, 5), (15, 33, 40), (20, 100, 3), (40, 65, 200), (140, 90, 600)]


def draw(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def problem(n_ens, n_params, n_obs, dtype=np.float64, seed=0):
    """Members far from 0, and outputs that depend on them."""
    theta = 3 + draw(n_ens, n_params, seed=seed)
    A = draw(n_params, n_obs, seed=seed + 1) / np.sqrt(n_params)
    g = theta @ A + 0.1 * np.sin(theta @ A)
    y = (3 + draw(1, n_params, seed=seed + 2)) @ A
    return theta.astype(dtype), g.astype(dtype), y[0].astype(dtype)


def noises(n_obs):
    root = draw(n_obs, n_obs, seed=9)
    return {
        "scalar": 0.3,
        "vector": np.random.default_rng(3).uniform(0.1, 2, n_obs),
        "matrix": root @ root.T / n_obs + 0.2 * np.eye(n_obs),
    }


def taper_of_outputs(n_obs):
    """Positive definite, of far outputs nearly 0."""
    at = np.arange(n_obs)
    return np.exp(-np.abs(at[:, None] - at) / 4)


def close(out, expected, theta, limit):
    """Within `limit` of the largest change, and a rounding of the members themselves."""
    u = U[str(out.dtype)]
    change = np.abs(expected - theta).max()
    assert np.abs(out - expected).max() <= limit * change + 4 * u * np.abs(expected).max()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("noise", ["scalar", "vector", "matrix"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_oracle(shape, method, noise, dtype):
    theta, g, y = problem(*shape, dtype)
    covariance = noises(shape[2])[noise]
    keywords = {"method": method, "dt": 0.7, "iteration": 5}
    expected = oracle.update(theta, g, y, covariance, seed=2**40 + 1, **keywords)
    forms = ("auto", "ensemble") if method == "etki" else ("auto", "ensemble", "data")
    for form in forms:
        out, report = kernels.ensemble_update(
            theta,
            g,
            y,
            covariance,
            random_state=2**40 + 1,
            form=form,
            return_report=True,
            **keywords,
        )
        assert out.dtype == dtype
        # Normals agree with NumPy's to 2e-6 (test_random.py).
        exact = 3e-6 if method in ("enkf", "esmda") else 1e-10
        close(out, expected, theta, exact if dtype == np.float64 else 2e-5)
        assert report.form == form or form == "auto"
        gamma = oracle.noise_matrix(covariance, shape[2])
        off = g.astype(np.float64) - y
        misfit = np.einsum("jm,mk,jk->j", off, np.linalg.inv(gamma), off) / 2
        np.testing.assert_allclose(report.misfit, misfit, rtol=1e-8)
        spread = np.linalg.solve(gamma, oracle.covariance(off, off))
        rank = np.trace(spread) ** 2 / np.trace(spread @ spread)
        np.testing.assert_allclose(report.effective_rank, rank, rtol=1e-6)


@pytest.mark.parametrize("method", ["eki", "enkf", "denkf"])
@pytest.mark.parametrize("shape", SHAPES)
def test_data_space_equals_ensemble_space(shape, method):
    theta, g, y = problem(*shape)
    for noise in noises(shape[2]).values():
        keywords = {"method": method, "dt": 2.5, "random_state": 1}
        a = kernels.ensemble_update(theta, g, y, noise, form="ensemble", **keywords)
        b = kernels.ensemble_update(theta, g, y, noise, form="data", **keywords)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * np.abs(a).max())


@pytest.mark.parametrize("sigma", [1e-1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize(("n_params", "n_obs"), [(3, 20), (19, 20), (5000, 20)])
@pytest.mark.parametrize("method", ["eki", "enkf", "denkf"])
def test_a_residual_that_no_member_explains(method, n_params, n_obs, sigma):
    """An error of the model far above the noise: float32 members stay near float64's."""
    theta, A = draw(200, n_params, dtype=np.float32), draw(n_params, n_obs, seed=1)
    g = (theta.astype(np.float64) @ A).astype(np.float32)
    y = g.mean(0) + draw(n_obs, seed=2, dtype=np.float32)
    how = {"method": method, "random_state": 0}
    exact = kernels.ensemble_update(theta.astype(np.float64), g, y, sigma**2, form="data", **how)
    change = np.abs(exact - theta).max()
    for form in ("auto", "data"):
        out, report = kernels.ensemble_update(
            theta, g, y, sigma**2, form=form, return_report=True, **how
        )
        assert report.form == "data"
        assert np.abs(out - exact).max() <= 1e-5 * change
        one = kernels.ensemble_update(theta, g, y, sigma**2, form=form, n_threads=1, **how)
        np.testing.assert_array_equal(one, out)


def test_auto_takes_the_cheaper_form():
    def form(*shape):
        theta, g, y = problem(*shape)
        return kernels.ensemble_update(theta, g, y, 0.3, return_report=True)[1].form

    assert form(100, 5000, 10) == "data"
    assert form(20, 5000, 100) == "ensemble"


@pytest.mark.parametrize("shape", [(60, 8, 5), (200, 30, 12)])
def test_the_posterior_of_a_linear_model(shape):
    """More members than parameters: one unit step is Kalman's formula, the root exactly."""
    n_ens, n_params, n_obs = shape
    theta, A = 2 + draw(n_ens, n_params), draw(n_obs, n_params, seed=1)
    g, y, gamma = theta @ A.T, draw(n_obs, seed=2), noises(n_obs)["matrix"]
    prior = np.cov(theta.T)
    precision = np.linalg.inv(prior) + A.T @ np.linalg.solve(gamma, A)
    posterior = np.linalg.inv(precision)
    mean = theta.mean(0) + posterior @ A.T @ np.linalg.solve(gamma, y - A @ theta.mean(0))
    for method in ("eki", "etki", "denkf"):
        out = kernels.ensemble_update(theta, g, y, gamma, method=method)
        np.testing.assert_allclose(out.mean(0), mean, rtol=0, atol=1e-10)
        if method == "etki":
            np.testing.assert_allclose(np.cov(out.T), posterior, rtol=0, atol=1e-11)


def test_many_small_steps_are_one():
    """ES-MDA on a linear model in the limit of many members: Kalman's posterior.

    Sampling leaves 0.005; alphas whose inverses do not sum to 1 are off by ten times as much.
    """
    n_ens, n_params, n_obs = 20_000, 4, 3
    theta, A, y = draw(n_ens, n_params), draw(n_obs, n_params, seed=1), draw(n_obs, seed=2)
    posterior = np.linalg.inv(np.linalg.inv(np.cov(theta.T)) + A.T @ A / 0.5)
    mean = theta.mean(0) + posterior @ A.T @ (y - A @ theta.mean(0)) / 0.5

    def off(alphas):
        many = theta
        for i, alpha in enumerate(alphas):
            many = kernels.ensemble_update(
                many, many @ A.T, y, 0.5, method="esmda", dt=1 / alpha, random_state=0, iteration=i
            )
        return np.abs(many.mean(0) - mean).max(), np.abs(np.cov(many.T) - posterior).max()

    assert max(off((2, 4, 8, 8))) < 0.009
    for wrong in ((1, 2, 4, 4), (4, 8, 16, 16)):
        assert min(off(wrong)) > 0.03


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e10])
def test_the_symmetric_root(condition):
    """Against an eigendecomposition of the same matrix, relative to the root's norm."""
    n = 90
    vectors = np.linalg.qr(draw(n, n))[0]
    gram = (vectors * np.geomspace(1 / condition, 1, n)) @ vectors.T
    gram = (gram + gram.T) / 2
    for scale in (1.0, condition):
        transform, _ = core.ensemble_weights(gram * scale, np.zeros((n, n)), None, "etki", 1.0)
        root = transform + np.eye(n)
        np.testing.assert_array_equal(root, root.T)
        omega = np.linalg.inv(np.eye(n) + gram * scale)
        values, basis = np.linalg.eigh(np.eye(n) + gram * scale)
        exact = (basis / np.sqrt(values)) @ basis.T
        limit = 1e-12 if scale == 1 else 1e-15 * condition
        assert np.linalg.norm(root - exact, 2) <= limit * np.linalg.norm(exact, 2)
        assert np.linalg.norm(root @ root - omega, 2) <= 2 * limit


def test_outputs_that_do_not_differ():
    theta, _, y = problem(10, 20, 6)
    g = np.ones((10, 6))
    for method in ("eki", "enkf", "etki", "denkf"):
        out, report = kernels.ensemble_update(
            theta, g, y, 0.3, method=method, random_state=0, return_report=True
        )
        np.testing.assert_allclose(out, theta, rtol=0, atol=1e-13)
        assert report.effective_rank == 0
    g[:, 0] = theta[:, 0]  # rank 1
    for method in ("eki", "enkf", "etki", "denkf"):
        out, report = kernels.ensemble_update(
            theta, g, y, 1e-9, method=method, random_state=0, return_report=True
        )
        assert np.isfinite(out).all()
        assert round(report.effective_rank, 6) == 1


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(2, 3), (33, 70), (100, 1000), (400, 95)])
def test_transform(shape, dtype):
    theta, T = 5 + draw(*shape, dtype=dtype), draw(shape[0], shape[0], seed=1) / shape[0]
    out = kernels.ensemble_transform(theta, T)
    wide = theta.astype(np.float64)
    anomalies = wide - wide.mean(0)
    u = U[np.dtype(dtype).name]
    bound = (shape[0] + 6) * u * (np.abs(T) @ np.abs(anomalies)) + u * np.abs(wide)
    # The mean's own rounding, of distances from the first member.
    bound += (shape[0] + 3) * u * np.abs(wide - wide[0]).max(0) * np.abs(T).sum(1)[:, None]
    assert (np.abs(out - (wide + T @ anomalies)) <= bound).all()
    kernels.ensemble_transform(theta, T, out=theta)
    np.testing.assert_array_equal(theta, out)


def test_transform_in_bfloat16():
    """Members stay float32: only what is added is rounded, by 2^-8 of itself at most."""
    theta, T = 5 + draw(60, 333, dtype=np.float32), draw(60, 60, seed=1) / 60
    exact = kernels.ensemble_transform(theta, T)
    out = kernels.ensemble_transform(theta, T, dtype="bfloat16")
    anomalies = np.abs(theta - theta.mean(0))
    assert (np.abs(out - exact) <= 2.02 * 2.0**-8 * (np.abs(T) @ anomalies) + 1e-6).all()
    assert (out != exact).any()
    still = kernels.ensemble_transform(theta, np.zeros((60, 60)), dtype="bfloat16")
    np.testing.assert_array_equal(still, theta)


# All methods, and those that have a localised form of their own at shapes that take less long.
THREADED = [
    (shape, method, None)
    for shape in [(40, 700, 300), (300, 333, 20), (400, 2000, 500)]
    for method in METHODS
] + [
    (shape, method, localization)
    for shape in [(40, 700, 300), (300, 333, 20)]
    for method in ("eki", "enkf", "denkf")
    for localization in ("sec", "sec_fisher", "taper")
]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("shape", "method", "localization"), THREADED)
def test_threads_and_place_change_no_bit(shape, method, localization, dtype):
    theta, g, y = problem(*shape, dtype)
    keywords = {"method": method, "random_state": 3, "localization": localization}
    if localization == "taper":
        keywords["localization"] = np.abs(draw(shape[1], shape[2], dtype=dtype))
        keywords["obs_localization"] = taper_of_outputs(shape[2])
    one = kernels.ensemble_update(theta, g, y, 0.5, n_threads=1, **keywords)
    for n_threads in (2, 3):
        again = kernels.ensemble_update(theta, g, y, 0.5, n_threads=n_threads, **keywords)
        np.testing.assert_array_equal(again, one)
    mine = theta.copy()
    assert kernels.ensemble_update(mine, g, y, 0.5, out=mine, **keywords) is mine
    np.testing.assert_array_equal(mine, one)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("noise", ["scalar", "vector", "matrix"])
@pytest.mark.parametrize("localization", ["sec", "sec_fisher", "taper"])
@pytest.mark.parametrize("shape", [(4, 5, 3), (20, 100, 3), (15, 33, 40), (40, 65, 200)])
def test_localised_oracle(shape, localization, noise, dtype):
    theta, g, y = problem(*shape, dtype)
    theta[:, 0], g[:, 0] = 1, 2  # without a correlation
    own = None
    if localization == "taper":
        localization = np.random.default_rng(0).uniform(size=shape[1:]).astype(dtype)
        own = None if shape[2] == 3 else taper_of_outputs(shape[2])
    covariance = noises(shape[2])[noise]
    gamma = oracle.noise_matrix(covariance, shape[2])
    spread = np.linalg.solve(gamma, oracle.covariance(*2 * (g.astype(np.float64),)))
    for method in ("eki", "enkf", "denkf"):
        keywords = {"method": method, "dt": 0.7, "localization": localization}
        keywords["obs_localization"] = own
        out, report = kernels.ensemble_update(
            theta, g, y, covariance, random_state=4, return_report=True, **keywords
        )
        expected = oracle.update(theta, g, y, covariance, seed=4, **keywords)
        exact = 3e-6 if method == "enkf" else 1e-9
        close(out, expected, theta, exact if dtype == np.float64 else 5e-5)
        assert report.form == "data"
        rank = np.trace(spread) ** 2 / np.trace(spread @ spread)
        np.testing.assert_allclose(report.effective_rank, rank, rtol=1e-6)


@pytest.mark.parametrize("noise", [0.1, 0.03])
@pytest.mark.parametrize("localization", ["sec", "sec_fisher", "taper", "taper in units"])
def test_a_field_observed_in_full(localization, noise):
    """More outputs than members and little noise: a whole covariance of outputs
    leaves errors of 50 to 900.

    Units that differ from one output to the next, under a noise that is a matrix, change nothing.
    """
    n, rng = 200, np.random.default_rng(0)
    at = np.arange(n)
    distance = np.abs(at[:, None] - at)
    distance = np.minimum(distance, n - distance)
    root = np.linalg.cholesky(np.exp(-((distance / 8) ** 2) / 2) + 1e-6 * np.eye(n))
    theta, truth = rng.normal(size=(20, n)) @ root.T, root @ rng.normal(size=n)
    y, near = truth + noise * rng.normal(size=n), np.exp(-((distance / 10) ** 2) / 2)
    how = {"localization": localization}
    if localization != "sec" and localization != "sec_fisher":
        how = {"localization": near, "obs_localization": near}
    g, cov = theta, noise**2
    if localization == "taper in units":
        units = 10.0 ** rng.integers(-4, 5, n)
        g, y, cov = theta * units, y * units, np.diag((noise * units) ** 2)
    out = kernels.ensemble_update(theta, g, y, cov, method="denkf", **how)
    error = np.sqrt(np.mean((out.mean(0) - truth) ** 2))
    before = np.sqrt(np.mean((theta.mean(0) - truth) ** 2))
    limits = {"sec": before, "sec_fisher": 3 * before}
    assert error < limits.get(localization, 2 * noise)
    assert out.std(0).max() < 1.5 * theta.std(0).max()


def test_a_taper_of_ones_changes_nothing():
    theta, g, y = problem(30, 50, 20)
    out = kernels.ensemble_update(theta, g, y, 0.5, localization=np.ones((50, 20)))
    np.testing.assert_allclose(out, kernels.ensemble_update(theta, g, y, 0.5), atol=1e-12)
    still = kernels.ensemble_update(theta, g, y, 0.5, localization=np.zeros((50, 20)))
    np.testing.assert_array_equal(still, theta)


def test_a_score_takes_the_place_of_the_residual():
    """The least squares' own score gives the update; softmax's metric is its Hessian."""
    theta, g, y = problem(20, 30, 12)
    noise = noises(12)["vector"]
    gram, cross, _, misfit = core.ensemble_moments(g, y, noise)
    again = core.ensemble_moments(g, None, noise, (y - g) / noise)
    np.testing.assert_allclose(again[0], gram, atol=1e-12)
    np.testing.assert_allclose(again[1], cross, atol=1e-11)
    assert again[3] is None
    assert misfit.shape == (20,)
    transform, rank = core.ensemble_weights(gram, cross, None, "eki", 1.0)
    out = kernels.ensemble_transform(theta, transform)
    np.testing.assert_array_equal(out, kernels.ensemble_update(theta, g, y, noise, form="ensemble"))
    assert 1 <= rank <= 12
    gram, cross, *_ = core.ensemble_moments(g, None, np.full(1, 2.0), y - g, 4)
    Y, p = g - g.mean(0), np.exp(g.mean(0)).reshape(3, 4)
    p /= p.sum(1, keepdims=True)
    H = np.zeros((12, 12))
    for i in range(3):
        H[4 * i : 4 * i + 4, 4 * i : 4 * i + 4] = np.diag(p[i]) - np.outer(p[i], p[i])
    np.testing.assert_allclose(gram, Y @ H @ Y.T / 19 / 2, atol=1e-12)
    np.testing.assert_allclose(cross, Y @ (y - g).T / np.sqrt(19), atol=1e-11)


@pytest.mark.parametrize("noise", ["scalar", "vector", "matrix"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", TYPES)
def test_weights_are_those_of_an_update(method, noise, dtype):
    theta, g, y = problem(40, 65, 200, dtype)
    keywords = {"method": method, "dt": 0.7, "random_state": 3, "iteration": 5}
    transform = kernels.ensemble_weights(g, y, noises(200)[noise], **keywords)
    assert transform.dtype == np.float64
    expected = kernels.ensemble_update(theta, g, y, noises(200)[noise], form="ensemble", **keywords)
    np.testing.assert_array_equal(kernels.ensemble_transform(theta, transform), expected)
    again = kernels.ensemble_weights(g, y, noises(200)[noise], n_threads=3, **keywords)
    np.testing.assert_array_equal(again, transform)


@pytest.mark.parametrize("method", ["eki", "etki", "denkf"])
def test_weights_of_a_score(method):
    """By their formulas, with the metric of softmax."""
    g, score = draw(9, 12), draw(9, 12, seed=1)
    Y, p = (g - g.mean(0)) / np.sqrt(8), np.exp(g.mean(0)).reshape(3, 4)
    p /= p.sum(1, keepdims=True)
    H = np.zeros((12, 12))
    for i in range(3):
        block = slice(4 * i, 4 * i + 4)
        H[block, block] = (np.diag(p[i]) - np.outer(p[i], p[i])) / 2
    dt, omega = 0.3, np.linalg.inv(np.eye(9) + 0.3 * Y @ H @ Y.T)
    cross = Y @ score.T
    mean = cross.mean(1, keepdims=True)
    if method == "etki":
        values, basis = np.linalg.eigh(omega)
        expected = (dt / np.sqrt(8) * omega @ mean).T + (basis * np.sqrt(values)) @ basis.T
        expected -= np.eye(9)
    else:
        cross = (cross + mean) / 2 if method == "denkf" else cross
        expected = dt / np.sqrt(8) * (omega @ cross).T
    found = kernels.ensemble_weights(
        g, None, 2.0, score=score, softmax_classes=4, dt=dt, method=method
    )
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_weights_refuse():
    g, y = draw(6, 4), draw(4, seed=1)
    for words, arguments, keywords in [
        ("y is missing, expected it where there is no score", (g, None, 0.5), {}),
        ("1 member", (g[:1], y, 0.5), {}),
        ("member 2", (np.where(np.arange(6)[:, None] == 2, np.nan, g), y, 0.5), {}),
        (r"shape \(3,\)", (g, y[:3], 0.5), {}),
        ("-1", (g, y, -1.0), {}),
        ("'kalman'", (g, y, 0.5), {"method": "kalman"}),
        ("dt must be above 0", (g, y, 0.5), {"dt": 0}),
        ("lost to rounding", (1e6 * g, y, 1e-20), {}),
        ("not perturbed", (g, y, 0.5), {"method": "enkf", "score": g}),
        ("softmax_classes is 2 without a score", (g, y, 0.5), {"softmax_classes": 2}),
        ("whole samples of 3", (g, None, 0.5), {"softmax_classes": 3, "score": g}),
        ("expected variances", (g, None, np.eye(4)), {"softmax_classes": 2, "score": g}),
        (r"score is \[6, 3\], expected \[6, 4\]", (g, None, 0.5), {"score": draw(6, 3)}),
        ("softmax_classes must be at least 0, got -1", (g, y, 0.5), {"softmax_classes": -1}),
        ("int64", (g, np.ones(4, int), 0.5), {}),
        ("iteration must be from 0", (g, y, 0.5), {"iteration": -1}),
    ]:
        with pytest.raises((ValueError, TypeError), match=words):
            kernels.ensemble_weights(*arguments, **keywords)


ISA_SCRIPT = """
import sys, numpy as np, bpfree_fast as bf
from bpfree_fast import _core
print(_core.isa())
inputs, found = np.load(sys.argv[1]), {}
for dtype in ("float32", "float64"):
    theta, g, y, taper = (inputs[name].astype(dtype) for name in ("theta", "g", "y", "taper"))
    for method in ("eki", "enkf", "etki", "denkf"):
        found[dtype + method] = bf.kernels.ensemble_update(
            theta, g, y, 0.3, method=method, random_state=1)
    for name, how, own in (
        ("sec", "sec", None), ("fisher", "sec_fisher", None), ("taper", taper, inputs["own"])):
        found[dtype + name] = bf.kernels.ensemble_update(
            theta, g, y, 0.3, localization=how, obs_localization=own)
T = np.linspace(-1, 1, 23 * 23).reshape(23, 23) / 23
found["float32bf16"] = bf.kernels.ensemble_transform(
    inputs["theta"].astype(np.float32), T, dtype="bfloat16")
np.savez(sys.argv[2], **found)
"""


def test_every_isa(tmp_path):
    theta, g, y = problem(23, 77, 45)
    taper = np.random.default_rng(0).uniform(size=(77, 45))
    np.savez(tmp_path / "in.npz", theta=theta, g=g, y=y, taper=taper, own=taper_of_outputs(45))
    found = {}
    for isa in core.available_isas():
        found[isa] = arrays_under(isa, ISA_SCRIPT, tmp_path)
    for arrays in found.values():
        for name, array in arrays.items():
            np.testing.assert_allclose(
                array, found["scalar"][name], rtol=0, atol=1e-11 if "64" in name else 1e-4
            )


@given(
    n_ens=st.integers(2, 40),
    n_params=st.integers(0, 70),
    n_obs=st.integers(1, 50),
    method=st.sampled_from(METHODS),
    form=st.sampled_from(["auto", "ensemble", "data"]),
    dtype=st.sampled_from(TYPES),
)
@settings(max_examples=80, deadline=None)
def test_any_shape(n_ens, n_params, n_obs, method, form, dtype):
    theta, y = draw(n_ens, n_params, dtype=dtype), draw(n_obs, seed=1)
    g = draw(n_ens, n_obs, seed=2, dtype=np.float32)
    form = "auto" if method == "etki" else form
    out = kernels.ensemble_update(theta, g, y, 0.8, method=method, random_state=6, form=form)
    expected = oracle.update(theta, g, y, 0.8, method, seed=6)
    assert out.shape == theta.shape
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-5)


def test_mixed_types_and_lent_arrays():
    theta, g, y = problem(9, 12, 7, np.float32)
    out = kernels.ensemble_update(
        theta, g.astype(np.float64), y.astype(np.float64), np.float32(0.5)
    )
    np.testing.assert_array_equal(out, kernels.ensemble_update(theta, g, y, 0.5))
    np.testing.assert_array_equal(out, kernels.ensemble_update(theta, g, y, np.full(7, 0.5)))


def where(array, row, value):
    changed = array.copy()
    changed[row, 1] = value
    return changed


def refusals():
    theta, g, y = problem(6, 5, 4)
    bad_g, bad_y = g.copy(), y.copy()
    bad_g[3, 1], bad_y[2] = np.nan, np.inf
    indefinite, skew = np.diag([1.0, 1, -1, 1]), np.eye(4) + np.diag([1.0, 0, 0], 1)
    good = (theta, g, y, 0.5)
    yield "1 member", (theta[:1], g[:1], y, 0.5), {}
    yield "5 members, expected the 6", (theta, g[:5], y, 0.5), {}
    yield "member 3", (theta, bad_g, y, 0.5), {}
    yield r"y\[2\] is inf", (theta, g, bad_y, 0.5), {}
    yield r"shape \(3,\)", (theta, g, y[:3], 0.5), {}
    yield "not positive definite at row 2", (theta, g, y, indefinite), {}
    yield r"obs_noise_cov\[1, 0\]", (theta, g, y, skew), {}
    yield "-2", (theta, g, y, -2.0), {}
    yield r"obs_noise_cov\[1\] is 0", (theta, g, y, np.array([1.0, 0, 1, 1])), {}
    yield r"shape \(3,\)", (theta, g, y, np.ones(3)), {}
    yield r"shape \(3, 3\)", (theta, g, y, np.eye(3)), {}
    yield "3 dimensions", (theta, g, y, np.ones((2, 2, 2))), {}
    yield "int64", (theta, g, y, np.ones(4, int)), {}
    yield "lost to rounding", (theta, 1e6 * g, y, 1e-20), {"form": "ensemble"}
    yield "lost to rounding", (theta, 1e6 * g, y, 1e-20), {"method": "etki"}
    yield "dt must be above 0", good, {"dt": 0}
    yield "'kalman'", good, {"method": "kalman"}
    yield "'other'", good, {"form": "other"}
    yield "etki", good, {"method": "etki", "form": "data"}
    yield "etki", good, {"method": "etki", "localization": "sec"}
    yield "form is ensemble", good, {"form": "ensemble", "localization": "sec"}
    yield "'gc'", good, {"localization": "gc"}
    yield r"shape \(4, 5\)", good, {"localization": np.ones((4, 5))}
    yield "float32", good, {"localization": np.ones((5, 4), np.float32)}
    ones, own = np.ones((5, 4)), np.ones((4, 4))
    yield "4 outputs of 4 members", (theta[:4], g[:4], y, 0.5), {"localization": ones}
    yield "expected both", good, {"obs_localization": own}
    yield "expected both", good, {"localization": "sec", "obs_localization": own}
    yield r"shape \(5, 4\)", good, {"localization": ones, "obs_localization": ones}
    skewed = {"localization": ones, "obs_localization": own + np.diag([1.0, 0, 0], 1)}
    yield r"the taper of outputs\[1, 0\] is 1.0", good, skewed
    yield r"mirror image nan", good, {"localization": ones, "obs_localization": own * np.nan}
    for bad in (np.nan, np.inf):
        yield "the taper has NaN or infinity in row 4", good, {"localization": where(ones, 4, bad)}
    yield "positive semidefinite", good, {"localization": ones, "obs_localization": -9 * own}
    yield "at least 4", (theta[:3], g[:3], y, 0.5), {"localization": "sec_fisher"}
    yield "-1", good, {"iteration": -1}
    yield "out is", good, {"out": np.zeros((6, 4))}
    yield "type of theta", good, {"out": np.zeros((6, 5), np.float32)}
    yield "'x'", good, {"method": "enkf", "random_state": "x"}
    yield "contiguous", (theta[:, ::2], g, y, 0.5), {}
    yield "return_report", good, {"return_report": 2}


@pytest.mark.parametrize(("words", "arguments", "keywords"), list(refusals()))
def test_refusals_change_nothing(words, arguments, keywords):
    theta = arguments[0]
    before = theta.copy()
    with pytest.raises((ValueError, TypeError), match=words):
        kernels.ensemble_update(*arguments, **({"out": theta} | keywords))
    np.testing.assert_array_equal(theta, before)


def test_overlaps_and_read_only_arrays():
    theta, g, y = problem(6, 5, 4)
    whole = np.zeros((12, 5))
    whole[:6] = theta
    with pytest.raises(ValueError, match="out overlaps theta"):
        kernels.ensemble_update(whole[:6], g, y, 0.5, out=whole[2:8])
    with pytest.raises(ValueError, match="overlaps"):
        kernels.ensemble_update(theta, theta, theta[0], 0.5, out=theta)
    theta.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        kernels.ensemble_update(theta, g, y, 0.5, out=theta)


def test_transform_refuses():
    theta, T = draw(5, 4), np.zeros((5, 5))
    for words, arguments, keywords in [
        ("1 member", (theta[:1], T[:1, :1]), {}),
        (r"shape \(4, 4\)", (theta, T[:4, :4].copy()), {}),
        ("float64, but dtype is 'bfloat16'", (theta, T), {"dtype": "bfloat16"}),
        ("'int8'", (theta, T), {"dtype": np.int8}),
        ("out is", (theta, T), {"out": np.zeros((4, 4))}),
        ("int64", (theta.astype(int), T), {}),
        ("n_threads", (theta, T), {"n_threads": 0}),
    ]:
        with pytest.raises((ValueError, TypeError), match=words):
            kernels.ensemble_transform(*arguments, **keywords)
