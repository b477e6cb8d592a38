# SPDX-License-Identifier: BSD-3-Clause
"""NoPropClassifier: its variants, blocks trained apart, and what it refuses."""

import pickle
import warnings
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils._testing import assert_array_equal

import bpfree_fast as bf
from bpfree_fast import _core as core
from bpfree_fast.estimators import _apart, _noprop
from bpfree_fast.estimators._noprop import prototypes
from bpfree_fast.estimators._training import Samples

X = np.random.default_rng(0).normal(size=(60, 6))
Y = np.repeat(["a", "b", "c"], 20)


def small(**options):
    return bf.NoPropClassifier(
        (16,), input_units=32, label_units=32, n_blocks=4, random_state=0, max_iter=3,
        batch_size=16, **options,
    )  # fmt: skip


# What adds arrays to a block, or to all.
ARRAYS = [{}, {"class_embedding": "prototype"}, {"batch_normalization": True}]


def arrays(clf):
    norms = [array for name in clf._norm_lists for array in getattr(clf, name)]
    return [*clf.coefs_, *clf.intercepts_, *norms, *clf._trainer.optimizer_state()]


def assert_same(one, other):
    for a, b in zip(arrays(one), arrays(other), strict=True):
        assert_array_equal(a, b)
    for a, b in zip(one.staged_predict_proba(X), other.staged_predict_proba(X), strict=True):
        assert_array_equal(a, b)
    np.testing.assert_allclose(one.loss_curve_, other.loss_curve_, rtol=1e-6)
    assert_array_equal(one.block_loss_curve_, other.block_loss_curve_)


# Flow matching needs longer: after 20 epochs it has 0.84 to 0.96, by the seed, after 60 some 0.98.
@pytest.mark.parametrize(("variant", "epochs"), [("dt", 20), ("ct", 20), ("fm", 60)])
def test_variants_learn_digits(variant, epochs, digits):
    clf = bf.NoPropClassifier(
        variant=variant, n_blocks=5, max_iter=epochs, n_steps=20, random_state=0
    )
    clf.fit(digits.X_train, digits.y_train)
    assert clf.score(digits.X_test, digits.y_test) > 0.93
    assert clf.loss_curve_[-1] < clf.loss_curve_[0]


@pytest.mark.parametrize("options", [{"class_embedding": "prototype"}, {"dtype": "bfloat16"},
                                     {"block_feedback": "direct"}, {"noise_schedule": "linear"},
                                     {"activation": "tanh"}, {"batch_normalization": True},
                                     {"batch_normalization": True, "block_feedback": "direct"},
                                     ], ids=str)  # fmt: skip
def test_options_learn_digits(options, digits):
    clf = bf.NoPropClassifier(n_blocks=4, max_iter=20, random_state=0, **options)
    assert clf.fit(digits.X_train, digits.y_train).score(digits.X_test, digits.y_test) > 0.9


def test_accuracy_rises_from_block_to_block(digits):
    rises = []
    for seed in range(3):
        clf = bf.NoPropClassifier(n_blocks=5, max_iter=10, random_state=seed)
        clf.fit(digits.X_train, digits.y_train)
        scores = clf.staged_score(digits.X_test, digits.y_test)
        assert len(scores) == 5
        assert scores[-1] == clf.score(digits.X_test, digits.y_test)
        rises.append(scores[-1] - scores[0])
    # By seed 0.011 to 0.028.
    assert np.mean(rises) > 0.005
    stages = list(clf.staged_predict_proba(digits.X_test))
    assert_array_equal(stages[-1], clf.predict_proba(digits.X_test))


@pytest.mark.parametrize("variant", ["dt", "ct", "fm"])
def test_probabilities(variant):
    clf = small(variant=variant).fit(X, Y)
    p = clf.predict_proba(X)
    assert p.shape == (60, 3)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    assert (p >= 0).all()
    assert_array_equal(clf.predict(X), clf.classes_[p.argmax(axis=1)])


@pytest.mark.parametrize("options", ARRAYS, ids=str)
def test_blocks_apart_are_blocks_together(options):
    together = small(**options).fit(X, Y)
    parts = [small(**options).fit_blocks(X, Y, blocks) for blocks in (range(3), [3])]
    assert parts[0].trained_blocks_ == [0, 1, 2]
    joined = parts[1].join(parts[0])
    assert joined.trained_blocks_ == [0, 1, 2, 3]
    assert_same(joined, together)
    # And training goes on as if it had never been parted.
    for clf in (joined, together):
        clf.set_params(max_iter=5, warm_start=True).fit(X, Y)
    assert_same(joined, together)


@pytest.mark.parametrize("norm", [False, True])
def test_executors(norm):
    together = small(batch_normalization=norm).fit(X, Y)

    def apart(**options):
        return small(batch_normalization=norm).fit(X, Y, **options)

    with ThreadPoolExecutor(2) as pool:
        assert_same(apart(executor=pool), together)
        assert_same(apart(executor=pool, n_parts=9), together)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        clf = apart(executor=pool)
    assert_same(clf, together)
    assert clf.trained_blocks_ == [0, 1, 2, 3]
    assert_same(apart(executor=lambda: ThreadPoolExecutor(3)), together)


def test_dask():
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    together = small().fit(X, Y)
    with distributed.Client(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as client:
        assert _apart._workers(client.get_executor()) == (2, 2)
        assert_same(small().fit(X, Y, executor=client.get_executor()), together)
        assert_same(small().fit(X, Y, executor=client.get_executor(), n_parts=3), together)


def test_blocks_apart_with_a_constant_rate():
    options = {"learning_rate": "step", "gamma": 1.0, "class_embedding": "prototype"}
    together = small(**options).fit(X, Y)
    with ThreadPoolExecutor(2) as pool:
        assert_same(small(**options).fit(X, Y, executor=pool), together)
    # Or one that nothing can stop.
    options = {"learning_rate": "constant", "n_iter_no_change": 3}
    with pytest.warns(ConvergenceWarning, match="still fell"):
        together = small(**options).fit(X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        part = small(**options).fit_blocks(X, Y, range(1, 4))
        assert_same(small(**options).fit_blocks(X, Y, [0]).join(part), together)


@pytest.mark.parametrize("schedule", ["constant", "adaptive"])
def test_no_block_is_stopped_by_the_loss_of_others(schedule):
    clf = small(learning_rate=schedule, n_iter_no_change=2)
    words = f"learning_rate='{schedule}' with n_iter_no_change=2 would stop or slow all blocks"
    with pytest.raises(ValueError, match=words):
        clf.fit(X, Y)
    with pytest.raises(ValueError, match=words):
        clf.fit_blocks(X, Y, range(2))
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match=words):
        clf.fit(X, Y, executor=pool)
    # A score tells about all blocks, and a single block about itself.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert clf.set_params(early_stopping=True).fit(X, Y).n_iter_ == 3
        assert clf.set_params(early_stopping=False, variant="ct").fit(X, Y).n_iter_ == 3


def test_parts_one_by_one_have_no_adaptive_rate():
    with pytest.raises(ValueError, match="partial_fit with learning_rate='adaptive' would slow"):
        small(learning_rate="adaptive").partial_fit(X, Y, ["a", "b", "c"])
    clf = small(learning_rate="constant", n_iter_no_change=1)
    assert clf.partial_fit(X, Y, ["a", "b", "c"]).trained_blocks_ == [0, 1, 2, 3]


def test_no_prediction_by_blocks_that_are_not_trained():
    full = small().fit(X, Y)
    clf = small().fit_blocks(X, Y, range(2))
    for predict in (clf.predict, clf.predict_proba, lambda x: clf.score(x, Y)):
        with pytest.raises(NotFittedError, match=r"blocks \[0, 1\] of 4 have been trained"):
            predict(X)
    assert clf.staged_score(X, Y) == full.staged_score(X, Y)[:2]
    for ours, theirs in zip(
        clf.staged_predict_proba(X), full.staged_predict_proba(X), strict=False
    ):
        assert_array_equal(ours, theirs)
    with pytest.raises(NotFittedError, match=r"blocks \[1\] of 4 .* expected the first one"):
        small().fit_blocks(X, Y, [1]).staged_score(X, Y)
    with pytest.raises(NotFittedError, match="expected all"):
        small().fit_blocks(X, Y, [0]).join(small().fit_blocks(X, Y, [2])).predict(X)


def test_training_goes_on_with_the_same_blocks_only():
    clf = small(warm_start=True).fit_blocks(X, Y, range(2))
    before = arrays(clf)
    clf.set_params(max_iter=5)
    for train in (lambda: clf.fit_blocks(X, Y, range(2, 4)), lambda: clf.fit(X, Y),
                  lambda: clf.partial_fit(X, Y)):  # fmt: skip
        with pytest.raises(
            ValueError, match=r"cannot go on from a model that has trained \[0, 1\]"
        ):
            train()
    assert clf.trained_blocks_ == [0, 1]
    for a, b in zip(arrays(clf), before, strict=True):
        assert_array_equal(a, b)
    assert clf.fit_blocks(X, Y, range(2)).n_iter_ == 5
    full = small(warm_start=True).fit(X, Y).set_params(max_iter=5).fit(X, Y)
    rest = small(warm_start=True).fit_blocks(X, Y, range(2, 4)).set_params(max_iter=5)
    assert_same(clf.join(rest.fit_blocks(X, Y, range(2, 4))), full)


@pytest.mark.parametrize("when", ["step", "epoch"])
def test_interrupted_blocks(when):
    def interrupt(info):
        if info.epoch_ended == (when == "epoch"):
            raise KeyboardInterrupt

    clf = small(callback=interrupt).fit(np.tile(X, (6000, 1)), np.tile(Y, 6000))
    assert clf.interrupted_
    assert clf.n_iter_ == (when == "epoch")
    assert clf.trained_blocks_ == [0, 1, 2, 3]
    assert clf.predict(X).shape == (60,)


def test_cores_are_shared_among_the_parts(monkeypatch):
    seen = []

    class Here(Executor):
        def submit(self, task, *args):
            seen.append((args[0].n_threads, args[-2:]))
            future = Future()
            future.set_result(task(*args))
            return future

    monkeypatch.setattr(_apart._core, "config", lambda: {"n_threads": 6})
    together = small().fit(X, Y)
    assert_same(small().fit(X, Y, executor=Here), together)
    assert seen == [(None, (block, block + 1)) for block in range(4)]
    seen.clear()
    pool = Here()
    pool._max_workers = 2
    assert_same(small().fit(X, Y, executor=pool), together)
    assert seen == [(3, (0, 2)), (3, (2, 4))]
    seen.clear()
    small(n_threads=1).fit(X, Y, executor=pool, n_parts=4)
    assert {threads for threads, _ in seen} == {1}
    seen.clear()
    small().fit(X, Y, executor=pool, n_parts=4)
    assert {threads for threads, _ in seen} == {3}


def test_a_part_gives_back_its_own_blocks():
    part = _apart._fit_part(small(n_threads=1), X, Y, None, 1, 2)
    net = small().fit(X, Y)
    sent = sum(a.nbytes for layer in part.part.layers for a in layer)
    assert sent == 3 * 4 * net.n_params_ / 4  # W and b with the two moments of Adam
    assert len(pickle.dumps(part)) < sent + 5000


def test_a_part_that_fails(monkeypatch):
    clf = small().fit(X, Y)
    before = arrays(clf)
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="eta must be above 0"):
        clf.set_params(eta=0.0).fit(X, Y, executor=pool)

    def interrupted(*args):
        fitted = fit_part(*args)
        fitted.attributes["interrupted_"] = True
        return fitted

    fit_part = _apart._fit_part
    monkeypatch.setattr(_apart, "_fit_part", interrupted)
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(RuntimeError, match=r"task of the blocks \[0, 1\] was interrupted"),
    ):
        clf.set_params(eta=None).fit(X, Y, executor=pool, n_parts=2)
    for a, b in zip(arrays(clf), before, strict=True):
        assert_array_equal(a, b)


def test_weights_by_sample():
    w = np.random.default_rng(1).uniform(0.1, 2, len(X))
    with ThreadPoolExecutor(2) as pool:
        assert_same(small().fit(X, Y, w, executor=pool), small().fit(X, Y, w))


def test_attributes():
    clf = small(class_embedding="prototype").fit(X, Y)
    assert clf.class_embedding_.shape == (3, 6)
    assert not clf.class_embedding_.flags.writeable
    for row, label in zip(clf.class_embedding_, clf.classes_, strict=True):
        assert any(np.array_equal(row, x.astype(np.float32)) for x in X[label == Y])
    assert_array_equal(small().fit(X, Y).class_embedding_, np.eye(3))
    assert_array_equal(clf.alpha_bar_, core.noise_schedule("cosine", 4))
    assert small(variant="ct").fit(X, Y).alpha_bar_.size == 0
    assert [w.shape for w in clf.coefs_[:4]] == [(6, 32), (6, 32), (64, 16), (16, 3)]
    assert clf.n_params_ == sum(w.size for w in clf.coefs_ + clf.intercepts_)
    with pytest.raises(AttributeError, match="no class_embedding_ before fit"):
        _ = small().class_embedding_
    with pytest.raises(AttributeError, match="no alpha_bar_ before fit"):
        _ = small().alpha_bar_


def test_prototypes_are_the_most_central():
    x = np.array([0.0, 4.0, 5.0, 6.0, 20.0, 9.0, 11.0, 12.0, 13.0, 30.0])[:, None]
    found = prototypes(Samples(x, np.repeat([0, 1], 5), None), 2, 0.5)
    assert_array_equal(found, [[2.5], [6.0]])


@pytest.mark.parametrize("options", ARRAYS, ids=str)
def test_saving(options, tmp_path):
    clf = small(**options).fit_blocks(X, Y, range(2))
    clf.save(tmp_path / "m.safetensors")
    for other in (bf.load(tmp_path / "m.safetensors"), pickle.loads(pickle.dumps(clf))):
        assert other.trained_blocks_ == [0, 1]
        assert_same(other, clf)
        assert_array_equal(other.class_embedding_, clf.class_embedding_)
        rest = small(**options).fit_blocks(X, Y, range(2, 4))
        assert_same(other.join(rest), small(**options).fit(X, Y))


def test_losses_of_blocks():
    clf = small().fit(X, Y)
    losses = np.array(clf.block_loss_curve_)
    assert losses.shape == (3, 4)
    np.testing.assert_allclose(losses.mean(axis=1), clf.loss_curve_, rtol=1e-6)
    # By their weights in the loss, which rise from block to block.
    assert (np.diff(losses, axis=1) > 0).all()
    part = small().fit_blocks(X, Y, [1, 2])
    assert_array_equal(np.array(part.block_loss_curve_)[:, 1:3], losses[:, 1:3])
    assert np.isnan(np.array(part.block_loss_curve_)[:, [0, 3]]).all()
    w = np.linspace(0, 2, 60)
    weighted = small(variant="ct").fit(X, Y, w)
    np.testing.assert_allclose(weighted.block_loss_curve_, np.c_[weighted.loss_curve_], rtol=1e-6)


@pytest.mark.parametrize("rule", ["euler", "heun"])
@pytest.mark.parametrize("variant", ["dt", "ct", "fm"])
def test_stages_some_at_a_time(variant, rule, monkeypatch):
    clf = small(variant=variant, n_steps=7, ode_rule=rule, class_embedding="prototype").fit(X, Y)
    whole = list(clf.staged_predict_proba(X))
    assert len(whole) == (4 if variant == "dt" else 7)
    for at_once in (1, 3):
        monkeypatch.setattr(_noprop, "_STAGED_BYTES", at_once * 4 * 60 * 3)
        assert_array_equal(list(clf.staged_predict_proba(X)), whole)
    assert_array_equal(whole[-1], clf.predict_proba(X))


@pytest.mark.parametrize("variant", ["dt", "ct", "fm"])
def test_batch_normalization(variant):
    clf = small(variant=variant, batch_normalization=True).fit(X, Y)
    n_blocks = 4 if variant == "dt" else 1
    for name in clf._norm_lists:
        assert [a.shape for a in getattr(clf, name)] == [(32,), (32,), (16,)] * n_blocks
    plain = small(variant=variant).fit(X, Y)
    assert plain.norm_gains_ == []
    assert clf.n_params_ == plain.n_params_ + n_blocks * 2 * (32 + 32 + 16)
    assert not np.array_equal(clf.predict_proba(X), plain.predict_proba(X))
    # By running statistics: a row depends on no other.
    assert_array_equal(clf.predict_proba(X)[7:8], clf.predict_proba(X[7:8]))
    # A unit's own scale changes nothing but what a prediction is folded from.
    before = clf.predict_proba(X)
    clf.norm_gains_ = [2 * gain for gain in clf.norm_gains_]
    assert not np.array_equal(clf.predict_proba(X), before)
    with pytest.raises(ValueError, match=r"norm_variances_\[0\] must be at least 0"):
        clf.norm_variances_ = [-1 - variance for variance in clf.norm_variances_]


def test_a_weight_of_two_is_the_row_twice_with_batch_normalization():
    w = np.repeat([1.0, 2.0], 30)
    weighted = small(batch_normalization=True, shuffle=False).set_params(max_iter=1, batch_size=90)
    repeated = small(batch_normalization=True, shuffle=False).set_params(max_iter=1, batch_size=90)
    weighted.fit(X, Y, w)
    twice = np.repeat(np.arange(60), w.astype(int))
    repeated.fit(X[twice], Y[twice])
    # The input branch, whose rows have no noise.
    for name in ("norm_means_", "norm_variances_"):
        one, other = getattr(weighted, name)[0], getattr(repeated, name)[0]
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_batch_normalization_goes_on():
    options = {"batch_normalization": True, "warm_start": True}
    clf = small(**options).fit(X, Y)
    norms = clf.norm_means_
    clf.set_params(max_iter=5, learning_rate_init=1e-4).fit(X, Y)
    assert not np.array_equal(clf.norm_means_[0], norms[0])
    before = arrays(clf)
    # Another solver wants another trainer, which takes over what was learned.
    clf.set_params(solver="sgd", max_iter=5).fit(X, Y)
    for one, other in zip(clf.norm_gains_, before[2 * 16 : 2 * 16 + 12], strict=True):
        assert_array_equal(one, other)
    with pytest.raises(ValueError, match="batch_normalization is False, but the model to go on"):
        clf.set_params(batch_normalization=False, max_iter=6).fit(X, Y)
    parts = small(batch_normalization=True)
    for _ in range(2):
        parts.partial_fit(X, Y, ["a", "b", "c"])
    assert np.isfinite(parts.predict_proba(X)).all()


def test_early_stopping_keeps_the_best_normalization(digits):
    clf = bf.NoPropClassifier(
        (32,), input_units=32, label_units=32, n_blocks=2, max_iter=6, early_stopping=True,
        batch_normalization=True, learning_rate_init=0.05, random_state=0,
    ).fit(digits.X_train, digits.y_train)  # fmt: skip
    best = clf._best_weights is None and clf._last_weights is not None
    assert best
    assert clf.best_validation_score_ == max(clf.validation_scores_)
    n = 2 * clf._network.n_layers
    assert len(clf._last_weights) == n + 4 * 6


def test_schedules_as_arrays():
    given = small(noise_schedule=core.noise_schedule("linear", 4)).fit(X, Y)
    assert_same(given, small(noise_schedule="linear").fit(X, Y))
    assert small(noise_schedule=np.array([0.1, 0.3, 0.5, 0.9, 1.0])).fit(X, Y).score(X, Y) > 0


def test_inference_noise_is_one_draw_for_all_rows():
    clf = small(inference_noise=True).fit(X, Y)
    p = clf.predict_proba(X)
    assert not np.array_equal(p, clf.set_params(inference_noise=False).predict_proba(X))
    clf.set_params(inference_noise=True)
    assert_array_equal(clf.predict_proba(X[:5]), p[:5])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_blocks": 1}, "n_blocks must be at least 2, got 1"),
        ({"input_units": 33}, "input_units must be a multiple of 32, got 33"),
        ({"label_units": 0}, "label_units must be at least 32, got 0"),
        ({"class_embedding": "learnt"}, "class_embedding must be one of"),
        ({"variant": "sde"}, "variant must be one of"),
        ({"noise_schedule": "sigmoid"}, "noise_schedule must be one of"),
        ({"noise_schedule": [0, 0.5, 0.4, 0.8, 0.9]}, r"noise_schedule\[2\] is 0.4\d*, expected"),
        ({"noise_schedule": [0, 0.5, 0.9]}, r"has shape \(3,\), expected \(5,\)"),
        ({"noise_schedule": [0.99, 0.992, 0.995, 0.997, 1]}, "begins at 0.99, expected less than"),
        ({"noise_schedule": [0, 1, 2], "variant": "ct"}, "variant='ct' needs one of"),
        ({"eta": 0.0}, "eta must be above 0"),
        ({"max_snr_weight": -1.0}, "max_snr_weight must be at least 0"),
        ({"n_steps": 0}, "n_steps must be at least 1"),
        ({"ode_rule": "rk4"}, "ode_rule must be one of"),
        ({"inference_noise": True, "variant": "fm"}, "inference_noise=True is for variant='dt'"),
        ({"block_feedback": "none"}, "block_feedback must be one of"),
        ({"activation": "gelu"}, "activation must be one of"),
    ],
)
def test_bad_parameters(options, words):
    with pytest.raises(ValueError, match=words):
        small().set_params(**options).fit(X, Y)


def test_bad_data():
    with pytest.raises(TypeError, match="batch_normalization must be True or False"):
        small(batch_normalization=1.5).fit(X, Y)
    with pytest.raises(ValueError, match=r"y has one class, \['a'\]: NoProp needs at least two"):
        small().fit(X, np.repeat("a", 60))
    with pytest.raises(ValueError, match="NoProp tells one class from the others"):
        small().fit(X, np.tile([[0, 1], [1, 1]], (30, 1)))
    with pytest.raises(ValueError, match="class 2 of 3 has none"):
        small(class_embedding="prototype").partial_fit(X[:40], Y[:40], classes=["a", "b", "c"])


def test_bad_parts():
    for blocks in ([], [4], [0, 2], [-1]):
        with pytest.raises(ValueError, match="blocks must be"):
            small().fit_blocks(X, Y, blocks)
    one = small().fit_blocks(X, Y, [0])
    with pytest.raises(ValueError, match=r"blocks \[0\] were trained by more than one"):
        one.join(small().fit_blocks(X, Y, [0]))
    with pytest.raises(ValueError, match="seed is 0 here and 1"):
        one.join(small().set_params(random_state=1).fit_blocks(X, Y, [1]))
    with pytest.raises(ValueError, match="n_iter is 3 here and 2"):
        one.join(small().set_params(max_iter=2).fit_blocks(X, Y, [1]))
    with pytest.raises(ValueError, match="the list of classes is"):
        one.join(small().fit_blocks(X, np.repeat(["a", "b", "d"], 20), [1]))
    with pytest.raises(TypeError, match="join takes estimators of NoPropClassifier, got 3"):
        one.join(3)
    with pytest.raises(NotFittedError):
        one.join(small())
    with pytest.raises(TypeError, match="executor must have submit"):
        small().fit(X, Y, executor=3)
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(ValueError, match="early_stopping=True with executor= would need all"),
    ):
        small(early_stopping=True).fit(X, Y, executor=pool)
    clf = small(early_stopping=True)
    with pytest.raises(ValueError, match="would score the network by blocks that are not trained"):
        clf.fit_blocks(X, Y, range(3))
    assert clf.fit_blocks(X, Y, range(4)).n_iter_ == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise_schedule": "linear"}, "alpha_bar is"),
        ({"eta": 0.2}, "eta is 0.1 here and 0.2"),
        ({"block_feedback": "direct"}, "block_feedback is 'exact' here and 'direct'"),
        ({"batch_normalization": True}, "architecture is"),
        ({"weight_decay": 0.0}, "weight_decay is 0.001 here and 0.0"),
        ({"batch_size": 20}, "batch_size is 16 here and 20"),
        ({"learning_rate_init": 0.01}, "learning_rate_init is 0.001 here and 0.01"),
        ({"learning_rate": "step"}, "learning_rate is 'cosine' here and 'step'"),
        ({"shuffle": False}, "shuffle is True here and False"),
        ({"initializer": "he_normal"}, "initializer is 'uniform' here and 'he_normal'"),
        ({"input_scale": 2.0}, "input_scale is 1.0 here and 2.0"),
    ],
)
def test_blocks_of_other_settings_are_not_joined(options, words):
    one = small().fit_blocks(X, Y, [0])
    with pytest.raises(ValueError, match=words):
        one.join(small().set_params(**options).fit_blocks(X, Y, [1]))
    assert one.trained_blocks_ == [0]


def test_blocks_of_other_samples_are_not_joined():
    one = small().fit_blocks(X, Y, [0])
    for data in ((X + 1, Y), (X, Y[::-1]), (X, Y, np.linspace(1, 2, 60))):
        other = small().fit_blocks(*data[:2], [1], *data[2:])
        with pytest.raises(ValueError, match="X, y or sample_weight are others"):
            one.join(other)
    more = (
        small(warm_start=True).set_params(max_iter=2).fit_blocks(X, Y, [1]).set_params(max_iter=3)
    )
    with pytest.raises(ValueError, match="the last step is 12 here and 8"):
        one.join(more.fit_blocks(X, Y, [1]))
