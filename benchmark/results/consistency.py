"""Consistency of a record with itself: fields that contradict its recipe, another field, or a bound on the scores.

`Record.read` checks the schema; `benchmark.results.rebuild` compares the record with what its recipe builds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isclose, nan

from benchmark.results.parts import Budget, Cost, Data, Savings, Scores
from benchmark.results.record import Record
from benchmark.retrieval.embedding_format import FLOAT32, EmbeddingFormat
from benchmark.utils.escape import terminal
from benchmark.utils.recipe_hash import recipe_hash
from benchmark.utils.strict_json import shown

_LONGEST = 300
"""Largest number of characters of a value in a message."""
_ROUNDING = 1e-9
"""Largest difference between fractions that should be equal."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A field of a record with an impossible value, and the expected value or condition."""

    field: str
    actual: object
    expected: object

    def __str__(self) -> str:
        actual, expected = (value if isinstance(value, str) else shown(value) for value in (self.actual, self.expected))
        return terminal(" ".join(f"{self.field} is {actual[:_LONGEST]}, expected {expected[:_LONGEST]}".split()))


def violations(record: Record) -> Iterator[Violation]:
    """Yield every field that contradicts the recipe, another field, or a bound on the scores."""
    yield from _identity(record)
    yield from _data(record.data)
    yield from _report(record)
    yield from _cost("network.cost", record.network.cost)
    yield from _embedding(record)
    yield from _teacher_outputs(record)
    is_student = record.role == "student"
    for part in ("teacher", "saved"):
        if (getattr(record, part) is not None) != is_student:
            actual, expected = ("missing", "a value") if is_student else ("set", "no value")
            yield Violation(part, actual, f"{expected} in the record of a {record.role}")
    if record.teacher is None:
        if record.more_teachers:
            yield Violation("more_teachers", len(record.more_teachers), "none without a teacher")
        return
    for key, teacher in record.named_teachers():
        yield from _scores(f"{key}.scores", teacher.scores, record)
        yield from _cost(f"{key}.cost", teacher.cost)
    if record.saved is not None:
        yield from _saved(record.saved, record.network.cost, record.teacher.cost)
    if record.budget is not None:
        yield from _budget(record.budget, record.network.cost, record.teacher.cost)


def _identity(record: Record) -> Iterator[Violation]:
    # The hash of the recipe as the record holds it: keys that are newer than the record are not part of it.
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
            yield Violation(f"data.splits.{split}", "missing", "the size of this split")
    if not isinstance(data.protocol.get("recall_at"), list | tuple):
        yield Violation("data.protocol.recall_at", data.protocol.get("recall_at"), "a list of every K of Recall@K")


def _report(record: Record) -> Iterator[Violation]:
    """Check the scores of the student, or of the teacher in its own record."""
    report = record.scores
    yield from _scores("scores.symmetric", report.symmetric, record)
    if report.asymmetric is not None:
        yield from _scores("scores.asymmetric", report.asymmetric, record)
    if (report.asymmetric is None) != (report.asymmetric_reason is not None):
        expected = "no reason, as there are" if report.asymmetric is not None else "the reason why there are no"
        yield Violation("scores.asymmetric_reason", report.asymmetric_reason, f"{expected} asymmetric scores")
    if report.average_precision is None:
        yield Violation("scores.average_precision", "missing", "one value per query, whose mean is the mAP")
    elif "1" in report.symmetric.recall:
        # A query with an average precision of 1 has a correct match at rank 1.
        counted = report.symmetric.queries - report.symmetric.skipped
        perfect = int((report.average_precision.array == 1).sum()) / max(1, counted)
        if report.symmetric.recall["1"] < perfect - _ROUNDING:
            expected = f"at least {perfect}, the fraction of queries with an average precision of 1"
            yield Violation("scores.symmetric.recall.1", report.symmetric.recall["1"], expected)


def _scores(field: str, scores: Scores, record: Record) -> Iterator[Violation]:
    """Check the scores in `field` of a record against the number of queries, and against each other."""
    data = record.data
    yield from _query_counts(field, scores, data, "validation" if record.variant.get("evaluate.images") else "query")
    if scores.skipped >= scores.queries:
        yield Violation(f"{field}.skipped", scores.skipped, f"fewer than the {scores.queries} queries")
        return
    yield from _counts_at_k(field, scores)
    # The bounds by mAP hold for the rectangular rule, which applied to the first records without stating it.
    rectangular = data.protocol.get("average_precision", "rectangular") == "rectangular"
    # If r is the rank of the last of n correct matches, the k-th one has at most rank r: the mean of k / r_k is at
    # least (n + 1) / 2r, which is more than half of the query's inverse negative penalty, n / r.
    # There is no such bound between mAP and Recall@K, and mAP may be smaller than mINP.
    if rectangular and scores.mINP > 2 * scores.mAP + _ROUNDING:
        yield Violation(f"{field}.mINP", scores.mINP, f"at most {2 * scores.mAP}, twice the mAP")
    if scores.mAP_at_R is not None:
        limits = {"R_precision": scores.R_precision, "mAP": scores.mAP if rectangular else None}
        for name, limit in limits.items():
            if limit is not None and scores.mAP_at_R > limit + _ROUNDING:
                yield Violation(f"{field}.mAP_at_R", scores.mAP_at_R, f"at most {limit}, the value of {name}")


def _query_counts(field: str, scores: Scores, data: Data, split: str) -> Iterator[Violation]:
    """Check that every readable query image is scored, and that there is a Recall@K for every K of the protocol."""
    if split in data.splits:
        images = data.splits[split].images
        if not images - data.broken <= scores.queries <= images:
            expected = f"{images}, as in data.splits.{split}, or less by at most the number of broken images"
            yield Violation(f"{field}.queries", scores.queries, expected)
    ks = data.protocol.get("recall_at")
    for k in ks if isinstance(ks, list | tuple) else ():
        if str(k) not in scores.recall:
            yield Violation(f"{field}.recall.{k}", "missing", "a value, as the protocol lists this K")


def _counts_at_k(field: str, scores: Scores) -> Iterator[Violation]:
    """Check that Recall@K and precision@K are whole numbers of queries and matches, which do not decrease with K."""
    counted = scores.queries - scores.skipped
    recall = {k: scores.recall[str(k)] * counted for k in sorted(map(int, scores.recall))}
    precision = {k: scores.precision[str(k)] * counted * k for k in sorted(map(int, scores.precision))}
    for name, counts, unit in (("recall", recall, "queries"), ("precision", precision, "correct matches")):
        before = 0.0
        for k, count in counts.items():
            value = getattr(scores, name)[str(k)]
            if abs(count - round(count)) > 1e-5:
                expected = f"a whole number of {unit} among the {counted} queries that count, not {count:.3f}"
                yield Violation(f"{field}.{name}.{k}", value, expected)
            if count < before - 1e-5:
                expected = f"at least as many {unit} as at the next smaller K: {before:.0f}, not {count:.0f}"
                yield Violation(f"{field}.{name}.{k}", value, expected)
            before = count
    for k in recall.keys() & precision.keys():
        found, limit = scores.precision[str(k)], scores.recall[str(k)]
        if not found - _ROUNDING <= limit <= k * found + _ROUNDING:
            limits = f"{limit}, which is recall.1" if k == 1 else f"{limit / k} to {limit}, given recall.{k}"
            yield Violation(f"{field}.precision.{k}", found, limits)


def _embedding(record: Record) -> Iterator[Violation]:
    """Check the format of the gallery, which the recipe states unless it is older, and its size."""
    section = record.recipe.get("evaluate")
    expected = section.get("embedding", str(FLOAT32)) if isinstance(section, Mapping) else str(FLOAT32)
    if record.embedding != expected:
        yield Violation("embedding", record.embedding, f"{expected}, as in the recipe")
        return
    try:
        embedding = EmbeddingFormat.parse(record.embedding)
        embedding.require(record.network.embedding)
    except ValueError as error:
        yield Violation("embedding", record.embedding, f"another format: {error}")
        return
    size = embedding.bytes_per_image(record.network.embedding)
    if record.gallery_bytes != size:
        yield Violation("bytes_per_image", record.gallery_bytes, f"{size}, the size of {record.embedding}")


def _teacher_outputs(record: Record) -> Iterator[Violation]:
    """Check that the views are as fixed as the recipe demands, and that each was computed once."""
    section = record.recipe.get("teacher")
    views = section.get("cached_views", 0) if isinstance(section, Mapping) and record.role == "student" else 0
    outputs = record.teacher_outputs
    if (outputs.views if outputs else 0) != views:
        actual = outputs.views if outputs else "missing"
        yield Violation("teacher_outputs.views", actual, f"{views}, as in the recipe")
    if outputs and "train" in record.data.splits:
        expected = outputs.views * record.data.splits["train"].images
        if outputs.forward_passes != expected:
            yield Violation("teacher_outputs.forward_passes", outputs.forward_passes, f"{expected}, one for every view")


def _cost(field: str, cost: Cost) -> Iterator[Violation]:
    if cost.flops != 2 * cost.macs:
        yield Violation(f"{field}.flops", cost.flops, f"{2 * cost.macs}, which is 2 x macs")


def _saved(saved: Savings, student: Cost, teacher: Cost) -> Iterator[Violation]:
    for kind in ("parameters", "macs"):
        expected = 1 - _share(kind, student, teacher)
        if not isclose(getattr(saved, kind), expected, rel_tol=0, abs_tol=_ROUNDING):
            yield Violation(f"saved.{kind}", getattr(saved, kind), f"{expected}, which is 1 - student / teacher")
        ceiling = getattr(saved, f"ceiling_{kind}")
        if ceiling is not None and ceiling < getattr(saved, kind) - _ROUNDING:
            yield Violation(f"saved.ceiling_{kind}", ceiling, f"at least {getattr(saved, kind)}, which is saved.{kind}")
        reset = getattr(saved, f"reset_ceiling_{kind}")
        if reset is not None and (ceiling is None or reset > ceiling + _ROUNDING):
            yield Violation(f"saved.reset_ceiling_{kind}", reset, f"at most {ceiling}, which is saved.ceiling_{kind}")


def _budget(budget: Budget, student: Cost, teacher: Cost) -> Iterator[Violation]:
    expected = _share(budget.kind, student, teacher)
    if not isclose(budget.reached, expected, rel_tol=0, abs_tol=_ROUNDING):
        yield Violation("budget.reached", budget.reached, f"{expected}, which is student / teacher")
    if budget.met != (budget.reached <= budget.target):
        yield Violation("budget.met", budget.met, f"{not budget.met} for {budget.reached} of {budget.target}")


def _share(kind: str, student: Cost, teacher: Cost) -> float:
    total: int = getattr(teacher, kind)
    return getattr(student, kind) / total if total else nan
