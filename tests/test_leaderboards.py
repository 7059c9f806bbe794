"""The committed leaderboards are what the committed records and recipes give."""

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmark.recipe import compose, replay
from benchmark.registry import METHODS
from benchmark.results.html import without_pictures
from benchmark.results.leaderboard import generate
from benchmark.results.record import Record
from benchmark.results.store import load_records

FOLDER = Path(__file__).parents[1] / "leaderboards"
RECORDS = load_records(FOLDER / "records")


def test_regenerating_the_pages_changes_nothing(tmp_path: Path) -> None:
    for given in ("records", "reported", "steps"):
        shutil.copytree(FOLDER / given, tmp_path / given)
    pages = generate(tmp_path)
    committed = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.is_file()}
    assert {page.name for page in pages} == committed.keys()
    for page in pages:
        if page.suffix == ".html":
            assert without_pictures(page.read_text()) == without_pictures(committed[page.name].decode())
        elif page.suffix != ".svg":  # the bytes of pictures are matplotlib's affair
            assert page.read_bytes() == committed[page.name]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{record.role}-{record.method}-{record.seed}")
def test_a_record_holds_the_recipe_of_its_hash(record: Record) -> None:
    assert replay(record.recipe, record.id).hash == record.recipe_hash


def test_the_teacher_has_been_trained() -> None:
    teacher = compose("none", "glyphs").for_teacher()
    assert teacher.hash in {record.recipe_hash for record in RECORDS if record.role == "teacher"}


@pytest.mark.parametrize("method", [*METHODS.names(), "uniform+kd"])
def test_every_method_has_been_run_by_its_default_recipe_with_three_seeds(method: str) -> None:
    expected = {compose(method, "glyphs", seed=seed).hash for seed in range(3)}
    assert expected <= {record.recipe_hash for record in RECORDS if record.role == "student"}


def test_committed_records_are_of_one_teacher_and_can_be_compared(tmp_path: Path) -> None:
    """All name the same weights' scores, and hold the average precision of every query.

    As git has them: whoever runs something in a clone adds records of a teacher of their own.
    """
    root = FOLDER.parent
    if (root / ".git").exists():
        subprocess.run(["git", "-C", root, "checkout-index", "--all", f"--prefix={tmp_path}/"], check=True)
        root = tmp_path
    records = load_records(root / "leaderboards" / "records")
    (teacher,) = (record for record in records if record.role == "teacher")
    for record in records:
        assert record.teacher is None or record.teacher.scores == teacher.scores.symmetric
        assert record.scores.average_precision is not None


@pytest.mark.parametrize("seed", range(3))
def test_cdd_keeps_its_promise_on_glyphs(seed: int) -> None:
    """At least half of parameters and MACs saved, at most two points of mAP lost against a teacher of 70 % or more."""
    recipe = compose("cdd", "glyphs", seed=seed)
    record = next(record for record in RECORDS if record.recipe_hash == recipe.hash)
    assert record.teacher is not None
    assert record.saved is not None
    assert record.teacher.scores.mAP >= 0.70
    assert min(record.saved.parameters, record.saved.macs) >= 0.5
    assert record.scores.symmetric.mAP >= record.teacher.scores.mAP - 0.02
    assert record.deploy.max_abs_difference <= 1e-4
