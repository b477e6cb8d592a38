# SPDX-License-Identifier: BSD-3-Clause
"""Every refusal is one sentence that names the value, and changes nothing."""

import pickle

import numpy as np
import pytest

import bpfree_fast as bf

MEMBERS = np.random.default_rng(0).normal(size=(5, 3))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"ensemble": MEMBERS[:1]}, ValueError, r"ensemble has shape \(1, 3\), .* two members"),
        ({"ensemble": MEMBERS[0]}, ValueError, r"ensemble has shape \(3,\), expected"),
        ({"ensemble": np.zeros((4, 0))}, ValueError, r"ensemble has shape \(4, 0\), expected"),
        ({"ensemble": [["a"], ["b"]]}, TypeError, "expected real numbers"),
        ({"ensemble": [[1.0], [np.nan]]}, ValueError, "got NaN or infinity in member 1"),
        ({"obs_noise_cov": 0}, ValueError, "obs_noise_cov must be above 0 and finite, got 0"),
        ({"obs_noise_cov": -1.0}, ValueError, "obs_noise_cov must be above 0 and finite, got -1"),
        ({"obs_noise_cov": [1.0, -2.0]}, ValueError, r"obs_noise_cov\[1\] is -2"),
        ({"obs_noise_cov": "loud"}, TypeError, "obs_noise_cov must be real numbers, got 'loud'"),
        ({"obs_noise_cov": np.ones((2, 2))}, ValueError, "obs_noise_cov is not positive definite"),
        ({"obs_noise_cov": [[1, 0.5], [0, 1]]}, ValueError, r"obs_noise_cov\["),
        ({"obs_noise_cov": np.ones((2, 3))}, ValueError, r"obs_noise_cov has shape \(2, 3\), exp"),
        ({"method": "ukf"}, ValueError, "method must be one of 'eki', .* got 'ukf'"),
        ({"dt": 0}, ValueError, "dt must be above 0 and finite, got 0"),
        ({"dt": "auto"}, ValueError, "dt must be one of 'misfit', 'norm', got 'auto'"),
        ({"dt_scale": 2.0}, ValueError, "dt_scale is for dt='misfit' or 'norm', got 2"),
        ({"max_time": 0}, ValueError, "max_time must be above 0 and finite, got 0"),
        ({"max_time": np.nan}, ValueError, "max_time must be above 0 and finite, got nan"),
        ({"alphas": 4}, ValueError, "alphas are for method 'esmda', got 4 for 'eki'"),
        ({"method": "esmda", "alphas": 0}, ValueError, "alphas must be from 1 to .*, got 0"),
        (
            {"method": "esmda", "alphas": [2, 3]},
            ValueError,
            "alphas must have the sum of 1 / alpha at 1, got 0.833333",
        ),
        (
            {"method": "esmda", "alphas": [2, -2]},
            ValueError,
            "each of alphas must be above 0 and finite, got -2",
        ),
        ({"method": "esmda", "dt": 0.5}, ValueError, "dt must be 1, got 0.5"),
        ({"method": "esmda", "max_time": 1}, ValueError, "max_time must be None .*, got 1"),
        ({"prior_mean": 0.0}, ValueError, "prior_cov is None"),
        ({"prior_cov": 1.0}, ValueError, "prior_mean is None"),
        ({"prior_mean": [0, 1], "prior_cov": 1}, ValueError, r"prior_mean has shape \(2,\)"),
        ({"prior_mean": np.inf, "prior_cov": 1}, ValueError, "prior_mean must be finite"),
        ({"prior_mean": 0, "prior_cov": -1.0}, ValueError, "prior_cov must be above 0"),
        (
            {"prior_mean": 0, "prior_cov": [1.0, 2.0]},
            ValueError,
            r"prior_cov has shape \(2,\), expected",
        ),
        (
            {"prior_mean": 0, "prior_cov": np.ones((3, 3))},
            ValueError,
            "prior_cov is not positive definite",
        ),
        (
            {"prior_mean": 0, "prior_cov": 1, "localization": "sec"},
            ValueError,
            "localization must be None and form not 'data', got 'sec' and 'auto'",
        ),
        ({"inflation": 0.9}, ValueError, "inflation must be at least 1 and finite, got 0.9"),
        (
            {"additive_inflation_std": -1},
            ValueError,
            "additive_inflation_std must be at least 0 and finite, got -1",
        ),
        (
            {"additive_inflation_std": [1, 2]},
            ValueError,
            r"additive_inflation_std has shape \(2,\), expected a number or \(3,\)",
        ),
        ({"localization": "near"}, ValueError, "localization must be one of 'sec', 'sec_fisher'"),
        (
            {"localization": np.ones((2, 3))},
            ValueError,
            r"localization has shape \(2, 3\), expected \(3, n_obs\)",
        ),
        (
            {"localization": np.array([[1, 1], [1, np.nan], [1, 1.0]])},
            ValueError,
            "localization must be finite, got NaN or infinity in row 1",
        ),
        (
            {"localization": np.full((3, 2), 1e39), "ensemble": MEMBERS.astype(np.float32)},
            ValueError,
            "localization must be finite, got NaN or infinity in row 0",
        ),
        (
            {"localization": np.ones((3, 5))},
            ValueError,
            "localization has 5 outputs of 5 members, expected obs_localization",
        ),
        ({"obs_localization": np.eye(2)}, ValueError, "obs_localization is for a taper"),
        (
            {"localization": np.ones((3, 2)), "obs_localization": np.eye(3)},
            ValueError,
            r"obs_localization has shape \(3, 3\), expected \(2, 2\)",
        ),
        (
            {"localization": np.ones((3, 2)), "obs_localization": [[1, 0.5], [0, 1]]},
            ValueError,
            "obs_localization must be symmetric",
        ),
        ({"localization": "sec", "method": "etki"}, ValueError, "'etki' cannot be localised"),
        (
            {"localization": "sec_fisher", "ensemble": MEMBERS[:3]},
            ValueError,
            "'sec_fisher' needs at least 4 members, got 3",
        ),
        ({"localization": "sec", "form": "ensemble"}, ValueError, "got form='ensemble'"),
        ({"form": "data", "method": "etki"}, ValueError, "got form='data'"),
        ({"form": "state"}, ValueError, "form must be one of"),
        ({"redraw_std": 0.0}, ValueError, "redraw_std must be above 0 and finite, got 0"),
        ({"redraw_std": 1.0, "inflation": 1.1}, ValueError, "redraw_std makes all members anew"),
        ({"redraw_std": 1.0, "nesterov": True}, ValueError, "redraw_std makes all members anew"),
        ({"dropout": 1}, ValueError, "dropout must be at least 0 and below 1"),
        ({"dropout": 0.5, "nesterov": True}, ValueError, "dropout must be 0 .*, got 0.5"),
        ({"nesterov": 1}, TypeError, "nesterov must be True or False, got 1"),
        ({"copy": False, "nesterov": True}, ValueError, "copy must be True"),
        ({"copy": False, "ensemble": MEMBERS.T}, ValueError, "copy=False is for a C-contiguous"),
        ({"copy": False, "ensemble": MEMBERS.tolist()}, ValueError, "copy=False is for a C-"),
        ({"random_state": -1}, ValueError, "random_state must be from 0"),
        ({"n_threads": 0}, ValueError, "n_threads must be at least 1, got 0"),
    ],
)
def test_parameters(options, error, text):
    given = {"ensemble": MEMBERS, "obs_noise_cov": 0.5} | options
    with pytest.raises(error, match=text):
        bf.EnsembleKalman(given.pop("ensemble"), given.pop("obs_noise_cov"), **given)


G = np.ones((5, 2)) + MEMBERS[:, :2]


@pytest.mark.parametrize(
    ("g", "y", "error", "text"),
    [
        (G, [1.0, 2.0, 3.0], ValueError, r"y has 3 observations, but obs_noise_cov is of 2"),
        (G[:, :1], [1.0, 2.0], ValueError, r"g has shape \(5, 1\), expected \(5, 2\)"),
        (G[:4], [1.0, 2.0], ValueError, r"g has shape \(4, 2\), expected \(5, 2\)"),
        (G[0], [1.0, 2.0], ValueError, r"g has shape \(2,\), expected \(5, 2\)"),
        (G, [1.0, np.nan], ValueError, "y must be finite, got nan at 1"),
        (G, [np.inf, 1.0], ValueError, "y must be finite, got inf at 0"),
        (G, 1.0, ValueError, r"y has shape \(\), expected \(n_obs,\)"),
        (G, [], ValueError, r"y has shape \(0,\), expected \(n_obs,\)"),
        (G, ["a", "b"], TypeError, "y must be real numbers"),
        (G.astype(complex), [1.0, 2.0], TypeError, "g must be real numbers"),
        ([["a", "b"]] * 5, [1.0, 2.0], TypeError, "g must be real numbers"),
        (np.full((5, 2), np.nan), [1.0, 2.0], ValueError, "0 of 5 members have finite outputs"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"nesterov": True}, {"dropout": 0.5}, {"dt": "misfit"}])
def test_tell(g, y, error, text, options):
    kalman = bf.EnsembleKalman(MEMBERS, [0.5, 1.0], random_state=0, **options)
    before = pickle.dumps(kalman)
    with pytest.raises(error, match=text):
        kalman.tell(g, y)
    assert pickle.dumps(kalman) == before


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"obs_noise_cov": -1.0}, "obs_noise_cov must be above 0 and finite, got -1"),
        ({"obs_noise_cov": np.ones(3)}, "y has 2 observations, but obs_noise_cov is of 3"),
        ({"obs_noise_cov": np.ones((2, 2))}, "obs_noise_cov is not positive definite"),
        ({"localization": "near"}, "localization must be one of"),
        ({"localization": np.ones((2, 2))}, r"expected \(3, n_obs\)"),
        ({"localization": np.ones((3, 4))}, "localization"),
        ({"localization": np.full((3, 2), np.nan)}, "localization must be finite"),
        ({"localization": "sec"}, "'etki' cannot be localised"),
        ({"obs_localization": np.eye(2)}, "obs_localization is for a taper"),
        ({"localization": np.ones((3, 5))}, "5 outputs of 5 members, expected obs_localization"),
    ],
)
def test_other_observations(keywords, text):
    word = keywords.get("localization")
    method = "etki" if isinstance(word, str) and word == "sec" else "eki"
    kalman = bf.EnsembleKalman(MEMBERS, 0.5, method=method)
    before = pickle.dumps(kalman)
    with pytest.raises(ValueError, match=text):
        kalman.tell(G, [1.0, 2.0], **keywords)
    assert pickle.dumps(kalman) == before


@pytest.mark.parametrize(
    "options", [{"localization": "sec_fisher"}, {"localization": np.ones((3, 4))}]
)
def test_what_the_kernel_refuses_changes_nothing(options):
    kalman = bf.EnsembleKalman(MEMBERS, 0.5, **options)
    before = pickle.dumps(kalman)
    g = G.copy()
    g[:2] = np.nan
    with pytest.raises(ValueError, match=r"localization|4 members"):
        kalman.tell(g, [1.0, 2.0])
    assert pickle.dumps(kalman) == before


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"n_iterations": 0}, ValueError, "n_iterations must be at least 1, got 0"),
        ({}, ValueError, "nothing would end the iteration"),
        ({"discrepancy": 0}, ValueError, "discrepancy must be above 0 and finite, got 0"),
        ({"n_iterations": 1, "chunk_size": 0}, ValueError, "chunk_size must be at least 1"),
        ({"n_iterations": 1, "callback": 3}, TypeError, "callback must be None or callable"),
        ({"n_iterations": 1, "vectorized": 1}, TypeError, "vectorized must be True or False"),
        ({"n_iterations": 1, "forward": 3}, TypeError, "the forward model must be callable"),
        (
            {"n_iterations": 1, "forward": lambda x: x},
            ValueError,
            r"the forward model gave an array of shape \(3,\), expected \(2,\)",
        ),
        (
            {"n_iterations": 1, "forward": lambda x: x[:, :1], "vectorized": True},
            ValueError,
            r"the forward model gave an array of shape \(5, 1\), expected \(5, 2\)",
        ),
        (
            {"n_iterations": 1, "forward": lambda x: ["a", "b"]},
            TypeError,
            "what the forward model gives must be numbers",
        ),
    ],
)
def test_minimize(options, error, text):
    kalman = bf.EnsembleKalman(MEMBERS, 0.5)
    given = {"forward": lambda x: x[:2]} | options
    with pytest.raises(error, match=text):
        kalman.minimize(given.pop("forward"), [1.0, 2.0], **given)
    assert kalman.iteration == 0


@pytest.mark.parametrize(
    ("out", "error", "text"),
    [
        ([1.0], TypeError, "out must be a NumPy array, got list"),
        (np.empty((5, 3), np.float32), ValueError, "out is float32 of shape"),
        (np.empty((3, 5)).T, ValueError, "C-contiguous"),
        (np.empty((5, 4)), ValueError, r"expected float64 of shape \(5, 3\)"),
    ],
)
def test_out(out, error, text):
    with pytest.raises(error, match=text):
        bf.EnsembleKalman(MEMBERS, 0.5).ask(out=out)
