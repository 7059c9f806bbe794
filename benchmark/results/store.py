"""The folder of records that leaderboards are generated from."""

import json
import marshal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.results.fields import CheckedValues, FrozenModel
from benchmark.results.parts import Data, Environment, TeacherReport
from benchmark.results.record import Record
from benchmark.utils.escape import terminal
from benchmark.utils.names import same_file
from benchmark.utils.strict_json import check_plain


def record_name(record: Record) -> str:
    """Return the file name of a record: `glyphs-cdd-seed0-0123456789ab.json`, or `glyphs-teacher-...` for a teacher."""
    label = "teacher" if record.role == "teacher" else record.method
    return f"{record.board}-{label}-seed{record.seed}-{record.id}.json"


def add_record(record: Record, folder: Path) -> Path:
    """Write the record into `folder` under its own name and return the path; a rerun replaces the earlier record."""
    path = folder / record_name(record)
    record.write(path)
    return path


def has_record(record: Record, folder: Path) -> bool:
    """Whether `folder` has the record of this very run, not of a repetition with the same recipe."""
    path = folder / record_name(record)
    return path.exists() and Record.read(path).created == record.created


def replace_record(record: Record, path: Path, folder: Path) -> None:
    """Write what was measured after a run into its record at `path`, and into that on the leaderboards in `folder`.

    A repetition of the run in `folder` stays as it is.
    """
    record.write(path)
    if has_record(record, folder):
        add_record(record, folder)


def load_records(folder: Path) -> list[Record]:
    """Load all records in `folder`, sorted by board, method and seed; an absent folder holds none.

    Raises:
        UserError: Files are not valid records, do not have the name that `add_record` gives them (pages link to records
            by name), or contradict other files: see `Checked`. The message has one line for each of them.
    """
    store = Checked(folder)
    records = list(store)
    if store.problems:
        raise UserError("\n".join(store.problems))
    return sorted(records, key=lambda record: (record.board, record.method, record.seed, record.id))


@dataclass
class Checked:
    """Iterates over the valid records of a folder, in the order of their files, and collects a line for each other.

    A record is not valid if it has the id of an earlier file, or the page of another dataset or variant.

    Attributes:
        folder: The folder of the records.
        problems: The file and the mistake of every record so far that is not valid.
    """

    folder: Path
    problems: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Record]:
        names: dict[str, str] = {}
        boards: dict[str, tuple[str, str]] = {}
        shared = _Shared()
        for path in record_files(self.folder):
            try:
                record = Record.read(path, shared.replace)
                _check_unique(record, path, names, boards)
            except UserError as error:
                self.problems.append(str(error))
            else:
                yield record


def record_files(folder: Path) -> list[Path]:
    """Return the files of `folder` that should be records, sorted."""
    # A name that begins with a dot is a temporary file that another process is writing: see benchmark.utils.atomic.
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))


def other_files(folder: Path) -> list[Path]:
    """Return everything else in `folder`, apart from hidden files, sorted; an absent folder has nothing."""
    paths = folder.iterdir() if folder.is_dir() else iter(())
    return sorted(path for path in paths if path.suffix != ".json" and not path.name.startswith("."))


def _check_unique(record: Record, path: Path, names: dict[str, str], boards: dict[str, tuple[str, str]]) -> None:
    """Raise a UserError unless a file has the name of its record, and nothing else has its id or its page.

    Args:
        record: The record in the file.
        path: The file.
        names: Names of the earlier files by id.
        boards: The dataset with its variant, and a file, of the earlier leaderboards, by the file name of their page.
    """
    name, place = record_name(record), terminal(str(path))
    if path.name != name and not path.with_name(name).exists():
        raise UserError(f"{place}: the name of this record's file must be {name}; rename the file")
    first = names.setdefault(record.id, name)
    if first != path.name:
        raise UserError(f"{place}: has the same id, {record.id}, as {first}; remove one of them")
    settings = json.dumps([record.dataset, record.variant], sort_keys=True)
    owner, other = boards.setdefault(same_file(record.board), (settings, path.name))
    if owner != settings:
        raise UserError(
            f"{place}: its leaderboard, {record.board}, has the same page as that of {other}, which is another dataset "
            "or variant; rename one of the datasets"
        )


class _Shared:
    """The equal parts of many records: data, teacher, environment and sections of the recipe are in memory once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], Any] = {}

    def replace(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return the content of a record, as read from JSON, with each part that is known replaced by that one."""
        models: dict[str, type[FrozenModel]] = {"data": Data, "teacher": TeacherReport, "environment": Environment}
        parts: dict[str, Any] = {}
        with suppress(ValueError, KeyError, AttributeError):  # the record reports whatever is wrong with its parts
            for name, model in models.items():
                if content.get(name) is not None:
                    parts[name] = self._replace(name, content[name], model.model_validate)
            recipe = CheckedValues()
            for section in content["recipe"].items():
                recipe.update([self._replace("recipe", section, check_plain)])
            parts["recipe"] = recipe
        return content | parts

    def _replace(self, name: str, part: Any, check: Callable[[Any], Any]) -> Any:
        key = (name, marshal.dumps(part, 2))  # a version in which equal values have equal bytes
        if key not in self._known:
            self._known[key] = check(part)
        return self._known[key]
