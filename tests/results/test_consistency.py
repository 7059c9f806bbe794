"""Contradictions within a record; its recipe is taken as it is written."""

import pytest

from benchmark.results.consistency import violations
from benchmark.results.record import Record
from benchmark.utils.recipe_hash import recipe_hash

PERFECT = {"mAP": 0.8, "mINP": 0.5, "queries": 5, "skipped": 0, "recall": {"1": 0.6, "5": 1.0, "10": 1.0}}


def wrong(record):
    """The violations by field."""
    return {each.field: str(each) for each in violations(record)}


@pytest.mark.parametrize("method", ["kd", "cdd", "csd", "none"])
def test_committed_records_are_consistent(committed, method):
    assert wrong(committed(method)) == {}


def test_first_records_lack_only_their_scores_per_query(first_record):
    found = wrong(first_record)
    assert found.keys() == {"scores.average_precision"}
    assert "is missing, expected one value per query, whose mean is the mAP" in found["scores.average_precision"]


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"recipe.train.optimizer.lr": 0.5}, {"recipe_hash"}),
        ({"dataset": "veri776"}, {"dataset"}),
        ({"method": "rkd"}, {"method"}),
        ({"seed": 7}, {"seed"}),
        ({"network.cost.flops": 13643776}, {"network.cost.flops"}),
        ({"teacher.cost.macs": 0}, {"teacher.cost.flops", "saved.macs"}),
        ({"teacher": None}, {"teacher"}),
        ({"saved": None}, {"saved"}),
        ({"saved.macs": 0.6}, {"saved.macs"}),
        ({"data.splits": {}}, {"data.splits.train", "data.splits.query", "data.splits.gallery"}),
        ({"data.splits.query.images": 500}, {"scores.symmetric.queries", "teacher.scores.queries"}),
        ({"data.protocol.recall_at": [1, 5, 20]}, {"scores.symmetric.recall.20", "teacher.scores.recall.20"}),
        ({"data.protocol.recall_at": None}, {"data.protocol.recall_at"}),
        ({"scores.asymmetric_reason": None}, {"scores.asymmetric_reason"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_finds_an_edit(committed, edit, changes, fields):
    assert wrong(edit(committed("kd"), changes)).keys() == fields


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"embedding": "float16"}, "embedding", "embedding is float16, expected float32, as in the recipe"),
        ({"bytes_per_image": 128}, "bytes_per_image", "bytes_per_image is 128, expected 768, the size of float32"),
    ],
)
def test_finds_another_format_of_embeddings(committed, edit, changes, field, message):
    assert wrong(edit(committed("kd"), changes)) == {field: message}


def test_fixed_views_follow_from_the_recipe(committed, edit):
    record = committed("kd")
    images = record.data.splits["train"].images
    outputs = {"views": 2, "forward_passes": 2 * images, "bytes": 10, "seconds": 1.5}
    assert wrong(edit(record, {"teacher_outputs": outputs})).keys() == {"teacher_outputs.views"}
    fixed = edit(record, {"teacher_outputs": outputs, "recipe.teacher.cached_views": 2})
    fixed = fixed.model_copy(update={"recipe_hash": (digest := recipe_hash(fixed.recipe))})
    fixed = fixed.model_copy(update={"id": Record.make_id(digest, "student")})
    assert wrong(fixed) == {}
    assert fixed.recipe_hash != record.recipe_hash
    message = f"teacher_outputs.forward_passes is 7, expected {2 * images}, one for every view"
    assert wrong(edit(fixed, {"teacher_outputs.forward_passes": 7})) == {"teacher_outputs.forward_passes": message}
    assert wrong(edit(fixed, {"teacher_outputs": None})).keys() == {"teacher_outputs.views"}
    assert edit(fixed, {"teacher_outputs.seconds": 3.0}).fingerprint() == fixed.fingerprint(), "times are not compared"


def test_format_of_embeddings_follows_from_the_recipe(committed, edit, stored):
    record = stored(committed("kd"), "pq:32x8")
    assert wrong(record) == {} and record.gallery_bytes == 32
    assert wrong(edit(record, {"bytes_per_image": 64})).keys() == {"bytes_per_image"}
    assert wrong(edit(record, {"network.embedding": 100})).keys() == {"embedding"}
    assert wrong(stored(record, "pq:32x8").model_copy(update={"embedding": "pq"})).keys() == {"embedding"}


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"recall.5": 0.0}, {"recall.5", "precision.5"}),
        ({"recall.1": 1.0, "recall.5": 1646 / 1647, "precision.1": 1.0}, {"recall.5"}),
        ({"recall.1": 1615.5 / 1647}, {"recall.1", "precision.1"}),
        ({"precision.1": 0.0}, {"precision.1"}),
        ({"precision.10": 0.0}, {"precision.10"}),
        ({"precision.5": 1.0}, {"precision.5"}),
        ({"mAP_at_R": 0.85}, {"mAP_at_R"}),  # more than R-precision
        ({"mAP": 0.5}, {"mAP_at_R"}),
        ({"mAP": 0.1, "mAP_at_R": 0.1}, {"mINP"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_finds_scores_that_no_ranking_has(committed, edit, changes, fields):
    without = {"scores.average_precision": None}  # the schema itself compares their mean with the mAP
    record = edit(committed("kd"), without | {f"scores.symmetric.{key}": value for key, value in changes.items()})
    assert wrong(record).keys() - without.keys() == {f"scores.symmetric.{field}" for field in fields}


@pytest.mark.parametrize("place", ["scores.asymmetric", "teacher.scores"])
def test_checks_scores_of_teacher_and_asymmetric_scores(record, edit, place):
    assert f"{place}.recall.5" in wrong(edit(record(asymmetric=0.6), {f"{place}.recall.5": 0.1}))


def test_scores_and_a_reason_against_them_exclude_each_other(record, edit):
    found = wrong(edit(record(asymmetric=0.6), {"scores.asymmetric_reason": "none"}))
    assert "expected no reason, as there are asymmetric scores" in found["scores.asymmetric_reason"]


def test_query_with_an_average_precision_of_1_counts_in_recall_at_1(record, edit):
    perfect = {f"scores.symmetric.{name}": value for name, value in PERFECT.items()}
    consistent = edit(record(), perfect | {"scores.average_precision": [1.0, 1.0, 1.0, 0.5, 0.5]})
    assert "scores.symmetric.recall.1" not in wrong(consistent)
    found = wrong(edit(consistent, {"scores.symmetric.recall.1": 0.4}))
    expected = "at least 0.6, the fraction of queries with an average precision of 1"
    assert expected in found["scores.symmetric.recall.1"]


@pytest.mark.parametrize(("queries", "broken", "right"), [(1647, 0, True), (1645, 2, True), (1644, 2, False)])
def test_broken_images_are_not_queries(committed, edit, queries, broken, right):
    changes = {"scores.average_precision": None, "scores.symmetric.queries": queries, "data.broken": broken}
    assert ("scores.symmetric.queries" not in wrong(edit(committed("kd"), changes))) == right


def test_finds_scores_of_no_query(record, edit):
    found = wrong(edit(record(), {"scores.symmetric.skipped": 1500}))
    assert "fewer than the 1500 queries" in found["scores.symmetric.skipped"]


@pytest.mark.parametrize("kind", ["parameters", "macs"])
def test_savings_do_not_exceed_their_ceiling(committed, edit, kind):
    record = committed("cdd")
    saved = getattr(record.saved, kind)
    assert wrong(edit(record, {f"saved.ceiling_{kind}": saved})) == {}
    assert wrong(edit(record, {f"saved.ceiling_{kind}": saved - 1e-6})).keys() == {f"saved.ceiling_{kind}"}


def test_resetting_saves_no_more_than_the_architecture_allows(committed, edit):
    record = committed("cdd")
    ceiling = record.saved.ceiling_macs
    assert wrong(edit(record, {"saved.reset_ceiling_macs": ceiling})) == {}
    key = "saved.reset_ceiling_macs"
    assert wrong(edit(record, {key: ceiling + 1e-6})).keys() == {key}


@pytest.mark.parametrize("changes", [{"budget.reached": 0.4}, {"budget.met": False}])
def test_budget_follows_from_the_costs(committed, edit, changes):
    assert wrong(edit(committed("cdd"), changes)).keys() == changes.keys()


def test_teacher_has_no_teacher(committed, edit):
    teacher = committed("kd").model_dump(mode="json")["teacher"]
    found = wrong(edit(committed("none", role="teacher"), {"teacher": teacher}))
    assert found["teacher"] == "teacher is set, expected no value in the record of a teacher"
