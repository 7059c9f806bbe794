"""Whether the scores of a record can be those of any ranked lists."""

from collections.abc import Iterator

from benchmark.results.record_parts import ScoreReport, Scores
from benchmark.results.violation import Violation

_ROUNDING = 1e-9
"""By how much fractions that should be equal may differ."""


def report_violations(report: ScoreReport, rule: str) -> Iterator[Violation]:
    """What cannot be about a record's scores; `rule` is the protocol's, by which average precision was computed."""
    yield from score_violations("scores.symmetric", report.symmetric, rule)
    if report.asymmetric is not None:
        yield from score_violations("scores.asymmetric", report.asymmetric, rule)
    if (report.asymmetric is None) != (report.asymmetric_reason is not None):
        expected = "the reason why there are no asymmetric scores" if report.asymmetric is None else "no reason"
        yield Violation("scores.asymmetric_reason", report.asymmetric_reason, f"{expected}: one of both is given")
    if report.average_precision is not None and "1" in report.symmetric.recall:
        answered = report.symmetric.queries - report.symmetric.skipped
        perfect = report.average_precision.count(1.0) / max(1, answered)
        if report.symmetric.recall["1"] < perfect - _ROUNDING:
            expected = f"at least {perfect}, the share of queries with an average precision of 1"
            yield Violation("scores.symmetric.recall.1", report.symmetric.recall["1"], expected)


def score_violations(field: str, scores: Scores, rule: str) -> Iterator[Violation]:
    """What cannot be about the scores in `field` of a record.

    mAP may well be above Recall@K, and below mINP.
    """
    if scores.skipped >= scores.queries:
        yield Violation(f"{field}.skipped", scores.skipped, f"fewer than the {scores.queries} queries")
        return
    answered = scores.queries - scores.skipped
    found = {
        "recall": {k: scores.recall[str(k)] * answered for k in sorted(map(int, scores.recall))},
        "precision": {k: scores.precision[str(k)] * answered * k for k in sorted(map(int, scores.precision))},
    }
    units = {"recall": "queries", "precision": "correct answers"}
    for name, counts in found.items():
        before = 0.0
        for k, count in counts.items():
            value = getattr(scores, name)[str(k)]
            if abs(count - round(count)) > 1e-5:
                expected = f"a whole number of {units[name]} of the {answered} that count, not {count:.3f}"
                yield Violation(f"{field}.{name}.{k}", value, expected)
            if count < before - 1e-5:
                expected = f"no fewer {units[name]} than at the K before, {before:.0f} and not {count:.0f}"
                yield Violation(f"{field}.{name}.{k}", value, expected)
            before = count
    for k in found["recall"].keys() & found["precision"].keys():
        recall, precision = scores.recall[str(k)], scores.precision[str(k)]
        if not precision - _ROUNDING <= recall <= k * precision + _ROUNDING:
            limits = f"{recall}, which is recall.1" if k == 1 else f"from {recall / k} to {recall}, by recall.{k}"
            yield Violation(f"{field}.precision.{k}", precision, limits)
    # With r the rank of the last of n positives, the k-th stands at r or before: the mean of k / r_k is at least
    # (n + 1) / 2r, which is more than half of the query's inverse negative penalty, n / r.
    if rule == "rectangular" and scores.mINP > 2 * scores.mAP + _ROUNDING:
        yield Violation(f"{field}.mINP", scores.mINP, f"at most {2 * scores.mAP}, twice the mAP")
    if scores.mAP_at_R is not None:
        limits_of = {"R_precision": scores.R_precision, "mAP": scores.mAP if rule == "rectangular" else None}
        for name, limit in limits_of.items():
            if limit is not None and scores.mAP_at_R > limit + _ROUNDING:
                yield Violation(f"{field}.mAP_at_R", scores.mAP_at_R, f"at most {limit}, which is {name}")
