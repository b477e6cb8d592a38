# SPDX-License-Identifier: BSD-3-Clause
"""The same bits whoever evaluates, also when workers are lost in the middle."""

import functools
import importlib
import multiprocessing
import os
import pickle
import warnings
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from objectives import always_killing, failing, first_parameter, killing, objective

import bpfree_fast as bf
from bpfree_fast._search import remote

# Started anew, as on other systems: a child of this process would share its memory.
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def no_search_is_held():
    remote._held.clear()


class Serial(Executor):
    """An executor of one worker, to which everything is sent as to another process."""

    def __init__(self):
        self.bytes = []
        self.stale = 0

    def submit(self, function, /, *arguments):
        sent = pickle.dumps((function, arguments))
        self.bytes.append(len(sent))
        function, arguments = pickle.loads(sent)
        future = Future()
        future.set_result(function(*arguments))
        self.stale += isinstance(future.result(), remote.Stale)
        return future


def search(method="sep_cma_es", d=40, **options):
    size = 2 if method == "spsa" else 12
    return bf.EvolutionStrategy(
        np.zeros(d), 0.3, method=method, population_size=size, random_state=4, **options
    )


def run(executor=None, method="sep_cma_es", fun=objective, n=6, **options):
    es = search(method)
    values = []
    result = es.minimize(
        fun,
        n_generations=n,
        executor=executor,
        callback=lambda info: values.append(info.values),
        **options,
    )
    return es, np.array(values), result


def assert_same(a, b):
    assert np.array_equal(a[1], b[1])
    assert np.array_equal(a[0].mean, b[0].mean)
    assert np.array_equal(a[2].x, b[2].x)
    assert a[2].value == b[2].value


METHODS = ["openai_es", "pgpe", "snes", "xnes", "ars", "sep_cma_es", "spsa"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("replays", [False, True])
def test_any_chunk_has_the_same_bits(method, replays, monkeypatch):
    monkeypatch.setattr(remote, "LARGE", -1 if replays else 1 << 30)
    right = run(method=method)
    assert_same(right, run(method=method, chunk_size=1))
    for chunk_size in (None, 1, 5, 12, 100):
        executor = Serial()
        assert_same(right, run(executor, method, chunk_size=chunk_size))
        assert executor.stale == 0


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_threads(n_workers):
    right = run()
    with ThreadPoolExecutor(n_workers) as executor:
        assert_same(right, run(executor))
        assert_same(right, run(executor, chunk_size=1))
    assert_same(right, run(functools.partial(ThreadPoolExecutor, n_workers)))
    assert_same(right, run(ThreadPoolExecutor))


@pytest.mark.slow
@pytest.mark.parametrize("replays", [False, True])
def test_processes(replays, monkeypatch):
    monkeypatch.setattr(remote, "LARGE", -1 if replays else 1 << 30)
    with ProcessPoolExecutor(2, SPAWN) as executor:
        for method in ("sep_cma_es", "openai_es", "xnes"):
            assert_same(run(method=method), run(executor, method, chunk_size=2))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # JAX's, of forking
def test_forked_processes():
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        with ProcessPoolExecutor(2, context) as executor:
            assert_same(run(), run(executor))


def test_a_large_search_is_sent_once():
    d = 1 << 18
    executor = Serial()
    es = search("snes", d)
    es.minimize(first_parameter, n_generations=4, executor=executor, chunk_size=12)
    whole, *rest = executor.bytes
    assert whole > 2 * 8 * d
    assert max(rest) < 2000
    other = search("snes", d)
    other.minimize(first_parameter, n_generations=4)
    assert np.array_equal(es.mean, other.mean)


def test_a_small_searchs_tasks_are_small():
    executor = Serial()
    search("sep_cma_es", 1000).minimize(first_parameter, n_generations=2, executor=executor)
    assert max(executor.bytes) < 2 * 8 * 1000 + 2000  # mean and deviations, and no paths


def test_a_stale_worker_is_sent_the_search(monkeypatch):
    monkeypatch.setattr(remote, "LARGE", -1)
    right = run(n=8)
    executor = Serial()

    def forget(info):
        if info.generation == 3:
            remote._held.clear()  # a new process
        if info.generation == 5:
            ((token, (fun, sampler)),) = remote._held.items()
            older = remote.Sampler(sampler.method, sampler.bounds, 1)
            remote._held[token] = (fun, older)  # one that had no task for a while

    es = search()
    es.minimize(objective, n_generations=8, executor=executor, callback=forget, chunk_size=6)
    assert executor.stale >= 2
    assert np.array_equal(es.mean, right[0].mean)


def test_a_worker_whose_step_has_other_bits_is_stale(monkeypatch):
    """As one on another machine might: it is sent the search, and the result stays the same."""
    monkeypatch.setattr(remote, "LARGE", -1)
    executor = Serial()
    es = search("snes")

    def other_machine(info):
        ((_, (_, sampler)),) = remote._held.items()
        sampler.method.mean[0] += 1e-9

    es.minimize(
        objective, n_generations=5, executor=executor, callback=other_machine, chunk_size=12
    )
    assert executor.stale == 4
    assert np.array_equal(es.mean, run(method="snes", n=5)[0].mean)


def test_what_is_set_between_generations_reaches_the_workers(monkeypatch):
    monkeypatch.setattr(remote, "LARGE", -1)

    def slower(info):
        if info.generation == 2:
            info.strategy.std = 0.1
            info.strategy.learning_rate = 0.5

    es, other = search("snes"), search("snes")
    es.minimize(objective, n_generations=5, executor=Serial(), callback=slower)
    other.minimize(objective, n_generations=5, callback=slower)
    assert np.array_equal(es.mean, other.mean)


@pytest.mark.slow
@pytest.mark.parametrize("replays", [False, True])
def test_a_killed_worker_with_a_callable(tmp_path, replays, monkeypatch):
    monkeypatch.setattr(remote, "LARGE", -1 if replays else 1 << 30)
    flag = tmp_path / "kill"
    made = []

    def pool():
        made.append(ProcessPoolExecutor(2, SPAWN))
        return made[-1]

    es = search()
    values = []

    def note(info):
        values.append(info.values)
        if info.generation == 2:
            flag.touch()

    fun = functools.partial(killing, flag=flag, main=os.getpid())
    result = es.minimize(fun, n_generations=6, executor=pool, callback=note, chunk_size=2)
    assert len(made) == 2
    assert not flag.exists()
    assert_same(run(), (es, np.array(values), result))
    with pytest.raises(RuntimeError, match="cannot schedule"):
        made[-1].submit(int)  # it was shut down


@pytest.mark.slow
def test_a_killed_worker_of_a_bare_executor(tmp_path):
    flag = tmp_path / "kill"
    es = search()
    fun = functools.partial(killing, flag=flag, main=os.getpid())
    flag.touch()
    with (
        ProcessPoolExecutor(2, SPAWN) as executor,
        pytest.warns(RuntimeWarning, match="the executor lost its workers") as caught,
    ):
        es.minimize(fun, n_generations=6, executor=executor, chunk_size=2)
    assert len(caught) == 1
    assert np.array_equal(es.mean, run()[0].mean)


@pytest.mark.slow
def test_pools_that_break_again_and_again_end_the_search():
    fun = functools.partial(always_killing, main=os.getpid())
    es = search()
    with pytest.raises(RuntimeError, match="3 executors broke one after the other"):
        es.minimize(fun, n_generations=2, executor=functools.partial(ProcessPoolExecutor, 1, SPAWN))
    assert es.generation == 0


def test_an_exception_of_the_function_ends_the_search():
    es = search()
    with ThreadPoolExecutor(2) as executor, pytest.raises(ArithmeticError, match="no value"):
        es.minimize(failing, n_generations=2, executor=executor)
    with pytest.raises(ArithmeticError, match="no value"):
        es.minimize(failing, n_generations=2)
    assert es.generation == 0


def test_what_is_no_executor_is_refused():
    with pytest.raises(TypeError, match="executor must be an Executor or a callable"):
        search().minimize(objective, n_generations=1, executor=3)
    with pytest.raises(TypeError, match="the callable must make an Executor, it gave 5"):
        search().minimize(objective, n_generations=1, executor=lambda: 5)


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("distributed", reason="distributed is not installed (extra 'distributed')")
    distributed = importlib.import_module("distributed")
    with (
        warnings.catch_warnings(),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as made,
        distributed.Client(made) as client,
    ):
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("replays", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_dask(cluster, replays, monkeypatch):
    monkeypatch.setattr(remote, "LARGE", -1 if replays else 1 << 30)
    assert_same(run(), run(cluster.get_executor(), chunk_size=2))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_dask_with_a_killed_worker(cluster, tmp_path):
    flag = tmp_path / "kill"
    flag.touch()
    es = search()
    fun = functools.partial(killing, flag=flag, main=os.getpid())
    es.minimize(fun, n_generations=6, executor=cluster.get_executor(), chunk_size=2)
    assert not flag.exists()
    assert np.array_equal(es.mean, run()[0].mean)


def test_a_task_of_many_parameters_holds_few_members(monkeypatch):
    monkeypatch.setattr(remote, "CHUNK", 80)
    pool, whole = Serial(), Serial()
    pool._max_workers = 1
    found = run(pool, method="snes")
    assert len(pool.bytes) == 6 * 6  # 12 members of 40 parameters, 2 at a time
    monkeypatch.setattr(remote, "CHUNK", 1 << 21)
    assert_same(found, run(whole, method="snes", chunk_size=12))


def test_a_function_that_cannot_travel_is_refused():
    with pytest.raises(TypeError, match="cannot be sent to another process"):
        search().minimize(
            lambda x: 0.0,
            n_generations=2,
            executor=lambda: ProcessPoolExecutor(1, mp_context=SPAWN),
        )
