"""Settings from environment variables, validated where they are read. An empty variable counts as not set."""

import os
from pathlib import Path

from benchmark.errors import UserError, closest

_PREFIX = "BENCHMARK_"
DATA = f"{_PREFIX}DATA"
"""Folder of all datasets."""
PASSWORD = f"{_PREFIX}ARCHIVE_PASSWORD"
"""Password of an encrypted archive."""


def default_data_root() -> Path:
    """Return the folder of all datasets: `$BENCHMARK_DATA`, or `~/.cache/benchmark` if the variable is not set.

    Raises:
        UserError: The variable names something else than a folder, or the home folder is unknown.
    """
    value = text(DATA)
    try:
        path = Path(value).expanduser() if value else _home() / ".cache" / "benchmark"
    except RuntimeError as error:
        raise UserError(f"{DATA}={value}: the home folder is unknown: give a path without ~, or set HOME") from error
    if path.exists() and not path.is_dir():
        raise UserError(f"{f'{DATA}={value}' if value else path}: not a folder: set {DATA}, or give --data-root FOLDER")
    return path


def archive_password() -> bytes | None:
    """Return the password of encrypted archives, as the bytes of the variable; None if it is not set."""
    value = text(PASSWORD)
    return None if value is None else os.fsencode(value)


def misspelled() -> list[str]:
    """Return a sentence about each variable whose name is similar to one of the suite's."""
    endings = {name.removeprefix(_PREFIX): name for name in (DATA, PASSWORD)}
    unknown = [name for name in os.environ if name.startswith(_PREFIX) and name not in endings.values()]
    guesses = {name: closest(name.removeprefix(_PREFIX), endings) for name in unknown}
    return [
        f"the environment variable {name} has no effect; did you mean {endings[guess]}?"
        for name, guess in guesses.items()
        if guess
    ]


def text(name: str) -> str | None:
    """Return the value of a variable; None if it is not set."""
    return os.environ.get(name) or None


def count(name: str, default: int) -> int:
    """Return the integer in a variable of a launcher, which must be 0 or more; `default` if it is not set."""
    value = text(name)
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise UserError(f"{name}={value}: must be an integer; unset it, or start the command with torchrun")
    return int(value)


def _home() -> Path:
    try:
        home = Path.home()
    except RuntimeError:
        home = Path()
    # An empty HOME would be the root of the file system, and a relative one would depend on the current folder.
    if os.environ.get("HOME") == "" or not home.is_absolute():
        raise UserError(f"the home folder is unknown: give --data-root FOLDER, or set {DATA} or HOME")
    return home
