import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError

from benchmark.errors import UserError
from benchmark.results.fields import PerQuery
from benchmark.results.record import Record


@pytest.fixture
def path(record, tmp_path):
    """The file of a valid record."""
    path = tmp_path / "record.json"
    record().write(path)
    return path


def rewrite(path, key, value):
    """Replace the value at a dotted key of a JSON file."""
    content = json.loads(path.read_text())
    *parents, last = key.split(".")
    parent = content
    for name in parents:
        parent = parent[name]
    parent[last] = value
    path.write_text(json.dumps(content))


def test_round_trip(record, with_queries, tmp_path):
    for original in (record(), record("none", role="teacher"), record(asymmetric=0.6), with_queries(record())):
        original.write(tmp_path / "record.json")
        assert Record.read(tmp_path / "record.json") == original


def test_file_is_sorted_and_stable(record, tmp_path):
    record().write(tmp_path / "a.json")
    Record.read(tmp_path / "a.json").write(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    content = json.loads((tmp_path / "a.json").read_text())
    assert list(content) == sorted(content)
    assert content["schema_version"] == 1


def test_file_has_lists_of_numbers_on_one_line(record, with_queries, tmp_path):
    with_queries(record()).write(tmp_path / "record.json")
    assert len((tmp_path / "record.json").read_text().splitlines()) < 200


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("surprise", 1, "surprise: "),
        ("scores.symmetric.mAP", 72.0, "scores.symmetric.mAP: should be less than or equal to 1, not 72.0"),
        ("id", "0" * 12, "record: id '000000000000' does not belong to this recipe_hash"),
        *(
            (field, {key: 0.5}, f"{field}.{key if len(key) < 9 else key[:9]}")
            for field in ("scores.symmetric.recall", "teacher.scores.precision", "network.cost.latency_ms")
            for key in ("one", "0", "01", "-1", "1.0", "\u0661", "1" * 400)
        ),
    ],
)
def test_rejects_a_wrong_field(path, key, value, message):
    rewrite(path, key, value)
    with pytest.raises(UserError, match=re.escape(f"record.json: {message}")):
        Record.read(path)


SCRIPT = "<script>alert(1)</script>\n\n# INJECTED\x1b[31m"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("environment.device", SCRIPT, "must be one line of text without control characters"),
        ("environment.device", "x" * 1000, "should have at most 300 characters"),
        ("network.name", "\u202eabc", "must be one line of text"),
        ("commit", ["a"], "should be a valid string"),
        ("network.cost.macs", 10**400, "not a record: a number of 401 digits"),
        ("network.cost.macs", 10**16, "should be less than or equal to 1000000000"),
        ("network.cost.parameters", -1, "should be greater than or equal to 0"),
        ("network.cost.flops", 2.0, "should be a valid integer"),
        ("data.broken", True, "should be a valid integer"),
        ("scores.symmetric.queries", "1500", "should be a valid integer"),
        ("scores.symmetric.mAP", True, "should be a valid number"),
        ("scores.symmetric.recall", {str(k): 1.0 for k in range(1, 200)}, "should have at most 100 items"),
        ("network.cost.image_size", [60_000, 60_000], "should be less than or equal to 10000"),
        ("network.cost.image_size", [64, 64, 64], "should have at most 2 items"),
        ("network.cost.latency_ms", {"1": 1e308}, "should be less than or equal to 1000000000"),
        ("network.cost.latency_ms", {"1": 1e999}, "not a record: Infinity is not a number of JSON"),
        ("saved.macs", float("nan"), "not a record: NaN is not a number of JSON"),
        ("created", "9999-99-99T00:00:00Z", "must be a date and time that exist"),
        ("created", "9999-01-01T00:00:00Z", "must be a time between 1970 and 2199"),
        ("seed", -1, "should be greater than or equal to 0"),
        ("seed", 2**32, "should be less than 4294967296"),
        ("dataset", "README", "README is the name of another page"),
        ("dataset", "index", "index is the name of another page"),
        ("dataset", "con", "con is the name of a device on Windows"),
        ("dataset", "..", "must be a name of letters"),
        ("dataset", "a/b", "must be a name of letters"),
        ("dataset", "glyphs\u200d", "must be a name of letters"),
        ("dataset", "\uff47lyphs", "must be a name of letters"),
        ("dataset", "x" * 200, "must be a name of at most 80 bytes"),
        ("method", "teacher", "teacher is how tables call teachers"),
        ("method", "kd`", "must be a name of letters"),
        ("recipe.method", {"name": SCRIPT}, "method.name: must be one line of text"),
        ("recipe.method", {SCRIPT: 1}, "method: the key "),
        ("variant", {"dataset.split": SCRIPT}, "dataset.split: must be one line of text"),
        ("data.splits", {SCRIPT: {"images": 1, "identities": 1, "cameras": 1}}, "must be one line of text"),
        ("recipe_hash", "f" * 63, "should match pattern"),
    ],
    ids=lambda value: "" if isinstance(value, dict | int) else str(value)[:20],
)
def test_names_the_field_the_value_and_the_bound(path, key, value, message):
    rewrite(path, key, value)
    with pytest.raises(UserError) as refusal:
        Record.read(path)
    text = str(refusal.value)
    assert text.startswith(f"{path}: ") and message in text
    assert text.isprintable() and len(text) < 500


def test_order_of_settings_does_not_change_the_board(record, edit):
    """The file of a record has its keys in order, and has to keep the name that the run gave it."""
    expansions = ({"k": 3, "alpha": 0.0}, {"alpha": 0.0, "k": 3})
    assert len({edit(record(), {"variant": {"evaluate.expansion": each}}).board for each in expansions}) == 1


def test_long_names_of_boards_are_cut(record, edit):
    variants = [{"dataset.split": "x" * 300, "dataset.other": number} for number in range(2)]
    boards = {edit(record(), {"variant": variant}).board for variant in variants}
    assert len(boards) == 2 and max(map(len, boards)) <= 120


def test_per_query_scores_are_compact_and_exact():
    values = [0.12345, None, 1.0, 0]
    scores = PerQuery(values)
    assert scores.tolist() == values and list(scores) == values and len(scores) == 4
    assert scores[1:] == PerQuery(values[1:]) != PerQuery(values)
    for wrong in ([float("nan")], [True], ["0.5"], [[0.5]], [-0.1]):
        with pytest.raises(ValueError):
            PerQuery(wrong)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5, 0.7], "average_precision covers 2 queries, 0 of them skipped; expected 3 and 1, as in symmetric"),
        ([0.5, 0.6, 0.7], "average_precision covers 3 queries, 0 of them skipped"),
        ([None, 0.5, 0.9], "the mean of average_precision is not the mAP"),
        ([None, 0.5, 1.5], "every value must be a number from 0 to 1, or null"),
    ],
)
def test_rejects_average_precisions_that_contradict_the_scores(record, with_queries, tmp_path, values, message):
    with_queries(record(), [None, 0.5, 0.7]).write(tmp_path / "record.json")
    rewrite(tmp_path / "record.json", "scores.average_precision", values)
    with pytest.raises(UserError, match=message):
        Record.read(tmp_path / "record.json")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (2, "schema_version 2 is newer than 1, which this release reads; update the package"),
        (0, "schema_version 0 is older than 1, which this release reads; run its recipe again"),
        (None, "not a record: the field schema_version is missing"),
        ("1", "not a record: schema_version must be an integer, not '1'"),
        (1.0, "not a record: schema_version must be an integer, not 1.0"),
        (True, "not a record: schema_version must be an integer, not True"),
    ],
)
def test_rejects_another_schema_version(path, version, message):
    rewrite(path, "schema_version", version)
    with pytest.raises(UserError) as refusal:
        Record.read(path)
    assert str(refusal.value) == f"{path}: {message}"


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"\xff\xfe", b'{"id": "\\ud800"}', b"[" * 100_000])
def test_rejects_other_files(path, content):
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"record\.json: not a record"):
        Record.read(path)


def test_rejects_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot read the record: No such file"):
        Record.read(tmp_path / "absent.json")


def test_rejects_nan_and_names_with_separators(record):
    with pytest.raises(ValidationError):
        record(mAP=float("nan"))
    with pytest.raises(ValidationError):
        record("../cdd")


def test_rejects_pooled_queries_of_earlier_versions(record, edit):
    protocol = record().data.protocol
    assert edit(record(), {"data.protocol.multi_query": False}).data.protocol == protocol
    with pytest.raises(ValidationError, match=r"protocol\.multi_query: pooled queries are not supported"):
        edit(record(), {"data.protocol.multi_query": True})


@pytest.mark.parametrize(
    ("earlier", "current"),
    [
        (
            "kd leaves the student's embeddings apart from the teacher's",
            "the method does not align the embedding spaces of student and teacher",
        ),
        ("it is the teacher", "only students are scored on the teacher's gallery"),
        ("embeddings differ in size: 8 and 16", "embeddings differ in size: 8 and 16"),
    ],
)
def test_reasons_have_their_current_wording(record, edit, earlier, current):
    assert edit(record(), {"scores.asymmetric_reason": earlier}).scores.asymmetric_reason == current


def test_fingerprint_ignores_time_and_machine(record):
    original = record()
    content = original.model_dump()
    content["created"] = "2031-01-01T00:00:00Z"
    content["commit"] = "abc"
    content["timing"]["train_seconds"] = 1.0
    content["environment"]["platform"] = "elsewhere"
    for cost in (content["network"]["cost"], content["teacher"]["cost"]):
        cost |= {"latency_ms": {"1": 9.0}, "peak_memory_mb": 1.0, "device": "cuda", "threads": 8}
    assert Record.model_validate(content).fingerprint() == original.fingerprint()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scores.symmetric.mAP", 0.5),
        ("teacher.scores.mAP", 0.5),
        ("network.cost.macs", 12345),
        ("teacher.cost.parameters", 12345),
        ("deploy.max_abs_difference", 0.5),
        ("recipe.seed", 12345),
    ],
)
def test_fingerprint_covers_deterministic_fields(record, edit, key, value):
    assert edit(record(), {key: value}).fingerprint() != record().fingerprint()


def test_fingerprint_covers_the_role(record):
    assert record("none", role="teacher").fingerprint() != record("none").fingerprint()


def test_concurrent_writes_leave_a_complete_file(record, tmp_path):
    path = tmp_path / "record.json"
    records = [record(seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: each.write(path), records * 5))
    assert Record.read(path) in records
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]
