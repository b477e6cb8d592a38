# SPDX-License-Identifier: BSD-3-Clause
"""The check of ask and tell passes who is right, and no one else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import ours
import pytest
import rivals
from numpy.typing import NDArray
from ours_search import OursSearch
from rivals.base import Rival, Searcher
from rows.search import TARGET, evaluations
from search_answers import search_faults
from search_problem import SearchProblem

METHODS = ("sep_cma_es", "snes", "xnes")
HAVE = {
    "ours": METHODS,
    "evosax_search": METHODS,
    "pycma_search": ("sep_cma_es",),
    "evosax_search:matrix-rates": ("sep_cma_es",),
    "pycma_search:default": ("sep_cma_es",),
}


def load(name: str, method: str) -> Rival:
    if name == "ours":
        if ours.MISSING:
            pytest.skip(ours.MISSING)
        return OursSearch(method, 1)
    rival = rivals.load(name)
    if isinstance(rival, str):
        pytest.skip(rival)
    return rival


class Disturbed(Searcher):
    """A searcher whose losses, mean or deviations are not what they should be."""

    def __init__(self, inner: Searcher, how: str) -> None:
        self.name, self._inner, self._how = inner.name, inner, how
        self.rounding = inner.rounding

    def ask(self) -> Any:
        return self._inner.ask()

    def tell(self, losses: Any) -> None:
        self._inner.tell(losses)

    def own_kind(self, losses: NDArray[np.float64]) -> Any:
        return self._inner.own_kind(-losses if self._how == "uphill" else losses)

    def mean(self) -> NDArray[Any]:
        return self._inner.mean() + (0.1 if self._how == "mean" else 0.0)

    def deviation(self) -> NDArray[Any] | None:
        found = self._inner.deviation()
        return found if found is None or self._how != "deviation" else found * 1.01


@pytest.mark.parametrize(
    ("name", "method"), [(name, method) for name, methods in HAVE.items() for method in methods]
)
def test_a_generation(name: str, method: str) -> None:
    problem = SearchProblem(method, "sphere", 20, 16, 1.0)
    rival = load(name, method)
    assert not search_faults(problem, rival.searcher(problem))
    assert len(search_faults(problem, Disturbed(rival.searcher(problem), "uphill"))) >= 2
    assert "mean" in search_faults(problem, Disturbed(rival.searcher(problem), "mean"))[0]
    searcher = rival.searcher(problem)
    if searcher.deviation() is None:
        assert searcher.own_constants
    else:
        assert "deviation" in search_faults(problem, Disturbed(searcher, "deviation"))[0]


@pytest.mark.parametrize("name", HAVE)
def test_told_prepared_losses(name: str) -> None:
    problem = SearchProblem("sep_cma_es", "ellipsoid", 20, 16, 1.0)
    searcher = load(name, "sep_cma_es").searcher(problem)
    searcher.prepare(list(np.random.default_rng(0).normal(size=(3, 16))))
    searcher.many(7)
    assert np.isfinite(searcher.mean()).all()
    assert not np.array_equal(searcher.mean(), problem.x0())


def test_evaluations_are_counted_to_the_target_or_the_limit() -> None:
    problem = SearchProblem("sep_cma_es", "sphere", 20, 16, 1.0)
    rival = load("ours", "sep_cma_es")
    count, best = evaluations(rival.searcher(problem), problem, 100_000)
    assert best < TARGET
    assert count % 16 == 0
    fewer, best = evaluations(rival.searcher(problem), problem, count - 16)
    assert (fewer, best >= TARGET) == (math.inf, True)


def test_no_such_method() -> None:
    problem = SearchProblem("snes", "sphere", 20, 16, 1.0)
    with pytest.raises(NotImplementedError, match="pycma has no snes"):
        load("pycma_search", "sep_cma_es").searcher(problem)
