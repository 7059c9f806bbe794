"""Statistics on the differences between rows: gains, ranks and groups at equal cost, and mean ranks."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Self

import numpy as np
from numpy.typing import NDArray

from benchmark.results.inference import Differences, Interval, SeedSpread, discoveries, letters, rank_intervals
from benchmark.results.rows import TEACHER, Row

_BLOCK = 2**21
"""Number of differences by query (8 bytes each) that are computed together."""
_EQUAL_COST = 1.05
"""Largest ratio of the MACs of a network to those of the cheapest network in its equal-cost group."""
_RANK_DIGITS = 6
_MOST_COMPARED = 60
"""Largest number of rows of a group that are all compared with each other."""
_DIVISIONS = 100
"""Largest number of ways to divide the seeds into halves that are tried."""

Pair = tuple[Row, Row]


@dataclass(frozen=True, slots=True)
class Gain:
    """A difference of mAP with its confidence interval."""

    mean: float
    interval: Interval
    significant: bool
    """Whether the difference is a discovery, if at most 5 % of those among all comparisons at once may be false."""

    @classmethod
    def between(cls, row: Row, other: Row) -> "Gain | None":
        """Return the gain of `row` over `other`; see `gains`. None if it is not known."""
        return gains([(row, other)], SeedSpread([row, other])).get((row, other))

    @classmethod
    def from_differences(cls, differences: NDArray[np.float64]) -> Self:
        """Return the gain with these (Q,) per-query differences, at least one, by the uncertainty of the queries."""
        found = Differences.of(differences[None])
        return cls(float(found.means[0]), found.intervals()[0], discoveries(found.p_values())[0])


def gains(pairs: Iterable[Pair], spread: SeedSpread) -> dict[Pair, Gain]:
    """Return the gain of the first row of each pair over the second, paired by query.

    The average precision of a query is its mean over the seeds of a row. Pairs are missing if the rows are the same, if
    a record lacks its per-query scores, or if the rows were not scored on the same queries.

    Args:
        pairs: The rows to compare. A pair and its reverse are one comparison.
        spread: The spread of the seeds on the leaderboard.
    """
    known: dict[frozenset[Row], Pair] = {}
    wanted = [pair for pair in pairs if _same_queries(*pair)]
    for pair in wanted:
        known.setdefault(frozenset(pair), pair)
    rows = dict.fromkeys(row for pair in known.values() for row in pair)
    values = {row: _counted_precisions(row) for row in rows}
    variances = {row: spread.of(row) for row in rows}
    found: dict[frozenset[Row], tuple[float, Interval]] = {}
    p: list[float] = []
    sizes: dict[int, list[Pair]] = defaultdict(list)
    for pair in known.values():
        sizes[len(values[pair[0]])].append(pair)
    for queries, of_size in sizes.items():
        step = max(1, _BLOCK // queries)
        for start in range(0, len(of_size), step):
            block = of_size[start : start + step]
            by_query = np.stack([values[row] - values[other] for row, other in block])
            estimate = Differences.of(by_query, [(variances[row], variances[other]) for row, other in block])
            means = estimate.means.tolist()
            found |= dict(zip(map(frozenset, block), zip(means, estimate.intervals(), strict=True), strict=True))
            p += estimate.p_values().tolist()
    significant = dict(zip(found, discoveries(np.array(p)), strict=True))
    result: dict[Pair, Gain] = {}
    for pair in wanted:
        comparison = frozenset(pair)
        mean, interval = found[comparison]
        if known[comparison] != pair:
            mean, interval = 0.0 - mean, Interval(-interval.high, -interval.low)
        result[pair] = Gain(mean, interval, significant[comparison])
    return result


def query_differences(row: Row, other: Row) -> NDArray[np.float64] | None:
    """Return the (Q,) differences of average precision, `row` minus `other`, of the queries with a correct match.

    None under the conditions of `Gain.between`.
    """
    return _counted_precisions(row) - _counted_precisions(other) if _same_queries(row, other) else None


def _same_queries(row: Row, other: Row) -> bool:
    """Return whether two rows have per-query scores of the same queries, at least one of which counts."""
    if row is other or row.counted is None or row.counted != other.counted or not same_data(row, other):
        return False
    return any(row.counted[1])


def _counted_precisions(row: Row) -> NDArray[np.float64]:
    values = row.per_query
    assert values is not None
    return values[~np.isnan(values)]


def same_data(row: Row, other: Row) -> bool:
    """Return whether both rows were trained and evaluated on the same images."""
    return row.images == other.images


@dataclass(frozen=True, slots=True, eq=False)
class CostGroup:
    """Students on the same data whose MACs lie within 5 % of each other.

    Attributes:
        rows: The rows, the best mAP first.
        gains: The gain of each row over the best; None for the best itself and for unknown gains.
        ranks: The 95 % confidence interval of each row's rank in the group, 1 for the best; empty if it is not known.
        letters: Letters for each row: two rows share one if their difference is not significant. Empty if a difference
            is not known, or if there are too many rows.
        agreement: Kendall's tau between the rankings by two halves of the seeds, averaged over the ways to divide them;
            None if there are no two seeds that all rows have.
    """

    rows: Sequence[Row]
    gains: Sequence[Gain | None]
    ranks: Sequence[tuple[int, int]] = ()
    letters: Sequence[str] = ()
    agreement: float | None = None

    @classmethod
    def of(cls, rows: Sequence[Row], gains: Mapping[Pair, Gain], spread: SeedSpread) -> Self:
        """Return the group of these rows, the best first.

        Args:
            rows: The rows.
            gains: At least those of the pairs of `compared`.
            spread: The spread of the seeds on the leaderboard.
        """
        over_best = [gains.get((row, rows[0])) for row in rows]
        agreement = _agreement(rows)
        if not all(over_best[1:]):
            return cls(rows, over_best, agreement=agreement)
        by_query = np.stack([_counted_precisions(row) for row in rows])
        names = [row.records[0].id for row in rows]
        ranks = rank_intervals(by_query, [spread.of(row) for row in rows], names)
        marks: Sequence[str] = ()
        if len(rows) <= _MOST_COMPARED:
            place = {row: number for number, row in enumerate(rows)}
            different = [(place[a], place[b]) for a, b in compared(rows) if gains[a, b].significant]
            marks = letters(len(rows), different)
        return cls(rows, over_best, ranks, marks, agreement)


def compared(rows: Sequence[Row]) -> list[Pair]:
    """Return the pairs of a group that are compared: all pairs, or those with the best if there are many rows."""
    if len(rows) > _MOST_COMPARED:
        return [(row, rows[0]) for row in rows[1:]]
    return [(second, first) for first, second in combinations(rows, 2)]


def _agreement(rows: Sequence[Row]) -> float | None:
    common = sorted(set.intersection(*({record.seed for record in row.records} for row in rows)))
    if len(common) < 2:
        return None
    from scipy.stats import kendalltau  # slow to import

    scores = np.array([[_seed_score(row, seed) for seed in common] for row in rows])
    half = len(common) // 2
    found = []
    for chosen in islice(combinations(range(len(common)), half), _DIVISIONS):
        rest = [seed for seed in range(len(common)) if seed not in chosen]
        found.append(kendalltau(scores[:, list(chosen)].mean(axis=1), scores[:, rest].mean(axis=1)).statistic)
    return None if np.isnan(found).any() else float(np.mean(found))


def _seed_score(row: Row, seed: int) -> float:
    return next(record.scores.symmetric.mAP for record in row.records if record.seed == seed)


def equal_cost(rows: Iterable[Row]) -> list[list[Row]]:
    """Group students of equal cost, for `CostGroup`: two or more rows each, the cheapest group first.

    Rows whose galleries are stored in different formats are in different groups.
    """
    groups: list[list[Row]] = []
    latest: dict[object, list[Row]] = {}  # the most expensive group so far, by the data and the format
    for row in sorted((row for row in rows if row.method != TEACHER), key=lambda row: row.macs.mean):
        group = latest.get(key := (row.images, row.embedding))
        if group is not None and row.macs.mean <= _EQUAL_COST * group[0].macs.mean:
            group.append(row)
        else:
            latest[key] = [row]
            groups.append(latest[key])
    return [sorted(group, key=lambda row: (-row.mAP.mean, row.method)) for group in groups if len(group) > 1]


def mean_ranks(boards: Sequence[Sequence[Row]]) -> dict[str, float]:
    """Return each method's rank by mean mAP (1 is the best), averaged over the boards; ties share their mean rank.

    Only methods that are on every board are ranked, among each other; with tuned arguments, or another format of
    embeddings, a method counts as another one. Of a method with several rows on a board, the best one on the data of
    the board's first student counts.
    """
    scores = [_best_scores(rows) for rows in boards]
    methods = sorted(set.intersection(*map(set, scores))) if scores else []
    ranks = [_ranks({method: of_board[method] for method in methods}) for of_board in scores]
    return {
        method: round(sum(of_board[method] for of_board in ranks) / len(scores), _RANK_DIGITS) for method in methods
    }


def _best_scores(rows: Sequence[Row]) -> dict[str, float]:
    scores: dict[str, float] = {}
    students = [row for row in rows if row.method != TEACHER]
    for row in students:
        if same_data(row, students[0]):
            scores[row.label] = max(row.mAP.mean, scores.get(row.label, 0.0))
    return scores


def _ranks(scores: dict[str, float]) -> dict[str, float]:
    ascending = sorted(scores.values())
    ranks = {}
    for method, score in scores.items():
        better = len(ascending) - bisect_right(ascending, score)
        equal = bisect_right(ascending, score) - bisect_left(ascending, score)
        ranks[method] = better + (1 + equal) / 2
    return ranks
