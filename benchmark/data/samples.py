"""Findings in a dataset's files: labeled images, skipped files, suspicious facts and defects."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

from benchmark.errors import UserError

MAX_NUMBER = 2**63 - 1
"""Largest number of an identity, a camera or a track."""
SPLITS = ("train", "query", "gallery")
"""Names of the splits of a retrieval dataset."""
VALIDATION = "validation"
"""Name of the images of the published training split that are not trained on."""


class Sample(NamedTuple):
    """An image file with its identity and camera."""

    path: Path
    identity: int
    """Identity number in the dataset's own numbering. Training labels number the sorted training identities."""
    camera: int
    track: int = 0
    """Number of the gallery image's track, for protocols that rank tracks."""

    def is_valid(self) -> bool:
        """Whether the values have the types above, and the numbers at most 64 bits."""
        numbers = (self.identity, self.camera, self.track)
        integers = all(isinstance(number, int) and -MAX_NUMBER <= number <= MAX_NUMBER for number in numbers)
        return integers and isinstance(self.path, Path)


class Skipped(NamedTuple):
    """A file that is left out on purpose, such as a junk image. Skipped files are counted and reported by reason."""

    reason: str
    """A short phrase that completes "3,819 files skipped: ", such as "junk, identity -1"."""
    ending: str = ""
    """The ending of the file's name, such as ".txt", if that is why it was skipped."""


class Suspicious(NamedTuple):
    """A fact that may be a mistake, with its likely meaning. It is reported as a warning and does not stop a run."""

    text: str


class Defect(NamedTuple):
    """A deviation from the published dataset that makes it unusable."""

    text: str
    """A clause that names the file and says what is wrong with it."""


Finding = Sample | Skipped | Suspicious | Defect
"""What `RetrievalDataset.scan` yields."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The samples of one split, the number of skipped files, and what is wrong or suspicious."""

    samples: tuple[Sample, ...]
    """Sorted by path."""
    skipped: Mapping[str, int]
    """Number of skipped files by reason."""
    defects: tuple[str, ...]
    suspicious: tuple[str, ...] = ()
    endings: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Reason -> ending -> number of skipped files, for reasons that depend on the ending."""

    @classmethod
    def from_scan(cls, scan: Callable[[str], Iterable[Finding]], split: str) -> Self:
        """Collect the findings of `scan(split)`. A `UserError` that it raises ends the list and counts as a defect.

        Raises:
            UserError: `scan` yields something else than findings, or samples with values of other types.
        """
        samples: list[Sample] = []
        skipped: Counter[str] = Counter()
        endings: defaultdict[str, Counter[str]] = defaultdict(Counter)
        suspicious: list[str] = []
        defects: list[str] = []
        wrong: list[object] = []
        try:
            findings: object = scan(split)
            for finding in findings if isinstance(findings, Iterable) else [findings]:
                if isinstance(finding, Sample):
                    samples.append(finding)
                elif isinstance(finding, Skipped):
                    skipped[finding.reason] += 1
                    if finding.ending:
                        endings[finding.reason][finding.ending] += 1
                elif isinstance(finding, Suspicious):
                    suspicious.append(finding.text)
                elif isinstance(finding, Defect):
                    defects.append(finding.text)
                else:
                    wrong.append(finding)
                    break
        except UserError as error:
            defects.append(str(error))
        if wrong := [*(sample for sample in samples if not sample.is_valid()), *wrong]:
            raise UserError(
                f"{getattr(scan, '__qualname__', 'scan')} yields {wrong[0]!r}: it has to yield Sample(path, identity, "
                "camera), with a Path and integers of Python, Skipped, Suspicious or Defect"
            )
        samples.sort(key=lambda sample: str(sample.path))  # much faster than comparing Path objects
        return cls(tuple(samples), dict(skipped), tuple(defects), tuple(suspicious), dict(endings))
