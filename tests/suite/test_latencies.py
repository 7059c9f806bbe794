import shutil
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
    """A finished run, of which this test has a copy."""
    folders = [Path(shutil.copytree(folder, tmp_path / folder.parent.name)) for folder in (student, teacher)]
    return Job(
        recipe=compose(config=student / "recipe.yaml"),
        folder=folders[0],
        record=folders[0] / "record.json",
        teacher_record=folders[1] / "record.json",
        teacher_epochs=1,
        arguments=(),
        log=tmp_path / "log",
    )


def with_cost(path: Path, **changes: object) -> Record:
    """The record at `path`, whose network's cost has been changed."""
    record = Record.read(path)
    cost = record.network.cost.model_copy(update=changes)
    record = record.model_copy(update={"network": record.network.model_copy(update={"cost": cost})})
    record.write(path)
    return record


def test_latencies_alone_are_measured_again(job, tmp_path):
    before = {path: with_cost(path, latency_ms=WRONG) for path in (job.record, job.teacher_record)}
    for record in before.values():
        add_record(record, tmp_path / "boards")
    measure_latencies([job], torch.device("cpu"), tmp_path / "boards", Console(quiet=True))
    after = {path: Record.read(path) for path in before}
    for path, record in after.items():
        latency = record.network.cost.latency_ms
        assert latency.keys() == WRONG.keys() and all(0 < value < 1e5 for value in latency.values())
        assert record.fingerprint() == before[path].fingerprint() and record.timing == before[path].timing
    student, teacher = after[job.record], after[job.teacher_record]
    assert student.teacher.cost == teacher.network.cost
    assert load_records(tmp_path / "boards") == sorted([student, teacher], key=lambda record: record.method)


def test_records_of_another_device_are_left_alone(job, tmp_path):
    before = with_cost(job.record, latency_ms=WRONG, device="another")
    add_record(before, tmp_path / "boards")
    measure_latencies([job], torch.device("cpu"), tmp_path / "boards", Console(quiet=True))
    assert Record.read(job.record) == before


def test_the_record_of_another_run_stays_on_the_leaderboard(job, tmp_path):
    before = with_cost(job.record, latency_ms=WRONG)
    shown = before.model_copy(update={"created": "2030-01-02T03:04:05Z"})
    add_record(shown, tmp_path / "boards")
    measure_latencies([job], torch.device("cpu"), tmp_path / "boards", Console(quiet=True))
    assert load_records(tmp_path / "boards") == [shown] and Record.read(job.record) == before


def test_a_lost_network_stops_nothing(job, tmp_path, capsys):
    before = {path: with_cost(path, latency_ms=WRONG) for path in (job.record, job.teacher_record)}
    for record in before.values():
        add_record(record, tmp_path / "boards")
    job.teacher_record.with_name("student.pt").unlink()
    measure_latencies([job], torch.device("cpu"), tmp_path / "boards", Console(width=500))
    assert "latency not measured anew: student file" in capsys.readouterr().out
    assert Record.read(job.teacher_record) == before[job.teacher_record]
    assert Record.read(job.record).network.cost.latency_ms["1"] < WRONG["1"]


def test_a_run_without_a_record_is_passed_over(job, tmp_path):
    job.record.unlink()
    measure_latencies([job], torch.device("cpu"), tmp_path / "boards", Console(quiet=True))
    assert load_records(tmp_path / "boards") == []
