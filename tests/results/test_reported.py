import pytest

from benchmark.errors import UserError
from benchmark.results.reported import load_reported

FILE = """
dataset: glyphs
results:
  - &first
    method: kd
    teacher: big
    student: small
    figures: {mAP: 61.5, R@1: 70}
    protocol: theirs
    source: a paper, Table 3
  - {<<: *first, method: alone, teacher: null, figures: {gain: -0.17}, caveats: read in the abstract}
"""


def test_files_by_leaderboard(tmp_path):
    for name in ("glyphs", "glyphs-closed"):
        (tmp_path / f"{name}.yaml").write_text(FILE)
    reported = load_reported(tmp_path)
    assert list(reported) == ["glyphs", "glyphs-closed"]
    first, second = reported["glyphs"].results
    assert (first.method, first.figures, first.caveats) == ("kd", {"mAP": 61.5, "R@1": 70.0}, None)
    assert (second.teacher, second.source) == (None, "a paper, Table 3")


def test_absent_folder_is_empty(tmp_path):
    assert load_reported(tmp_path / "absent") == {}


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("    source: a paper, Table 3\n", "", "results.0.source: Field required"),
        ("    protocol: theirs\n", "", "results.0.protocol: Field required"),
        ("protocol: theirs", "protocol: ''", "results.0.protocol: String should have at least 1 character"),
        ("source: a", "sourse: a", "unknown key 'results.0.sourse'; did you mean 'source'?"),
        ("dataset: ", "datasets: ", "unknown key 'datasets'; did you mean 'dataset'?"),
        ("61.5", "sixty", "results.0.figures.mAP: Input should be a valid number"),
        ("61.5", ".nan", "results.0.figures.mAP: Input should be a finite number"),
        ("{mAP: 61.5, R@1: 70}", "{}", "results.0.figures: Dictionary should have at least 1 item"),
        ("dataset: glyphs", "dataset: gly", "dataset: 'gly' does not match the name of the file"),
    ],
)
def test_rejects_an_invalid_file(tmp_path, before, after, problem):
    path = tmp_path / "glyphs.yaml"
    path.write_text(FILE.replace(before, after))
    with pytest.raises(UserError) as refusal:
        load_reported(tmp_path)
    assert f"{path}: {problem}" in str(refusal.value)


def test_rejects_a_file_that_is_not_a_mapping(tmp_path):
    (tmp_path / "glyphs.yaml").write_text("- 1")
    with pytest.raises(UserError, match=r"reported results .*glyphs\.yaml must be a mapping"):
        load_reported(tmp_path)
