"""The exception for mistakes that the user can correct."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake that the user can correct: a misspelled name, a missing file, a value out of range.

    The message names the key, file or value, states what is wrong with it, and suggests a remedy. The command line
    prints the message without a traceback and exits with code 2.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message about an unknown `name`.

    Returns:
        `"; did you mean 'kd'?"` with the most similar known name, or `"."` if none is similar.
    """
    names = {candidate.lower(): candidate for candidate in known}
    close = get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    return f"; did you mean {names[close[0]]!r}?" if close else "."
