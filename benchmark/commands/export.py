"""`benchmark export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from rich.box import HORIZONTALS
from rich.table import Table
from torch.nn import functional as F

from benchmark.deployment.export import ExportedStudent, export_student
from benchmark.deployment.int8 import CALIBRATION_IMAGES
from benchmark.deployment.runtimes import Onnx, find_format
from benchmark.deployment.student import Student
from benchmark.errors import UserError
from benchmark.evaluation import TestSet
from benchmark.experiment.environment import choose_device, use_threads
from benchmark.experiment.finished import FinishedRun
from benchmark.experiment.report import measured_latency
from benchmark.results.parts import Export
from benchmark.results.record import Record
from benchmark.results.store import replace_record
from benchmark.utils.atomic import temporary_folder
from benchmark.utils.console import Console
from benchmark.utils.precision import full_precision
from benchmark.utils.writable import require_writable

TOLERANCE = 1e-3
"""Largest difference of an embedding of unit length, and of the mAP, from those of PyTorch, in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of `benchmark export`."""

    to: str
    """Name of the format."""
    preprocessing: str
    """Where pixels are normalized; see `export_student`."""
    int8: bool
    """Whether to quantize the network, with ranges of the training images."""
    output: Path | None
    """The folder to write; None for a folder in the folder of the run."""
    device: str
    data_root: Path
    """Folder of all datasets."""

    @property
    def name(self) -> str:
        """Name of the folder and of the entry in the record."""
        return f"{self.to}-int8" if self.int8 else self.to


def export(run: Path, options: Options, leaderboards: Path) -> None:
    """Export the student of a run, check it on the test images, measure its latency, and add both to the record.

    Nothing is written unless a student in float32 agrees with PyTorch. One in int8 is another network, whose mAP is
    compared.

    Args:
        run: Folder of a finished run.
        options: Format, and where to write it.
        leaderboards: Folder of records, in which the record is updated if it is there.

    Raises:
        UserError: The run or a package is missing, the network cannot be exported, or the exported one differs.
    """
    runtime = find_format(options.to)
    if options.int8 and runtime is not Onnx:
        raise UserError(f"--int8: only with --to onnx, not {options.to}")
    device = choose_device(options.device)
    finished = FinishedRun(run, options.data_root)
    record = Record.read(run / "record.json")
    folder = options.output or run / "exports" / options.name
    require_writable(folder, "--output")
    test = finished.test_set(None, (), device)
    use_threads(record.network.cost.threads)  # with those that PyTorch was measured with
    student = Student(finished.student(device), record)
    with temporary_folder(folder) as temporary:
        exported = export_student(
            student,
            temporary,
            runtime,
            preprocessing=options.preprocessing,
            threads=torch.get_num_threads(),
            calibration=test.training_images(CALIBRATION_IMAGES) if options.int8 else None,
        )
        parity = compare(test, student, exported)
        if not options.int8 and not (
            parity.max_abs_difference <= TOLERANCE and abs(parity.mAP - parity.expected_mAP) <= TOLERANCE
        ):
            raise UserError(
                f"--to {options.to}: the exported student differs from PyTorch: embeddings by up to "
                f"{parity.max_abs_difference:.2g}, mAP {parity.mAP:.4f} instead of {parity.expected_mAP:.4f}, where "
                f"{TOLERANCE:g} is allowed; use another format"
            )
        files = sorted(path for path in temporary.iterdir() if not path.name.startswith("."))
        measured = Export(
            runtime=runtime.title(),
            preprocessing=options.preprocessing,
            precision="int8" if options.int8 else "float32",
            bytes=sum(path.stat().st_size for path in files),
            images=parity.images,
            max_abs_difference=parity.max_abs_difference,
            mAP=parity.mAP,
            **measured_latency(exported, student.image_size, device),
        )
        folder.mkdir(parents=True, exist_ok=True)
        for path in files:
            path.replace(folder / path.name)
    record = record.model_copy(update={"exports": record.exports | {options.name: measured}})
    replace_record(record, run / "record.json", leaderboards / "records")
    console = Console(highlight=False, soft_wrap=True)
    console.print(_table(record, options.name, (run / "student.pt").stat().st_size))
    if options.int8:
        change = 100 * (parity.mAP - parity.expected_mAP)
        console.print(f"int8 changes the mAP by {change:+.2f} points")
    console.print(str(folder / runtime.file))


class Parity(NamedTuple):
    """An exported student and PyTorch on the same images."""

    images: int
    """Number of images."""
    max_abs_difference: float
    """Largest difference of embeddings of unit length; NaN if an embedding is."""
    mAP: float
    """Mean average precision of the exported student."""
    expected_mAP: float
    """That of the student in PyTorch."""


def compare(test: TestSet, student: Student, exported: ExportedStudent) -> Parity:
    """Compare an exported student with PyTorch on all test images."""
    splits = ["query"] if test.protocol.query_in_gallery else ["query", "gallery"]
    with full_precision(student.device):
        expected = [test.embed(student, split) for split in splits]
    actual = [test.embed(exported, split) for split in splits]
    differences = [
        (mine.vectors - F.normalize(theirs.vectors)).abs().max() for mine, theirs in zip(actual, expected, strict=True)
    ]
    return Parity(
        images=sum(map(len, actual)),
        max_abs_difference=float(torch.stack(differences).max()),
        mAP=test.score(actual[0], actual[-1]).mAP,
        expected_mAP=test.score(expected[0], expected[-1]).mAP,
    )


def _table(record: Record, name: str, size: int) -> Table:
    """Return a table of the student in PyTorch and in another runtime; one in int8 also in float32, if it is known.

    Args:
        record: The record.
        name: The export, a key of `Record.exports`.
        size: Bytes of `student.pt`.
    """
    measured = record.exports[name]
    table = Table(title=f"{record.method} on {record.board}, {name}", box=HORIZONTALS)
    for column in ("", "bytes", "mAP", "difference", *(f"ms, batch {batch}" for batch in measured.latency_ms)):
        table.add_column(column, justify="right" if column else "left")
    rows = [("PyTorch", size, record.scores.symmetric.mAP, "", record.network.cost.latency_ms)]
    for each in dict.fromkeys((name.removesuffix("-int8"), name)):
        if (export := record.exports.get(each)) is not None:
            title = export.runtime + (", int8" if export.precision == "int8" else "")
            rows.append((title, export.bytes, export.mAP, f"{export.max_abs_difference:.1e}", export.latency_ms))
    for title, size, mAP, difference, latency in rows:
        times = (f"{latency[batch]:.2f}" if batch in latency else "" for batch in measured.latency_ms)
        table.add_row(title, f"{size:,}", f"{100 * mAP:.2f}", difference, *times)
    return table
