"""The folder of records that leaderboards are generated from."""

from pathlib import Path

from benchmark.errors import UserError
from benchmark.results.record import Record


def record_name(record: Record) -> str:
    """Return the file name of a record: `glyphs-cdd-seed0-0123456789ab.json`, or `glyphs-teacher-...` for a teacher."""
    label = "teacher" if record.role == "teacher" else record.method
    return f"{record.board}-{label}-seed{record.seed}-{record.id}.json"


def add_record(record: Record, folder: Path) -> Path:
    """Write the record into `folder` under its own name and return the path; a rerun replaces the earlier record."""
    path = folder / record_name(record)
    record.write(path)
    return path


def load_records(folder: Path) -> list[Record]:
    """Load all records in `folder`, sorted by board, method and seed; an absent folder holds none.

    Raises:
        UserError: A file is not a valid record, does not have the name that `add_record` gives it (pages link to
            records by name), or holds the same id as another file.
    """
    paths: dict[str, Path] = {}
    records = []
    for path in sorted(folder.glob("*.json")):
        if path.name.startswith("."):  # a temporary file that another process is writing: see benchmark.utils.atomic
            continue
        record = Record.read(path)
        if record.id in paths:
            raise UserError(f"{path}: has the same id, {record.id}, as {paths[record.id].name}; remove one of them")
        if path.name != record_name(record):
            raise UserError(f"{path}: the name of this record's file must be {record_name(record)}; rename the file")
        paths[record.id] = path
        records.append(record)
    return sorted(records, key=lambda record: (record.board, record.method, record.seed, record.id))
