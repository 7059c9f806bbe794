"""The user's own images."""

import csv
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

from benchmark.data.card import Card
from benchmark.data.files import images_below, lines
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import Defect, Sample, Skipped
from benchmark.errors import UserError, nearest
from benchmark.recipe.baseline import REID_BASELINE
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol

COLUMNS = ("path", "identity", "camera", "split")
NEEDED = COLUMNS[:2]
SPLITS_GIVEN = ("train", "query", "gallery", "test")
"""Splits as users name them: "test" is query and gallery in one."""


class _Image(NamedTuple):
    """An image as its user describes it; what is not said is empty."""

    path: Path
    identity: str
    camera: str
    split: str


@DATASETS.register_module("folder")
class Folder(RetrievalDataset):
    """Your own images: a folder per identity, or a table that names them.

    In folders: `train/<identity>/*.jpg`, and either `query/` and `gallery/` like it, or `test/`, all of whose images
    are queries that each search all others. A table is a CSV file with the columns path (relative to the table),
    identity and, if there are any, camera and split (train, query, gallery or test). Where nothing is said about
    splits, the first half of the identities, sorted by name, is for training and the others are for testing.

    With cameras, images of a query's identity from the query's own camera are ignored.

    Args:
        root: The data root.
        path: The folder, or the CSV file. Empty: the folder `folder` in the data root.
        closed_set: Whether training and test may show the same identities.
    """

    card: ClassVar[Card] = Card(
        title="Your own images",
        citation="Yours.",
        terms="Yours.",
        obtain="Put them into folders as below, or name them in a CSV file and say where it is: path=FILE.csv",
        tree="""\
folder/
  train/<identity>/*.jpg ...
  query/<identity>/*.jpg ...        or test/<identity>/*.jpg ..., for query and gallery in one
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
        self._source = _unwrapped(Path(path).expanduser() if path else self.root / self.name)
        if self._source.exists():
            cameras = {image.camera for image in self._images}
            one_list = not {"query", "gallery"} & {image.split for image in self._images}
            self.protocol = Protocol(camera_rule=len(cameras) > 1, query_in_gallery=one_list)

    def require(self) -> None:
        if not self._source.exists():
            super().require()
            raise UserError(f"{self._source} does not exist")

    def identity_name(self, identity: int) -> str:
        return self._names("identity")[identity]

    def camera_name(self, camera: int) -> str:
        return self._names("camera")[camera]

    def _names(self, column: str) -> dict[int, str]:
        numbers = _numbers(getattr(image, column) for image in self._images)
        return {number: name for name, number in numbers.items()}

    @property
    def folder(self) -> Path:
        return self._source if self._source.suffix.lower() != ".csv" else self._source.parent

    def scan(self, split: str) -> Iterator[Sample | Skipped | Defect]:
        if split == "train":  # told once
            yield from (found for found in self._found if not isinstance(found, _Image))
            yield from self._contradictions()
        wanted = "test" if split == "query" and self.protocol.query_in_gallery else split
        identities = _numbers(image.identity for image in self._images)
        cameras = _numbers(image.camera for image in self._images)
        halves = self._halves()
        for image in self._images:
            if (image.split or halves[image.identity]) == wanted:
                yield Sample(image.path, identities[image.identity], cameras[image.camera])

    def _contradictions(self) -> Iterator[Defect]:
        given = {image.split for image in self._images}
        if "" in given and len(given) > 1:
            lacking = next(image for image in self._images if not image.split)
            yield Defect(f"{self._source}: {lacking.path} is in no split, but others are")
        if len({bool(image.camera) for image in self._images}) > 1:
            lacking = next(image for image in self._images if not image.camera)
            yield Defect(f"{self._source}: {lacking.path} has no camera, but others have")
        if "test" in given and given & {"query", "gallery"}:
            yield Defect(f"{self._source}: images are in test, and others in query or gallery; use one or the other")

    def _halves(self) -> dict[str, str]:
        """Identity -> split, where the user has not said."""
        numbers = _numbers(image.identity for image in self._images)
        names = sorted(numbers, key=lambda name: numbers[name])
        return {name: "train" if 2 * position < len(names) else "test" for position, name in enumerate(names)}

    @cached_property
    def _images(self) -> list[_Image]:
        return [found for found in self._found if isinstance(found, _Image)]

    @cached_property
    def _found(self) -> list[_Image | Skipped | Defect]:
        if self._source.is_file() and self._source.suffix.lower() != ".csv":
            raise UserError(f"{self._source} is neither a folder nor a table, whose name ends in .csv")
        try:
            return list(_table(self._source) if self._source.suffix.lower() == ".csv" else _folders(self._source))
        except csv.Error as error:
            raise UserError(f"{self._source} is no CSV file: {error}") from error


def _unwrapped(source: Path) -> Path:
    """The folder of folders that is alone in a folder, as archives leave behind; else the path itself."""
    content = list(source.iterdir()) if source.is_dir() else []
    if len(content) != 1 or content[0].name in SPLITS_GIVEN or content[0].is_symlink() or not content[0].is_dir():
        return source
    return content[0] if any(path.is_dir() for path in content[0].iterdir()) else source


def _folders(source: Path) -> Iterator[_Image | Skipped | Defect]:
    for found in images_below(source):
        if not isinstance(found, Path):
            yield found
            continue
        above = found.relative_to(source).parts[:-1]
        split, identity = (above[0], above[1:2]) if above and above[0] in SPLITS_GIVEN else ("", above[:1])
        if identity:
            yield _Image(found, identity[0], "", split)
        else:
            yield Defect(f"{found} is not in the folder of an identity")


def _table(source: Path) -> Iterator[_Image | Defect]:
    reader = csv.DictReader(lines(source), restval="", restkey="more")
    columns = reader.fieldnames or []
    for column in NEEDED:
        if column not in columns:
            alone = ": its columns must be separated by commas" if len(columns) == 1 else ""
            raise UserError(
                f"{source} has no column {column!r}{nearest(column, columns)} It has: {', '.join(columns)}{alone}."
                if columns
                else f"{source} is empty: its first line names the columns {', '.join(COLUMNS)}"
            )
    named: dict[str, int] = {}
    for row in reader:
        path, identity, camera, split = (row.get(column, "").strip() for column in COLUMNS)
        line = reader.line_num
        where = f"{source}, line {line}"
        if "more" in row:
            yield Defect(f"{where}: there are more values than columns")
        elif named.setdefault(path, line) != line:
            yield Defect(f"{where}: {path} is also named in line {named[path]}")
        elif not path or not identity:
            yield Defect(f"{where}: the {'identity' if path else 'path'} is missing")
        elif split and split not in SPLITS_GIVEN:
            yield Defect(f"{where}: unknown split {split!r}{nearest(split, SPLITS_GIVEN)}".rstrip("."))
        elif not (source.parent / path).is_file():
            yield Defect(f"{where}: {source.parent / path} is missing")
        else:
            yield _Image(source.parent / path, identity, camera, split)


def _numbers(names: Iterable[str]) -> dict[str, int]:
    """A number for every name: the one that it is where all are different numbers, else its place in sorted order."""
    unique = sorted(set(names))
    if all(re.fullmatch(r"[0-9]{1,18}", name) for name in unique):
        numbers = {name: int(name) for name in unique}
        if len(set(numbers.values())) == len(unique):
            return numbers
    return {name: position for position, name in enumerate(unique)}
