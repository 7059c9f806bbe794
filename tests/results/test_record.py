import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError

from benchmark.errors import UserError
from benchmark.results.record import Record


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip(record, tmp_path):
    for original in (record(), record("none", role="teacher"), record(asymmetric=0.6)):
        original.write(tmp_path / "record.json")
        assert Record.read(tmp_path / "record.json") == original


def test_the_file_is_sorted_and_stable(record, tmp_path):
    record().write(tmp_path / "a.json")
    Record.read(tmp_path / "a.json").write(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    content = json.loads((tmp_path / "a.json").read_text())
    assert list(content) == sorted(content)
    assert content["schema_version"] == 1


def test_unknown_field_names_file_and_field(record, tmp_path):
    path = tmp_path / "record.json"
    record().write(path)
    edit(path, surprise=1)
    with pytest.raises(UserError, match=r"record\.json: surprise: "):
        Record.read(path)


def test_wrong_nested_field_is_named(record, tmp_path):
    path = tmp_path / "record.json"
    record().write(path)
    scores = json.loads(path.read_text())["scores"]
    scores["symmetric"]["mAP"] = 72.0
    edit(path, scores=scores)
    with pytest.raises(UserError, match=r"record\.json: scores\.symmetric\.mAP: .*less than or equal to 1"):
        Record.read(path)


@pytest.mark.parametrize("key", ["one", "0", "01", "-1", "1.0", "\u0661", "1" * 400])
@pytest.mark.parametrize("field", ["scores.symmetric.recall", "teacher.scores.precision", "network.cost.latency_ms"])
def test_a_k_or_batch_size_is_a_whole_number_from_1(record, tmp_path, field, key):
    path = tmp_path / "record.json"
    record().write(path)
    content = json.loads(path.read_text())
    holder = content
    for name in field.split("."):
        holder = holder[name]
    holder[key] = 0.5
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"record\.json: {re.escape(field)}\.{re.escape(key)}\.\[key\]: "):
        Record.read(path)


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (2, "schema_version is 2, newer than the 1 that this release reads: update the package"),
        (0, "schema_version is 0, older than the 1 that this release reads: run its recipe anew"),
        (None, "not a record: schema_version is missing"),
        ("1", "not a record: schema_version must be a whole number, not '1'"),
        (1.0, "not a record: schema_version must be a whole number, not 1.0"),
        (True, "not a record: schema_version must be a whole number, not True"),
    ],
)
def test_another_schema_version_says_what_to_do(record, tmp_path, version, reason):
    path = tmp_path / "record.json"
    record().write(path)
    edit(path, schema_version=version)
    with pytest.raises(UserError) as refusal:
        Record.read(path)
    assert str(refusal.value).startswith(f"{path}: {reason}")


def test_a_record_without_a_schema_version_is_refused(record, tmp_path):
    path = tmp_path / "record.json"
    record().write(path)
    content = json.loads(path.read_text())
    del content["schema_version"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"record\.json: not a record: schema_version is missing"):
        Record.read(path)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b'{"id": "\\ud800"}', b"[" * 100_000])
def test_not_a_record(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(UserError, match=r"record\.json: not a record"):
        Record.read(tmp_path / "record.json")


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot read the record: No such file"):
        Record.read(tmp_path / "absent.json")


def test_foreign_id(record, tmp_path):
    path = tmp_path / "record.json"
    record().write(path)
    edit(path, id="0" * 12)
    with pytest.raises(UserError, match="does not belong to this recipe_hash"):
        Record.read(path)


def test_nan_and_path_like_names_are_refused(record):
    with pytest.raises(ValidationError):
        record(mAP=float("nan"))
    with pytest.raises(ValidationError):
        record("../cdd")


def test_fingerprint_ignores_when_and_where(record):
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
    "field",
    [
        ("scores", "symmetric", "mAP"),
        ("teacher", "scores", "mAP"),
        ("network", "cost", "macs"),
        ("teacher", "cost", "parameters"),
        ("deploy", "max_abs_difference"),
        ("recipe", "seed"),
    ],
)
def test_fingerprint_sees_what_is_deterministic(record, field):
    original = record()
    content = original.model_dump()
    *parents, last = field
    holder = content
    for name in parents:
        holder = holder[name]
    holder[last] = 0.5 if isinstance(holder[last], float) else 12345
    assert Record.model_validate(content).fingerprint() != original.fingerprint()


def test_fingerprint_of_a_teacher(record):
    assert record("none", role="teacher").fingerprint() != record("none").fingerprint()


def test_concurrent_writes_leave_a_whole_file(record, tmp_path):
    path = tmp_path / "record.json"
    records = [record(seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: each.write(path), records * 5))
    assert Record.read(path) in records
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]
