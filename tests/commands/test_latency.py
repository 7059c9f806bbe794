"""`benchmark latency`."""

import shutil
from pathlib import Path

import pytest

from benchmark.results.record import Record
from benchmark.results.store import add_record


@pytest.fixture
def run(student, tmp_path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(student, tmp_path / "runs" / student.parent.name / student.name))


@pytest.fixture
def measure(command_line, data_root, tmp_path):
    """`measure(folder, "--runtime", "onnx")` runs `benchmark latency` in this process."""
    places = ("--data-root", data_root, "--leaderboards", tmp_path / "boards", "--device", "cpu")
    return lambda *arguments: command_line("latency", *arguments, *places)


def test_adds_to_the_record(measure, run, tmp_path):
    before = Record.read(run / "record.json")
    path = add_record(before, tmp_path / "boards" / "records")
    for arguments in (("--threads", "1"), ("--threads", "1", "--runtime", "onnx"), ("--threads", "1")):
        code, out, err = measure(run, *arguments)
        assert code == 0, err
    record = Record.read(run / "record.json")
    assert [each.runtime for each in record.latencies] == [
        "onnx",
        "pytorch",
    ]  # the second of PyTorch replaces the first
    assert record.model_copy(update={"latencies": ()}) == before and Record.read(path) == record
    assert record.fingerprint() == before.fingerprint()
    for each in record.latencies:
        assert set(each.latency_ms) == {"1", "64"} and each.threads == 1
        low, high = each.latency_quartiles_ms["64"]
        assert low <= each.latency_ms["64"] <= high
    assert "onnxruntime" in out and "torch" in out
    assert not list(run.glob("exports/*"))


def test_mistakes(measure, run):
    code, _, err = measure(run, "--runtime", "onx")
    assert code == 2 and "--runtime onx: choose pytorch, onnx, torch-export, openvino, tensorrt" in err
    assert "did you mean 'onnx'" in err
