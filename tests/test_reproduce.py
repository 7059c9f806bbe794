"""`benchmark reproduce`: a row of a leaderboard, again."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.recipe import Recipe
from benchmark.results.record import Record
from benchmark.results.store import add_record
from benchmark.utils import strict_yaml


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


@pytest.fixture(scope="module")
def records(finished) -> Path:
    """The records of a run of cdd and of its teacher."""
    return finished / "boards" / "records"


@pytest.fixture(scope="module")
def of_student(records) -> Path:
    return next(records.glob("*-cdd-*.json"))


@pytest.fixture(scope="module")
def reproduced(finished, of_student, data_root, tmp_path_factory) -> Path:
    """Where the command line reproduced the student; what it printed is in out.txt and err.txt."""
    place = tmp_path_factory.mktemp("reproduced")
    before = files(finished)
    line = [sys.executable, "-m", "benchmark", "reproduce", str(of_student), "--device", "cpu"]
    done = subprocess.run([*line, "--data-root", str(data_root)], capture_output=True, text=True, cwd=place)
    assert done.returncode == 0, done.stderr
    assert files(finished) == before
    (place / "out.txt").write_text(done.stdout)
    (place / "err.txt").write_text(done.stderr)
    return place


@pytest.fixture
def ask(command_line, data_root):
    """`ask(record, work_dir)` runs the command line here: its exit code, and what it printed."""

    def run(record: Path, work_dir: Path, *arguments: str) -> tuple[int, str, str]:
        options = ["--work-dir", str(work_dir), "--data-root", str(data_root), "--device", "cpu", *arguments]
        return command_line("reproduce", record, *options)

    return run


@pytest.fixture
def edited(of_student, tmp_path) -> Callable[..., Path]:
    """`edited({"commit": "abc"})`: a copy of the student's record in an empty folder, with changes laid over it."""

    def edit(changes: dict[str, Any], source: Path = of_student) -> Path:
        content = json.loads(source.read_text())
        lay(content, changes)
        folder = tmp_path / "records"
        folder.mkdir(exist_ok=True)
        (folder / source.name).write_text(json.dumps(content))
        return folder / source.name

    return edit


def lay(content: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(content.get(key), dict):
            lay(content[key], value)
        else:
            content[key] = value


def raised(record: Path, points: float) -> dict[str, Any]:
    """Changes that give a record another mAP."""
    mAP = Record.read(record).scores.symmetric.mAP + points / 100
    return {"scores": {"symmetric": {"mAP": mAP}, "average_precision": None}}


def add_seeds(record: Path, *points: float) -> None:
    """Put records of other seeds beside this one, whose mAP is so many points above."""
    for seed, above in enumerate(points, start=1):
        content = json.loads(record.read_text())
        recipe = Recipe.model_validate(content["recipe"] | {"seed": seed})
        ids = {"recipe_hash": recipe.hash, "id": Record.make_id(recipe.hash, "student")}
        lay(content, {"seed": seed, "recipe": {"seed": seed}, **ids, **raised(record, above)})
        add_record(Record.model_validate(content), record.parent)


def test_a_run_is_bit_same_on_the_machine_that_did_it(reproduced, of_student):
    shown = (reproduced / "err.txt").read_text()
    assert "warning" not in shown
    assert "runs with 1 thread, as the record did: the bits depend on it" in shown
    assert "teacher  epoch 1/2" in shown and "student cdd  epoch 2/2" in shown
    table, _, verdict = (reproduced / "out.txt").read_text().partition("bit-same\n")
    assert verdict.startswith("All that depends on neither clock nor place agrees")
    record = Record.read(of_student)
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if len(line.split()) == 3}
    for name, shown in (
        ("mAP", f"{100 * record.scores.symmetric.mAP:.2f}"),
        ("R@5", f"{100 * record.scores.symmetric.recall['5']:.2f}"),
        ("parameters", f"{record.network.cost.parameters:,}"),
        ("MACs", f"{record.network.cost.macs:,}"),
        ("weights", record.network.weights[:16]),
    ):
        assert rows[name] == [shown, shown]


def test_it_is_kept_apart_from_runs_and_leaderboards(reproduced, of_student):
    assert {path.name for path in reproduced.iterdir()} == {"reproduced", "out.txt", "err.txt"}
    (made,) = reproduced.glob("reproduced/glyphs/cdd/*/record.json")
    assert Record.read(made).fingerprint() == Record.read(of_student).fingerprint()


def test_a_teacher_by_its_own_recipe_and_with_the_records_threads(ask, edited, records, teacher, tmp_path):
    runtime = {"threads": None, "cache": "/nowhere/cache", "tensorboard": True}
    record = edited({"recipe": {"runtime": runtime}}, next(records.glob("*-teacher-*.json")))
    code, out, err = ask(record, tmp_path / "work")
    assert code == 0 and "teacher on glyphs" in out and "bit-same" in out
    assert "teacher  epoch 2/2" in err and "student" not in err
    (made,) = (tmp_path / "work" / "glyphs").glob("*/*/recipe.yaml")
    assert made.parent.name == teacher.name and made.parents[1].name == "teacher"
    saved = strict_yaml.load(made.read_text())["runtime"]
    assert (saved["threads"], saved["cache"], saved["tensorboard"]) == (1, None, False)


def test_an_interrupted_one_is_resumed(ask, records, tmp_path, monkeypatch):
    teacher = next(records.glob("*-teacher-*.json"))
    with monkeypatch.context() as patch:
        patch.setattr(Record, "write", lambda self, path: (_ for _ in ()).throw(KeyboardInterrupt))
        assert ask(teacher, tmp_path)[0] == 130
    code, _, err = ask(teacher, tmp_path)
    assert code == 2 and "holds an unfinished run: add --resume" in err
    code, out, _ = ask(teacher, tmp_path, "--resume")
    assert code == 0 and "bit-same" in out


def test_a_changed_score_differs(ask, edited, of_student, reproduced):
    code, out, err = ask(edited(raised(of_student, -3)), reproduced / "reproduced")
    assert code == 1, err
    assert "\ndiffers\nNot the same: scores.symmetric. mAP differs by +3.00 points, without an interval" in out
    assert "No spread is known" in out and "there are 0." in out


@pytest.mark.parametrize(("points", "code", "verdict"), [(1, 0, "within the spread of the seeds"), (3, 1, "differs")])
def test_the_other_seeds_say_how_much_is_too_much(ask, edited, of_student, reproduced, points, code, verdict):
    record = edited(raised(of_student, points))
    add_seeds(record, -1, 0, 1)
    found, out, err = ask(record, reproduced / "reproduced")
    assert found == code, err
    assert f"\n{verdict}\n" in out
    assert "Spread of the seeds: 2.00 points, 2 sample standard deviations of the mAP over 3 other seeds." in out


def test_what_is_not_as_it_was_is_said_before_the_start(ask, edited, reproduced):
    changes = {
        "environment": {"torch": "1.0", "device": "abacus"},
        "commit": "abc",
        "data": {"versions": {"pillow": "0.1"}, "fingerprint": "e" * 64, "splits": {"query": {"images": 7}}},
    }
    code, out, err = ask(edited(changes), reproduced / "reproduced")
    warnings = [line for line in err.partition("runs with")[0].splitlines() if line.startswith("warning: ")]
    for start in (
        "torch: 1.0 then, ",
        "device: abacus then, ",
        "commit of the suite: abc then, ",
        "pillow, by which images are made: 0.1 then, ",
        "data: query: 7 images then, ",
        "data: images of another content",
    ):
        assert sum(line.startswith(f"warning: {start}") for line in warnings) == 1, err
    assert len(warnings) == 6
    assert code == 1 and "Not the same: data.fingerprint, data.splits. mAP differs by +0.00 points" in out


def test_a_record_that_does_not_say_what_it_saw(ask, of_student, reproduced, tmp_path):
    content = json.loads(of_student.read_text())
    content["data"]["splits"] = {}
    (tmp_path / "record.json").write_text(json.dumps(content))
    _, out, err = ask(tmp_path / "record.json", reproduced / "reproduced")
    assert "warning: data: train: 0 images then, " in err
    assert "bit-same" in out


def test_the_run_that_made_the_record_is_no_reproduction(ask, of_student, finished):
    code, out, err = ask(of_student, finished / "runs")
    assert (code, out) == (2, "")
    assert "holds the very run that" in err and "give another --work-dir" in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": {"method": {"name": "cddd"}}}, "unknown method 'cddd'; did you mean 'cdd'?"),
        ({"recipe": {"dataset": {"name": "glyph"}}}, "unknown dataset 'glyph'; did you mean 'glyphs'?"),
        ({"recipe": {"method": {"ratoi": 0.5}}}, "unknown key 'method.ratoi' in the recipe of"),
        ({"recipe": {"train": {"schedule": {"epochs": "two"}}}}, "train.schedule.epochs in the recipe of"),
        ({"recipe": {"train": {"schedule": {"epochs": 3}}}}, "its recipe is not that of its recipe_hash"),
        ({"recipe": {"method": 7}}, "unknown method '7'"),
    ],
)
def test_a_recipe_that_cannot_be_run_here(ask, edited, tmp_path, changes, message):
    record = edited({"commit": "abc", **changes})
    code, out, err = ask(record, tmp_path / "work")
    assert (code, out) == (2, "")
    assert err.startswith(f"benchmark: {record}: ") and message in err
    assert "Use commit abc, which made it, and give the --plugin" in err
    assert not (tmp_path / "work").exists()


def test_a_recipe_without_a_part(ask, of_student, tmp_path):
    content = json.loads(of_student.read_text())
    del content["recipe"]["train"], content["recipe"]["dataset"]
    (tmp_path / "record.json").write_text(json.dumps(content))
    code, _, err = ask(tmp_path / "record.json", tmp_path / "work")
    assert code == 2 and f"the recipe of {tmp_path / 'record.json'} lacks dataset, train" in err


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff", b"{}", b'{"schema_version": 1}'])
def test_a_file_that_is_no_record(ask, tmp_path, content):
    path = tmp_path / "record.json"
    if content is not None:
        path.write_bytes(content)
    code, out, err = ask(path, tmp_path / "work")
    assert (code, out) == (2, "")
    assert err.startswith(f"benchmark: {path}: ")
    assert "Give a record as `benchmark run` wrote it" in err


def test_a_damaged_record_beside_it_is_named_before_the_start(ask, edited, tmp_path):
    record = edited({})
    shutil.copy(record, record.with_name("copy.json"))
    code, _, err = ask(record, tmp_path / "work")
    assert code == 2 and "copy.json" in err
    assert not (tmp_path / "work").exists()
