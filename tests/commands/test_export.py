"""`benchmark export`."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from benchmark import load_student
from benchmark.deployment.export import ExportedStudent
from benchmark.results.record import Record
from benchmark.results.store import add_record


@pytest.fixture
def finished(finished, tmp_path) -> Path:
    """A copy, because exports are added to its runs."""
    return Path(shutil.copytree(finished, tmp_path / "finished"))


@pytest.fixture
def export(command_line, data_root, finished):
    """`export(folder, "--to", "onnx")` runs `benchmark export` in this process; returns exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        places = ("--data-root", data_root, "--leaderboards", finished / "boards")
        return command_line("export", *arguments, "--device", "cpu", *places)

    return run


@pytest.mark.parametrize("to", ["onnx", pytest.param("torch-export", marks=pytest.mark.slow), "openvino"])
def test_record_states_parity_and_latency(export, student, finished, to):
    before = Record.read(student / "record.json")
    code, out, err = export(student, "--to", to)
    assert code == 0, err
    record = Record.read(student / "record.json")
    measured = record.exports[to]
    assert record.model_copy(update={"exports": before.exports}) == before
    assert 0 <= measured.max_abs_difference < 1e-4
    assert measured.mAP == pytest.approx(record.scores.symmetric.mAP, abs=1e-3)
    assert measured.images == record.data.splits["query"].images + (
        0 if record.data.protocol["query_in_gallery"] else record.data.splits["gallery"].images
    )
    assert set(measured.latency_ms) == {"1", "64"} and measured.threads == record.network.cost.threads
    assert measured.bytes == sum(path.stat().st_size for path in (student / "exports" / to).iterdir())
    assert (student / "exports" / to / "preprocessing.json").is_file()
    assert measured.runtime in out and str(student / "exports" / to) in out.replace("\n", "")
    (board,) = (finished / "boards" / "records").glob(f"*-{record.id}.json")
    assert Record.read(board) == record
    assert load_student(student).record == record


def test_int8(export, student):
    """An int8 student may differ from PyTorch, and the table also has the float32 export."""
    assert export(student, "--to", "onnx")[0] == 0
    code, out, err = export(student, "--to", "onnx", "--int8")
    assert code == 0, err
    exports = Record.read(student / "record.json").exports
    whole, quantized = exports["onnx"], exports["onnx-int8"]
    assert (whole.precision, quantized.precision) == ("float32", "int8")
    assert quantized.max_abs_difference > 1e-3 and abs(quantized.mAP - whole.mAP) < 0.1
    assert quantized.bytes == sum(path.stat().st_size for path in (student / "exports" / "onnx-int8").iterdir())
    assert quantized.bytes < whole.bytes
    assert f"{whole.runtime} " in out and f"{quantized.runtime}, int8" in out
    change = float(re.search(r"int8 changes the mAP by ([-+][\d.]+) points", out)[1])
    assert change == pytest.approx(100 * (quantized.mAP - whole.mAP), abs=0.02)


def test_exports_of_a_run_are_kept(export, student, tmp_path):
    folder = tmp_path / "new" / "folder"
    for to, preprocessing in (("onnx", "inside"), ("torch-export", "outside")):
        code, _, err = export(student, "--to", to, "--preprocessing", preprocessing, "--output", folder)
        assert code == 0, err
    exports = Record.read(student / "record.json").exports
    assert exports["torch-export"].preprocessing == "outside" and exports["onnx"].preprocessing == "inside"
    assert {path.name for path in folder.iterdir()} == {"student.onnx", "student.pt2", "preprocessing.json"}


@pytest.mark.parametrize("kind", ["one embedding", "all embeddings"])
def test_difference_is_refused(export, student, kind, monkeypatch):
    original = ExportedStudent.__call__

    def altered(self, images):
        embeddings = original(self, images).clone()
        if kind == "one embedding":
            embeddings[-1, 0] += 2e-3
            return embeddings
        return torch.zeros_like(embeddings).fill_(embeddings.shape[1] ** -0.5)

    monkeypatch.setattr(ExportedStudent, "__call__", altered)
    before = (student / "record.json").read_bytes()
    files = {path for path in student.rglob("*") if path.is_file()}
    code, _, err = export(student, "--to", "torch-export", "--output", student / "exports" / "other")
    assert code == 2
    assert re.search(r"differs from PyTorch: embeddings by up to \d.*, where 0\.001 is allowed", err)
    assert (student / "record.json").read_bytes() == before
    assert {path for path in student.rglob("*") if path.is_file()} == files


def test_record_of_another_run_is_kept(export, student, finished, tmp_path):
    """A repetition of a run has the same name on the leaderboards."""
    record = Record.read(student / "record.json")
    other = record.model_copy(update={"created": "2020-01-01T00:00:00+00:00"})
    path = add_record(other, finished / "boards" / "records")
    assert export(student, "--to", "torch-export")[0] == 0
    assert Record.read(path) == other
    add_record(record, finished / "boards" / "records")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "onx"), "--to onx: choose onnx, torch-export, openvino, tensorrt; did you mean 'onnx'"),
        (("--to", "onnx", "--preprocessing", "no"), "--preprocessing no: choose inside or outside"),
        (("--to", "openvino", "--int8"), "--int8: only with --to onnx, not openvino"),
        (("--to", "tensorrt"), "--to tensorrt needs tensorrt: pip install"),
    ],
)
def test_mistakes(export, student, arguments, message):
    code, _, err = export(student, *arguments)
    assert code == 2 and message in err
