# SPDX-License-Identifier: BSD-3-Clause
"""Evolution strategies by ask and tell, for any objective."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import Floats
from ._search.build import build, start
from ._search.covariance import SepCma
from ._search.loop import SearchInfo, SearchResult, run
from ._search.objective import Function, Sampler, member_indices, real_numbers
from ._search.pool import MakesExecutor
from ._search.saving import Best, SavedSearch, own_parameters
from ._search.shaping import recombination_weights, utilities
from ._validation import flag, integer, real, seed
from ._validation import n_threads as _threads

__all__ = ["Best", "EvolutionStrategy", "SearchInfo", "SearchResult"]


class EvolutionStrategy(SavedSearch):
    """Evolution strategies for any objective: members are asked for, their values are told.

    A population is a seed. Members are made from (seed, generation, member) when they are asked
    for, in any order and by any process; noise is neither stored nor sent.

    Parameters
    ----------
    x0 : array_like of shape (n_params,)
        Where the mean starts. A float32 array is searched in float32 by the methods that have an
        optimizer; all else in float64.
    std : float or array_like of shape (n_params,)
        Deviation of the members around the mean, above 0. An array for 'pgpe', 'snes', 'xnes' and
        'sep_cma_es' only.
    method : str, default='openai_es'
        'openai_es': a gradient estimate by fixed noise and an optimizer. 'pgpe': the same with
        deviations that learn. 'ars': by the best directions. 'spsa': by one pair, as MeZO. 'snes'
        and 'xnes': natural gradients of mean and deviations, or of mean and covariance (at most
        1,000 parameters). 'sep_cma_es': CMA-ES with a diagonal covariance.
    population_size : int, default=None
        Members of a generation, at least 2, even where they are pairs. None is 4 + floor(3 ln
        n_params), twice that for methods with an optimizer, and 2 for 'spsa'.
    maximize : bool, default=False
        Whether larger values are better.
    antithetic : bool, default=None
        Whether members 2k and 2k + 1 have the same noise with opposite signs. None is True for
        the methods with an optimizer, which but for 'openai_es' need it, and False for the others.
    perturbation : {'gaussian', 'rademacher', 'low_rank'}, default='gaussian'
        The noise; others than 'gaussian' for 'openai_es', 'ars' and 'spsa'. 'low_rank' makes that
        of a matrix out of vectors, and wants `shapes`.
    shapes : sequence of tuples, default=None
        Sizes of the vectors and matrices that the parameters are, one after the other; None is one
        vector. For the same methods as `perturbation`.
    rank : int, default=1
        Of 'low_rank', at least 1.
    fitness_shaping : str, default=None
        How values become utilities: 'centered_rank', 'z_score', 'nes', 'group', 'pair' or
        'top_k', as in `kernels.fitness_shaping`, or 'none': the values themselves. None is
        'centered_rank' for 'openai_es' and 'pgpe', 'nes' for 'snes' and 'xnes', 'none' for 'spsa'.
        'ars' and 'sep_cma_es' have weights of their own.
    n_top : int, default=None
        Pairs that count in 'ars' and 'top_k', from 1 to all of them, which None is.
    group_size : int, default=None
        Members of a group, for ``fitness_shaping='group'``; a divisor of population_size.
    optimizer : {'sgd', 'momentum', 'adam', 'clipup'}, default=None
        None is 'adam' for 'openai_es', 'clipup' for 'pgpe', 'sgd' for 'ars' and 'spsa'.
    learning_rate : float, default=None
        Above 0. None is, with `std` s: s / 2 for 'adam', and for 'sgd' in 'ars'; s**2 for 'sgd'; a
        tenth of that of 'sgd' for 'momentum', half of `max_speed` for 'clipup', and 1 for methods
        without optimizer.
    learning_rate_decay : float, default=1.0
        The learning rate is multiplied by it after each generation; above 0, at most 1.
    std_learning_rate : float, default=None
        How fast deviations learn, at least 0. None is 0.1 for 'pgpe', (3 + ln n) / (5 sqrt(n)) for
        'snes' and (9 + 3 ln n) / (5 n sqrt(n)) for 'xnes', with n parameters.
    std_decay : float, default=1.0
        `std` is multiplied by it after each generation; above 0, at most 1.
    momentum : float, default=0.9
        Of 'momentum' and 'clipup', in [0, 1).
    beta_1, beta_2, epsilon : float, default=0.9, 0.999, 1e-8
        Of 'adam'.
    max_speed : float, default=None
        Largest step of 'clipup', above 0. None is a fifteenth of the deviations' norm.
    weight_decay : float, default=0.0
        Of the methods with an optimizer: the mean shrinks by ``learning_rate * weight_decay``.
    noise_reuse : int, default=1
        Generations in a row that have the same noise, for 'openai_es', 'ars' and 'spsa'.
    persistence : int, default=1
        Generations of an episode whose noise adds up: the gradient of a generation takes what its
        members had since the episode began. For objectives that go on from generation to
        generation, and the same methods.
    bounds : pair, default=None
        (low, high): numbers, arrays of shape (n_params,), or None where open.
    bound_handling : {'clip', 'reflect'}, default='clip'
        How members are brought into the bounds before anyone sees them. Steps are made with the
        noise as it was drawn, and the mean is clipped.
    random_state : int, RandomState, Generator or None, default=None
        A number is the seed, 0 too; None draws one. It is kept in `seed_`.
    n_threads : int, default=None
        At least 1; None takes the default of the machine.

    Attributes
    ----------
    seed_ : int
        The seed.
    generation : int
        Generations told so far.
    n_evaluations : int
        Values told so far.
    n_failed : int
        Those of them that were not finite, which count as worst.
    gradient_norm : float
        Norm of the last gradient estimate; for methods without optimizer of the mean's move at a
        learning rate of 1. 'spsa' with one pair gives the noise the norm sqrt(n_params).

    Raises
    ------
    ValueError, TypeError
        If a parameter is out of range, or means nothing to the method.

    References
    ----------
    Salimans et al. 2017, arXiv:1703.03864 ('openai_es'); Sehnke et al. 2010 and Toklu et al. 2020,
    arXiv:2008.02387 ('pgpe', 'clipup'); Wierstra et al. 2014, JMLR 15 ('snes', 'xnes'); Mania et
    al. 2018, arXiv:1803.07055 ('ars'); Ros & Hansen 2008 ('sep_cma_es'); Malladi et al. 2023,
    arXiv:2305.17333 ('spsa').

    Examples
    --------
    >>> import numpy as np
    >>> import bpfree_fast as bf
    >>> es = bf.EvolutionStrategy(np.ones(10), 0.5, method="sep_cma_es", random_state=0)
    >>> while es.best is None or es.best.value > 1e-6:
    ...     es.tell([x @ x for x in es.ask()])
    >>> bool(np.abs(es.best.x).max() < 1e-3)
    True
    """

    def __init__(
        self,
        x0: ArrayLike,
        std: float | ArrayLike,
        *,
        method: str = "openai_es",
        population_size: int | None = None,
        maximize: bool = False,
        antithetic: bool | None = None,
        perturbation: str = "gaussian",
        shapes: Sequence[Sequence[int]] | None = None,
        rank: int = 1,
        fitness_shaping: str | None = None,
        n_top: int | None = None,
        group_size: int | None = None,
        optimizer: str | None = None,
        learning_rate: float | None = None,
        learning_rate_decay: float = 1.0,
        std_learning_rate: float | None = None,
        std_decay: float = 1.0,
        momentum: float = 0.9,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        max_speed: float | None = None,
        weight_decay: float = 0.0,
        noise_reuse: int = 1,
        persistence: int = 1,
        bounds: tuple[ArrayLike | None, ArrayLike | None] | None = None,
        bound_handling: str = "clip",
        random_state: int | np.random.RandomState | np.random.Generator | None = None,
        n_threads: int | None = None,
    ) -> None:
        self._parameters = own_parameters(locals())
        self.seed_ = seed(random_state)
        self._begin(start(x0), n_threads)

    def _begin(self, x0: Floats, n_threads: int | None) -> None:
        self._n_threads = _threads(n_threads)
        self._maximizes = flag("maximize", self._parameters["maximize"])
        self._search = build(x0, self.seed_, n_threads, self._parameters)
        self.generation = self.n_evaluations = self.n_failed = 0
        self.gradient_norm = 0.0
        self._best = None
        self._has_warned = False

    @property
    def n_params(self) -> int:
        """How many parameters are searched."""
        return self._search.method.mean.size

    @property
    def population_size(self) -> int:
        """How many members a generation has."""
        return self._search.method.n_members

    @property
    def best(self) -> Best | None:
        """The best member that was told of; None before the first."""
        return self._best

    @property
    def mean(self) -> Floats:
        """A copy of the distribution's mean, of shape (n_params,)."""
        return cast("Floats", self._search.method.mean.copy())

    @property
    def deviation(self) -> float | Floats:
        """The members' deviation: a number, or an array of shape (n_params,)."""
        return self._search.method.deviation()

    @property
    def std(self) -> float:
        """The deviation's scale; may be set between generations."""
        return self._search.method.std

    @std.setter
    def std(self, value: float) -> None:
        self._search.method.std = real("std", value, 0, open_low=True)

    @property
    def learning_rate(self) -> float:
        """The mean's learning rate; may be set between generations."""
        return self._search.method.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._search.method.learning_rate = real("learning_rate", value, 0, open_low=True)

    def ask(
        self, members: Sequence[int] | None = None, *, out: NDArray[Any] | None = None
    ) -> Floats:
        """Give members of this generation, as often as they are asked for.

        Parameters
        ----------
        members : sequence of int, default=None
            Which of them, each from 0 to population_size - 1; None is all of them.
        out : ndarray of shape (n, n_params), default=None
            Where they go: C-contiguous, of the mean's type.

        Returns
        -------
        x : ndarray of shape (n, n_params)
            float32 or float64, as the mean. `out` where it was given.

        Raises
        ------
        ValueError, TypeError
            If there is no such member, or `out` does not fit.
        """
        if members is None:
            indices = np.arange(self.population_size, dtype=np.uint32)
        else:
            indices = member_indices(members, self.population_size)
        if out is not None:
            self._check_out(out, (len(indices), self.n_params))
        return self._sampler().members(indices, out)

    def member(self, i: int, out: NDArray[Any] | None = None) -> Floats:
        """Give one member of this generation.

        Parameters
        ----------
        i : int
            From 0 to population_size - 1.
        out : ndarray of shape (n_params,), default=None
            Where it goes: C-contiguous, of the mean's type.

        Returns
        -------
        x : ndarray of shape (n_params,)
            The row that `ask` gives. `out` where it was given.

        Raises
        ------
        ValueError, TypeError
            If there is no such member, or `out` does not fit.
        """
        index = np.array([integer("i", i, 0, self.population_size - 1)], np.uint32)
        if out is None:
            return cast("Floats", self._sampler().members(index)[0])
        self._check_out(out, (self.n_params,))
        self._sampler().members(index, out[np.newaxis])
        return out

    def tell(self, values: ArrayLike) -> None:
        """Take the values of all members of this generation, and step to the next.

        Parameters
        ----------
        values : array_like of shape (population_size,)
            Smaller is better, larger with ``maximize=True``. What is not finite counts as worst;
            the first of it is told by a RuntimeWarning, and all of it is counted in `n_failed`.

        Raises
        ------
        ValueError, TypeError
            If there are more or fewer values, or none of them is finite; then nothing was changed.
        FloatingPointError
            If the step leaves the range of the numbers; then the strategy cannot go on.
        """
        self._tell(values)

    def minimize(
        self,
        function: Function,
        *,
        n_generations: int | None = None,
        max_evaluations: int | None = None,
        target: float | None = None,
        executor: Executor | MakesExecutor | None = None,
        chunk_size: int | None = None,
        vectorized: bool = False,
        callback: Callable[[SearchInfo], object] | None = None,
    ) -> SearchResult:
        """Ask, evaluate and tell until something says stop.

        Parameters
        ----------
        function : callable
            Takes a member, an array of shape (n_params,), and gives its value. A value that is not
            finite counts as worst; an exception ends the search.
        n_generations : int, default=None
            Generations of this call, at least 1.
        max_evaluations : int, default=None
            Evaluations of this call, at least those of a generation; only whole generations run.
        target : float, default=None
            The search ends when the best value is as good as this.
        executor : concurrent.futures.Executor or callable that makes one, default=None
            Who evaluates: threads, processes, dask's ``Client.get_executor()``, mpi4py's pool. The
            result has the same bits for any number of workers. Noise is never sent: workers make
            their members. If workers are lost, their members are evaluated again: by a new executor
            from the callable, or in this process, with a warning. None is this process.
        chunk_size : int, default=None
            Members of a task, or in this process of an array; no more of them are held at a time.
            None is a quarter of a worker's share, or 16 MB.
        vectorized : bool, default=False
            Whether the function takes an array of shape (n, n_params), and gives n values.
        callback : callable, default=None
            ``callback(info)`` with a `SearchInfo` after each generation; the search ends when it
            gives something true.

        Returns
        -------
        result : SearchResult
            The best member and why the search ended.

        Raises
        ------
        ValueError, TypeError
            If a parameter is out of range, or nothing would end the search.
        RuntimeError
            If three executors of the callable break before a member was evaluated.

        Examples
        --------
        >>> import numpy as np
        >>> import bpfree_fast as bf
        >>> es = bf.EvolutionStrategy(np.ones(5), 0.5, method="xnes", random_state=1)
        >>> result = es.minimize(lambda x: np.sum((x - 3) ** 2), n_generations=300, target=1e-8)
        >>> result.reason, bool(np.abs(result.x - 3).max() < 1e-3)
        ('the target is reached', True)
        """
        if self._maximizes:
            raise ValueError("the strategy was made with maximize=True: call maximize.")
        return run(
            self, function, n_generations=n_generations, max_evaluations=max_evaluations,
            target=target, executor=executor, chunk_size=chunk_size, vectorized=vectorized,
            callback=callback,
        )  # fmt: skip

    def maximize(
        self,
        function: Function,
        *,
        n_generations: int | None = None,
        max_evaluations: int | None = None,
        target: float | None = None,
        executor: Executor | MakesExecutor | None = None,
        chunk_size: int | None = None,
        vectorized: bool = False,
        callback: Callable[[SearchInfo], object] | None = None,
    ) -> SearchResult:
        """Do what `minimize` does, uphill; for a strategy made with ``maximize=True``.

        Parameters
        ----------
        function, n_generations, max_evaluations, target, executor : see `minimize`
            The same.
        chunk_size, vectorized, callback : see `minimize`
            The same.

        Returns
        -------
        result : SearchResult
            The best member and why the search ended.
        """
        if not self._maximizes:
            raise ValueError("the strategy was made with maximize=False: call minimize.")
        return run(
            self, function, n_generations=n_generations, max_evaluations=max_evaluations,
            target=target, executor=executor, chunk_size=chunk_size, vectorized=vectorized,
            callback=callback,
        )  # fmt: skip

    def __repr__(self) -> str:
        name, size = self._parameters["method"], self.population_size
        return (
            f"EvolutionStrategy(method={name!r}, n_params={self.n_params}, "
            f"population_size={size}, generation={self.generation})"
        )

    def _sampler(self) -> Sampler:
        return Sampler(self._search.method, self._search.bounds, self.generation)

    def _check_out(self, out: NDArray[Any], shape: tuple[int, ...]) -> None:
        if not isinstance(out, np.ndarray):
            raise TypeError(f"out must be a NumPy array, got {type(out).__name__}.")
        dtype = self._search.method.mean.dtype
        fits = out.dtype == dtype and out.shape == shape and out.flags.c_contiguous
        if not fits or not out.flags.writeable:
            held = f"{out.dtype} of shape {out.shape}"
            raise ValueError(
                f"out is {held}, expected {dtype} of shape {shape}, C-contiguous and writeable."
            )

    def _tell(self, values: ArrayLike) -> NDArray[np.float64]:
        """Step, and give the utilities of the step."""
        losses, n_failed = self._losses(values)
        search = self._search
        best = self._better(losses)
        if search.shaping is None:
            assert isinstance(search.method, SepCma)
            shaped = recombination_weights(losses, search.method.constants.weights)
        else:
            shaped = utilities(losses, search.shaping, search.shaping_size)
        length = search.method.step(shaped, self.generation)
        if not (math.isfinite(length) and math.isfinite(search.method.std)):
            raise FloatingPointError(
                f"the step of generation {self.generation} is too large for "
                f"{search.method.mean.dtype}: the search cannot go on."
            )
        if search.bounds is not None:
            search.bounds.clip(search.method.mean)
        if n_failed and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{n_failed} of {len(losses)} values of generation {self.generation} are not "
                f"finite and count as worst; n_failed counts those that follow.",
                RuntimeWarning,
                stacklevel=3,
            )
        self._best, self.gradient_norm = best, length
        self.n_failed += n_failed
        self.n_evaluations += len(losses)
        self.generation += 1
        return shaped

    def _better(self, losses: NDArray[np.float64]) -> Best | None:
        """Give the best member, this generation's included."""
        i = int(losses.argmin())
        if not math.isfinite(losses[i]):  # one that failed is no minimum
            i = int(np.where(np.isfinite(losses), losses, np.inf).argmin())
        sign = -1.0 if self._maximizes else 1.0
        loss, best = float(losses[i]), self._best
        if best is not None and loss >= sign * best.value:
            return best
        x = self.member(i)
        x.flags.writeable = False
        return Best(x, sign * loss, self.generation, i)

    def _losses(self, values: ArrayLike) -> tuple[NDArray[np.float64], int]:
        """Give what is minimized, and how many of the values are not finite."""
        losses = real_numbers("values", values)
        n = self.population_size
        if losses.shape != (n,):
            raise ValueError(
                f"tell takes one value for each of the {n} members, got shape {losses.shape}."
            )
        n_failed = n - int(np.count_nonzero(np.isfinite(losses)))
        if n_failed == n:
            raise ValueError(
                f"none of the {n} values of generation {self.generation} is finite, the first is "
                f"{losses[0]}: nothing was changed."
            )
        return (-losses if self._maximizes else losses), n_failed

    def _is_reached(self, target: float) -> bool:
        assert self._best is not None
        return self._best.value >= target if self._maximizes else self._best.value <= target
