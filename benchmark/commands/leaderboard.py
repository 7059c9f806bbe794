"""`benchmark leaderboard`."""

from collections.abc import Callable, Iterator
from pathlib import Path

from benchmark.errors import UserError
from benchmark.results.consistency import Violation, violations
from benchmark.results.leaderboard import differing
from benchmark.results.leaderboard import generate as write_pages
from benchmark.results.leaderboard import plot_against as plot_against
from benchmark.results.record import Record
from benchmark.results.store import Checked, other_files, record_files, record_name
from benchmark.utils.console import notify, progress
from benchmark.utils.escape import terminal

_SHOWN = 5
"""Largest number of mistakes of one record, and of unknown files, that are named."""


def check(folder: Path) -> list[Path]:
    """Check the records, and return the generated files that do not match them.

    Args:
        folder: The folder of the leaderboards, with the records in `records/`.

    Raises:
        UserError: Records have impossible values; the message has one line for each of them.
    """
    return differing(folder, _load)


def _load(folder: Path) -> list[Record]:
    """Return the records in `folder`, all of which must be possible."""
    from benchmark.results.rebuild import rebuilt_violations  # imports torch, which the pages do not need

    _notify_of_others(folder)
    store = Checked(folder)
    records = []
    for record in progress(store, "records", total=len(record_files(folder))):
        if mistakes := list(_mistakes(record, violations, rebuilt_violations)):
            more = f"; and {len(mistakes) - _SHOWN} more" if len(mistakes) > _SHOWN else ""
            store.problems.append(f"{folder / record_name(record)}: {'; '.join(mistakes[:_SHOWN])}{more}")
        else:
            records.append(record)
    if store.problems:
        raise UserError("\n".join(store.problems))
    return records


def _mistakes(record: Record, *checks: Callable[[Record], Iterator[Violation]]) -> Iterator[str]:
    """Yield the impossible values of a record that the first check finds, or else the next one."""
    count = 0
    try:
        for check_ in checks:
            for violation in check_(record):
                count += 1
                yield str(violation)
            if count:
                return
    except Exception as error:  # a plug-in, or a value that no check expects: the other records matter, too
        yield terminal(f"cannot be checked: {type(error).__name__}: {error}"[:300])


def generate(folder: Path) -> list[Path]:
    """Write the pages, and return their paths: see `benchmark.results.leaderboard.generate`."""
    _notify_of_others(folder / "records")
    return write_pages(folder)


def _notify_of_others(records: Path) -> None:
    """Name files in the folder of the records that are not records, and are ignored."""
    if others := other_files(records):
        names = ", ".join(terminal(path.name) for path in others[:_SHOWN])
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        notify(f"{records}: ignored, because the names of records end in .json: {names}{more}")
