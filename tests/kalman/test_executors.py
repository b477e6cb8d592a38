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
from objectives import all_observed, always_killing, failing, killing_observed, observed

import bpfree_fast as bf

# Started anew, as on other systems: a child of this process would share its memory.
SPAWN = multiprocessing.get_context("spawn")
MEMBERS = np.random.default_rng(0).normal(size=(12, 4))
Y = [1.0, 0.5, -0.3]


class Serial(Executor):
    """An executor of one worker, to which everything is sent as to another process."""

    def __init__(self):
        self.n_tasks = 0

    def submit(self, function, /, *arguments):
        self.n_tasks += 1
        function, arguments = pickle.loads(pickle.dumps((function, arguments)))
        future = Future()
        future.set_result(function(*arguments))
        return future


def run(executor=None, forward=observed, n=4, **options):
    kalman = bf.EnsembleKalman(MEMBERS, 0.05, method="enkf", random_state=3)
    result = kalman.minimize(forward, Y, n_iterations=n, executor=executor, **options)
    return kalman, result


def assert_same(a, b):
    assert np.array_equal(a[0].ensemble, b[0].ensemble)
    assert a[1].misfit == b[1].misfit
    assert a[1].n_evaluations == b[1].n_evaluations


def test_any_chunk_has_the_same_bits():
    right = run()
    for chunk_size, n_tasks in ((None, 12), (1, 12), (5, 3), (12, 1), (100, 1)):
        executor = Serial()
        assert_same(right, run(executor, chunk_size=chunk_size))
        assert executor.n_tasks == 4 * n_tasks
        assert_same(right, run(Serial(), all_observed, chunk_size=chunk_size, vectorized=True))


@pytest.mark.parametrize("n_ens", [50, 1100])
def test_workers_do_not_change_what_a_model_of_arrays_is_given(n_ens):
    """A product's rounding depends on its rows, so their number may not follow from the workers."""
    members = np.random.default_rng(0).normal(size=(n_ens, 7)).astype(np.float32)
    seen = []
    for n_workers in (0, 1, 2, 6):
        rows = []

        def forward(x, rows=rows):
            rows.append(len(x))
            return x[:, :3]

        kalman = bf.EnsembleKalman(members, 1.0, random_state=0)
        if n_workers:
            with ThreadPoolExecutor(n_workers) as executor:
                kalman.minimize(forward, Y, n_iterations=1, vectorized=True, executor=executor)
        else:
            kalman.minimize(forward, Y, n_iterations=1, vectorized=True)
        seen.append(sorted(rows))
    assert seen[0] == seen[1] == seen[2] == seen[3]
    assert len(seen[0]) == -(-n_ens // max(32, -(-n_ens // 32)))


@pytest.mark.parametrize("n_workers", [1, 3])
def test_threads(n_workers):
    right = run()
    with ThreadPoolExecutor(n_workers) as executor:
        assert_same(right, run(executor))
        assert_same(right, run(executor, chunk_size=1))
    assert_same(right, run(functools.partial(ThreadPoolExecutor, n_workers)))


@pytest.mark.slow
def test_processes():
    with ProcessPoolExecutor(2, SPAWN) as executor:
        assert_same(run(), run(executor))


@pytest.mark.slow
def test_a_killed_worker_with_a_callable(tmp_path):
    flag = tmp_path / "kill"
    flag.touch()
    made = []

    def pool():
        made.append(ProcessPoolExecutor(2, SPAWN))
        return made[-1]

    forward = functools.partial(killing_observed, flag=flag, main=os.getpid())
    assert_same(run(), run(pool, forward, chunk_size=2))
    assert len(made) == 2
    with pytest.raises(RuntimeError, match="cannot schedule"):
        made[-1].submit(int)  # it was shut down


@pytest.mark.slow
def test_a_killed_worker_of_a_bare_executor(tmp_path):
    flag = tmp_path / "kill"
    flag.touch()
    forward = functools.partial(killing_observed, flag=flag, main=os.getpid())
    with (
        ProcessPoolExecutor(2, SPAWN) as executor,
        pytest.warns(RuntimeWarning, match="the executor lost its workers") as caught,
    ):
        found = run(executor, forward, chunk_size=2)
    assert len(caught) == 1
    assert_same(run(), found)


@pytest.mark.slow
def test_pools_that_break_again_and_again_end_the_run():
    forward = functools.partial(always_killing, main=os.getpid())
    kalman = bf.EnsembleKalman(MEMBERS, 0.05)
    with pytest.raises(RuntimeError, match="3 executors broke one after the other"):
        kalman.minimize(
            forward, Y, n_iterations=2, executor=functools.partial(ProcessPoolExecutor, 1, SPAWN)
        )
    assert kalman.iteration == 0


def test_an_exception_of_the_model_ends_the_run():
    kalman = bf.EnsembleKalman(MEMBERS, 0.05)
    with ThreadPoolExecutor(2) as executor, pytest.raises(ArithmeticError, match="no value"):
        kalman.minimize(failing, Y, n_iterations=2, executor=executor)
    with pytest.raises(ArithmeticError, match="no value"):
        kalman.minimize(failing, Y, n_iterations=2)
    assert kalman.iteration == 0


def test_what_is_no_executor_and_what_cannot_travel_is_refused():
    with pytest.raises(TypeError, match="executor must be an Executor or a callable"):
        run(3)
    with pytest.raises(TypeError, match="the callable must make an Executor, it gave 5"):
        run(lambda: 5)
    with pytest.raises(TypeError, match="cannot be sent to another process"):
        run(lambda: ProcessPoolExecutor(1, mp_context=SPAWN), lambda x: x[:3])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_dask(tmp_path):
    pytest.importorskip("distributed", reason="distributed is not installed (extra 'distributed')")
    distributed = importlib.import_module("distributed")
    flag = tmp_path / "kill"
    with (
        warnings.catch_warnings(),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert_same(run(), run(client.get_executor(), chunk_size=2))
        flag.touch()
        forward = functools.partial(killing_observed, flag=flag, main=os.getpid())
        assert_same(run(), run(client.get_executor(), forward, chunk_size=2))
        assert not flag.exists()
