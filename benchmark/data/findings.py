"""What else there is in a dataset's folder, beside samples."""

from typing import NamedTuple


class Skipped(NamedTuple):
    """A file that is left out as it should be. Such files are counted by their reason and the counts are shown."""

    reason: str
    """A few words that fit after "3,819 files skipped:", such as "junk (identity -1)"."""


class Defect(NamedTuple):
    """Something that is not as published and makes the set unusable as it is."""

    text: str
    """A clause that names the file and says what is wrong with it."""
