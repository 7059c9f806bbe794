"""What one split of a dataset was found to hold."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from benchmark.data.findings import Defect, Skipped
from benchmark.data.sample import Sample


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
