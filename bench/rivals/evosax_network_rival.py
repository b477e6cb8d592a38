# SPDX-License-Identifier: BSD-3-Clause
"""evosax: Open_ES whose whole generation (ask, evaluate, tell) is one jitted function."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from evolution_problem import EvolutionProblem
from evosax.algorithms import Open_ES
from jax import Array
from numpy.typing import NDArray
from problem import Data, Layers, Problem

from rivals.base import EvolutionTrainee, Rival
from rivals.jax_common import Params, forward, mean_loss


class EvosaxTrainee(EvolutionTrainee):
    """A unit is one generation on the next minibatch of shuffled, resident rows."""

    def __init__(self, name: str, problem: EvolutionProblem, data: Data, layers: Layers) -> None:
        self.name = name
        self._problem = problem
        params: Params = [(jnp.array(w), jnp.array(b)) for w, b in layers]
        self._es = Open_ES(
            problem.population_size,
            params,
            optimizer=optax.sgd(problem.learning_rate, momentum=problem.momentum),
            std_schedule=optax.constant_schedule(problem.std),
        )
        self._es_params = self._es.default_params
        self._key = jax.random.key(0)
        self._state = self._es.init(self._key, params, self._es_params)
        self._x, self._y = jnp.array(data.x_float), jnp.array(data.y)
        self.data_copy_bytes = int(self._x.nbytes + self._y.nbytes)
        self._generation = jax.jit(self._one, donate_argnums=0)
        self._rng = np.random.default_rng(0)
        self._mean = jnp.zeros(())
        self._shuffle()

    def _one(
        self, state: Any, key: Array, x: Array, y: Array, order: Array, start: Array
    ) -> tuple[Any, Array, Array]:
        key, ask, tell = jax.random.split(key, 3)
        rows = jax.lax.dynamic_slice(order, (start,), (self._problem.batch,))
        x, y = x[rows], y[rows]
        population, state = self._es.ask(ask, state, self._es_params)
        fitness = jax.vmap(lambda params: mean_loss(forward(params, x)[1], y))(population)
        state, _ = self._es.tell(tell, population, fitness, state, self._es_params)
        return state, key, fitness.mean()

    def _shuffle(self) -> None:
        self._order = jnp.array(self._rng.permutation(len(self._y)).astype(np.int32))
        self._start = 0

    def _train_step(self) -> None:
        self._state, self._key, self._mean = self._generation(
            self._state, self._key, self._x, self._y, self._order, np.int32(self._start)
        )
        self._start += self._problem.batch

    def many(self, n: int) -> None:
        for _ in range(n):
            if self._start + self._problem.batch > len(self._y):
                self._shuffle()
            self._train_step()
        self._mean.block_until_ready()

    def in_order(self, n_steps: int) -> None:
        self._order, self._start = jnp.arange(len(self._y), dtype=jnp.int32), 0
        for _ in range(n_steps):
            self._train_step()
        self._shuffle()

    def epoch(self, epoch: int) -> float:
        self._shuffle()
        self.many(len(self._y) // self._problem.batch)
        return float(self._mean)

    def population_loss(self) -> float:
        return float(self._mean)

    def layers(self) -> Layers:
        return [(np.array(w), np.array(b)) for w, b in self._es.get_mean(self._state)]

    def accuracy(self, x: NDArray[Any], y: NDArray[np.int32]) -> float:
        logits = forward(self._es.get_mean(self._state), jnp.array(x))[1]
        return float((logits.argmax(axis=1) == y).mean())


class Evosax(Rival):
    """Threads: XLA takes as many as the process may use, so run.py binds the process."""

    name = "evosax Open_ES f32"
    method = "es"

    def train(self, problem: Problem, data: Data, layers: Layers) -> EvosaxTrainee:
        assert isinstance(problem, EvolutionProblem)
        return EvosaxTrainee(self.name, problem, data, layers)

    def clean_up(self) -> None:
        jax.clear_caches()


RIVAL = Evosax()
