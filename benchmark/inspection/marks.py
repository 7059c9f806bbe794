"""How correct, wrong and ignored answers are marked, on pages and on contact sheets."""

from typing import NamedTuple

from benchmark.results.look import NEUTRAL, PALETTE


class Mark(NamedTuple):
    """The look of answers of one kind: a colour, and a sign for those who do not see it."""

    name: str
    meaning: str
    color: str
    sign: str


MARKS = {
    1: Mark("correct", "correct", PALETTE[1], "\u2713"),
    0: Mark("wrong", "wrong", PALETTE[3], "\u2717"),
    -1: Mark("ignored", "ignored by the protocol", NEUTRAL, "\u2013"),
}
"""By an entry's relation to its query."""
