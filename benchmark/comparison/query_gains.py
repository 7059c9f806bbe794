"""One run against another, query by query."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from benchmark.comparison.compared_run import ComparedRun
from benchmark.results.gain import Gain, query_differences


@dataclass(frozen=True, slots=True)
class QueryGains:
    """What a run gains and loses on every query."""

    differences: NDArray[np.float64]
    """(Q,) differences of average precision, ascending, of the queries that count."""
    gain: Gain
    """Their mean."""

    @classmethod
    def of(cls, run: ComparedRun, first: ComparedRun) -> Self | None:
        """Of `run` over `first`; None where their queries cannot be paired."""
        if run.row.board != first.row.board:
            return None
        differences = query_differences(run.row, first.row)
        return None if differences is None else cls(np.sort(differences), Gain.mean_of(differences))

    @property
    def gained(self) -> int:
        """On how many queries the average precision is higher."""
        return int((self.differences > 0).sum())

    @property
    def lost(self) -> int:
        """On how many it is lower."""
        return int((self.differences < 0).sum())

    @property
    def equal(self) -> int:
        """On how many it is the same, to the five digits of a record."""
        return len(self.differences) - self.gained - self.lost


def why_unpaired(name: str, runs: Mapping[str, ComparedRun]) -> str:
    """Why the queries of the run of this name cannot be paired with those of the first."""
    first = next(iter(runs))
    ours, theirs = runs[name], runs[first]
    if ours.row.board != theirs.row.board:
        return f"it was judged on {ours.row.board}, {first} on {theirs.row.board}"
    for each in (name, first):
        if runs[each].record.scores.average_precision is None:
            return (
                f"the record of {each} is an old one, which lacks the average precision of every query; delete "
                f"{runs[each].folder / 'record.json'}, and the `benchmark run` that made it, with --resume, judges it "
                "again"
            )
    return f"it did not see the same images as {first}"
