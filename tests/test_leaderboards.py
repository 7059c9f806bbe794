"""The committed leaderboards follow from the committed records, and those of glyphs 2 from the default recipes."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from benchmark.commands.leaderboard import check
from benchmark.datasets.glyphs2 import Glyphs2
from benchmark.recipe import compose, replay
from benchmark.recipe.compose import with_budget
from benchmark.registry import METHODS
from benchmark.results.leaderboard import generate
from benchmark.results.store import load_records

FOLDER = Path(__file__).parents[1] / "leaderboards"
ARCHIVE = FOLDER / "archive"
RECORDS = load_records(ARCHIVE / "records")
"""Records of the first glyphs, which a run of the reader does not change."""


@pytest.mark.parametrize("folder", [FOLDER, ARCHIVE], ids=["present", "archive"])
def test_records_and_pages_pass_the_check(folder, tmp_path):
    for name in ("records", "reported", "steps"):
        if (folder / name).exists():
            shutil.copytree(folder / name, tmp_path / name)
    committed = {path.name for path in folder.iterdir() if path.is_file()}
    for name in committed:
        shutil.copy(folder / name, tmp_path)
    assert check(tmp_path) == []
    assert {path.name for path in generate(tmp_path)} == committed


@pytest.mark.parametrize("page", sorted((FOLDER / "studies").glob("*.md")), ids=lambda page: page.stem)
def test_page_of_a_study_follows_from_its_records(page, tmp_path):
    spec = importlib.util.spec_from_file_location("study", FOLDER.parent / "tools" / "study.py")
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    text = page.read_text(encoding="utf-8")
    assert study.update(page) == text
    copy = Path(shutil.copy(page, tmp_path))
    shutil.copytree(page.with_suffix(""), copy.with_suffix(""))
    for record in copy.with_suffix("").glob("records/*-seed0-*.json"):
        record.unlink()
    assert study.update(copy) != text


def test_recipe_hashes():
    records = [*RECORDS, *load_records(FOLDER / "records")]
    expected = {record.id: record.recipe_hash for record in records}
    assert {record.id: replay(record.recipe, record.id).hash for record in records} == expected


def test_teacher_of_the_default_recipe_has_a_record():
    teacher = compose("none", "glyphs").for_teacher()
    assert teacher.hash in {record.recipe_hash for record in RECORDS if record.role == "teacher"}


def test_archive_has_three_seeds_of_thirty_methods():
    """Those that existed at the time, and a combination."""
    students = {(record.method, record.seed) for record in RECORDS if record.role == "student"}
    methods = {method for method, _ in students if "+" not in method}
    assert len(methods) == 30
    assert methods <= set(METHODS.names())
    assert students == {(method, seed) for method in (*methods, "uniform+kd") for seed in range(3)}


@pytest.mark.parametrize("folder", ["leaderboards", "leaderboards/archive"])
def test_records_have_one_teacher_and_scores_per_query(folder, committed_files):
    records = load_records(committed_files / folder / "records")
    (teacher,) = (record for record in records if record.role == "teacher")
    for record in records:
        assert record.teacher is None or record.teacher.scores == teacher.scores.symmetric
        assert record.scores.average_precision is not None


@pytest.mark.parametrize("method", ["none", "kd", "cdd"])
@pytest.mark.parametrize("budget", Glyphs2.students)
def test_methods_have_records_at_every_budget(method, budget):
    recipe = compose(method, "glyphs2", settings=with_budget(budget))
    assert recipe.hash in {record.recipe_hash for record in load_records(FOLDER / "records")}


@pytest.mark.parametrize("seed", range(3))
def test_archived_cdd_saves_half_of_the_cost_and_loses_at_most_two_points(seed):
    (record,) = (each for each in RECORDS if (each.method, each.seed, each.role) == ("cdd", seed, "student"))
    assert record.teacher is not None and record.saved is not None
    assert record.teacher.scores.mAP >= 0.70
    assert min(record.saved.parameters, record.saved.macs) >= 0.5
    assert record.scores.symmetric.mAP >= record.teacher.scores.mAP - 0.02
    assert record.deploy.max_abs_difference <= 1e-4
