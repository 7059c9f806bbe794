"""The files that training keeps in the run folder, next to the runner's `log.txt`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.utils.atomic import write_text
from benchmark.utils.console import notify

LAST_CHECKPOINT = Path("checkpoints") / "last.pt"
"""The checkpoint of the last complete epoch, from which training resumes."""
METRICS_FILE = "metrics.jsonl"
"""One JSON object per epoch."""
SKIPPED_FILE = "skipped.txt"
"""Paths of the broken images that were left out, one per line."""


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of each epoch; an empty list before the end of the first epoch."""
    file = folder / METRICS_FILE
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def write_metrics(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace the metrics of all epochs."""
    write_text(folder / METRICS_FILE, "".join(json.dumps(row) + "\n" for row in rows))


def read_skipped(folder: Path) -> list[str]:
    """Return the paths of the broken images that the run has left out so far."""
    file = folder / SKIPPED_FILE
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def note_skipped(folder: Path, paths: Iterable[Path]) -> None:
    """Add broken images to the list of skipped ones, and print a message if any of them is new."""
    known = read_skipped(folder)
    new = sorted({str(path) for path in paths} - set(known))
    if new:
        write_text(folder / SKIPPED_FILE, "".join(f"{path}\n" for path in sorted([*known, *new])))
        plural = "" if len(new) == 1 else "s"
        notify(f"skipped {len(new)} broken image{plural}, such as {new[0]}: {folder / SKIPPED_FILE}")
