# SPDX-License-Identifier: BSD-3-Clause
"""Ask, tell, best, saving and failures: what holds for every method."""

import pickle

import numpy as np
import pytest

import bpfree_fast as bf

METHODS = ["openai_es", "pgpe", "snes", "xnes", "ars", "sep_cma_es", "spsa"]
D = 12


def make(method, seed=0, **options):
    options.setdefault("population_size", 2 if method == "spsa" else 8)
    x0 = options.pop("x0", np.linspace(-1, 1, D))
    return bf.EvolutionStrategy(
        x0, options.pop("std", 0.2), method=method, random_state=seed, **options
    )


def sphere(x):
    return np.sum(np.asarray(x, np.float64) ** 2, axis=-1)


def run(es, n=5):
    for _ in range(n):
        es.tell(sphere(es.ask()))
    return es


def same(a, b):
    assert np.array_equal(a.mean, b.mean)
    assert np.array_equal(a.deviation, b.deviation)
    assert np.array_equal(a.ask(), b.ask())
    assert (a.best is None) == (b.best is None)
    if a.best is not None:
        assert np.array_equal(a.best.x, b.best.x)
        assert a.best[1:] == b.best[1:]
    assert (a.generation, a.n_evaluations, a.n_failed) == (
        b.generation,
        b.n_evaluations,
        b.n_failed,
    )


@pytest.mark.parametrize("method", METHODS)
def test_members_are_the_rows_of_ask(method):
    es = run(make(method))
    whole = es.ask()
    n = es.population_size
    assert whole.shape == (n, D)
    assert np.array_equal(es.ask(), whole)  # as often as one likes
    assert np.array_equal(es.ask([n - 1, 0, 0]), whole[[n - 1, 0, 0]])
    assert np.array_equal(es.ask(range(1, 2)), whole[1:2])
    out, one = np.empty((n, D)), np.empty(D)
    assert es.ask(out=out) is out
    assert np.array_equal(out, whole)
    for i in range(n):
        assert np.array_equal(es.member(i), whole[i])
        assert es.member(i, out=one) is one
        assert np.array_equal(one, whole[i])


@pytest.mark.parametrize("method", METHODS)
def test_seed_zero_is_a_seed_and_none_draws_one(method):
    same(run(make(method, 0)), run(make(method, 0)))
    assert not np.array_equal(make(method, 0).ask(), make(method, 1).ask())
    drawn = make(method, None)
    assert np.array_equal(make(method, drawn.seed_).ask(), drawn.ask())
    assert make(method, None).seed_ != drawn.seed_


@pytest.mark.parametrize("method", METHODS)
def test_maximizing_mirrors_minimizing(method):
    down, up = make(method), make(method, maximize=True)
    for _ in range(5):
        values = sphere(down.ask())
        down.tell(values)
        up.tell(-values)
    assert np.array_equal(down.ask(), up.ask())
    assert up.best.value == -down.best.value
    assert up.best[2:] == down.best[2:]


@pytest.mark.parametrize("method", METHODS)
def test_threads_change_no_bit(method):
    same(run(make(method, n_threads=1)), run(make(method, n_threads=3)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", ["file", "pickle"])
def test_saved_search_goes_on_with_the_same_bits(method, way, tmp_path):
    options = {"bounds": (-1, [2.0] * D), "std": 0.2}
    if method in ("pgpe", "snes", "xnes", "sep_cma_es"):
        options["std"] = np.linspace(0.1, 0.3, D)
    if method == "openai_es":
        options |= {"shapes": [(D,)], "learning_rate_decay": 0.9, "std_decay": 0.95}
    es = run(make(method, **options))
    if way == "file":
        es.save(tmp_path / "search.npz")
        again = bf.EvolutionStrategy.load(tmp_path / "search.npz")
        assert [path.name for path in tmp_path.iterdir()] == ["search.npz"]
    else:
        again = pickle.loads(pickle.dumps(es))
    same(es, again)
    same(run(es), run(again))
    assert es.std == again.std
    assert es.learning_rate == again.learning_rate


def test_before_the_first_generation_there_is_no_best(tmp_path):
    es = make("snes")
    assert es.best is None
    es.save(tmp_path / "search")
    same(es, bf.EvolutionStrategy.load(tmp_path / "search"))


def test_broken_files_are_told(tmp_path):
    path = tmp_path / "search.npz"
    with pytest.raises(FileNotFoundError, match="is not a file"):
        bf.EvolutionStrategy.load(path)
    run(make("sep_cma_es")).save(path)
    content = path.read_bytes()
    for broken in (
        content[: len(content) // 2],
        b"nothing",
        b"",
        content.replace(b"sep_cma_es", b"sep_cma_ss"),
    ):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="is no saved evolution strategy"):
            bf.EvolutionStrategy.load(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(ValueError, match="is no saved evolution strategy"):
        bf.EvolutionStrategy.load(path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        make("snes").save(tmp_path / "nowhere" / "search")


@pytest.mark.parametrize("method", METHODS)
def test_float32_stays_where_there_is_an_optimizer(method):
    es = run(make(method, x0=np.linspace(-1, 1, D, dtype=np.float32)))
    narrow = method in ("openai_es", "pgpe", "ars", "spsa")
    assert es.ask().dtype == es.mean.dtype == (np.float32 if narrow else np.float64)
    assert run(make(method, x0=np.arange(D))).mean.dtype == np.float64


def test_best_is_the_best_that_was_told():
    es = make("snes")
    told = []
    for generation in range(6):
        x = es.ask()
        values = sphere(x) + 0.01 * generation
        told += [(value, generation, i, x[i]) for i, value in enumerate(values)]
        es.tell(values)
        value, *where, best = min(told, key=lambda entry: entry[:3])
        assert es.best.value == value
        assert [es.best.generation, es.best.member] == where
        assert np.array_equal(es.best.x, best)


@pytest.mark.parametrize("method", METHODS)
def test_failed_members_count_as_worst_and_are_told_once(method):
    es, other = make(method), make(method)
    values = sphere(es.ask())
    failed = values.copy()
    failed[int(np.argmax(values))] = np.nan
    with pytest.warns(RuntimeWarning, match=f"1 of {len(values)} values of generation 0"):
        es.tell(failed)
    es.tell(np.where(np.arange(len(values)) == 0, np.inf, sphere(es.ask())))  # no second warning
    assert es.n_failed == 2
    assert np.isfinite(es.mean).all()
    if method in ("snes", "xnes", "sep_cma_es"):  # ranks: the worst is the worst
        other.tell(values)
        assert np.array_equal(make(method).mean, make(method).mean)
        again = make(method)
        with pytest.warns(RuntimeWarning):
            again.tell(failed)
        assert np.array_equal(again.mean, other.mean)


@pytest.mark.parametrize("method", METHODS)
def test_bad_values_change_nothing(method):
    es = run(make(method), 2)
    before = pickle.dumps(es)
    n = es.population_size
    for values, error, text in (
        (np.ones(n + 1), ValueError, f"one value for each of the {n} members, got shape"),
        (np.ones((n, 1)), ValueError, f"one value for each of the {n} members, got shape"),
        (1.0, ValueError, r"got shape \(\)"),
        (np.full(n, np.nan), ValueError, f"none of the {n} values of generation 2 is finite"),
        (["a"] * n, TypeError, "values must be numbers"),
        (["1"] * n, TypeError, "values must be numbers"),
        ([None] * n, TypeError, "values must be numbers"),
        (np.ones(n) * 1j, TypeError, "values must be numbers"),
    ):
        with pytest.raises(error, match=text):
            es.tell(values)
    assert pickle.dumps(es) == before


def test_bounds_hold_for_members_best_and_mean():
    for handling in ("clip", "reflect"):
        es = make("sep_cma_es", std=3.0, bounds=(-1, 1.5), bound_handling=handling)
        for _ in range(20):
            x = es.ask()
            assert x.min() >= -1
            assert x.max() <= 1.5
            es.tell(-np.sum(x, axis=1))
            assert es.mean.max() <= 1.5
        assert es.best.x.max() <= 1.5


def test_a_box_in_float32_is_never_left(tmp_path):
    low, high = 0.1, 0.7  # as float32 one is larger, one smaller
    assert np.float32(low).item() > low
    assert np.float32(high).item() < high
    for box in ((low, high), (-high, -low)):
        for handling in ("clip", "reflect"):
            x0 = np.full(4, np.mean(box), np.float32)
            es = bf.EvolutionStrategy(
                x0, 1.0, population_size=8, bounds=box, bound_handling=handling, random_state=0
            )
            for _ in range(10):
                x = es.ask()
                assert x.dtype == np.float32
                assert box[0] <= x.min().item()
                assert x.max().item() <= box[1]
                es.tell(np.sum(x, axis=1))
            assert es.mean.min().item() >= box[0]
            es.save(tmp_path / "search")
            again = bf.EvolutionStrategy.load(tmp_path / "search")
            assert np.array_equal(again.ask(), es.ask())


def test_reflection():
    def bounded(low, high):
        es = make("snes", std=2.0, bounds=(low, high), bound_handling="reflect", x0=np.zeros(D))
        return es.ask(), make("snes", std=2.0, x0=np.zeros(D)).ask()

    x, free = bounded(-1, None)
    assert np.allclose(x, np.abs(free + 1) - 1)
    x, free = bounded(None, 0.5)
    assert np.allclose(x, 0.5 - np.abs(0.5 - free))
    x, free = bounded(-1, 0.5)
    folded = free.copy()
    while ((folded < -1) | (folded > 0.5)).any():
        folded = np.where(folded < -1, -2 - folded, folded)
        folded = np.where(folded > 0.5, 1 - folded, folded)
    assert np.allclose(x, folded)
    x, free = bounded(-1e9, 1e9)
    assert np.allclose(x, free, atol=1e-6)


def test_rates_may_be_set_between_generations():
    es = make("openai_es", optimizer="sgd")
    es.std, es.learning_rate = 0.5, 0.25
    assert np.allclose(es.ask() - es.mean, 2.5 * (make("openai_es").ask() - es.mean))
    with pytest.raises(ValueError, match="std must be above 0 and finite, got 0"):
        es.std = 0
    with pytest.raises(ValueError, match="learning_rate must be above 0 and finite, got -1"):
        es.learning_rate = -1


def test_a_step_too_large_for_its_type_is_told():
    es = make("openai_es", optimizer="sgd", learning_rate=1e308, fitness_shaping="none")
    with pytest.raises(
        FloatingPointError, match="the step of generation 0 is too large for float64"
    ):
        es.tell(1e300 * np.arange(8))


def test_repr():
    assert repr(make("snes")) == (
        "EvolutionStrategy(method='snes', n_params=12, population_size=8, generation=0)"
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", ["openai_es", "pgpe"])
def test_what_all_losses_share_does_not_count(method, dtype):
    norms = []
    for offset in (0.0, 1e8):
        es = bf.EvolutionStrategy(
            np.zeros(20, dtype), 0.1, method=method, fitness_shaping="none", population_size=8,
            random_state=0,
        )  # fmt: skip
        es.tell(np.arange(8.0) ** 2 + offset)
        norms.append(es.gradient_norm)
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)


def test_what_the_caller_gave_and_got_is_not_the_search_itself(tmp_path):
    std = np.full(D, 0.5)
    es = make("pgpe", std=std, x0=np.zeros(D))
    before = pickle.dumps(es)
    std[:] = 9
    assert pickle.dumps(es) == before
    es.tell(np.arange(8.0))
    with pytest.raises(ValueError, match="read-only"):
        es.best.x[:] = 99
    x0 = np.zeros(6)
    for shapes in ([np.array([2, 2]), (2,)], iter([(2, 2), (2,)])):
        es = bf.EvolutionStrategy(x0, 0.1, perturbation="low_rank", shapes=shapes, random_state=0)
        assert np.array_equal(pickle.loads(pickle.dumps(es)).ask(), es.ask())
        es.save(tmp_path / "search")
        again = bf.EvolutionStrategy.load(tmp_path / "search")
        assert np.array_equal(again.ask(), es.ask())


def test_xnes_says_so_when_it_loses_its_scale():
    es = make("xnes", fitness_shaping="none", x0=np.zeros(D))
    with pytest.raises(FloatingPointError, match="too large"):
        es.tell(1e12 * np.arange(8.0))
    assert np.isfinite(es.ask()).all()


def test_top_k_of_any_method_with_pairs_uses_the_best_pairs():
    es = make("openai_es", optimizer="sgd", learning_rate=1.0, fitness_shaping="top_k", n_top=1)
    mean, x = es.mean, es.ask()
    losses = np.array([5.0, 6.0, 0.0, 3.0, 7.0, 8.0, 9.0, 4.0])
    es.tell(losses)
    step = es.mean - mean
    along = x[2] - x[3]
    assert np.dot(step, along) == pytest.approx(np.linalg.norm(step) * np.linalg.norm(along))
