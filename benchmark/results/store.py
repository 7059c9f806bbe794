"""The folder of records that leaderboards are made from."""

from pathlib import Path

from benchmark.errors import UserError
from benchmark.results.record import Record


def record_name(record: Record) -> str:
    """`glyphs-cdd-seed0-0123456789ab.json`: the file name of a record in the folder; a teacher's says "teacher"."""
    label = "teacher" if record.role == "teacher" else record.method
    return f"{record.board}-{label}-seed{record.seed}-{record.id}.json"


def add_record(record: Record, folder: Path) -> Path:
    """Write the record into `folder` under its own name and return the path; a rerun replaces the earlier record."""
    path = folder / record_name(record)
    record.write(path)
    return path


def load_records(folder: Path) -> list[Record]:
    """All records in `folder`, sorted by board, method and seed; none where there is no such folder.

    Raises:
        UserError: a file is no valid record, is not named as `add_record` names it (pages link records by name), or
            claims an id that another has.
    """
    holders: dict[str, Path] = {}
    records = []
    for path in sorted(folder.glob("*.json")):
        if path.name.startswith("."):  # another process is about to rename it: see benchmark.utils.atomic
            continue
        record = Record.read(path)
        if record.id in holders:
            raise UserError(f"{path}: id {record.id} is already that of {holders[record.id].name}; remove one of them")
        if path.name != record_name(record):
            raise UserError(f"{path}: holds the record {record_name(record)}; rename the file to that")
        holders[record.id] = path
        records.append(record)
    return sorted(records, key=lambda record: (record.board, record.method, record.seed, record.id))
