"""How far a mean over queries can be trusted."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
_CHUNK = 200
"""Resamples at a time, which bounds the memory."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(differences: NDArray[np.float64]) -> Interval:
    """The interval of the mean of (Q,) differences, each between two systems on one query.

    Percentile bootstrap over the queries (Efron 1979; Sakai, Evaluating Evaluation Metrics based on the Bootstrap,
    SIGIR 2006, for paired tests of retrieval systems). The draws are the same in every call, so that the same records
    give the same page.
    """
    generator = np.random.default_rng(0)
    queries = len(differences)
    means = [
        differences[generator.integers(queries, size=(_CHUNK, queries))].mean(axis=1)
        for _ in range(RESAMPLES // _CHUNK)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(float(low), float(high))
