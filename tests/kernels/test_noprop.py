# SPDX-License-Identifier: BSD-3-Clause
"""NoProp's single kernels: the head against the oracle, its step against dense_update."""

import numpy as np
import pytest
from noprop_problem import Problem
from oracle import noprop as oracle

from bpfree_fast import _core as core
from bpfree_fast import kernels


def numbers(batch, n_classes, dim, n_in=7):
    rng = np.random.default_rng(batch + n_classes)
    f32 = np.float32
    return {
        "h": rng.normal(size=(batch, n_in)).astype(f32),
        "W": rng.normal(size=(n_in, n_classes)).astype(f32),
        "b": rng.normal(size=n_classes).astype(f32),
        "logits": rng.normal(size=(batch, n_classes)).astype(f32),
        "y": rng.integers(0, n_classes, batch).astype(np.int32),
        "embedding": None if dim is None else rng.normal(size=(n_classes, dim)).astype(f32),
        "sample_weight": rng.uniform(0.2, 2, batch).astype(f32),
    }


def expected(a, logits, weight, weighted=True):
    u = np.eye(logits.shape[1]) if a["embedding"] is None else a["embedding"].astype(np.float64)
    w = a["sample_weight"].astype(np.float64) if weighted else np.ones(len(a["y"]))
    return oracle.loss(logits.astype(np.float64), u[a["y"]], weight * w, u)


@pytest.mark.parametrize("batch", [1, 31, 32, 33, 100])
@pytest.mark.parametrize(("n_classes", "dim"), [(2, None), (10, None), (33, None), (5, 1), (70, 9)])
def test_head(batch, n_classes, dim):
    a = numbers(batch, n_classes, dim)
    _, e = expected(a, a["logits"], 1.5)
    options = {"embedding": a["embedding"], "weight": 1.5, "sample_weight": a["sample_weight"]}
    found = kernels.denoising_head(a["logits"], a["y"], **options)
    np.testing.assert_allclose(found, e, atol=3e-6 * max(1, np.abs(e).max()))
    alone = [kernels.denoising_head(a["logits"], a["y"], n_threads=n, **options) for n in (1, 3)]
    for other in alone:
        np.testing.assert_array_equal(other, found)
    in_place = a["logits"].copy()
    assert kernels.denoising_head(in_place, a["y"], out=in_place, **options) is in_place
    np.testing.assert_array_equal(in_place, found)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("dim", [None, 9])
def test_update_is_the_head_and_a_dense_update(dim, solver):
    a = numbers(50, 6, dim)
    state = [] if solver == "sgd" else [np.zeros_like(a[k]) for k in "WbWb"]
    theirs = [s.copy() for s in state]
    options = {"embedding": a["embedding"], "weight": 0.7, "sample_weight": a["sample_weight"]}
    logits = kernels.dense_forward(a["h"], a["W"], a["b"])
    e = kernels.denoising_head(logits, a["y"], **options)
    W, b, error = a["W"].copy(), a["b"].copy(), np.empty_like(logits)
    loss = kernels.noprop_update(
        W, b, a["h"], a["y"], learning_rate=0.1, solver=solver, state=state, error=error, **options
    )
    np.testing.assert_array_equal(error, e)
    total = float(np.sum(a["sample_weight"], dtype=np.float64))
    kernels.dense_update(
        a["W"], a["b"], a["h"], e, learning_rate=0.1, solver=solver, state=theirs, n_samples=total
    )
    np.testing.assert_array_equal(W, a["W"])
    np.testing.assert_array_equal(b, a["b"])
    for one, other in zip(state, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    assert loss == pytest.approx(expected(a, logits, 0.7)[0].sum() / total, rel=1e-5)


def test_update_is_the_trainers():
    """The last layer of a block: its h is made in float64 here, and rounded once."""
    problem = Problem(n=40, n_blocks=2, activation="identity", join=())
    problem.run(problem.trainer())
    w, b = (part[-1].copy() for part in problem.block(1))
    z, _, weight = problem.noisy_label(1)
    h = oracle.forward(problem.x, z, *problem.block(1), lambda a: a)[0][-1].astype(np.float32)
    kernels.noprop_update(w, b, h, problem.label, learning_rate=0.5, weight=weight[0])
    np.testing.assert_allclose(
        w, problem.network.weights(problem.n_parts * 2 - 1), rtol=2e-5, atol=2e-6
    )


def test_coefficients():
    alpha_bar = core.noise_schedule("cosine", 10)
    np.testing.assert_array_equal(
        kernels.posterior_coefficients(np.array(alpha_bar)), core.posterior_coefficients(alpha_bar)
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y": np.int32([0, 1, 6])}, r"labels\[2\] is 6, expected a class index in \[0, 6\)"),
        ({"y": np.int32([0, 1])}, "y is int32 of shape"),
        ({"embedding": np.zeros((5, 2), np.float32)}, "embedding is float32 of shape"),
        ({"embedding": np.zeros((6, 0), np.float32)}, "embedding has 0 columns"),
        ({"weight": -1.0}, "weight must be at least 0"),
        ({"sample_weight": np.float32([1, -1, 1])}, r"sample_weight\[1\] is -1"),
        ({"sample_weight": np.zeros(3, np.float32)}, "every sample_weight is 0"),
        ({"error": np.zeros((3, 5), np.float32)}, "error is float32 of shape"),
        ({"step": 0}, "step must be from 1"),
    ],
)
def test_bad_input_changes_nothing(changes, words):
    a = numbers(3, 6, None)
    before = a["W"].copy()
    given = {"y": a["y"]} | changes
    with pytest.raises(ValueError, match=words):
        kernels.noprop_update(a["W"], a["b"], a["h"], given.pop("y"), learning_rate=0.1, **given)
    np.testing.assert_array_equal(a["W"], before)


def test_overlaps_and_shapes_are_refused():
    a = numbers(3, 6, None)
    with pytest.raises(ValueError, match="sample_weight"):
        kernels.denoising_head(
            a["logits"], a["y"], out=a["logits"], sample_weight=a["logits"][0, :3]
        )
    with pytest.raises(ValueError, match="expected at least 2"):
        kernels.denoising_head(np.zeros((3, 1), np.float32), np.zeros(3, np.int32))
    with pytest.raises(ValueError, match="alpha_bar must have one dimension"):
        kernels.posterior_coefficients(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="expected at least 3"):
        kernels.posterior_coefficients([0.1, 0.5])
