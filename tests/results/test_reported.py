"""Made-up published figures."""

from pathlib import Path

import pytest

from benchmark.errors import UserError
from benchmark.results.leaderboard import differing, generate
from benchmark.results.reported import load_reported
from benchmark.results.store import add_record

FILE = """
dataset: glyphs
results:
  - &first
    method: kd
    teacher: a|b
    student: small
    figures: {mAP: 61.5, R@1: 70}
    protocol: theirs
    source: a paper, Table 3
  - {<<: *first, method: alone, teacher: null, figures: {gain: -0.17}, caveats: read in the abstract}
"""


@pytest.fixture
def folder(record, tmp_path) -> Path:
    """Measured: glyphs and veri776. Published: glyphs, and glyphs-closed, of which nothing was measured."""
    for dataset in ("glyphs", "veri776"):
        add_record(record(dataset=dataset), tmp_path / "records")
    (tmp_path / "reported").mkdir()
    for name in ("glyphs", "glyphs-closed"):
        (tmp_path / "reported" / f"{name}.yaml").write_text(FILE)
    return tmp_path


def tables(page: str) -> list[list[list[str]]]:
    """The cells of every table, headers left out."""
    blocks = [block.splitlines()[2:] for block in page.split("\n\n") if block.startswith("|")]
    return [[[cell.strip() for cell in line[1:-1].split(" | ")] for line in block] for block in blocks]


ROWS = [
    ["kd", r"a\|b", "small", "mAP: 61.5<br>R@1: 70.0", "theirs", "a paper, Table 3", "-"],
    ["alone", "-", "small", "gain: -0.17", "theirs", "a paper, Table 3", "read in the abstract"],
]


def test_published_figures_stand_apart_from_measured_ones(folder):
    generate(folder)
    page = (folder / "glyphs.md").read_text()
    measured, published = page.split("## Reported elsewhere")
    assert "a paper" not in measured
    assert "None of these figures was measured here, and none is comparable" in published
    assert tables(published) == [ROWS]
    assert "Reported elsewhere" not in (folder / "veri776.md").read_text()


def test_one_page_holds_all_and_the_index_leads_there(folder):
    assert folder / "reported.md" in generate(folder)
    page = (folder / "reported.md").read_text()
    assert tables(page) == [ROWS, ROWS]
    assert page.count("was measured here, and none is comparable") == 2
    assert [line for line in page.splitlines() if line.startswith("## ")] == ["## glyphs", "## glyphs-closed"]
    assert page.count("](glyphs.md)") == 1
    assert "](glyphs-closed.md)" not in page  # there is no such page
    index = (folder / "README.md").read_text()
    assert "[Reported elsewhere](reported.md)" in index
    assert "61.5" not in index


def test_pages_are_checked_against_the_figures(folder):
    generate(folder)
    assert differing(folder) == []
    (folder / "reported" / "glyphs.yaml").write_text(FILE.replace("61.5", "61.6"))
    assert {path.name for path in differing(folder)} == {
        *("glyphs.md", "reported.md", "leaderboard.json", "leaderboard.html")
    }
    (folder / "reported.md").unlink()
    generate(folder)
    assert differing(folder) == []


def test_no_page_without_figures(record, tmp_path):
    add_record(record(), tmp_path / "records")
    generate(tmp_path)
    assert not (tmp_path / "reported.md").exists()
    assert "reported.md" not in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("    source: a paper, Table 3\n", ""), "results.0.source: Field required"),
        (("    protocol: theirs\n", ""), "results.0.protocol: Field required"),
        (("protocol: theirs", "protocol: ''"), "results.0.protocol: String should have at least 1 character"),
        (("source: a", "sourse: a"), "unknown key 'results.0.sourse'; did you mean 'source'?"),
        (("dataset: ", "datasets: "), "unknown key 'datasets'; did you mean 'dataset'?"),
        (("61.5", "sixty"), "results.0.figures.mAP: Input should be a valid number"),
        (("61.5", ".nan"), "results.0.figures.mAP: Input should be a finite number"),
        (("{mAP: 61.5, R@1: 70}", "{}"), "results.0.figures: Dictionary should have at least 1 item"),
        (("dataset: glyphs", "dataset: gly"), "dataset: 'gly' is not that of the file's name"),
    ],
)
def test_a_wrong_file_names_itself_and_the_key(folder, change, problem):
    generate(folder)
    before = (folder / "glyphs.md").read_bytes()
    path = folder / "reported" / "glyphs.yaml"
    path.write_text(FILE.replace(*change))
    with pytest.raises(UserError) as refusal:
        generate(folder)
    assert f"{path}: {problem}" in str(refusal.value)
    assert (folder / "glyphs.md").read_bytes() == before


def test_a_file_that_is_no_mapping(folder):
    (folder / "reported" / "glyphs.yaml").write_text("- 1")
    with pytest.raises(UserError, match=r"reported figures .*glyphs\.yaml must be a mapping"):
        load_reported(folder / "reported")
