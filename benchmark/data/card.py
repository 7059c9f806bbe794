"""What a person should know about a dataset before using it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from benchmark.data.samples import Sample


@dataclass(frozen=True, slots=True)
class Download:
    """Where a dataset's archive lies, and what it must be. Only for sets that need no agreement."""

    url: str
    sha256: str
    size: int
    """Bytes."""

    @property
    def name(self) -> str:
        """The archive's file name."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Split:
    """Size of one split; `None` where no figure is published, or none that could be verified."""

    images: int | None
    identities: int | None
    cameras: int | None = None

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> Self:
        """The size that a list of samples has; an image that is in it twice counts once."""
        samples = set(samples)
        return cls(
            len(samples), len({sample.identity for sample in samples}), len({sample.camera for sample in samples})
        )


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
    """Expected counts of "train", "query", "gallery" and, where published, of "all" three together."""
    disputed: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(split, field of `Split`) of counts on which the literature disagrees -> how. A difference of up to one percent
    is only a warning."""
    defects: str = ""
    """Known defects of the published archive."""
    download: Download | None = None
    """The archive, of a set that may be fetched without an agreement."""
