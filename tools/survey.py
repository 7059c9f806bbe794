"""A survey of many backbones that can be interrupted, for the scripts that write tables of them."""

import json
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

SECONDS = 120
"""Processor time for one case, after which it counts as too slow."""
Case = tuple[str, ...]


class TooSlowError(BaseException):
    """A case takes too long. Not an `Exception`, which would be handled on the way."""


def survey(cases: Iterable[Case], examine: Callable[..., Any], cache: Path, *, slow: Any) -> dict[Case, Any]:
    """Examine all cases that the file `cache` lacks, and add their answers to it.

    Args:
        cases: Arguments of `examine`.
        examine: Returns an answer that JSON can represent.
        cache: A line for every case; it may be missing.
        slow: The answer for a case that takes too long.

    Returns:
        The answers of all cases in the file.
    """
    known: dict[Case, Any] = {}
    if cache.exists():
        known = {tuple(case): answer for *case, answer in map(json.loads, cache.read_text().splitlines())}
    signal.signal(signal.SIGPROF, _time_out)
    for case in cases:
        if case in known:
            continue
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            known[case] = examine(*case)
        except TooSlowError:
            known[case] = slow
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        with cache.open("a") as file:
            file.write(json.dumps([*case, known[case]]) + "\n")
    return known


def _time_out(*_: object) -> None:
    raise TooSlowError
