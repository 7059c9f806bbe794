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
    guess = closest(name, known)
    return f"; did you mean {guess!r}?" if guess else "."


def closest(name: str, known: Iterable[str], similarity: float = 0.5) -> str | None:
    """Return the known name that is most similar to `name`, ignoring case; None if none is this similar."""
    names = {candidate.lower(): candidate for candidate in known}
    matches = get_close_matches(name.lower(), names, n=1, cutoff=similarity)
    return names[matches[0]] if matches else None
