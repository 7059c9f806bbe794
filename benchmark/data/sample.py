"""One labelled image file."""

from pathlib import Path
from typing import NamedTuple


class Sample(NamedTuple):
    """An image, who is on it and which camera took it."""

    path: Path
    identity: int
    """The dataset's own identity number; training labels are made from the sorted set of these."""
    camera: int
    track: int = 0
    """The number of the gallery image's track, in sets whose protocol ranks tracks."""
