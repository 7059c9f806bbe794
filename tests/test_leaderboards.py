"""The committed leaderboards follow from the committed records, and the records from the default recipes."""

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmark.commands.leaderboard import check
from benchmark.recipe import compose, replay
from benchmark.registry import METHODS
from benchmark.results.leaderboard import generate
from benchmark.results.store import load_records

FOLDER = Path(__file__).parents[1] / "leaderboards"
RECORDS = load_records(FOLDER / "records")


def test_records_and_pages_pass_the_check(tmp_path):
    for name in ("records", "reported", "steps"):
        shutil.copytree(FOLDER / name, tmp_path / name)
    committed = {path.name for path in FOLDER.iterdir() if path.is_file()}
    for name in committed:
        shutil.copy(FOLDER / name, tmp_path)
    assert check(tmp_path) == []
    assert {path.name for path in generate(tmp_path)} == committed


def test_recipe_hashes():
    expected = {record.id: record.recipe_hash for record in RECORDS}
    assert {record.id: replay(record.recipe, record.id).hash for record in RECORDS} == expected


def test_teacher_of_the_default_recipe_has_a_record():
    teacher = compose("none", "glyphs").for_teacher()
    assert teacher.hash in {record.recipe_hash for record in RECORDS if record.role == "teacher"}


@pytest.mark.parametrize("method", [*METHODS.names(), "uniform+kd"])
def test_default_recipe_has_records_of_three_seeds(method):
    expected = {compose(method, "glyphs", seed=seed).hash for seed in range(3)}
    assert expected <= {record.recipe_hash for record in RECORDS if record.role == "student"}


def test_records_have_one_teacher_and_scores_per_query(tmp_path):
    # The records that are committed: a run in a clone may have added records with another teacher.
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
def test_cdd_saves_half_of_the_cost_and_loses_at_most_two_points(seed):
    recipe = compose("cdd", "glyphs", seed=seed)
    record = next(record for record in RECORDS if record.recipe_hash == recipe.hash)
    assert record.teacher is not None and record.saved is not None
    assert record.teacher.scores.mAP >= 0.70
    assert min(record.saved.parameters, record.saved.macs) >= 0.5
    assert record.scores.symmetric.mAP >= record.teacher.scores.mAP - 0.02
    assert record.deploy.max_abs_difference <= 1e-4
