# SPDX-License-Identifier: BSD-3-Clause
"""pycma: CMA-ES with a diagonal covariance from the first generation on, tolerances off."""

from __future__ import annotations

import math
import warnings
from typing import Any

import cma
import numpy as np
from numpy.typing import NDArray
from search_problem import SearchProblem

from rivals.base import Rival, Searcher

# Of how large steps are in units of a deviation: on stderr in every generation of a bad scaling.
warnings.filterwarnings("ignore", message="elements of z2", module="cma")

# Nothing stops it, and nothing is logged or printed.
OFF = {
    "verbose": -9,
    "verb_log": 0,
    "tolfun": 0,
    "tolfunhist": 0,
    "tolfunrel": 0,
    "tolx": 0,
    "tolstagnation": math.inf,
    "tolflatfitness": math.inf,
    "tolfacupx": math.inf,
    "tolconditioncov": math.inf,
}


class PycmaSearcher(Searcher):
    def __init__(
        self, name: str, problem: SearchProblem, seed: int, options: dict[str, Any]
    ) -> None:
        self.name = name
        self.own_constants = "the covariance's rates and its path's"
        if not options:
            self.own_constants += ", negative weights, and in many dimensions the step size's rule"
        options = options | {
            "CMA_diagonal": True, "popsize": problem.population_size,
            "seed": seed + 1,  # 0 is the clock
        }  # fmt: skip
        self._es = cma.CMAEvolutionStrategy(problem.x0(), problem.std, options | OFF)
        self._x: list[NDArray[np.float64]] = []

    def ask(self) -> list[NDArray[np.float64]]:
        self._x = self._es.ask()
        return self._x

    def tell(self, losses: Any) -> None:
        self._es.tell(self._x, losses)

    def own_kind(self, losses: NDArray[np.float64]) -> list[float]:
        return losses.tolist()

    def mean(self) -> NDArray[np.float64]:
        return np.array(self._es.mean)

    def deviation(self) -> None:
        return None


class Pycma(Rival):
    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name = name
        self._options = options

    def searcher(self, problem: SearchProblem, *, seed: int = 0) -> PycmaSearcher:
        if problem.method != "sep_cma_es":
            raise NotImplementedError(f"pycma has no {problem.method}")
        return PycmaSearcher(self.name, problem, seed, self._options)


# As the paper has it: no negative weights, and the step size from the length of its path. Without
# being asked pycma has negative weights, and above some hundred parameters takes the step size
# from two members along the last step instead (TPA).
PAPER = {"CMA_active": False, "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA}
RIVAL = Pycma("pycma diagonal", PAPER)
VARIANTS = {"default": Pycma("pycma diagonal, its defaults", {})}
