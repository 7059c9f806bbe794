"""The committed leaderboards are what the committed records and recipes give."""

import shutil
from pathlib import Path

import pytest

from benchmark.recipe import compose
from benchmark.results.leaderboard import generate
from benchmark.results.record import Record
from benchmark.results.store import load_records

FOLDER = Path(__file__).parents[1] / "leaderboards"
RECORDS = load_records(FOLDER / "records")


def test_regenerating_the_pages_changes_nothing(tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "records", tmp_path / "records")
    pages = generate(tmp_path)
    committed = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.is_file()}
    pictures = {page.name for page in pages if page.suffix == ".svg"}  # their bytes are matplotlib's affair
    assert {page.name for page in pages} == committed.keys()
    for page in pages:
        assert page.name in pictures or page.read_bytes() == committed[page.name]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{record.role}-{record.method}-{record.seed}")
def test_a_row_can_be_made_again_by_its_command(record: Record) -> None:
    recipe = compose(record.method, record.dataset, seed=record.seed)
    if record.role == "teacher":
        recipe = recipe.for_teacher()
    assert recipe.hash == record.recipe_hash


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{record.role}-{record.method}-{record.seed}")
def test_a_record_comes_from_a_commit_without_local_changes(record: Record) -> None:
    assert record.commit is not None
    assert not record.commit.endswith("-dirty")


def test_every_first_method_has_three_seeds() -> None:
    seeds = {
        method: {r.seed for r in RECORDS if r.method == method and r.role == "student"}
        for method in ("none", "kd", "rkd", "cdd")
    }
    assert all(found >= {0, 1, 2} for found in seeds.values()), seeds


def test_cdd_keeps_its_promise_on_glyphs() -> None:
    """At least half of parameters and MACs saved, at most two points of mAP lost against a teacher of 70 % or more."""
    for record in RECORDS:
        if record.method == "cdd" and record.dataset == "glyphs":
            assert record.teacher is not None
            assert record.saved is not None
            assert record.teacher.scores.mAP >= 0.70
            assert min(record.saved.parameters, record.saved.macs) >= 0.5
            assert record.scores.symmetric.mAP >= record.teacher.scores.mAP - 0.02
            assert record.deploy.max_abs_difference <= 1e-4
