"""How a run that was done again compares with its record."""

from enum import StrEnum


class Verdict(StrEnum):
    """What is said of a reproduction, from the best to the worst."""

    BIT_SAME = "bit-same"
    WITHIN_SPREAD = "within the spread of the seeds"
    DIFFERS = "differs"
