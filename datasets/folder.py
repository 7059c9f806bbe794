"""The user's own images."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator

from benchmark.data.card import Card
from benchmark.data.image_folders import read_folders
from benchmark.data.image_table import read_table
from benchmark.data.own_images import OwnImage, OwnImages
from benchmark.data.reading import Reading
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import Defect, Finding, Sample
from benchmark.errors import UserError
from benchmark.recipe.baseline import REID_BASELINE
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol
from benchmark.utils.paths import user_path

LABEL_LENGTH = 48
"""Maximum length of the names of data, which are parts of file names."""


def _check_label(label: str) -> str:
    if label and not re.fullmatch(rf"\w[\w.+-]{{0,{LABEL_LENGTH - 1}}}", label):
        raise ValueError(
            f"must be at most {LABEL_LENGTH} letters, digits and _.+-, the first of them a letter, a digit or _"
        )
    return label


Label = Annotated[str, AfterValidator(_check_label)]
"""Name of data."""


@DATASETS.register_module("folder")
class Folder(RetrievalDataset):
    """Your own images: a folder per identity, or a table of images.

    Folders: `train/<identity>/*.jpg`, and either `query/` and `gallery/` or `test/`, with the same subfolders. All
    images in `test/` are queries, each of which searches all others. A table is a CSV file with the columns path
    (relative to the table), identity and, optionally, camera and split (train, query, gallery or test). Without splits,
    the first half of the identities, sorted by name, is for training and the other half for testing.

    If there are cameras, gallery images that share both identity and camera with the query are ignored.

    The label names the data on leaderboards, in recipes and in run folders, which do not depend on where the data are.

    Args:
        root: The data root.
        path: The folder or the CSV file. If empty, the folder `<label>` or `folder` in the data root.
        label: Name of the data: letters, digits and `_.+-`. If empty, the name of the folder or the CSV file at `path`.
        closed_set: Whether training and test images may share identities.
    """

    card: ClassVar[Card] = Card(
        title="Your own images",
        citation="None: the images are your own.",
        terms="None: the images are your own.",
        obtain="Put your images into folders as below, or list them in a CSV file and set path=FILE.csv",
        tree="""\
folder/
  train/<identity>/*.jpg ...
  query/<identity>/*.jpg ...        or test/<identity>/*.jpg ... instead of query and gallery
  gallery/<identity>/*.jpg ...
or a CSV file:
  path,identity,camera,split
  images/1.jpg,Alice,entrance,train""",
    )
    recipe = REID_BASELINE
    protocol_from_data = True
    location_options = ("path",)

    def __init__(self, root: Path, path: str = "", label: Label = "", closed_set: bool = False) -> None:
        super().__init__(root)
        source = user_path(path).absolute() if path else self.root / label
        if not path and not (label and source.exists()):
            source = self.root / self.name
        self.path = str(source) if path else ""
        self.label = label or (_label(source) if path else "")
        self.closed_set = closed_set
        self._source = source
        if self._source.exists():
            cameras = {image.camera for image in self._images}
            one_list = not {"query", "gallery"} & {image.split for image in self._images}
            self.protocol = Protocol(camera_rule=len(cameras) > 1, query_in_gallery=one_list)

    @property
    def folder(self) -> Path:
        if self._is_table:
            return self._source.parent
        return self._content.folder if self._source.is_dir() else self._source

    def require(self) -> None:
        if not self._source.exists():
            if self.path:
                raise UserError(f"dataset.path: {self.path} does not exist; give a folder or a CSV file")
            super().require()

    def scan(self, split: str) -> Iterator[Finding]:
        if split == "train":  # reported once, not for every split
            yield from self._content.findings
            yield from self._contradictions()
        wanted = "test" if split == "query" and self.protocol.query_in_gallery else split
        identities = _numbered(image.identity for image in self._images)
        cameras = _numbered(image.camera for image in self._images)
        for image in self._images:
            if (image.split or self._default_splits[image.identity]) == wanted:
                yield Sample(image.path, identities[image.identity], cameras[image.camera])

    def reading(self) -> Reading:
        content, sources = self._content, self._content.read
        cameras = sorted({image.camera for image in self._images})
        no_cameras = content.no_cameras or (
            "the column camera is empty" if not any(cameras) else f"all images have the camera {cameras[0]!r}"
        )
        if not any(image.split for image in self._images):
            training = list(self._default_splits.values()).count("train")
            sources += (
                f"no splits: of {len(self._default_splits):,} identities, sorted by name, the first {training:,} are "
                "for training and the others for testing",
            )
        return Reading.of(self.listings, self.protocol, sources=sources, unused=content.ignored, no_cameras=no_cameras)

    def identity_name(self, identity: int) -> str:
        return self._names("identity")[identity]

    def camera_name(self, camera: int) -> str:
        return self._names("camera")[camera]

    def _names(self, column: str) -> dict[int, str]:
        numbers = _numbered(getattr(image, column) for image in self._images)
        return {number: name for name, number in numbers.items()}

    def _contradictions(self) -> Iterator[Defect]:
        splits = {image.split for image in self._images}
        if "" in splits and len(splits) > 1 and self._is_table:
            image = next(image for image in self._images if not image.split)
            yield Defect(f"{self._source}: {image.path} has no split, but other images have one")
        if len({bool(image.camera) for image in self._images}) > 1:
            missing = [image for image in self._images if not image.camera]
            yield Defect(
                f"{self._source}: {missing[0].path} has no camera, but other images have one ({len(missing):,} of "
                f"{len(self._images):,} have none)"
            )
        if "test" in splits and splits & {"query", "gallery"}:
            yield Defect(f"{self._source}: some images are in test, others in query or gallery; use one or the other")

    @cached_property
    def _default_splits(self) -> dict[str, str]:
        """Identity -> split, for images without a split: the first half of the identities is for training."""
        numbers = _numbered(image.identity for image in self._images)
        names = sorted(numbers, key=lambda name: numbers[name])
        return {name: "train" if 2 * position < len(names) else "test" for position, name in enumerate(names)}

    @property
    def _is_table(self) -> bool:
        return self._source.suffix.lower() == ".csv" and not self._source.is_dir()

    @property
    def _images(self) -> tuple[OwnImage, ...]:
        return self._content.images

    @cached_property
    def _content(self) -> OwnImages:
        if self._is_table and not self._source.is_file():
            raise UserError(f"{self._source} is not a regular file")
        if not self._is_table and not self._source.is_dir():
            raise UserError(f"{self._source} is neither a folder nor a table: the name of a table ends in .csv")
        return read_table(self._source) if self._is_table else read_folders(self._source)


def _label(source: Path) -> str:
    """Return the name of a folder or table, wherever links lead to it, in a form that file names can contain."""
    real = Path(os.path.realpath(source))
    name = unicodedata.normalize("NFC", real.stem if real.suffix.lower() == ".csv" else real.name)
    name = "".join(letter if letter.isalpha() or letter.isdecimal() or letter in "_.+-" else " " for letter in name)
    return "_".join(name.split())[:LABEL_LENGTH].strip("_.+-") or "data"


def _numbered(names: Iterable[str]) -> dict[str, int]:
    """Return name -> number: the names themselves if all are different numbers, else their places in sorted order."""
    unique = sorted(set(names))
    if all(re.fullmatch(r"[0-9]{1,18}", name) for name in unique):
        numbers = {name: int(name) for name in unique}
        if len(set(numbers.values())) == len(unique):
            return numbers
    return {name: position for position, name in enumerate(unique)}
