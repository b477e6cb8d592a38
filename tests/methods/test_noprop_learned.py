# SPDX-License-Identifier: BSD-3-Clause
"""NoProp's learned embeddings, head and schedule against central differences of the whole loss."""

import numpy as np
import pytest
from isas import arrays_under
from noprop_learned_problem import LearnedProblem
from noprop_problem import INFERENCE_TENSOR, RATE, assert_equal, parameters, time_features
from oracle import noprop as oracle
from oracle import noprop_learned as learned
from oracle import random
from oracle.activations import ACTIVATIONS
from tolerances import ISA_BF16_NORM, ISA_F32_NORM, STEP_BF16_NORM

from bpfree_fast import _core as core

ONE = {"n_blocks": 1}
CASES = [
    {"variant": "dt"},
    {"variant": "dt", "alpha_bar": [0.1, 0.5, 0.8, 0.97], "weighted": True},
    {"variant": "dt", "n": 70, "dim": 37, "n_blocks": 2},
    {"variant": "dt", "activation": "relu", "batch_normalization": True},
    {"variant": "ct", **ONE, "max_snr_weight": 5.0},
    {"variant": "ct", **ONE, "learn": "schedule", "weighted": True},
    {"variant": "ct", **ONE, "learn": "both", "batch_normalization": True},
    {"variant": "fm", **ONE, "weighted": True},
    {"variant": "fm", **ONE, "batch_normalization": True},
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_a_step_is_along_the_gradient_of_the_whole_loss(options):
    problem = LearnedProblem(**options)
    trainer = problem.trainer()
    loss = problem.run(trainer)
    assert loss == pytest.approx(problem.loss(*problem.values()), rel=1e-5)
    problem.check_learned(trainer, problem.gradients())


@pytest.mark.parametrize("variant", ["dt", "ct", "fm"])
def test_nothing_goes_back_to_z_with_direct_feedback(variant):
    problem = LearnedProblem(variant, n_blocks=3 if variant == "dt" else 1, block_feedback="direct")
    trainer = problem.trainer()
    problem.run(trainer)
    problem.check_learned(trainer, problem.gradients(noise_of=problem.values()[0]))


def test_the_velocity_learns_from_the_head_too():
    problem = LearnedProblem("fm", **ONE)
    network = problem.network
    problem.run(problem.trainer())
    values, k = problem.values(), problem.n_parts - 1
    for i in [(0, 0), (3, 2), (11, 4)]:
        kept = problem.weights[k].copy()
        ends = []
        for shift in (1e-2, -1e-2):
            problem.weights[k] = kept.copy()
            problem.weights[k][i] += shift
            ends.append(problem.loss(*values))
        problem.weights[k] = kept
        wanted = (ends[0] - ends[1]) / 2e-2  # the loss is nearly quadratic in it
        found = (kept[i] - network.weights(k)[i]) / RATE
        assert found == pytest.approx(wanted, rel=2e-3, abs=1e-4)


def test_blocks_take_the_steps_that_they_would_take_alone():
    """Their own losses say nothing of the others', nor of the head's."""
    problem = LearnedProblem("dt")
    _, of_weights, of_biases = problem.expected()
    problem.run(problem.trainer())
    problem.check(of_weights, of_biases)


@pytest.mark.parametrize("options", [CASES[0], CASES[6], CASES[7]], ids=str)
def test_bfloat16(options):
    problem = LearnedProblem(**{"activation": "tanh", **options, "dtype": "bfloat16"})
    trainer = problem.trainer()
    loss = problem.run(trainer)
    assert loss == pytest.approx(problem.loss(*problem.values()), rel=STEP_BF16_NORM)
    problem.check_learned(trainer, problem.gradients(), relative=STEP_BF16_NORM)


def test_two_steps():
    """The second step draws its own noise and begins where the first one ended."""
    problem = LearnedProblem("ct", **ONE, learn="both")
    trainer = problem.trainer()
    for step in range(2):
        wanted = problem.gradients(step=step)
        trainer.run_epoch(
            problem.x, problem.label, epoch=step, shuffle=False, learning_rate=RATE / 100
        )
        after = problem.values_of(trainer)
        for before, now, gradient in zip(problem.values(), after, wanted, strict=True):
            error = np.linalg.norm((before - now) * (100 / RATE) - gradient)
            assert error <= 2e-3 * np.linalg.norm(gradient)
        problem.embedding, *problem.head, problem.curve = after
        for k in range(problem.n_parts):
            problem.weights[k] = problem.network.weights(k)
            problem.biases[k] = problem.network.biases(k)


def test_the_schedule_begins_as_documented():
    problem = LearnedProblem("ct", **ONE, learn="schedule")
    trainer = core.Trainer(
        problem.network, method="noprop", variant="ct", noise_schedule="learned", batch_size=4
    )
    start = learned.initial_schedule()
    np.testing.assert_allclose(trainer.schedule_parameters(), start, rtol=1e-6, atol=1e-6)
    for t in (0.0, 0.1, 0.5, 1.0):
        assert trainer.alpha_bar_at(t) == pytest.approx(learned.schedule(start, t)[0], rel=1e-5)
    assert trainer.alpha_bar_at(0.0) == pytest.approx(0.01, rel=1e-4)
    assert trainer.alpha_bar_at(1.0) == pytest.approx(0.99, rel=1e-4)
    for array in trainer.head():
        np.testing.assert_array_equal(array, 0)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_fixed_schedules_are_seen_too(kind):
    problem = LearnedProblem("ct", **ONE, schedule=kind)
    trainer = problem.trainer()
    t = np.linspace(0, 1, 7)
    np.testing.assert_allclose(
        [trainer.alpha_bar_at(x) for x in t], problem.noise_level(None, t)[0], rtol=1e-12
    )


@pytest.mark.parametrize("options", CASES, ids=str)
def test_the_head_predicts(options):
    """dt and ct by the head on z; fm by the nearest embedding."""
    problem = LearnedProblem(**options)
    trainer = problem.trainer()
    n, steps = len(problem.x), problem.n_blocks if problem.variant == "dt" else 5
    found = np.empty((steps * n, problem.n_classes), np.float32)
    trainer.predict_blocks(problem.x, found, staged=True, n_steps=steps)
    embedding, weights, biases, curve = problem.values()
    word = random.matrix_words(7, (1, problem.dim), 7, INFERENCE_TENSOR, 0)
    z = np.repeat(random.normal(word)[:, : problem.dim], n, axis=0)
    for s in range(steps):
        t = np.full(n, s / steps)
        features = np.zeros((n, 0)) if problem.variant == "dt" else time_features(t)
        block = s if problem.variant == "dt" else 0
        o = oracle.forward(
            problem.x,
            np.hstack([z, features]),
            *problem.predicting_block(block),
            ACTIVATIONS[problem.activation],
        )[1]
        if problem.variant == "fm":
            z = z + o @ embedding / steps
            wanted = oracle.softmax(-np.sum((z[:, None] - embedding) ** 2, axis=2))
        else:
            if problem.variant == "dt":
                a, b, _ = oracle.coefficients(problem.alpha_bar[s], problem.alpha_bar[s + 1])
            else:
                now, then = problem.noise_level(curve, np.array([s, s + 1]) / steps)[0]
                b = np.sqrt((1 - then) / (1 - now))
                a = np.sqrt(then) - b * np.sqrt(now)
            z = a * oracle.softmax(o) @ embedding + b * z
            wanted = oracle.softmax(z @ weights + biases)
        np.testing.assert_allclose(found[s * n : (s + 1) * n], wanted, atol=2e-5)


# Threads and instruction sets.


@pytest.mark.parametrize("options", [CASES[2], CASES[6], CASES[8]], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_threads_change_no_bit(options, dtype):
    found = []
    for n_threads in (1, 2, 3):
        problem = LearnedProblem(**{**options, "n": 150, "dtype": dtype})
        trainer = problem.trainer(n_threads=n_threads, batch_size=64, solver="adam")
        for epoch in range(2):
            trainer.run_epoch(problem.x, problem.label, epoch=epoch, learning_rate=1e-2)
        arrays = problem.values_of(trainer) + parameters(problem.network)
        found.append(arrays + trainer.optimizer_state())
    for other in found[1:]:
        assert_equal(other, found[0])


SCRIPT = """
import sys
import numpy as np
from bpfree_fast import _core as core
print(core.config()["isa"])
a = dict(np.load(sys.argv[1]))
out = {}
for dtype in ("float32", "bfloat16"):
    net = core.Network.of_blocks(
        n_blocks=1, n_features=40, n_input_units=32, n_label=17 + 64, n_label_units=32,
        join=[33, 20], n_classes=5, activation="tanh", dtype=dtype,
    )
    net.initialize(1)
    trainer = core.Trainer(
        net, method="noprop", batch_size=50, variant="ct", noise_schedule="learned",
        embedding_dim=17, learn_embedding=True, seed=3,
    )
    trainer.set_embedding(a["u"])
    for epoch in range(3):
        trainer.run_epoch(a["x"], a["y"], epoch=epoch, learning_rate=1e-3)
    arrays = [trainer.embedding() - a["u"], *trainer.head(), net.weights(1)]
    out[dtype] = np.concatenate([v.ravel() for v in arrays])
np.savez(sys.argv[2], **out)
"""


def test_instruction_sets(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(190, 40)).astype(np.float32)
    u = rng.normal(size=(5, 17)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x, y=rng.integers(0, 5, 190).astype(np.int32), u=u)
    found = [arrays_under(isa, SCRIPT, tmp_path) for isa in core.available_isas()]
    for other in found[1:]:
        for dtype, bound in (("float32", ISA_F32_NORM), ("bfloat16", ISA_BF16_NORM)):
            wanted = found[0][dtype]
            assert np.linalg.norm(other[dtype] - wanted) <= bound * np.linalg.norm(wanted)


# State, and what is refused.


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_state_goes_on(solver):
    options = {"solver": solver, "momentum": 0.9} if solver == "sgd" else {"solver": solver}

    def trained(epochs, take_over=None):
        problem = LearnedProblem("ct", **ONE, learn="both")
        trainer = problem.trainer(**options)
        if take_over is not None:
            old, network = take_over
            for k in range(problem.n_parts):
                problem.network.set_weights(k, network.weights(k))
                problem.network.set_biases(k, network.biases(k))
            trainer.set_embedding(old.embedding())
            trainer.set_head(*old.head())
            trainer.set_schedule_parameters(old.schedule_parameters())
            trainer.set_optimizer_state(old.optimizer_state())
            trainer.step = old.step
        for epoch in epochs:
            trainer.run_epoch(problem.x, problem.label, epoch=epoch, learning_rate=1e-3)
        return trainer, problem.network, problem.values_of(trainer)

    *_, whole = trained(range(4))
    first, network, _ = trained(range(2))
    *_, resumed = trained(range(2, 4), (first, network))
    assert_equal(resumed, whole)


def test_what_goes_back_to_z_is_of_the_weights_as_they_are():
    """In bfloat16 they have a copy, which direct feedback has no use for but must not leave."""
    problem = LearnedProblem("dt", activation="tanh", dtype="bfloat16")
    for way in ("exact", "direct", "exact"):
        problem.block_feedback = way
        problem.trainer().run_epoch(problem.x, problem.label, epoch=0, learning_rate=1e-2)
    for k in range(len(problem.weights)):
        problem.weights[k] = problem.network.weights(k)
        problem.biases[k] = problem.network.biases(k)
    trainer = problem.trainer()
    problem.run(trainer)
    problem.check_learned(trainer, problem.gradients(), relative=STEP_BF16_NORM)


def refused(words, variant="ct", **options):
    problem = LearnedProblem(variant, n_blocks=3 if variant == "dt" else 1, learn="schedule")
    defaults = {"variant": variant, "alpha_bar": [0, 0.4, 0.7, 0.9] if variant == "dt" else []}
    with pytest.raises(ValueError, match=words):
        core.Trainer(problem.network, method="noprop", **defaults | options)


def test_bad_options():
    refused("embedding_dim is 0, expected at least 1", learn_embedding=True)
    refused("learned noise_schedule is for variant 'ct'", "dt", noise_schedule="learned")
    refused("learned noise_schedule is for variant 'ct'", "fm", noise_schedule="learned")
    refused("block_feedback is 'direct'", noise_schedule="learned", block_feedback="direct")
    refused("max_snr_weight is 5", noise_schedule="learned", max_snr_weight=5.0)


def test_bad_calls():
    fixed = LearnedProblem("dt").network
    trainer = core.Trainer(fixed, method="noprop", embedding_dim=3, alpha_bar=[0, 0.4, 0.7, 0.9])
    assert not trainer.has_head
    with pytest.raises(ValueError, match="no head"):
        trainer.head()
    with pytest.raises(ValueError, match="variant 'ct' alone"):
        trainer.alpha_bar_at(0.5)
    with pytest.raises(ValueError, match="schedule of this trainer is fixed"):
        trainer.set_schedule_parameters(np.zeros(0, np.float32))
    trainer = LearnedProblem("dt").trainer()
    with pytest.raises(ValueError, match="1 blocks were asked for, expected all 3"):
        trainer.set_blocks(0, 1)
    with pytest.raises(ValueError, match="weights"):
        trainer.set_head(np.zeros((2, 5), np.float32), np.zeros(5, np.float32))
    trainer = LearnedProblem("ct", **ONE, learn="schedule").trainer()
    for t in (-0.1, 1.5, np.nan):
        with pytest.raises(ValueError, match="expected a number from 0 to 1"):
            trainer.alpha_bar_at(t)
