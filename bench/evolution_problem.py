# SPDX-License-Identifier: BSD-3-Clause
"""Problems of evolution strategies: a population of networks that see the same minibatch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from problem import Problem


@dataclass(frozen=True)
class EvolutionProblem(Problem):
    """OpenAI-ES (Salimans et al. 2017): mirrored noise, centred ranks, one step a minibatch."""

    population_size: int = 256  # members; two of them are a pair
    std: float = 0.02
    perturbation: str = "gaussian"  # | 'low_rank' (of rank 1, EGGROLL)
    fitness_shaping: str = "centered_rank"

    @property
    def n_pairs(self) -> int:
        return self.population_size // 2

    @property
    def title(self) -> str:
        sizes = "-".join(map(str, self.layer_sizes))
        return f"{sizes}, population {self.population_size}, batch {self.batch}"

    def flops(self, method: str) -> float:
        """Products of one generation: what each member must do by itself, and the shared x W.

        gaussian: one product of the noise for a pair in the first layer, one of each member above
        it, and the sum of the noise. low_rank: the vectors' products and the shared weights'.
        """
        pairs = list(pairwise(self.layer_sizes))
        first, above = pairs[0], pairs[1:]
        shared = 2.0 * self.batch * first[0] * first[1]
        rows = 2.0 * self.batch * self.population_size
        update = 2.0 * self.n_pairs * sum(i * o for i, o in pairs)
        if self.perturbation == "gaussian":
            noise = rows / 2 * first[0] * first[1]
            return shared + noise + rows * sum(i * o for i, o in above) + update
        noise = rows / 2 * first[0] + rows * (first[1] + sum(i + o for i, o in above))
        return shared + noise + rows * sum(i * o for i, o in above) + update
