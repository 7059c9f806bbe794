"""Paths that users give in recipes, settings and environment variables, and files that they name."""

import stat
from pathlib import Path

from benchmark.errors import UserError


def user_path(text: str) -> Path:
    """Return the path with `~` replaced by the home folder, which no shell has done for values of settings and files.

    Raises:
        UserError: The home folder is unknown, or the path contains a null character.
    """
    if "\0" in text:
        raise UserError(f"{text!r}: a path must not contain a null character")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{text}: the home folder is unknown: give a path without ~, or set HOME") from error


def read_regular(path: Path, most: int) -> bytes:
    """Return the content of a file that is regular: a named pipe would be waited for, and a device may never end.

    Args:
        path: The file.
        most: Largest size in bytes.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a regular file, or is too large; the message has no path.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("a folder, not a file" if path.is_dir() else "not a regular file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"larger than {most // 2**20} MiB")
    return content
