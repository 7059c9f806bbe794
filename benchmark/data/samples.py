"""Labelled images and what else a scan of a dataset finds."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self


class Sample(NamedTuple):
    """An image, who is on it and which camera took it."""

    path: Path
    identity: int
    """The dataset's own identity number; training labels are made from the sorted set of these."""
    camera: int
    track: int = 0
    """The number of the gallery image's track, in sets whose protocol ranks tracks."""


class Skipped(NamedTuple):
    """A file that is left out as it should be. Such files are counted by their reason and the counts are shown."""

    reason: str
    """A few words that fit after "3,819 files skipped:", such as "junk (identity -1)"."""


class Defect(NamedTuple):
    """Something that is not as published and makes the set unusable as it is."""

    text: str
    """A clause that names the file and says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The samples of a split, and what was beside them."""

    samples: tuple[Sample, ...]
    """Sorted by path."""
    skipped: Mapping[str, int]
    """How many files were left out, by reason."""
    defects: tuple[str, ...]

    @classmethod
    def of(cls, findings: Iterable[Sample | Skipped | Defect]) -> Self:
        """Sort findings by their kind."""
        samples: list[Sample] = []
        skipped: Counter[str] = Counter()
        defects: list[str] = []
        for finding in findings:
            if isinstance(finding, Sample):
                samples.append(finding)
            elif isinstance(finding, Skipped):
                skipped[finding.reason] += 1
            else:
                defects.append(finding.text)
        samples.sort(key=lambda sample: str(sample.path))  # which is much faster than comparing paths
        return cls(tuple(samples), dict(skipped), tuple(defects))
