"""Datasets whose images are described by lists."""

from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from benchmark.data.files import images_below
from benchmark.data.retrieval_dataset import SPLITS, RetrievalDataset
from benchmark.data.samples import Defect, Sample, Skipped
from benchmark.errors import UserError


class ListedDataset(RetrievalDataset):
    """A set that comes with text files that say what is on every image, and in which split it is.

    The lists are compared with the folders that hold the images: an image that is missing or listed twice is a defect,
    and one that is there and in no list is skipped and counted.
    """

    @abstractmethod
    def entries(self) -> Iterator[tuple[str, Sample] | Skipped | Defect]:
        """The split and the sample of everything that is listed; where query and gallery are one list, as "query".

        What is in lists that the options leave unused comes last, under any other name of a split.
        """

    @abstractmethod
    def image_folders(self) -> tuple[Path, ...]:
        """The folders that hold the images, at any depth."""

    def scan(self, split: str) -> Iterator[Sample | Skipped | Defect]:
        present = {found for found in self._files if isinstance(found, Path)}
        for entry in self._entries:
            if isinstance(entry, Skipped | Defect):
                if split == "train":  # told once
                    yield entry
            elif entry[0] == split:
                sample = entry[1]
                yield sample if sample.path in present else Defect(f"{sample.path} is listed but missing")
        if split == "train":
            used = {sample.path for name, sample in self.listed() if name in SPLITS}
            unused = {sample.path for name, sample in self.listed()} - used
            yield from [Skipped("image of a list that is not used")] * len(unused & present)
            yield from [Skipped("image that is in no list")] * len(present - used - unused)
            yield from (found for found in self._files if not isinstance(found, Path))

    def listed(self) -> Iterator[tuple[str, Sample]]:
        """Everything that is in a list, used or not."""
        return (entry for entry in self._entries if not isinstance(entry, Skipped | Defect))

    @cached_property
    def _entries(self) -> list[tuple[str, Sample] | Skipped | Defect]:
        entries: list[tuple[str, Sample] | Skipped | Defect] = []
        known: set[Path] = set()
        try:
            for entry in self.entries():
                if not isinstance(entry, Skipped | Defect):
                    split, sample = entry
                    if sample.path in known and split in SPLITS:
                        entry = Defect(f"{sample.path} is listed twice")
                    known.add(sample.path)
                entries.append(entry)
        except UserError as error:
            entries.append(Defect(str(error)))
        return entries

    @cached_property
    def _files(self) -> list[Path | Skipped | Defect]:
        return [found for folder in self.image_folders() for found in images_below(folder)]
