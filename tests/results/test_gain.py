import numpy as np
import pytest

from benchmark.errors import UserError
from benchmark.results.comparison import Gain
from benchmark.results.leaderboard import generate
from benchmark.results.record import Record
from benchmark.results.rows import summarise
from benchmark.results.store import add_record

QUERIES = 1500
SKIPPED = 3


@pytest.fixture
def judged(record):
    """`judged("kd", 0.6, seed=1)`: a record with the average precision of every query, about this mean."""

    def make(method: str, mean: float, seed: int = 0, role: str = "student") -> Record:
        generator = np.random.default_rng(seed)
        values = [round(float(value), 5) for value in generator.uniform(mean - 0.1, mean + 0.1, QUERIES - SKIPPED)]
        made = record(method, role=role, seed=seed, mAP=float(np.mean(values)))
        content = made.model_dump(mode="json")
        content["scores"]["average_precision"] = [None] * SKIPPED + values
        return Record.model_validate(content)

    return make


def test_a_gain_is_the_mean_difference_over_queries_and_seeds(judged):
    records = [judged("kd", 0.62, seed) for seed in range(3)] + [judged("none", 0.6, seed + 5) for seed in range(2)]
    none, kd = summarise(records)
    gain = Gain.of(kd, none)
    assert gain.mean == pytest.approx(kd.mAP.mean - none.mAP.mean, abs=1e-9)
    assert gain.interval.low < gain.mean < gain.interval.high
    ours, theirs = (
        np.mean([record.scores.average_precision[SKIPPED:] for record in row.records], axis=0) for row in (kd, none)
    )
    error = (ours - theirs).std() / np.sqrt(QUERIES - SKIPPED)
    assert gain.interval.high - gain.interval.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_no_gain_where_queries_are_not_known_or_not_the_same(judged, record):
    none, kd = summarise([judged("none", 0.6), judged("kd", 0.6)])
    assert Gain.of(none, none) is None
    (without,) = summarise([record("rkd")])
    assert Gain.of(without, none) is None and Gain.of(kd, without) is None
    content = judged("kd", 0.6).model_dump(mode="json")
    content["data"]["fingerprint"] = "0" * 64
    (other,) = summarise([Record.model_validate(content)])
    assert Gain.of(other, none) is None


def test_the_page_shows_gains_and_marks_what_may_be_chance(judged, tmp_path):
    records = [
        judged("none", 0.6),
        judged("kd", 0.7, 1),
        judged("rkd", 0.6, 2),
        judged("none", 0.75, role="teacher"),
    ]
    for each in records:
        add_record(each, tmp_path / "records")
    generate(tmp_path)
    page = (tmp_path / "glyphs.md").read_text()
    table = next(part for part in page.split("\n\n") if part.startswith("|")).splitlines()
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in table}
    assert [cell.strip() for cell in lines["method"][4:6]] == ["mAP against `none`", "mAP against teacher"]
    assert lines["`kd`"][4].strip().startswith("+9.9 [+9.") and lines["`kd`"][5].strip().startswith("-")
    assert lines["`rkd`"][4].strip().startswith("≈ ")
    assert lines["`none`"][4].strip() == "-" and lines["teacher"][5].strip() == "-"
    assert "paired bootstrap over the queries" in page


def test_records_without_the_scores_of_queries_make_no_columns(record, tmp_path):
    add_record(record("kd"), tmp_path / "records")
    add_record(record("none"), tmp_path / "records")
    generate(tmp_path)
    page = (tmp_path / "glyphs.md").read_text()
    assert "mAP against `" not in page and "bootstrap" not in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values[1:], "is of 1499 queries, 2 of them skipped; the scores say 1500 and 3"),
        (lambda values: [0.5, *values[1:]], "is of 1500 queries, 2 of them skipped"),
        (
            lambda values: [*values[:-1], 1.0 if values[-1] < 0.6 else 0.0],
            "the mean of average_precision is not the mAP",
        ),
        (lambda values: [*values[:-1], 1.5], "less than or equal to 1"),
    ],
)
def test_scores_of_queries_that_do_not_fit_are_refused(judged, tmp_path, change, message):
    made = judged("kd", 0.6)
    made.write(tmp_path / "record.json")
    text = (tmp_path / "record.json").read_text()
    assert len(text.splitlines()) < 200  # all queries in a line
    assert Record.read(tmp_path / "record.json") == made
    import json

    content = json.loads(text)
    content["scores"]["average_precision"] = change(content["scores"]["average_precision"])
    (tmp_path / "record.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        Record.read(tmp_path / "record.json")
