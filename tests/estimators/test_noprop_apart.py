# SPDX-License-Identifier: BSD-3-Clause
"""NoProp's blocks trained apart: the same bits as together, or a refusal."""

import pickle
import warnings
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from noprop_estimators import ARRAYS, X, Y, arrays, assert_same, small
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils._testing import assert_array_equal

from bpfree_fast.estimators import _apart


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
