import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmark.recipe import compose
from benchmark.results.record import Record
from benchmark.results.store import add_record, load_records
from benchmark.suite.job import Job
from benchmark.suite.latencies import measure_latencies

WRONG = {"1": 1e6, "64": 1e6}


@pytest.fixture
def job(student: Path, teacher: Path, tmp_path: Path) -> Job:
    """The job of a copy of the finished run."""
    folders = [Path(shutil.copytree(folder, tmp_path / folder.parent.name)) for folder in (student, teacher)]
    return Job(
        recipe=compose(config=student / "recipe.yaml"),
        record=folders[0] / "record.json",
        teacher_records=(folders[1] / "record.json",),
        command=(),
        log=tmp_path / "log",
    )


def change_cost(path: Path, **changes: object) -> Record:
    """Change the network's cost in the record at `path`."""
    record = Record.read(path)
    cost = record.network.cost.model_copy(update=changes)
    record = record.model_copy(update={"network": record.network.model_copy(update={"cost": cost})})
    record.write(path)
    return record


def test_updates_latencies_only(job, tmp_path):
    before = {path: change_cost(path, latency_ms=WRONG) for path in (job.record, job.teacher_records[0])}
    for record in before.values():
        add_record(record, tmp_path / "boards")
    measure_latencies([job], torch.device("cpu"), tmp_path / "boards", Console(quiet=True))
    after = {path: Record.read(path) for path in before}
    for path, record in after.items():
        latency = record.network.cost.latency_ms
        assert latency.keys() == WRONG.keys() and all(0 < value < 1e5 for value in latency.values())
        assert record.fingerprint() == before[path].fingerprint() and record.timing == before[path].timing
    student, teacher = after[job.record], after[job.teacher_records[0]]
    assert student.teacher.cost == teacher.network.cost
    assert load_records(tmp_path / "boards") == sorted([student, teacher], key=lambda record: record.method)


def test_skips_records_of_another_device(job, tmp_path):
    before = change_cost(job.record, latency_ms=WRONG, device="another")
    add_record(before, tmp_path / "boards")
    measure_latencies([job], torch.device("cpu"), tmp_path / "boards", Console(quiet=True))
    assert Record.read(job.record) == before


def test_skips_runs_that_are_not_on_the_leaderboard(job, tmp_path):
    before = change_cost(job.record, latency_ms=WRONG)
    repetition = before.model_copy(update={"created": "2030-01-02T03:04:05Z"})
    add_record(repetition, tmp_path / "boards")
    measure_latencies([job], torch.device("cpu"), tmp_path / "boards", Console(quiet=True))
    assert load_records(tmp_path / "boards") == [repetition] and Record.read(job.record) == before


def test_continues_if_a_network_is_missing(job, tmp_path, capsys):
    before = {path: change_cost(path, latency_ms=WRONG) for path in (job.record, job.teacher_records[0])}
    for record in before.values():
        add_record(record, tmp_path / "boards")
    job.teacher_records[0].with_name("student.pt").unlink()
    measure_latencies([job], torch.device("cpu"), tmp_path / "boards", Console(width=500))
    assert f"{job.teacher_records[0]}: latency not measured: " in capsys.readouterr().out
    assert Record.read(job.teacher_records[0]) == before[job.teacher_records[0]]
    assert Record.read(job.record).network.cost.latency_ms["1"] < WRONG["1"]


def test_skips_runs_without_a_record(job, tmp_path):
    job.record.unlink()
    measure_latencies([job], torch.device("cpu"), tmp_path / "boards", Console(quiet=True))
    assert load_records(tmp_path / "boards") == []


def test_measures_a_published_teacher_beside_its_student(job, tmp_path):
    published = Path(shutil.move(job.teacher_records[0].parent, tmp_path / "published"))
    untouched = (published / "record.json").read_bytes()
    before = Record.read(job.record)
    wrong = before.teacher.model_copy(update={"cost": before.teacher.cost.model_copy(update={"latency_ms": WRONG})})
    before = before.model_copy(update={"teacher": wrong})
    before.write(job.record)
    add_record(before, tmp_path / "boards")
    teacher = job.recipe.teacher.model_copy(update={"checkpoint": str(published)})
    job = replace(job, recipe=job.recipe.model_copy(update={"teacher": teacher}), teacher_records=())
    measure_latencies([job], torch.device("cpu"), tmp_path / "boards", Console(quiet=True))
    after = Record.read(job.record).teacher.cost
    assert all(0 < value < 1e5 for value in after.latency_ms.values())
    assert (after.parameters, after.threads) == (before.teacher.cost.parameters, before.network.cost.threads)
    assert (published / "record.json").read_bytes() == untouched
