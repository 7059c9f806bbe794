"""How images are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmark.data.images import Images
from benchmark.data.sample import Sample


@dataclass(frozen=True, slots=True)
class Loading:
    """What all loaders of a run share."""

    size: tuple[int, int]
    """(height, width) of all images."""
    workers: int | None = 0
    """Processes that load; 0 is the caller's own, None as many as suit the machine."""
    device: str | torch.device = "cpu"
    """Where batches go next; for "cuda" they are put into pinned memory."""
    cache: Path | None = None
    """Where packed images are kept; None for nowhere."""
    skip_broken: bool = False
    """Leave out images that cannot be decoded instead of stopping at the first."""

    def images(self, samples: Sequence[Sample], name: str) -> Images:
        """The images of these samples; `name` says what they are, in the cache.

        Raises:
            BrokenImage: A file cannot be decoded, and broken ones are not to be skipped.
        """
        target = None if self.cache is None else self.cache / name
        return Images([sample.path for sample in samples], self.size, cache=target, skip_broken=self.skip_broken)
