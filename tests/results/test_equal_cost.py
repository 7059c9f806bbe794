import numpy as np

from benchmark.results.equal_cost import cost_groups, equal_cost_grid, equal_cost_section
from benchmark.results.record import Record
from benchmark.results.rows import summarise

QUERIES = 400


def methods(groups):
    return [[row.method for row in group.rows] for group in groups]


def test_students_within_five_percent_of_the_cheapest_are_a_group(record):
    records = [
        record("none", role="teacher", macs=10.1e6),
        record("none", macs=10e6, mAP=0.6),
        record("kd", macs=10.5e6, mAP=0.7),
        record("rkd", macs=10.6e6, mAP=0.9),
        record("pkt", macs=9e6, mAP=0.5),
        record("at", macs=8.9e6, mAP=0.4),
    ]
    assert methods(cost_groups(summarise(records))) == [["pkt", "at"], ["kd", "none"]]


def test_the_cost_of_a_group_does_not_creep(record):
    """Each within 5 % of the next, but not of the first."""
    records = [record(method, macs=macs) for method, macs in (("none", 10e6), ("kd", 10.4e6), ("rkd", 10.8e6))]
    assert methods(cost_groups(summarise(records))) == [["kd", "none"]]


def test_a_table_for_each_group_of_two_or_more(record):
    def judged(method: str, mean: float, seed: int) -> Record:
        values = np.random.default_rng(seed).uniform(mean - 0.1, mean + 0.1, QUERIES).round(5).tolist()
        content = record(method, mAP=float(np.mean(values))).model_dump(mode="json")
        content["scores"]["symmetric"] |= {"queries": QUERIES, "skipped": 0}
        content["scores"]["average_precision"] = values
        return Record.model_validate(content)

    # far behind the best; and as good as it, but for chance
    rows = summarise([judged("none", 0.5, 0), judged("kd", 0.7, 1), judged("rkd", 0.7, 2), record("at", macs=5e6)])
    section = equal_cost_section(cost_groups(rows))
    assert "### 22.0 M MACs" in section and "5.00 M" not in section
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines()[-3:]]
    assert {lines[0][0], lines[1][0]} == {"`kd`", "`rkd`"} and lines[2][0] == "`none`"
    assert lines[0][2] == "best" and lines[1][2].startswith("≈ ") and float(lines[2][2].split()[0]) < -15


def test_no_section_without_equals(record):
    assert equal_cost_section(cost_groups(summarise([record("none", macs=10e6), record("kd", macs=20e6)]))) == ""


def test_in_one_table_rows_name_their_group(record):
    costs = {"none": 10e6, "kd": 10.4e6, "rkd": 20e6, "pkt": 20e6}
    groups = cost_groups(summarise([record(method, macs=macs, mAP=macs / 4e7) for method, macs in costs.items()]))
    grid = equal_cost_grid(groups)
    assert [(cells[0], cells[1]) for cells in grid.cells] == [
        *(("`kd`", "1: 10.0 M to 10.4 M MACs"), ("`none`", "1: 10.0 M to 10.4 M MACs")),
        *(("`pkt`", "2: 20.0 M MACs"), ("`rkd`", "2: 20.0 M MACs")),
    ]
    assert grid.numbers["against the best"] == [0.0, None, 0.0, None]  # no average precisions to compare
    assert "group" not in equal_cost_grid(groups[:1]).headers


def test_rows_of_other_data_are_no_group(record):
    other = record().data.model_dump() | {"broken": 4}
    rows = summarise([record("none"), record("kd"), record("rkd", data=other), record("pkt", data=other)])
    assert sorted(map(sorted, methods(cost_groups(rows)))) == [["kd", "none"], ["pkt", "rkd"]]
