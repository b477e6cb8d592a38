# SPDX-License-Identifier: BSD-3-Clause
"""evosax: Sep_CMA_ES, SNES and xNES by their jitted ask and tell, keys made before."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from evosax.algorithms import SNES, Sep_CMA_ES, xNES
from jax import Array
from numpy.typing import NDArray
from search_problem import SearchProblem

from rivals.base import Rival, Searcher

CLASSES = {"sep_cma_es": Sep_CMA_ES, "snes": SNES, "xnes": xNES}
N_KEYS = 1 << 12


class EvosaxSearcher(Searcher):
    """Constants of evosax's own, but with `scaled` the covariance rates of Ros & Hansen 2008."""

    rounding = 100.0

    def __init__(self, name: str, problem: SearchProblem, seed: int, *, scaled: bool) -> None:
        self.name = name
        self._method, d = problem.method, problem.n_params
        x0 = jnp.array(problem.x0(), jnp.float32)
        self._es = CLASSES[problem.method](problem.population_size, x0)
        params = self._es.default_params.replace(std_init=jnp.float32(problem.std))
        if problem.method == "sep_cma_es":
            if scaled:  # a diagonal's rates are (d + 2) / 3 times a matrix's, as ours
                c_1 = jnp.minimum(1.0, params.c_1 * (d + 2) / 3)
                c_mu = jnp.minimum(1 - c_1, params.c_mu * (d + 2) / 3)
                params = params.replace(c_1=c_1, c_mu=c_mu)
            else:
                self.own_constants = "the covariance's rates, those of a full matrix"
        self._params = params
        self._root = jax.random.key(seed)
        self._state = self._es.init(self._root, x0, params)
        if problem.method == "xnes":
            # Both its std and B begin as std: so the members' deviation would be its square.
            self._state = self._state.replace(B=jnp.eye(d))
            self.own_constants = "the exponential of B's step, taken element by element"
        self._exact = not self.own_constants
        self._generation = 0
        self._make_keys = jax.jit(
            lambda key, i: jax.random.split(jax.random.fold_in(key, i), N_KEYS)
        )
        self._keys: list[Array] = []

    def _key(self) -> Array:
        if not self._keys:
            self._generation += 1
            self._keys = list(self._make_keys(self._root, self._generation))
        return self._keys.pop()

    def ask(self) -> Array:
        self._x, self._state = self._es.ask(self._key(), self._state, self._params)
        return self._x

    def tell(self, losses: Any) -> None:
        self._state, _ = self._es.tell(self._root, self._x, losses, self._state, self._params)
        jax.block_until_ready(self._state)

    def own_kind(self, losses: NDArray[np.float64]) -> Array:
        return jnp.array(losses, jnp.float32)

    def mean(self) -> NDArray[Any]:
        return np.array(self._es.get_mean(self._state), np.float64)

    def deviation(self) -> NDArray[Any] | None:
        if not self._exact:
            return None
        std = np.array(self._state.std, np.float64)
        return std * np.sqrt(np.array(self._state.C)) if self._method == "sep_cma_es" else std


class EvosaxSearch(Rival):
    """Threads: XLA takes as many as the process may use, so run.py binds the process."""

    def __init__(self, name: str, *, scaled: bool) -> None:
        self.name = name
        self._scaled = scaled

    def searcher(self, problem: SearchProblem, *, seed: int = 0) -> EvosaxSearcher:
        return EvosaxSearcher(self.name, problem, seed, scaled=self._scaled)

    def clean_up(self) -> None:
        jax.clear_caches()


RIVAL = EvosaxSearch("evosax", scaled=True)
VARIANTS = {"matrix-rates": EvosaxSearch("evosax, a matrix's rates", scaled=False)}
