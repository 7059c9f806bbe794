"""`benchmark leaderboard --check`."""

from pathlib import Path

from benchmark.errors import UserError
from benchmark.results.consistency import violations
from benchmark.results.leaderboard import differing
from benchmark.results.rebuild import rebuilt_violations
from benchmark.results.store import load_records, record_name
from benchmark.utils.console import progress


def check(folder: Path) -> list[Path]:
    """Check the records, and return the generated files that do not match them.

    Args:
        folder: The folder of the leaderboards, with the records in `records/`.

    Raises:
        UserError: A record has impossible values; the message has a line for each value.
    """
    records = load_records(folder / "records")
    problems = [
        f"{folder / 'records' / record_name(record)}: {violation}"
        for record in progress(records, "records")
        for violation in (*violations(record), *rebuilt_violations(record))
    ]
    if problems:
        raise UserError("\n".join(problems))
    return differing(folder)
