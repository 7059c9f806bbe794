"""The leaderboards as CSV and JSON, and the same numbers in the web page."""

import csv
import io
import json
import re

import pytest

from benchmark.results.leaderboard import generate
from benchmark.results.record import Record
from benchmark.results.step_costs import StepCosts
from benchmark.results.store import add_record

QUERIES = 1500
SKIPPED = 3


@pytest.fixture
def judged(record):
    """`judged("kd", 0.6)`: a record with the average precision of every query, each this."""

    def make(method: str, mAP: float, **options) -> Record:
        content = record(method, mAP=mAP, **options).model_dump(mode="json")
        content["scores"]["average_precision"] = [None] * SKIPPED + [mAP] * (QUERIES - SKIPPED)
        return Record.model_validate(content)

    return make


@pytest.fixture
def folder(record, judged, tmp_path):
    """Glyphs with three seeds of kd, and veri776 with another K of Recall@K; a step of kd on glyphs is measured."""
    other = record("kd", dataset="veri776", seed=4, mAP=0.5).model_dump(mode="json")
    other["scores"]["symmetric"]["recall"] = {"1": 0.6, "100": 0.9}
    records = [
        judged("none", 0.75, role="teacher", macs=60e6),
        judged("none", 0.6),
        *(judged("kd", 0.61 + seed / 100, seed=seed, asymmetric=0.5) for seed in range(3)),
        record("pkt", mAP=0.55),
        Record.model_validate(other),
    ]
    for each in records:
        add_record(each, tmp_path / "records")
    (tmp_path / "steps").mkdir()
    facts = {"device": "cpu", "threads": 1, "torch": "2.9.0", "batch": 96, "rounds": 9}
    StepCosts(dataset="glyphs", ratios={"none": 1.0, "kd": 1.5}, **facts).write(tmp_path / "steps" / "glyphs.json")
    generate(tmp_path)
    return tmp_path


@pytest.fixture
def lines(folder):
    """The lines of the CSV, by board and method."""
    text = (folder / "leaderboard.csv").read_text()
    return {(line["board"], line["method"]): line for line in csv.DictReader(io.StringIO(text))}


@pytest.fixture
def content(folder):
    return json.loads((folder / "leaderboard.json").read_text())


@pytest.fixture
def rows(content):
    """The rows of the JSON's glyphs, by method."""
    return {row["method"]: row for row in content["boards"]["glyphs"]["rows"]}


def test_csv_has_a_line_per_row_in_the_order_of_the_pages(lines):
    assert list(lines) == [("glyphs", name) for name in ("teacher", "none", "kd", "pkt")] + [("veri776", "kd")]


def test_csv_has_plain_numbers(lines):
    line = lines["glyphs", "kd"]
    expected = {
        "teacher": "resnet26 64-128-256",
        "network": "resnet26 32-64-128",
        "latency_device": "cpu, 2 threads",
        "seed_count": "3",
        "seeds": "0 1 2",
        "mAP_fraction_mean": "0.62",
        "mAP_fraction_std": "0.01",
        "recall_at_1_fraction_mean": "0.72",
        "asymmetric_mAP_fraction_mean": "0.5",
        "parameters_count_mean": "1100000",
        "macs_count_mean": "22000000",
        "macs_count_std": "0",
        "flops_count_mean": "44000000",
        "saved_parameters_fraction_mean": "0.633333",
        "latency_batch_64_ms_mean": "110",
        "training_step_multiple_of_none_mean": "1.5",
        "mAP_gain_over_none_fraction_mean": "0.02",
        "mAP_gain_over_none_fraction_low": "0.02",
        "mAP_gain_over_teacher_fraction_high": "-0.13",
        "mean_rank": "1.0",
        "equal_cost_group": "1",
    }
    assert {name: line[name] for name in expected} == expected


def test_csv_leaves_empty_what_is_not_known(lines):
    teacher = lines["glyphs", "teacher"]
    assert teacher["teacher"] == teacher["saved_macs_fraction_mean"] == teacher["mAP_fraction_std"] == ""
    assert teacher["training_step_multiple_of_none_mean"] == teacher["mAP_gain_over_teacher_fraction_mean"] == ""
    other = lines["veri776", "kd"]
    assert other["recall_at_100_fraction_mean"] == "0.9" and other["recall_at_5_fraction_mean"] == ""
    assert lines["glyphs", "kd"]["recall_at_100_fraction_mean"] == ""
    assert lines["glyphs", "pkt"]["training_step_multiple_of_none_mean"] == ""


def test_csv_quotes_names_with_commas(record, tmp_path):
    content = record("kd").model_dump(mode="json")
    content["network"]["name"] = 'resnet "a", b'
    add_record(Record.model_validate(content), tmp_path / "records")
    generate(tmp_path)
    (line,) = csv.DictReader(io.StringIO((tmp_path / "leaderboard.csv").read_text()))
    assert line["network"] == 'resnet "a", b'


def test_json_names_the_unit_of_every_figure(content):
    assert content["units"]["mAP"] == "fraction" and content["units"]["latency_batch_1"] == "ms"
    for board in content["boards"].values():
        for row in board["rows"]:
            assert row["figures"].keys() <= content["units"].keys()


def test_json_rows(rows):
    row = rows["kd"]
    assert row["teacher"] == "resnet26 64-128-256" and row["networks"] == ["resnet26 32-64-128"]
    assert row["seeds"] == [0, 1, 2] and row["devices"] == ["cpu, 2 threads"]
    assert row["figures"]["mAP"] == {"mean": 0.62, "std": 0.01}
    assert row["figures"]["macs"] == {"mean": 22000000, "std": 0}
    assert row["figures"]["training_step"] == {"mean": 1.5, "std": None}
    assert rows["teacher"]["teacher"] is None and rows["teacher"]["figures"]["saved_macs"] is None


def test_json_leads_to_the_records(folder, content):
    named = [name for board in content["boards"].values() for row in board["rows"] for name in row["records"]]
    assert sorted(folder / name for name in named) == sorted((folder / "records").glob("*.json"))


def test_json_says_how_steps_were_measured(content):
    measured = {"device": "cpu", "threads": 1, "torch": "2.9.0", "batch": 96, "rounds": 9}
    assert content["boards"]["glyphs"]["training_step"] == measured
    assert content["boards"]["veri776"]["training_step"] is None


def test_gains_and_their_intervals_where_known(rows):
    gains = {method: row["mAP_gain_over"] for method, row in rows.items()}
    assert gains["kd"]["none"] == {"mean": 0.02, "low": 0.02, "high": 0.02}
    assert gains["kd"]["teacher"] == {"mean": -0.13, "low": -0.13, "high": -0.13}
    assert gains["none"]["none"] is None and gains["teacher"]["teacher"] is None
    assert gains["pkt"]["none"] == {"mean": -0.05, "low": None, "high": None}


def test_rows_that_cost_as_much_are_compared_to_the_best_of_them(rows, content):
    assert {method: row["equal_cost_group"] for method, row in rows.items()} == {
        **dict.fromkeys(("kd", "none", "pkt"), 1),
        "teacher": None,
    }
    gains = {method: row["mAP_gain_over"]["best_at_equal_cost"] for method, row in rows.items()}
    assert gains["none"] == {"mean": -0.02, "low": -0.02, "high": -0.02}
    assert gains["pkt"] == {"mean": -0.07, "low": None, "high": None}
    assert gains["kd"] is gains["teacher"] is None
    assert content["boards"]["veri776"]["rows"][0]["equal_cost_group"] is None


def test_json_has_the_mean_ranks(content):
    assert content["mean_rank"] == {"kd": 1.0}  # the only method on both


def test_published_figures_are_apart_in_json_and_on_the_web_page(folder):
    (folder / "reported").mkdir()
    (folder / "reported" / "cub200.yaml").write_text(
        "dataset: cub200\n"
        "results: [{method: theirs, teacher: null, student: small, figures: {mAP: 61}, protocol: own, source: one}]\n"
    )
    generate(folder)
    content = json.loads((folder / "leaderboard.json").read_text())
    assert content["reported_elsewhere"]["cub200"][0]["figures"] == {"mAP": 61.0}
    assert "theirs" not in json.dumps(content["boards"])
    page = (folder / "leaderboard.html").read_text()
    measured, published = page.split('<section id="cub200-reported"')
    assert "theirs" not in measured
    assert "None of these figures was measured here" in published and '<tr data-method="theirs">' in published


def test_no_gain_over_a_row_that_saw_other_data(record, folder):
    data = record().model_dump(mode="json")["data"] | {"fingerprint": "0" * 64}
    add_record(record("rkd", data=data), folder / "records")
    generate(folder)
    boards = json.loads((folder / "leaderboard.json").read_text())["boards"]
    (row,) = [row for row in boards["glyphs"]["rows"] if row["method"] == "rkd"]
    assert row["mAP_gain_over"] == {"none": None, "teacher": None, "best_at_equal_cost": None}


def test_no_asymmetric_score_against_a_reason(record, tmp_path):
    """The first versions scored methods to which it says nothing."""
    scores = record(asymmetric=0.5).model_dump(mode="json")["scores"] | {"asymmetric_reason": "cdd says nothing"}
    add_record(record(scores=scores), tmp_path / "records")
    generate(tmp_path)
    (row,) = json.loads((tmp_path / "leaderboard.json").read_text())["boards"]["glyphs"]["rows"]
    assert row["figures"]["asymmetric_mAP"] is None


def test_the_web_page_sorts_columns_by_these_numbers(folder):
    page = (folder / "leaderboard.html").read_text()
    section = page.partition('id="glyphs"')[2].partition("</section>")[0]
    heads = re.findall(r'<th scope="col"( class="number")?><button type="button">(.*?)</button>', section)
    assert [name for number, name in heads if not number] == ["method", "teacher", "student", "seeds"]
    assert "mAP against <code>none</code>" in dict(map(reversed, heads))
    (kd,) = re.findall(r'<tr data-method="kd">(.*?)</tr>', section)
    values = re.findall(r'data-value="(.*?)"', kd)
    assert values[:3] == ["0.62", "0.02", "-0.13"] and values[-1] == "1.5"


def test_the_web_page_has_the_table_across_datasets_and_those_of_equal_cost(folder):
    page = (folder / "leaderboard.html").read_text()
    sections = dict(re.findall(r'<section id="([^"]*)"(.*?)</section>', page, flags=re.DOTALL))
    assert list(sections) == ["all-datasets", "glyphs", "glyphs-at-equal-cost", "veri776"]
    (kd,) = re.findall(r'<tr data-method="kd">(.*?)</tr>', sections["all-datasets"])
    assert re.findall(r'data-value="(.*?)"', kd) == ["0.62", "0.5", "1"]
    (none,) = re.findall(r'<tr data-method="none">(.*?)</tr>', sections["glyphs-at-equal-cost"])
    assert re.findall(r'data-value="(.*?)"', none) == ["0.6", "-0.02", "22000000", "1100000"]
    assert re.findall(r'href="#([^"]*)"', page) == list(sections)
