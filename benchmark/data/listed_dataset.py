"""Datasets that come with lists of their images."""

from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from benchmark.data.files import walk_images
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import SPLITS, Defect, Sample, Skipped
from benchmark.errors import UserError


class ListedDataset(RetrievalDataset):
    """A dataset whose text files state the identity and split of every image.

    The lists are compared with the image folders. An image that is listed but missing, or listed twice, is a defect.
    An image that is in no list, or only in lists that the options do not use, is skipped and counted.
    """

    @abstractmethod
    def entries(self) -> Iterator[tuple[str, Sample] | Skipped | Defect]:
        """Yield the split and the sample of every listed image.

        If query and gallery are one list, the split is "query". Images of lists that the options do not use come last,
        with any other name in place of the split.
        """

    @abstractmethod
    def image_folders(self) -> tuple[Path, ...]:
        """Return the folders that contain the images, at any depth."""

    def scan(self, split: str) -> Iterator[Sample | Skipped | Defect]:
        present = {file for file in self._files if isinstance(file, Path)}
        for entry in self._entries:
            if isinstance(entry, Skipped | Defect):
                if split == "train":  # reported once, not for every split
                    yield entry
            elif entry[0] == split:
                sample = entry[1]
                yield sample if sample.path in present else Defect(f"{sample.path} is listed but missing")
        if split == "train":
            used = {sample.path for name, sample in self.listed_samples() if name in SPLITS}
            unused = {sample.path for name, sample in self.listed_samples()} - used
            yield from [Skipped("image of a list that is not used")] * len(unused & present)
            yield from [Skipped("image that is in no list")] * len(present - used - unused)
            yield from (file for file in self._files if not isinstance(file, Path))

    def listed_samples(self) -> Iterator[tuple[str, Sample]]:
        """Yield the split and the sample of every listed image, including lists that are not used."""
        return (entry for entry in self._entries if not isinstance(entry, Skipped | Defect))

    @cached_property
    def _entries(self) -> list[tuple[str, Sample] | Skipped | Defect]:
        entries: list[tuple[str, Sample] | Skipped | Defect] = []
        listed: set[Path] = set()
        try:
            for entry in self.entries():
                if not isinstance(entry, Skipped | Defect):
                    split, sample = entry
                    if sample.path in listed and split in SPLITS:
                        entry = Defect(f"{sample.path} is listed twice")
                    listed.add(sample.path)
                entries.append(entry)
        except UserError as error:
            entries.append(Defect(str(error)))
        return entries

    @cached_property
    def _files(self) -> list[Path | Skipped | Defect]:
        return [file for folder in self.image_folders() for file in walk_images(folder)]
