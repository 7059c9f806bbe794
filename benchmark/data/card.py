"""Dataset cards: citation, terms, download and published sizes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from benchmark.data.samples import Sample


@dataclass(frozen=True, slots=True)
class Download:
    """URL, hash and size of an archive that may be downloaded without an agreement."""

    url: str
    sha256: str
    size: int
    """Bytes."""

    @property
    def name(self) -> str:
        """File name of the archive."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Package:
    """One of several archives that make up a dataset. Each is unpacked into another folder."""

    folder: str
    """The folder, relative to the dataset's."""
    name: str
    """File name of the archive."""
    sha256: str


@dataclass(frozen=True, slots=True)
class Split:
    """Size of one split. `None` means that no number is published, or that it could not be verified."""

    images: int | None
    identities: int | None
    cameras: int | None = None

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> Self:
        """Count the images, identities and cameras of samples; a repeated sample counts once."""
        samples = set(samples)
        return cls(
            len(samples), len({sample.identity for sample in samples}), len({sample.camera for sample in samples})
        )


@dataclass(frozen=True, slots=True)
class Card:
    """What users need to know about a dataset: citation, terms of use, how to obtain it, published sizes."""

    title: str
    citation: str
    terms: str
    obtain: str
    """How to obtain the images, in one or two sentences."""
    tree: str
    """Expected folders and files below the data root."""
    splits: Mapping[str, Split] = field(default_factory=dict)
    """Published sizes of "train", "query" and "gallery", and of "all" three together where published."""
    disputed: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(split, field of `Split`) -> explanation, for counts on which the literature disagrees. If such a count is off
    by at most 1 %, `benchmark data check` prints a warning instead of a defect."""
    defects: str = ""
    """Known defects of the published archive."""
    download: Download | None = None
    """The archive, if it may be downloaded without an agreement."""
    packages: tuple[Package, ...] = ()
    """The archives of a dataset that consists of several."""
