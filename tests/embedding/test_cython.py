# SPDX-License-Identifier: BSD-3-Clause
"""A real Cython extension that cimports the kernels: nothing to include, nothing to link."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from oracle.product import to_bfloat16

import bpfree_fast as bf

HERE = Path(__file__).resolve().parent
kernels = bf.kernels


@pytest.fixture(scope="module")
def extension(tmp_path_factory):
    pytest.importorskip("Cython", reason="Cython is not installed (it is in the extra 'test')")
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        pytest.skip("no C compiler is installed")
    folder = tmp_path_factory.mktemp("cython")
    source = folder / "extension.c"
    packages = Path(bf.get_include()).parent.parent  # where the .pxd files are
    module = folder / f"extension{sysconfig.get_config_var('EXT_SUFFIX')}"
    headers = sysconfig.get_path("include")
    if not (Path(headers) / "Python.h").exists():
        pytest.skip("the headers of Python are not installed")
    for command in (
        [sys.executable, "-m", "cython", "-3", "-I", str(packages), str(HERE / "extension.pyx"),
         "-o", str(source)],
        [compiler, "-shared", "-fPIC", "-O1", f"-I{headers}", str(source), "-o", str(module)],
    ):  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    spec = importlib.util.spec_from_file_location("extension", module)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_random_numbers(extension):
    out = np.empty(70, np.uint32)
    extension.bits(out)
    np.testing.assert_array_equal(out, kernels.random_bits(1, 70, stream=2, offset=3))
    for fill, dtype in ((extension.floats, "float32"), (extension.doubles, "float64")):
        arrays = [np.empty(70, dtype) for _ in range(3)]
        fill(*arrays)
        for array, name in zip(arrays, ("uniform", "normal", "sign"), strict=True):
            expected = getattr(kernels, name)(1, 70, stream=2, offset=3, dtype=dtype)
            np.testing.assert_array_equal(array, expected)


def test_products(extension):
    a = kernels.normal(0, 60).reshape(4, 15)
    kinds = a, a.astype(np.float64), to_bfloat16(a)
    outs = [np.empty((4, 4), kind) for kind in ("float32", "float64", "float32")]
    extension.products(kinds[0], outs[0], kinds[1], outs[1], kinds[2], outs[2])
    for kind, out, dtype in zip(kinds, outs, ("float32", "float64", "bfloat16"), strict=True):
        np.testing.assert_array_equal(
            out, kernels.product(kind, kind, transpose_b=True, dtype=dtype)
        )


def test_a_training_step(extension):
    x, e = kernels.normal(1, 6 * 37).reshape(6, 37), kernels.normal(2, 18).reshape(6, 3)
    W, b = kernels.normal(3, 37 * 40).reshape(37, 40), kernels.normal(4, 40)
    state = [np.zeros_like(array) for array in (W, b, W, b)]
    ours = W.copy(), b.copy(), [array.copy() for array in state]
    h, delta, B = (np.empty(shape, np.float32) for shape in ((6, 40), (6, 40), (3, 40)))
    extension.train(*ours, x, e, h, delta, B)
    np.testing.assert_array_equal(h, kernels.dense_forward(x, W, b, activation="tanh"))
    np.testing.assert_array_equal(B, kernels.feedback_matrix(3, 40, seed=9, layer=1))
    expected = kernels.project_feedback(e, 40, seed=9, layer=1, h=h, activation="tanh")
    np.testing.assert_array_equal(delta, expected)
    kernels.dense_update(W, b, x, delta, learning_rate=0.125, solver="adam", step=3, state=state)
    for array, theirs in zip((*ours[:2], *ours[2]), (W, b, *state), strict=True):
        np.testing.assert_array_equal(array, theirs)


def test_a_forward_forward_step(extension):
    x, W, b = (kernels.normal(i, 240) for i in range(3))
    x, W, b = x.reshape(6, 40), W.reshape(40, 6), b[:6].copy()
    ours = W.copy(), b.copy()
    h, g, r = np.empty((6, 6), np.float32), np.empty(6, np.float32), np.empty(6, np.float32)
    loss = extension.forward_forward(*ours, x, h, g, r)
    h_out, factor = np.empty_like(h), np.empty_like(r)
    expected = kernels.forward_forward_update(
        W, b, x, 3, learning_rate=0.125, goodness="mean", goodness_loss="symba", h_out=h_out
    )
    assert loss == expected
    np.testing.assert_array_equal(h, h_out)
    np.testing.assert_array_equal(g, kernels.goodness(h, row_factor=factor))
    np.testing.assert_array_equal(r, factor)
    for array, theirs in zip(ours, (W, b), strict=True):
        np.testing.assert_array_equal(array, theirs)


def test_a_step_on_local_losses(extension):
    x, W, b = (kernels.normal(i, 240) for i in range(3))
    x, W, b = x.reshape(6, 40), W.reshape(40, 6), b[:6].copy()
    M, c = kernels.normal(3, 18).reshape(6, 3), kernels.normal(4, 3)
    labels, weights = np.int32([0, 2, 1, 1, 0, 2]), kernels.uniform(5, 6)
    ours = [array.copy() for array in (W, b, M, c)]
    h = kernels.dense_forward(x, W, b, activation="tanh")
    expected = kernels.local_loss_update(
        W, b, M, c, x, h, labels, learning_rate=0.125, local_loss="predsim", activation="tanh",
        sample_weight=weights,
    )  # fmt: skip
    assert extension.local_loss(*ours, x, h, labels, weights) == expected
    for array, theirs in zip(ours, (W, b, M, c), strict=True):
        np.testing.assert_array_equal(array, theirs)


def test_a_step_of_noprop(extension):
    h, W = kernels.normal(0, 240).reshape(6, 40), kernels.normal(1, 120).reshape(40, 3)
    b, embedding = kernels.normal(2, 3), kernels.normal(3, 12).reshape(3, 4)
    labels, alpha_bar = np.int32([0, 2, 1, 1, 0, 2]), np.array([0.0, 0.3, 0.7, 0.9])
    ours, error, table = (W.copy(), b.copy()), np.empty((6, 3), np.float32), np.empty((3, 3))
    loss = extension.noprop(*ours, error, h, embedding, labels, table, alpha_bar)
    e = np.empty_like(error)
    assert loss == kernels.noprop_update(
        W, b, h, labels, learning_rate=0.125, embedding=embedding, weight=0.5, error=e
    )
    for array, theirs in zip(ours, (W, b), strict=True):
        np.testing.assert_array_equal(array, theirs)
    np.testing.assert_array_equal(error, kernels.denoising_head(e, labels, weight=2.0))
    np.testing.assert_array_equal(table, kernels.posterior_coefficients(alpha_bar))


def test_a_generation_of_an_evolution_strategy(extension):
    theta, loss = kernels.normal(1, 50), kernels.normal(2, 6, dtype="float64")
    loss[4] = np.nan
    pair, gradient = np.empty((2, 50), np.float32), np.empty(50, np.float32)
    utilities = np.empty(6)
    assert extension.evolution(pair, gradient, utilities, theta, loss) == 1
    source = {"seed": 9, "generation": 2, "kind": "low_rank", "shapes": [(5, 7), (15,)]}
    expected = kernels.perturb(theta, member=[6, 7], std=0.5, antithetic=True, **source)
    np.testing.assert_array_equal(pair, expected)
    u = kernels.fitness_shaping(loss, maximize=False, kind="top_k", top_k=2)
    np.testing.assert_array_equal(utilities, u)
    expected = kernels.perturbation_gradient(u, 50, antithetic=True, **source)
    np.testing.assert_array_equal(gradient, expected)


def test_low_rank_forward(extension):
    W, b = kernels.normal(1, 60).reshape(20, 3), kernels.normal(2, 3)
    x, h = kernels.normal(3, 320).reshape(4, 4, 20), np.empty((4, 4, 3), np.float32)
    extension.population(h, x, W, b)
    expected = kernels.low_rank_forward(
        x, W, b, seed=9, n_members=4, first_member=2, std=0.5, antithetic=True, activation="relu"
    )
    np.testing.assert_array_equal(h, expected)


def test_an_ensemble_kalman_update(extension):
    theta, g = kernels.normal(1, 90, dtype="float64").reshape(6, 15), kernels.normal(2, 24)
    g, y = g.astype(np.float64).reshape(6, 4), kernels.normal(3, 4, dtype="float64")
    covariance, misfit, noise = np.empty((15, 4)), np.empty(6), 0.5 * np.eye(4)
    expected, report = kernels.ensemble_update(
        theta, g, y, noise, method="denkf", localization="sec", return_report=True
    )
    exact = kernels.ensemble_covariance(theta, g)
    assert extension.ensemble(theta, covariance, misfit, g, y, noise) == report.effective_rank
    np.testing.assert_array_equal(theta, expected)
    np.testing.assert_array_equal(covariance, exact)
    np.testing.assert_array_equal(misfit, report.misfit)


def test_failures_become_exceptions(extension):
    with pytest.raises(ValueError, match="-3"):
        extension.refuse()


def test_the_module_finds_its_library_wherever_it_is(tmp_path):
    """From another folder, and without anything in the environment that would help."""
    variables = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    code = "import bpfree_fast.cython_kernels as k; print(len(k.__pyx_capi__) > 0)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == ("True", "")
