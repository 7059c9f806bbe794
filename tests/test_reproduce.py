"""The command `benchmark reproduce`: a row of a leaderboard, run again."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmark.recipe import Recipe
from benchmark.results.record import Record
from benchmark.results.store import add_record
from benchmark.utils import strict_yaml

COMMITTED = next((Path(__file__).parents[1] / "leaderboards" / "archive" / "records").glob("glyphs-kd-seed0-*.json"))


@pytest.fixture
def reproduce(command_line, data_root):
    """`reproduce(record, work_dir)` runs the command in this process and returns its exit code, stdout and stderr."""

    def run(record: Path, work_dir: Path, *arguments: str) -> tuple[int, str, str]:
        options = ["--work-dir", str(work_dir), "--data-root", str(data_root), "--device", "cpu", *arguments]
        return command_line("reproduce", record, *options)

    return run


def merge(content: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(content.get(key), dict):
            merge(content[key], value)
        else:
            content[key] = value


@pytest.fixture
def edited(tmp_path):
    """`edited(path, {"commit": "abc"})` copies a record into an empty folder, with changes merged into it."""

    def edit(path: Path, changes: dict[str, Any]) -> Path:
        content = json.loads(path.read_text())
        merge(content, changes)
        folder = tmp_path / "records"
        folder.mkdir(exist_ok=True)
        (folder / path.name).write_text(json.dumps(content))
        return folder / path.name

    return edit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": {"method": {"name": "cddd"}}}, "unknown method 'cddd'; did you mean 'cdd'?"),
        ({"recipe": {"dataset": {"name": "glyph"}}}, "unknown dataset 'glyph'; did you mean 'glyphs'?"),
        ({"recipe": {"method": {"weihgt": 0.5}}}, "method.weihgt in the recipe of"),
        ({"recipe": {"train": {"schedule": {"epochs": "two"}}}}, "train.schedule.epochs in the recipe of"),
        ({"recipe": {"train": {"schedule": {"epochs": 3}}}}, "the recipe does not match its recipe_hash"),
        ({"recipe": {"method": 7}}, "unknown method '7'"),
    ],
)
def test_rejects_a_recipe_that_cannot_be_run(command_line, edited, tmp_path, changes, message):
    record = edited(COMMITTED, {"commit": "abc", **changes})
    code, out, err = command_line("reproduce", record, "--work-dir", tmp_path / "work")
    assert (code, out) == (2, "")
    assert err.startswith(f"benchmark: {record}: ") and message in err
    assert "Use commit abc, which made it, and give the --plugin" in err
    assert not (tmp_path / "work").exists()


def test_rejects_an_incomplete_recipe(command_line, tmp_path):
    content = json.loads(COMMITTED.read_text())
    del content["recipe"]["train"], content["recipe"]["dataset"]
    (tmp_path / "record.json").write_text(json.dumps(content))
    code, _, err = command_line("reproduce", tmp_path / "record.json", "--work-dir", tmp_path / "work")
    assert code == 2 and re.search(rf"the recipe of {tmp_path / 'record.json'}.*dataset.*train", err)


@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_rejects_a_file_that_is_not_a_record(command_line, tmp_path, content):
    path = tmp_path / "record.json"
    if content is not None:
        path.write_bytes(content)
    code, out, err = command_line("reproduce", path, "--work-dir", tmp_path / "work")
    assert (code, out) == (2, "")
    assert err.startswith(f"benchmark: {path}: ")
    assert "Give a record that `benchmark run` wrote" in err


def test_rejects_a_damaged_record_in_the_same_folder(command_line, edited, tmp_path):
    record = edited(COMMITTED, {})
    shutil.copy(record, record.with_name("copy.json"))
    code, _, err = command_line("reproduce", record, "--work-dir", tmp_path / "work")
    assert code == 2 and "copy.json" in err
    assert not (tmp_path / "work").exists()


# The following tests need a finished run of cdd and its reproduction.


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


@pytest.fixture(scope="module")
def records(finished) -> dict[str, Path]:
    """The records of a run of cdd and of its teacher, by role."""
    folder = finished / "boards" / "records"
    return {"student": next(folder.glob("*-cdd-*.json")), "teacher": next(folder.glob("*-teacher-*.json"))}


@pytest.fixture(scope="module")
def reproduced(finished, records, data_root, tmp_path_factory) -> Path:
    """The folder where the command reproduced the student; out.txt and err.txt hold its output."""
    folder = tmp_path_factory.mktemp("reproduced")
    before = files(finished)
    line = [sys.executable, "-m", "benchmark", "reproduce", str(records["student"]), "--device", "cpu"]
    done = subprocess.run([*line, "--data-root", str(data_root)], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert files(finished) == before
    (folder / "out.txt").write_text(done.stdout)
    (folder / "err.txt").write_text(done.stderr)
    return folder


def with_mAP(record: Path, points: float) -> dict[str, Any]:
    """Changes that raise the mAP of a record by some points."""
    mAP = Record.read(record).scores.symmetric.mAP + points / 100
    return {"scores": {"symmetric": {"mAP": mAP}, "average_precision": None}}


def add_seeds(record: Path, *points: float) -> None:
    """Add records of other seeds to the folder of a record, with an mAP that differs from it by some points."""
    for seed, difference in enumerate(points, start=1):
        content = json.loads(record.read_text())
        recipe = Recipe.model_validate(content["recipe"] | {"seed": seed})
        ids = {"recipe_hash": recipe.hash, "id": Record.make_id(recipe.hash, "student")}
        merge(content, {"seed": seed, "recipe": {"seed": seed}, **ids, **with_mAP(record, difference)})
        add_record(Record.model_validate(content), record.parent)


@pytest.mark.slow
def test_a_run_is_bit_identical_on_the_same_machine(reproduced, records):
    log = (reproduced / "err.txt").read_text()
    assert "warning" not in log
    assert "using 1 thread, as in the record, for a bit-identical result" in log
    assert "teacher  epoch 1/2" in log and "student cdd  epoch 2/2" in log
    table, _, verdict = (reproduced / "out.txt").read_text().partition("bit-identical\n")
    assert verdict.startswith("All fields that do not depend on time or machine agree")
    record = Record.read(records["student"])
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if len(line.split()) == 3}
    for name, value in (
        ("mAP", f"{100 * record.scores.symmetric.mAP:.2f}"),
        ("R@5", f"{100 * record.scores.symmetric.recall['5']:.2f}"),
        ("parameters", f"{record.network.cost.parameters:,}"),
        ("MACs", f"{record.network.cost.macs:,}"),
        ("weights", record.network.weights[:16]),
    ):
        assert rows[name] == [value, value]


@pytest.mark.slow
def test_reruns_are_kept_apart_from_runs_and_leaderboards(reproduced, records):
    assert {path.name for path in reproduced.iterdir()} == {"reproduced", "out.txt", "err.txt"}
    (rerun,) = reproduced.glob("reproduced/glyphs/cdd/*/record.json")
    assert Record.read(rerun).fingerprint() == Record.read(records["student"]).fingerprint()


@pytest.mark.slow
def test_a_teacher_is_reproduced_by_its_own_recipe_and_threads(reproduce, edited, records, teacher, tmp_path):
    runtime = {"threads": None, "cache": "/nowhere/cache", "tensorboard": True}
    record = edited(records["teacher"], {"recipe": {"runtime": runtime}})
    code, out, err = reproduce(record, tmp_path / "work")
    assert code == 0 and "teacher on glyphs" in out and "bit-identical" in out
    assert "teacher  epoch 2/2" in err and "student" not in err
    (recipe,) = (tmp_path / "work" / "glyphs").glob("*/*/recipe.yaml")
    assert recipe.parent.name == teacher.name and recipe.parents[1].name == "teacher"
    saved = strict_yaml.load(recipe.read_text())["runtime"]
    assert (saved["threads"], saved["cache"], saved["tensorboard"]) == (1, None, False)


@pytest.mark.slow
def test_resumes_an_interrupted_reproduction(reproduce, records, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Record, "write", lambda self, path: (_ for _ in ()).throw(KeyboardInterrupt))
        assert reproduce(records["teacher"], tmp_path)[0] == 130
    code, _, err = reproduce(records["teacher"], tmp_path)
    assert code == 2 and "has an unfinished run: add --resume to continue it" in err
    code, out, _ = reproduce(records["teacher"], tmp_path, "--resume")
    assert code == 0 and "bit-identical" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("points", "seeds", "code", "verdict"),
    [
        (-3, (), 1, "differs"),
        (1, (-1, 0, 1), 0, "within the spread of the seeds"),
        (3, (-1, 0, 1), 1, "differs"),
    ],
)
def test_another_score_is_compared_with_the_spread(
    reproduce, edited, records, reproduced, points, seeds, code, verdict
):
    record = edited(records["student"], with_mAP(records["student"], points))
    add_seeds(record, *seeds)
    result, out, err = reproduce(record, reproduced / "reproduced")
    assert result == code, err
    assert f"\n{verdict}\nFields that differ: scores.symmetric. The mAP differs by {-points:+.2f} points" in out
    assert ("2.00 points, 2 sample standard deviations of the mAP over 3 other seeds." in out) == bool(seeds)


@pytest.mark.slow
def test_warns_of_differences_before_the_run(reproduce, edited, records, reproduced):
    changes = {
        "environment": {"torch": "1.0", "device": "abacus"},
        "commit": "abc",
        "data": {"versions": {"pillow": "0.1"}, "fingerprint": "e" * 64, "splits": {"query": {"images": 7}}},
    }
    code, out, err = reproduce(edited(records["student"], changes), reproduced / "reproduced")
    warnings = [line for line in err.partition("using")[0].splitlines() if line.startswith("warning: ")]
    for start in (
        "torch: 1.0 in the record, ",
        "device: abacus in the record, ",
        "commit of the suite: abc in the record, ",
        "pillow, which renders the images: 0.1 in the record, ",
        "data: query: 7 images then, ",
        "data: images with other content",
    ):
        assert sum(line.startswith(f"warning: {start}") for line in warnings) == 1, err
    assert len(warnings) == 6
    assert code == 1 and "Fields that differ: data.fingerprint, data.splits. The mAP differs by +0.00 points" in out


@pytest.mark.slow
def test_a_record_without_counts_is_reproduced(reproduce, records, reproduced, tmp_path):
    content = json.loads(records["student"].read_text())
    content["data"]["splits"] = {}
    (tmp_path / "record.json").write_text(json.dumps(content))
    _, out, err = reproduce(tmp_path / "record.json", reproduced / "reproduced")
    assert "warning: data: train: 0 images then, " in err
    assert "bit-identical" in out


@pytest.mark.slow
def test_rejects_the_folder_of_the_recorded_run(reproduce, records, finished):
    code, out, err = reproduce(records["student"], finished / "runs")
    assert (code, out) == (2, "")
    assert "holds the run that made" in err and "give another --work-dir" in err
