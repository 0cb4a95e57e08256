"""How much the seed of meta-training matters to a comparison of recipes.

Two or three seeds of a recipe say little about their own spread: Student's t for two degrees of freedom is
huge. But the recipes of an evaluation are much alike, so their spreads are pooled; and recipes that were
meta-trained with the same seeds, so with the same tasks and initial weights, are compared seed by seed.

That the spreads are alike is an assumption, which three seeds cannot test: the many degrees of freedom of the pool
are used even where a recipe's own spread, estimated from two or three seeds, is the larger one. Among ten equal
recipes of which one has five times the spread of the others, its intervals at 99% miss 7% (unpaired) or 9%
(paired) of the time with three seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]


@dataclass(frozen=True)
class SeedPool:
    """What is known about the spread between seeds, apart from the two recipes compared.

    Attributes:
        recipes: values [K, B] of other recipes with several seeds; if paired, with the same K seeds.
        paired: whether the two that are compared have the same seeds in the same order.
    """

    recipes: tuple[Values, ...] = ()
    paired: bool = False

    def map(self, fn: Callable[[Values], Values]) -> "SeedPool":
        """The same recipes with values transformed."""
        return replace(self, recipes=tuple(fn(r) for r in self.recipes))

    def reach(self, a: Values, b: Values, confidence: float) -> float:
        """How far the mean of a - b, values [K, B] and [L, B], may be off because of the choice of seeds, at
        a confidence; 0 for one seed each. Each spread is the larger of the recipe's own and the pooled one."""
        quantile = (1 + confidence) / 2
        if self.paired and len(a) > 1:
            own = np.std(a.mean(1) - b.mean(1), ddof=1)
            pooled, dof = _pooled_in_blocks([a, b, *self.recipes])
            return float(max(own, np.sqrt(2) * pooled) / np.sqrt(len(a)) * stats.t.ppf(quantile, dof))
        several = [x for x in (a, b) if len(x) > 1]
        if not several:
            return 0.0
        pooled, dof = _pooled([*several, *self.recipes])
        errors = [max(np.std(x.mean(1), ddof=1), pooled) / np.sqrt(len(x)) for x in several]
        return float(np.hypot.reduce(errors) * stats.t.ppf(quantile, dof))


def _pooled(recipes: list[Values]) -> tuple[float, int]:
    """Standard deviation between the seeds of a recipe, pooled, with its degrees of freedom."""
    means = [r.mean(1) for r in recipes]
    dof = sum(len(m) - 1 for m in means)
    return float(np.sqrt(sum(((m - m.mean()) ** 2).sum() for m in means) / dof)), dof


def _pooled_in_blocks(recipes: list[Values]) -> tuple[float, int]:
    """Likewise for the residuals after subtracting each recipe's and each seed's mean (randomised blocks)."""
    means = np.stack([r.mean(1) for r in recipes])  # [recipes, K]
    residual = means - means.mean(0) - means.mean(1, keepdims=True) + means.mean()
    dof = (means.shape[0] - 1) * (means.shape[1] - 1)
    return float(np.sqrt((residual**2).sum() / dof)), dof
