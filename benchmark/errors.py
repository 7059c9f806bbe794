"""The one exception that the command line shows as a line of text instead of a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user can mend: a misspelt name, a missing file, a value out of range.

    The message names the key, file or value at fault and says what to do. The command line prints it and exits with 2.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """End a sentence about a misspelt `name`: "; did you mean 'kd'?", or a full stop where nothing known is close."""
    names = {candidate.lower(): candidate for candidate in known}
    close = get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    return f"; did you mean {names[close[0]]!r}?" if close else "."
