"""Settings from environment variables, validated where they are read. An empty variable counts as not set."""

import os
from dataclasses import dataclass
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
    value = _get(DATA)
    try:
        path = Path(value).expanduser() if value else _home() / ".cache" / "benchmark"
    except RuntimeError as error:
        raise UserError(f"{DATA}={value}: the home folder is unknown: give a path without ~, or set HOME") from error
    if path.exists() and not path.is_dir():
        raise UserError(f"{f'{DATA}={value}' if value else path}: not a folder: set {DATA}, or give --data-root FOLDER")
    return path


def archive_password() -> bytes | None:
    """Return the password of encrypted archives, as the bytes of the variable; None if it is not set."""
    value = _get(PASSWORD)
    return None if value is None else os.fsencode(value)


@dataclass(frozen=True, slots=True)
class Launch:
    """How `torchrun` has started this process."""

    processes: int
    """Number of processes, which share one command."""
    local_rank: int
    """Number of this process on its machine."""


def launch() -> Launch:
    """Return how this process was started: as one of several by `torchrun`, or alone.

    Raises:
        UserError: The variables of `torchrun` are invalid or incomplete.
    """
    processes = _count("WORLD_SIZE", 1)
    if processes == 1:
        return Launch(1, 0)
    if processes < 1:
        raise UserError(f"WORLD_SIZE={processes}: must be at least 1; unset it, or start the command with torchrun")
    if missing := [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if _get(name) is None]:
        raise UserError(
            f"WORLD_SIZE={processes}, but {', '.join(missing)} is not set: unset WORLD_SIZE, or start the command with "
            "torchrun"
        )
    if _count("RANK", 0) >= processes:
        raise UserError(f"RANK={_get('RANK')}: must be below WORLD_SIZE, {processes}; start the command with torchrun")
    _count("MASTER_PORT", 0)
    return Launch(processes, _count("LOCAL_RANK", 0))


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


def _get(name: str) -> str | None:
    return os.environ.get(name) or None


def _count(name: str, default: int) -> int:
    """Return the integer in a variable, which must be 0 or more."""
    value = _get(name)
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
