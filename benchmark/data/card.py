"""What a person should know about a dataset before using it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Split:
    """Expected size of one split; `None` where nothing is published."""

    images: int
    identities: int
    cameras: int | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """Citation, terms, how to get it, and the published counts."""

    title: str
    citation: str
    terms: str
    obtain: str
    """What to do to get the images, in one or two sentences."""
    tree: str
    """The expected layout below the data root."""
    splits: Mapping[str, Split] = field(default_factory=dict)
    """Expected counts of "train", "query" and "gallery"."""
    defects: str = ""
    """Known defects of the published archive."""
