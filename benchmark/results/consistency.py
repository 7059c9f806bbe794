"""Whether a record can be what a run has left, as far as the record itself tells.

Its schema is known to be right (see `Record.read`); costs are counted anew in `benchmark.results.rebuild`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isclose, nan

from benchmark.results.record import Budget, Cost, Data, Record, Saved, ScoreReport, Scores
from benchmark.utils.recipe_hash import recipe_hash


@dataclass(frozen=True, slots=True)
class Violation:
    """A field of a record that cannot be what a run has left: what it holds, and what it would have to."""

    field: str
    found: object
    expected: object

    def __str__(self) -> str:
        return f"{self.field} is {self.found}, expected {self.expected}"


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


def violations(record: Record) -> Iterator[Violation]:
    """Every field that contradicts the recipe, or another field, or mathematics."""
    yield from _identity(record)
    rule = record.data.protocol.get("average_precision", "rectangular")  # the first records did not state it
    yield from _data(record.data)
    yield from report_violations(record.scores, rule)
    if record.scores.average_precision is None:
        yield Violation("scores.average_precision", "missing", "that of every query, which the mAP is the mean of")
    yield from _lists("scores.symmetric", record.scores.symmetric, record.data)
    if record.scores.asymmetric is not None:
        yield from _lists("scores.asymmetric", record.scores.asymmetric, record.data)
    yield from _cost("network.cost", record.network.cost)
    is_student = record.role == "student"
    for part in ("teacher", "saved"):
        if (getattr(record, part) is not None) != is_student:
            found, expected = ("missing", "given") if is_student else ("given", "missing")
            yield Violation(part, found, f"{expected} in the record of a {record.role}")
    if record.teacher is None:
        return
    yield from score_violations("teacher.scores", record.teacher.scores, rule)
    yield from _lists("teacher.scores", record.teacher.scores, record.data)
    yield from _cost("teacher.cost", record.teacher.cost)
    if record.saved is not None:
        yield from _saved(record.saved, record.network.cost, record.teacher.cost)
    if record.budget is not None:
        yield from _budget(record.budget, record.network.cost, record.teacher.cost)


def _identity(record: Record) -> Iterator[Violation]:
    """The hash is of the recipe as it stands: keys that it lacks because they are newer do not count in it."""
    expected = recipe_hash(record.recipe)
    if record.recipe_hash != expected:
        yield Violation("recipe_hash", record.recipe_hash, f"{expected}, the hash of the recipe")
    for field in ("dataset", "method"):
        section = record.recipe.get(field)
        name = section.get("name") if isinstance(section, Mapping) else section
        if getattr(record, field) != name:
            yield Violation(field, getattr(record, field), f"{name}, as in the recipe")
    if record.seed != record.recipe.get("seed"):
        yield Violation("seed", record.seed, f"{record.recipe.get('seed')}, as in the recipe")


def _data(data: Data) -> Iterator[Violation]:
    for split in ("train", "query", "gallery"):
        if split not in data.splits:
            yield Violation(f"data.splits.{split}", "missing", "how much it holds")
    if not isinstance(data.protocol.get("recall_at"), list | tuple):
        yield Violation("data.protocol.recall_at", data.protocol.get("recall_at"), "a list of every K of Recall@K")


def _lists(field: str, scores: Scores, data: Data) -> Iterator[Violation]:
    """Check that every readable query image is scored, and that there is a Recall@K for every K of the protocol."""
    if "query" in data.splits:
        images = data.splits["query"].images
        if not images - data.broken <= scores.queries <= images:
            yield Violation(
                f"{field}.queries", scores.queries, f"{images}, as in data.splits.query, but for broken ones"
            )
    wanted = data.protocol.get("recall_at")
    for k in wanted if isinstance(wanted, list | tuple) else ():
        if str(k) not in scores.recall:
            yield Violation(f"{field}.recall.{k}", "missing", "given: the protocol names this K")


def _cost(field: str, cost: Cost) -> Iterator[Violation]:
    if cost.flops != 2 * cost.macs:
        yield Violation(f"{field}.flops", cost.flops, f"{2 * cost.macs}, which is 2 x macs")


def _saved(saved: Saved, student: Cost, teacher: Cost) -> Iterator[Violation]:
    for kind in ("parameters", "macs"):
        expected = 1 - _share(kind, student, teacher)
        if not isclose(getattr(saved, kind), expected, rel_tol=0, abs_tol=1e-9):
            yield Violation(f"saved.{kind}", getattr(saved, kind), f"{expected}, which is 1 - student / teacher")
        ceiling = getattr(saved, f"ceiling_{kind}")
        if ceiling is not None and ceiling < getattr(saved, kind) - 1e-9:
            yield Violation(f"saved.ceiling_{kind}", ceiling, f"at least the {getattr(saved, kind)} that is saved")


def _budget(budget: Budget, student: Cost, teacher: Cost) -> Iterator[Violation]:
    expected = _share(budget.kind, student, teacher)
    if not isclose(budget.reached, expected, rel_tol=0, abs_tol=1e-9):
        yield Violation("budget.reached", budget.reached, f"{expected}, which is student / teacher")
    if budget.met != (budget.reached <= budget.target):
        yield Violation("budget.met", budget.met, f"{not budget.met} for {budget.reached} of {budget.target}")


def _share(kind: str, student: Cost, teacher: Cost) -> float:
    whole: int = getattr(teacher, kind)
    return getattr(student, kind) / whole if whole else nan
