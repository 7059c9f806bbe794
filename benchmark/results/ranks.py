"""How methods rank over several datasets."""

from collections.abc import Sequence

from benchmark.results.gain import same_data
from benchmark.results.summary import TEACHER, Row

_DIGITS = 6


def mean_ranks(boards: Sequence[Sequence[Row]]) -> dict[str, float]:
    """The mean over boards of a method's place by mean mAP, 1 for the best; equals share the mean of their places.

    Only methods that are on every board are ranked, and only among each other, so that all places are out of as many.
    Of a method with several rows on a board, its best on the data of the board's first student counts.
    """
    best = [_best(rows) for rows in boards]
    methods = sorted(set.intersection(*map(set, best))) if best else []
    places = {method: [_place(scores, methods, method) for scores in best] for method in methods}
    return {method: round(sum(of_method) / len(best), _DIGITS) for method, of_method in places.items()}


def _best(rows: Sequence[Row]) -> dict[str, float]:
    scores: dict[str, float] = {}
    students = [row for row in rows if row.method != TEACHER]
    for row in students:
        if same_data(row, students[0]):
            scores[row.method] = max(row.mAP.mean, scores.get(row.method, 0.0))
    return scores


def _place(scores: dict[str, float], methods: Sequence[str], method: str) -> float:
    above = sum(scores[other] > scores[method] for other in methods)
    equal = sum(scores[other] == scores[method] for other in methods)
    return above + (1 + equal) / 2
