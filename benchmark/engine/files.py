"""The files that training keeps in the run folder, next to the runner's `log.txt`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, TypeAdapter, ValidationError

from benchmark.errors import UserError
from benchmark.utils.atomic import write_text
from benchmark.utils.console import notify
from benchmark.utils.escape import terminal
from benchmark.utils.paths import read_regular

if TYPE_CHECKING:
    from benchmark.data.row_file import RowFile

LAST_CHECKPOINT = Path("checkpoints") / "last.pt"
"""The latest checkpoint, from which training resumes."""
INPUTS_FILE = "inputs.json"
"""Identifies the images and files from which the network is trained."""
METRICS_FILE = "metrics.jsonl"
"""One JSON object per epoch."""
SKIPPED_FILE = "skipped.txt"
"""Paths of the broken images that were left out, one per line."""
OUTPUTS_FILE = "teacher_outputs.json"
"""The outputs of the teacher that were stored before the training, if they were."""
_MAX_BYTES = 2**28
"""Largest size of these files: metrics of 100,000 epochs."""
_RESTORE = "restore the file, or delete the run's folder to train again"


_Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOutputs:
    """The outputs of the teacher that a training has read."""

    views: _Count
    """Number of fixed views of each image."""
    forward_passes: _Count
    """Number of images that the teacher has embedded, once for all runs."""
    bytes: _Count
    """Size of the outputs."""
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Time that the computation took, in whichever run."""

    @classmethod
    def of(cls, views: int, file: "RowFile") -> Self:
        """Return what a complete file has."""
        rows, row_bytes, _ = file.size
        return cls(views=views, forward_passes=rows, bytes=rows * row_bytes, seconds=file.seconds)

    @classmethod
    def read(cls, folder: Path) -> "StoredOutputs | None":
        """Read what the training in a run folder has stated; None if it has read no such outputs.

        Raises:
            UserError: The file cannot be read or is invalid.
        """
        file = folder / OUTPUTS_FILE
        try:
            return TypeAdapter(cls).validate_json(read_regular(file, _MAX_BYTES))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}") from error
        except (ValidationError, ValueError) as error:
            raise UserError(f"{file} does not describe stored outputs; {_RESTORE}") from error

    def write(self, folder: Path) -> None:
        """Write this to a run folder."""
        write_text(folder / OUTPUTS_FILE, json.dumps(asdict(self), indent=1) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of each epoch; an empty list before the end of the first epoch.

    Raises:
        UserError: The file cannot be read, or a line is not the metrics of an epoch after those before.
    """
    file = folder / METRICS_FILE
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_lines(file), start=1):
        try:
            row = json.loads(line)
            valid = row["epoch"] > (rows[-1]["epoch"] if rows else -1) and all(map(_is_number, row.values()))
        except (ValueError, TypeError, LookupError, RecursionError):
            valid = False
        if not valid:
            raise UserError(f"{file}, line {number}: not the metrics of an epoch; {_RESTORE}")
        rows.append(row)
    return rows


def write_metrics(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace the metrics of all epochs.

    Raises:
        UserError: A value, such as one of a method's `report`, is not a number.
    """
    for key, value in (item for row in rows for item in row.items()):
        if not _is_number(value):
            raise UserError(f"the metric {key!r} must be a number, not {value!r}: correct the method's `report`")
    write_text(folder / METRICS_FILE, "".join(json.dumps(row) + "\n" for row in rows))


def read_skipped(folder: Path) -> list[str]:
    """Return the paths of the broken images that the run has left out so far, as `terminal` shows them.

    Raises:
        UserError: The file cannot be read or is not a list of paths.
    """
    file = folder / SKIPPED_FILE
    paths = _lines(file)
    if not all(path and path == terminal(path) for path in paths):
        raise UserError(f"{file} is not a list of paths; {_RESTORE}")
    return paths


def note_skipped(folder: Path, paths: Iterable[Path]) -> None:
    """Add broken images to the list of skipped ones, and print a message if any of them is new."""
    known = read_skipped(folder)
    new = sorted({terminal(str(path)) for path in paths} - set(known))
    if new:
        write_text(folder / SKIPPED_FILE, "".join(f"{path}\n" for path in sorted([*known, *new])))
        plural = "" if len(new) == 1 else "s"
        notify(f"skipped {len(new)} broken image{plural}, such as {new[0]}: {folder / SKIPPED_FILE}")


def _lines(file: Path) -> list[str]:
    """Return the lines of a text file; none if it does not exist.

    Raises:
        UserError: It cannot be read or is not UTF-8.
    """
    try:
        lines = read_regular(file, _MAX_BYTES).decode("utf-8").split("\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not text in UTF-8; {_RESTORE}") from error
    except ValueError as error:
        raise UserError(f"{file} is {error}; {_RESTORE}") from error
    return lines if lines[-1] else lines[:-1]


def _is_number(value: Any) -> bool:
    """Whether a value is an integer or a float, NaN included, that can be converted to a float."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)
