"""Paths that users give in recipes, settings and environment variables."""

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
