# SPDX-License-Identifier: BSD-3-Clause
"""Local losses in use: predictions, one layer at a time, the cache, and what is refused."""

import numpy as np
import pytest
from local_losses import Problem
from oracle import local_loss as oracle
from oracle.activations import ACTIVATIONS, DERIVATIVES
from oracle.losses import OUTPUTS
from tolerances import FORWARD_F32

from bpfree_fast import _core as core

OBJECTIVES = ("pred", "sim", "predsim")
SIZES = (19, 40, 33, 36, 7)
EXTRAS = {
    "plain": {},
    "dropout": {"dropout": 0.3},
    "all": {"dropout": 0.3, "batch_normalization": True, "sim_projection": True},
}


def predicted(problem, x=None, **options):
    x = problem.x if x is None else x
    out = np.empty((len(x), problem.network.layer_sizes[-1]), np.float32)
    problem.trainer.predict_by(np.ascontiguousarray(x), out, **options)
    return out


def same(first, second):
    return all(np.array_equal(p, q) for p, q in zip(first, second, strict=True))


def running(problem, layer, x):
    """h of a layer by its running statistics, where it has them."""
    p = {k: v.astype(np.float64) for k, v in problem.read(layer).items()}
    a = x @ p["W"] + p["b"]
    if "gain" in p:
        _, _, mean, variance = problem.trainer.norm(layer)
        a = p["gain"] * (a - mean) / np.sqrt(variance.astype(np.float64) + 1e-5) + p["shift"]
    return ACTIVATIONS[problem.activation](a)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy"])
@pytest.mark.parametrize("extras", EXTRAS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_predictions(objective, extras, loss):
    """By the last head or by the sum of all; running statistics, and nothing dropped."""
    problem = Problem(SIZES, 150, objective=objective, activation="tanh", loss=loss,
                      **EXTRAS[extras])  # fmt: skip
    problem.run()
    h, logits = problem.x.astype(np.float64), []
    for layer in range(problem.n_hidden):
        h = running(problem, layer, h)
        if problem.has_head(layer):
            p = problem.read(layer)
            logits.append(h @ p["M"] + p["c"])
    scale = max(np.abs(z).max() for z in logits)
    close = {"rtol": 0, "atol": 4 * FORWARD_F32 * scale}
    np.testing.assert_allclose(predicted(problem, logits=True), logits[-1], **close)
    np.testing.assert_allclose(predicted(problem), OUTPUTS[loss](logits[-1]), **close)
    every = predicted(problem, sum_of_heads=True, logits=True)
    np.testing.assert_allclose(every, sum(logits), **close)
    if extras == "plain":
        out = np.empty((150, 7), np.float32)
        problem.network.predict(problem.x, out)
        np.testing.assert_array_equal(out, predicted(problem))


def test_predictions_follow_every_change():
    """What is kept for the next prediction is forgotten when anything in it changes."""
    problem = Problem(SIZES, activation="tanh", batch_normalization=True)
    norm = problem.trainer.norm(1)
    changes = (
        problem.run,
        lambda: problem.network.set_weights(1, problem.network.weights(1) * 2),
        lambda: problem.network.set_biases(3, problem.network.biases(3) + 1),
        lambda: problem.trainer.set_norm(1, norm[0] * 2, *norm[1:]),
        lambda: problem.network.initialize(5),
    )
    problem.network.set_weights(3, np.ones_like(problem.network.weights(3)))
    before = predicted(problem, logits=True)
    for change in changes:
        np.testing.assert_array_equal(predicted(problem, logits=True), before)
        change()
        h = problem.x.astype(np.float64)
        for layer in range(problem.n_hidden):
            h = running(problem, layer, h)
        p = problem.read(problem.n_hidden - 1)
        now, logits = predicted(problem, logits=True), h @ p["M"] + p["c"]
        assert not np.array_equal(now, before)
        np.testing.assert_allclose(now, logits, rtol=0, atol=1e-5 * (1 + np.abs(logits).max()))
        before = now


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"sum_of_heads": True}], ids=["last", "sum"])
def test_a_prediction_does_not_depend_on_the_rows_beside_it(options, dtype):
    problem = Problem(SIZES, 150, dtype=dtype, objective="predsim", batch_normalization=True)
    problem.run()
    expected = predicted(problem, **options)
    for n in (1, 13, 37, 149):
        rows = predicted(problem, problem.x[:n], n_threads=3, **options)
        np.testing.assert_array_equal(rows, expected[:n])


@pytest.mark.parametrize("extras", EXTRAS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_layers_do_not_see_what_is_above(objective, extras):
    """Without the layers above, those below learn the same, bit for bit."""
    deep, flat = (
        Problem(sizes, 61, objective=objective, batch_size=16, weighted=True, **EXTRAS[extras])
        for sizes in (SIZES, (*SIZES[:3], SIZES[-1]))
    )
    for layer in range(2):
        shared = {k: v for k, v in deep.layers[layer].items() if k in flat.layers[layer]}
        flat.layers[layer] |= shared
        flat.write(layer)
    flat.x, flat.y, flat.sample_weight = deep.x, deep.y, deep.sample_weight
    for epoch in range(3):
        deep.run(epoch, shuffle=True)
        flat.run(epoch, shuffle=True)
    for layer in range(2):
        ours, theirs = flat.read(layer), deep.read(layer)
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=f"{layer} {name}")


@pytest.mark.parametrize("extras", EXTRAS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_stage_trains_its_layer_alone(objective, extras):
    problem = Problem(SIZES, 40, objective=objective, **EXTRAS[extras])
    for stage in (0, 2, 1):
        before = [problem.read(layer) for layer in range(3)]
        problem.trainer.set_stage(stage)
        problem.run()
        for layer in range(3):
            after = problem.read(layer)
            for name, value in before[layer].items():
                moves = layer == stage and not (name == "b" and "gain" in after)
                assert np.array_equal(value, after[name]) != moves, (layer, name)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_frozen_layers_run_as_in_prediction(objective):
    """A step of stage 1 is the oracle's on what layer 0 says by its running statistics."""
    problem = Problem(SIZES, 40, objective=objective, activation="tanh", batch_normalization=True)
    problem.trainer.set_stage(0)
    for epoch in range(5):
        problem.run(epoch)
    statistics = problem.trainer.norm(0)[2:]
    problem.trainer.set_stage(1)
    value = problem.run()
    assert same(statistics, problem.trainer.norm(0)[2:])
    x, y = running(problem, 0, problem.x.astype(np.float64)), np.eye(7)[problem.y]
    p = {k: v.astype(np.float64) for k, v in problem.layers[1].items()}
    expected, _, gradients = oracle.layer(
        x, y, np.ones(40), p, ACTIVATIONS["tanh"], DERIVATIVES["tanh"], **problem.layer_options()
    )
    assert value == pytest.approx(expected, rel=1e-5)
    change = problem.changes()[1]
    for name in gradients.keys() - {"b"}:
        np.testing.assert_allclose(
            change[name], gradients[name], atol=2e-5 * np.abs(gradients[name]).max() + 2e-6
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("extras", EXTRAS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_cache_changes_no_bit(objective, extras, dtype):
    def train(cached):
        problem = Problem(
            SIZES, 61, objective=objective, batch_size=16, dtype=dtype, weighted=True,
            solver="adam", **EXTRAS[extras],
        )  # fmt: skip
        problem.trainer.set_cache(cached)
        losses = []
        for stage in range(3):
            problem.trainer.set_stage(stage)
            losses += [problem.run(3 * stage + e, shuffle=True) for e in range(3)]
        return [*problem.all_parameters(), np.array(losses)]

    assert same(train(True), train(False))


def test_the_cache_is_of_one_array_and_one_stage():
    """Other rows, an epoch that was stopped, or a call of drop_cache: it is made anew."""

    def train(cached):
        problem = Problem(SIZES, 61, batch_size=16)
        trainer = problem.trainer
        trainer.set_cache(cached)
        trainer.set_stage(1)
        problem.run(0)
        problem.run(1)
        kept, problem.x = problem.x, problem.x[::-1].copy()
        problem.run(2)
        problem.run(3)
        problem.x = kept
        problem.run(4)
        trainer.set_stage(2)
        problem.run(5)
        trainer.set_stage(0)
        problem.run(6)
        trainer.set_stage(1)
        problem.run(7, on_event=lambda *_: True)
        problem.run(8)
        problem.network.set_weights(0, -problem.network.weights(0))
        trainer.drop_cache()
        problem.run(9)
        problem.run(10)
        return problem.all_parameters()

    assert same(train(True), train(False))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"local_loss": "contrastive"}, "contrastive"),
        ({"similarity_weight": -0.1}, "similarity_weight is -0.1"),
        ({"similarity_weight": 1.5}, "similarity_weight is 1.5"),
        ({"similarity_weight": float("nan")}, "similarity_weight is nan"),
        ({"dropout": 1.0}, "dropout is 1"),
        ({"dropout": -0.5}, "dropout is -0.5"),
        ({"dropout": float("nan")}, "dropout is nan"),
    ],
    ids=str,
)
def test_options_that_are_refused(options, words):
    network = core.Network([4, 5, 6, 3], "relu", "softmax_cross_entropy", "float32", first_head=0)
    with pytest.raises(ValueError, match=words):
        core.Trainer(network, method="local_loss", **options)


def test_networks_that_are_refused():
    def trainer(sizes, objective, first_head):
        network = core.Network(sizes, "relu", "squared_error", "float32", first_head=first_head)
        return core.Trainer(network, method="local_loss", local_loss=objective)

    with pytest.raises(ValueError, match="at least 1 hidden layer"):
        trainer([4, 3], "pred", None)
    for objective in ("pred", "predsim"):
        with pytest.raises(ValueError, match="first_head=0"):
            trainer([4, 5, 6, 3], objective, None)
        with pytest.raises(ValueError, match="first_head=0"):
            trainer([4, 5, 6, 7, 3], objective, 1)
    with pytest.raises(ValueError, match="first_head=None"):
        trainer([4, 5, 6, 3], "sim", 0)
    with pytest.raises(ValueError, match="at least 2 outputs, got 1"):
        trainer([4, 5, 1], "sim", None)
    trainer([4, 5, 1], "pred", None)  # one hidden layer: its head is the output layer


def test_calls_that_are_refused():
    problem = Problem(SIZES, sim_projection=True, objective="sim", batch_normalization=True)
    trainer = problem.trainer
    with pytest.raises(ValueError, match=r"stage is 3.*below 3"):
        trainer.set_stage(3)
    with pytest.raises(ValueError, match=r"projection 3 .* has 3"):
        trainer.projection(3)
    with pytest.raises(ValueError, match=r"normalization 5 .* has 3"):
        trainer.norm(5)
    with pytest.raises(ValueError, match="value"):
        trainer.set_projection(0, np.zeros((40, 39), np.float32))
    n = [np.ones(40, np.float32)] * 3
    with pytest.raises(ValueError, match=r"variance\[0\] is -1"):
        trainer.set_norm(0, *n, -n[0])
    with pytest.raises(ValueError, match="mean"):
        trainer.set_norm(0, n[0], n[0], n[0][:5], n[0])
    out = np.empty((25, 7), np.float32)
    with pytest.raises(ValueError, match="goodness"):
        trainer.predict_by(problem.x, out, goodness=True)
    with pytest.raises(ValueError, match="alignment"):
        trainer.alignment(problem.x, problem.y)
    with pytest.raises(ValueError, match="18 columns"):
        trainer.predict_by(problem.x[:, :18].copy(), out)
    with pytest.raises(ValueError, match="x_negative"):
        problem.run(x_negative=problem.x)
    plain = Problem(SIZES).trainer
    assert (plain.n_projections, plain.n_norms) == (0, 0)
    with pytest.raises(ValueError, match="projection 0"):
        plain.projection(0)


@pytest.mark.parametrize("call", ["set_cache", "drop_cache", "projection", "norm", "set_stage"])
def test_other_methods_have_none_of_this(call):
    network = core.Network([4, 5, 3], "relu", "softmax_cross_entropy", "float32")
    trainer = core.Trainer(network, method="backprop")
    arguments = {"set_cache": [True], "drop_cache": []}.get(call, [0])
    with pytest.raises(ValueError, match=r"local losses|no stages|no batch normalization"):
        getattr(trainer, call)(*arguments)
    assert (trainer.n_projections, trainer.n_norms) == (0, 0)
