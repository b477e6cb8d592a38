# SPDX-License-Identifier: BSD-3-Clause
"""Forward-Forward in the core: stages, phases and last batches of any size, and what is refused."""

import itertools

import numpy as np
import pytest
from problems import FORWARD_FORWARD, all_parameters, data, make_network, method_options, parameters

from bpfree_fast import _core as core

SIZES = [20, 40, 33, 6]
HEADS = len(SIZES) - 2  # the stage in which the heads learn alone


def start(rule="forward_forward", loss="softmax_cross_entropy", **options):
    network = make_network(*parameters(SIZES, 0), "relu", loss, first_head=1)
    options = {"batch_size": 64, "seed": 3} | method_options(rule) | options
    return network, core.Trainer(network, **options)


def epoch(trainer, n, **options):
    x, y, w = data("softmax_cross_entropy", n, SIZES[0], SIZES[-1], seed=1)
    return trainer.run_epoch(x, y, w, epoch=0, learning_rate=0.01, **options)


@pytest.mark.parametrize("negatives", ["random", "hard", "given"])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 128, 200])
def test_a_stage_changes_its_own_layer_in_every_phase(n, negatives):
    position = "none" if negatives == "given" else "overwrite"
    network, trainer = start(negatives=negatives, label_position=position)
    x_negative = data("softmax_cross_entropy", n, SIZES[0], SIZES[-1], seed=2)[0]
    owners = [0, 1, HEADS]  # of the network's layers; a second hidden layer has the output as head
    stages = (None, *range(HEADS + 1))
    for stage, phase in itertools.product(stages, ("both", "positive", "negative")):
        trainer.set_stage(stage)
        trainer.set_phase(phase)
        before = all_parameters(network)[: len(owners)]
        rows = {"x_negative": x_negative} if (negatives, phase) == ("given", "both") else {}
        if (stage, phase) == (HEADS, "negative"):
            with pytest.raises(ValueError, match="softmax head learns in the positive phase"):
                epoch(trainer, n)
            learns = set()
        else:
            assert np.isfinite(epoch(trainer, n, **rows))
            learns = set(owners) if stage is None else {stage}
            if phase == "negative":
                learns -= {HEADS}
        after = all_parameters(network)
        changed = {
            owner
            for owner, a, b in zip(owners, before, after, strict=False)
            if not np.array_equal(a, b)
        }
        assert changed == learns, (stage, phase)


def test_heads_that_learn_alone_do_not_see_the_negative_rows():
    heads = []
    for seed in (2, 3):
        network, trainer = start(negatives="given", label_position="none")
        trainer.set_stage(HEADS)
        x_negative = data("softmax_cross_entropy", 100, SIZES[0], SIZES[-1], seed=seed)[0]
        epoch(trainer, 100, x_negative=x_negative)
        heads.append(all_parameters(network))
    assert all(np.array_equal(a, b) for a, b in zip(*heads, strict=True))


@pytest.mark.parametrize("phase", ["positive", "negative"])
def test_groups_have_no_phases(phase):
    network, trainer = start("forward_forward_grouped")
    before = all_parameters(network)
    trainer.set_phase(phase)
    with pytest.raises(ValueError, match="expected the phase both"):
        epoch(trainer, 100)
    assert all(np.array_equal(a, b) for a, b in zip(before, all_parameters(network), strict=True))


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "squared_error"])
def test_other_losses_are_refused(loss):
    with pytest.raises(ValueError, match="Forward-Forward needs at least 2 classes"):
        start(loss=loss)


@pytest.mark.parametrize("value", [1e25, np.nan])
@pytest.mark.parametrize("phase", ["both", "positive"])
@pytest.mark.parametrize("rule", FORWARD_FORWARD)
def test_rows_whose_squares_overflow_are_seen(rule, phase, value):
    trainer = start(rule)[1]
    if rule != "forward_forward_grouped":
        trainer.set_phase(phase)
    x, y, _ = data("softmax_cross_entropy", 64, SIZES[0], SIZES[-1], seed=1)
    clean, seen = np.empty((2, 64, SIZES[-1]), np.float32)
    trainer.predict_by(x, clean, goodness=False)
    x[7] *= value
    trainer.predict_by(x, seen, goodness=False)
    assert np.isnan(seen[7]).all()
    np.testing.assert_array_equal(np.delete(seen, 7, 0), np.delete(clean, 7, 0))
    assert np.isnan(trainer.run_epoch(x, y, epoch=0, learning_rate=0.01))


@pytest.mark.parametrize("hidden", [(40,), (40, 33)], ids=str)
@pytest.mark.parametrize("rule", FORWARD_FORWARD)
def test_activations_whose_squares_overflow_are_seen(rule, hidden):
    """A row of moderate numbers and weights that are large: the goodness is beyond float32."""
    sizes = [SIZES[0], *hidden, SIZES[-1]]
    weights, biases = parameters(sizes, 0)
    weights[len(hidden) - 1] *= np.float32(1e25)
    network = make_network(weights, biases, "relu", "softmax_cross_entropy", first_head=1)
    trainer = core.Trainer(network, batch_size=64, **method_options(rule))
    x, y, _ = data("softmax_cross_entropy", 64, SIZES[0], SIZES[-1], seed=1)
    out = np.empty((64, SIZES[-1]), np.float32)
    trainer.predict_by(x, out, goodness=False)
    assert np.isnan(out).all()
    if rule != "forward_forward_grouped":
        trainer.set_phase("positive")
    assert np.isnan(trainer.run_epoch(x, y, epoch=0, learning_rate=0.01))
