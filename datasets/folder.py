"""The user's own images."""

import csv
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

from benchmark.data.card import Card
from benchmark.data.files import read_lines, walk_images
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import Defect, Sample, Skipped
from benchmark.errors import UserError, nearest
from benchmark.recipe.baseline import REID_BASELINE
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol

COLUMNS = ("path", "identity", "camera", "split")
REQUIRED_COLUMNS = COLUMNS[:2]
SPLIT_NAMES = ("train", "query", "gallery", "test")
"""Names of splits in folders and tables; images of "test" are both queries and gallery."""


class _Image(NamedTuple):
    """An image as the user describes it; unknown fields are empty."""

    path: Path
    identity: str
    camera: str
    split: str


@DATASETS.register_module("folder")
class Folder(RetrievalDataset):
    """Your own images: a folder per identity, or a table of images.

    Folders: `train/<identity>/*.jpg`, and either `query/` and `gallery/` or `test/`, with the same subfolders. All
    images in `test/` are queries, each of which searches all others. A table is a CSV file with the columns path
    (relative to the table), identity and, optionally, camera and split (train, query, gallery or test). Without splits,
    the first half of the identities, sorted by name, is for training and the other half for testing.

    If there are cameras, gallery images that share both identity and camera with the query are ignored.

    Args:
        root: The data root.
        path: The folder or the CSV file. If empty, the folder `folder` in the data root.
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

    def __init__(self, root: Path, path: str = "", closed_set: bool = False) -> None:
        super().__init__(root)
        self.path = path
        self.closed_set = closed_set
        self._source = _without_wrapper(Path(path).expanduser() if path else self.root / self.name)
        if self._source.exists():
            cameras = {image.camera for image in self._images}
            one_list = not {"query", "gallery"} & {image.split for image in self._images}
            self.protocol = Protocol(camera_rule=len(cameras) > 1, query_in_gallery=one_list)

    @property
    def folder(self) -> Path:
        return self._source if self._source.suffix.lower() != ".csv" else self._source.parent

    def require(self) -> None:
        if not self._source.exists():
            super().require()
            raise UserError(f"{self._source} does not exist")

    def scan(self, split: str) -> Iterator[Sample | Skipped | Defect]:
        if split == "train":  # reported once, not for every split
            yield from (finding for finding in self._findings if not isinstance(finding, _Image))
            yield from self._contradictions()
        wanted = "test" if split == "query" and self.protocol.query_in_gallery else split
        identities = _numbered(image.identity for image in self._images)
        cameras = _numbered(image.camera for image in self._images)
        default_splits = self._default_splits()
        for image in self._images:
            if (image.split or default_splits[image.identity]) == wanted:
                yield Sample(image.path, identities[image.identity], cameras[image.camera])

    def identity_name(self, identity: int) -> str:
        return self._names("identity")[identity]

    def camera_name(self, camera: int) -> str:
        return self._names("camera")[camera]

    def _names(self, column: str) -> dict[int, str]:
        numbers = _numbered(getattr(image, column) for image in self._images)
        return {number: name for name, number in numbers.items()}

    def _contradictions(self) -> Iterator[Defect]:
        splits = {image.split for image in self._images}
        if "" in splits and len(splits) > 1:
            image = next(image for image in self._images if not image.split)
            yield Defect(f"{self._source}: {image.path} has no split, but other images have one")
        if len({bool(image.camera) for image in self._images}) > 1:
            image = next(image for image in self._images if not image.camera)
            yield Defect(f"{self._source}: {image.path} has no camera, but other images have one")
        if "test" in splits and splits & {"query", "gallery"}:
            yield Defect(f"{self._source}: some images are in test, others in query or gallery; use one or the other")

    def _default_splits(self) -> dict[str, str]:
        """Return identity -> split, for images without a split: the first half of the identities is for training."""
        numbers = _numbered(image.identity for image in self._images)
        names = sorted(numbers, key=lambda name: numbers[name])
        return {name: "train" if 2 * position < len(names) else "test" for position, name in enumerate(names)}

    @cached_property
    def _images(self) -> list[_Image]:
        return [finding for finding in self._findings if isinstance(finding, _Image)]

    @cached_property
    def _findings(self) -> list[_Image | Skipped | Defect]:
        is_table = self._source.suffix.lower() == ".csv"
        if self._source.is_file() and not is_table:
            raise UserError(f"{self._source} is neither a folder nor a table: the name of a table ends in .csv")
        try:
            return list(_read_table(self._source) if is_table else _read_folders(self._source))
        except csv.Error as error:
            raise UserError(f"{self._source} is not a CSV file: {error}") from error


def _without_wrapper(source: Path) -> Path:
    """Return the single folder in `source` if archives may have wrapped everything into it, else `source` itself.

    A single folder that is a split, a link, or has no folders in it is not such a wrapper.
    """
    content = list(source.iterdir()) if source.is_dir() else []
    if len(content) != 1 or content[0].name in SPLIT_NAMES or content[0].is_symlink() or not content[0].is_dir():
        return source
    return content[0] if any(path.is_dir() for path in content[0].iterdir()) else source


def _read_folders(source: Path) -> Iterator[_Image | Skipped | Defect]:
    for finding in walk_images(source):
        if not isinstance(finding, Path):
            yield finding
            continue
        parents = finding.relative_to(source).parts[:-1]
        split, identity = (parents[0], parents[1:2]) if parents and parents[0] in SPLIT_NAMES else ("", parents[:1])
        if identity:
            yield _Image(finding, identity[0], "", split)
        else:
            yield Defect(f"{finding} is not in the folder of an identity")


def _read_table(source: Path) -> Iterator[_Image | Defect]:
    reader = csv.DictReader(read_lines(source), restval="", restkey="more")
    columns = reader.fieldnames or []
    if not columns:
        raise UserError(f"{source} is empty: the first line must name the columns {', '.join(COLUMNS)}")
    for column in REQUIRED_COLUMNS:
        if column not in columns:
            remedy = ": separate the columns by commas" if len(columns) == 1 else ""
            raise UserError(
                f"{source} has no column {column!r}{nearest(column, columns)} It has: {', '.join(columns)}{remedy}."
            )
    line_of_path: dict[str, int] = {}
    for row in reader:
        path, identity, camera, split = (row.get(column, "").strip() for column in COLUMNS)
        line = reader.line_num
        where = f"{source}, line {line}"
        if "more" in row:
            yield Defect(f"{where}: there are more values than columns")
        elif line_of_path.setdefault(path, line) != line:
            yield Defect(f"{where}: {path} is also listed in line {line_of_path[path]}")
        elif not path or not identity:
            yield Defect(f"{where}: the {'identity' if path else 'path'} is missing")
        elif split and split not in SPLIT_NAMES:
            yield Defect(f"{where}: unknown split {split!r}{nearest(split, SPLIT_NAMES)}".rstrip("."))
        elif not (source.parent / path).is_file():
            yield Defect(f"{where}: {source.parent / path} does not exist")
        else:
            yield _Image(source.parent / path, identity, camera, split)


def _numbered(names: Iterable[str]) -> dict[str, int]:
    """Return name -> number: the names themselves if all are different numbers, else their places in sorted order."""
    unique = sorted(set(names))
    if all(re.fullmatch(r"[0-9]{1,18}", name) for name in unique):
        numbers = {name: int(name) for name in unique}
        if len(set(numbers.values())) == len(unique):
            return numbers
    return {name: position for position, name in enumerate(unique)}
