# SPDX-License-Identifier: BSD-3-Clause
"""`EvolutionStrategy` behind the rivals' interface."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from ours import Ours, bf
from rivals.base import Searcher
from search_problem import SearchProblem

TITLES = {"sep_cma_es": "sep-CMA-ES", "snes": "SNES", "xnes": "xNES"}


class OursSearcher(Searcher):
    def __init__(self, name: str, problem: SearchProblem, n_threads: int, seed: int) -> None:
        self.name = name
        self._es = bf.EvolutionStrategy(
            problem.x0(), problem.std, method=problem.method,
            population_size=problem.population_size, random_state=seed, n_threads=n_threads,
        )  # fmt: skip

    def ask(self) -> NDArray[np.float64]:
        return self._es.ask()

    def tell(self, losses: Any) -> None:
        self._es.tell(losses)

    def own_kind(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        return losses

    def mean(self) -> NDArray[np.float64]:
        return self._es.mean

    def deviation(self) -> NDArray[np.float64]:
        return self._es.deviation


class OursSearch(Ours):
    def __init__(self, method: str, n_threads: int) -> None:
        super().__init__("", "float32", n_threads)
        self.name = f"ours {TITLES[method]}"

    def searcher(self, problem: SearchProblem, *, seed: int = 0) -> OursSearcher:
        return OursSearcher(self.name, problem, self.n_threads, seed)
