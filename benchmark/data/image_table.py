"""Tables of the user's own images: CSV files with a row per image."""

import csv
import io
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path

from benchmark.data.files import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES, read_text
from benchmark.data.own_images import (
    SPLIT_NAMES,
    OwnImage,
    OwnImages,
    SameFiles,
    likely_split,
    listed,
    plain,
    split_question,
    suspicious_names,
)
from benchmark.data.samples import Defect, Skipped, Suspicious
from benchmark.errors import UserError
from benchmark.utils.escape import terminal

COLUMNS = ("path", "identity", "camera", "split")
REQUIRED_COLUMNS = COLUMNS[:2]

_SYNONYMS = {
    "path": "file filename filepath image imagepath imagename imagefile img imgpath imgname imgfile photo picture name",
    "identity": "pid personid vid vehicleid identityid label labels class classid classname productid itemid objectid "
    "identities target subject individual category uid ids id",
    "camera": "cid kamera viewid device deviceid sensor sensorid",
    "split": "subset partition fold phase usage",
}
"""Column -> other names for it, without spaces and underscores, the most likely first."""
_SIMILAR = 0.75
"""Similarity from which a name is taken for a misspelled one."""
_FLAGS = frozenset({"0", "1", "0.0", "1.0", "true", "false", "yes", "no", "t", "f", "y", "n"})
"""Values of a column that states for each image whether it is in one split."""
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def read_table(source: Path) -> OwnImages:
    """Read a CSV file with the columns path and identity and, optionally, camera and split.

    Upper case and surrounding spaces in the names of columns and splits do not matter.

    Raises:
        UserError: The file cannot be read, is not a CSV file, lacks a column, or has a column that is probably meant
            for a missing one.
    """
    reader = csv.reader(io.StringIO(read_text(source), newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    start = 1
    try:
        for row in reader:
            if row:
                rows.append((reader.line_num, row))
            start = reader.line_num + 1
    except csv.Error as error:
        length = f" or it is longer than {csv.field_size_limit():,} characters," if "limit" in str(error) else ""
        raise UserError(
            f"{source} is not a CSV file: in line {start},{length} a value has a quotation mark that does not end it: "
            "enclose whole values in double quotes, and write a double quote in them twice"
        ) from error
    if not rows:
        raise UserError(f"{source} is empty: the first line must name the columns {', '.join(COLUMNS)}")
    (_, header), *rows = rows
    places = _columns(source, header, [row for _, row in rows])
    images: list[OwnImage] = []
    findings: list[Skipped | Suspicious | Defect] = []
    for finding in _findings(source, places, len(header), rows):
        if isinstance(finding, OwnImage):
            images.append(finding)
        else:
            findings.append(finding)
    for column in ("identity", "camera"):
        findings += suspicious_names(column, (getattr(image, column) for image in images))
    if others := [image.path for image in images if image.path.suffix.lower() not in {"", *IMAGE_SUFFIXES}]:
        files = "1 file does" if len(others) == 1 else f"{len(others):,} files do"
        findings.append(Suspicious(f"{source}: {files} not have the ending of an image, such as {others[0].name}"))
    names = [
        column if header[place] == column else f"{column} (written {header[place]!r})"
        for column, place in places.items()
    ]
    read = [f"table {source.name}, columns {', '.join(names)}"]
    backslashes = sum("\\" in _cell(row, places["path"]) for _, row in rows)
    if backslashes:
        read.append(f"{backslashes:,} paths with backslashes, read as slashes where no such file exists")
    unused = [name.strip() or "(no name)" for place, name in enumerate(header) if place not in places.values()]
    return OwnImages(
        source.parent,
        tuple(images),
        tuple(findings),
        tuple(read),
        (f"columns of the table: {listed(unused)}",) if unused else (),
        "" if "camera" in places else "the table has no column camera",
    )


def _columns(source: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, int]:
    """Return column -> place in a row."""
    names = [plain(name) for name in header]
    for column in COLUMNS:
        if names.count(column) > 1:
            raise UserError(f"{source} has {names.count(column)} columns {column!r}: keep one, and rename the others")
    places = {column: names.index(column) for column in COLUMNS if column in names}
    unused = [place for place, name in enumerate(names) if name not in COLUMNS]
    for column in COLUMNS:
        if column in places:
            continue
        likely = _likely(column, {place: names[place] for place in unused}, rows)
        if column in REQUIRED_COLUMNS:
            raise UserError(_missing_column(source, header, column, likely))
        if likely is not None:
            raise UserError(
                f"{source} has no column {column!r}, but a column {terminal(header[likely])!r}; did you mean "
                f"{column!r}? Rename it, or remove it if it is something else"
            )
    return places


def _likely(column: str, unused: dict[int, str], rows: Sequence[Sequence[str]]) -> int | None:
    """Return the place of the unused column that is probably meant: by its name or, for a split, by its values."""
    letters = {place: re.sub(r"[\W_]", "", name) for place, name in unused.items()}
    synonyms = _SYNONYMS[column].split()
    for word in synonyms:
        if word in letters.values():
            return next(place for place, name in letters.items() if name == word)
    for place, name in letters.items():
        begins = column == "camera" and name.startswith(("cam", "kamera"))
        if begins or SequenceMatcher(None, name, column).ratio() >= _SIMILAR:
            return place
        if column == "split":
            values = {cell for row in rows if (cell := _cell(row, place))}
            flags = likely_split(unused[place]) and _FLAGS.issuperset(map(str.casefold, values))
            if values and (flags or all(map(likely_split, values))):
                return place
    return None


def _missing_column(source: Path, header: Sequence[str], column: str, likely: int | None) -> str:
    shown = terminal(listed([name.strip() for name in header]))
    separator = next((name for sign, name in _SEPARATORS.items() if len(header) == 1 and sign in header[0]), None)
    if separator:
        return f"{source} seems to use {separator}: separate the columns by commas. Its first line is: {shown}"
    question = f"; did you mean {terminal(header[likely].strip())!r}?" if likely is not None else "."
    return (
        f"{source} has no column {column!r}{question} It has: {shown}. The first line must name the columns "
        f"{', '.join(REQUIRED_COLUMNS)} and, optionally, {', '.join(COLUMNS[2:])}"
    )


def _findings(
    source: Path, places: dict[str, int], width: int, rows: Sequence[tuple[int, Sequence[str]]]
) -> Iterator[OwnImage | Skipped | Suspicious | Defect]:
    folder, same_files = _Folder(source.parent), SameFiles(f"{source}, ")
    for line, row in rows:
        path, identity, camera, split = (_cell(row, places[column]) if column in places else "" for column in COLUMNS)
        where = f"{source}, line {line}"
        if not any(cell.strip() for cell in row):
            yield Skipped("row without values")
        elif any(cell.strip() for cell in row[width:]):
            yield Defect(f"{where}: there are more values than columns")
        elif not path or not identity:
            yield Defect(f"{where}: the {'identity' if path else 'path'} is missing")
        elif split and split.casefold() not in SPLIT_NAMES:
            yield Defect(f"{where}: unknown split {split!r}{split_question(split)}")
        elif (file := folder.find(path)) is None:
            yield Defect(f"{where}: {source.parent / path} {folder.problem(path)}")
        elif file.suffix.lower() in OTHER_IMAGE_SUFFIXES:
            yield Defect(f"{where}: {path} is in a format that is not read: convert it to JPEG or PNG")
        else:
            image = OwnImage(file, identity, camera, split.casefold())
            finding = same_files.finding(image, f"line {line}, {path}")
            if finding:
                yield finding
            if not isinstance(finding, Defect):
                yield image


def _cell(row: Sequence[str], place: int) -> str:
    return row[place].strip() if place < len(row) else ""


class _Folder:
    """The folder of a table, to which its paths are relative."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names: dict[Path, dict[str, str]] = {}

    def find(self, cell: str) -> Path | None:
        """Return the file that a cell names, with slashes or backslashes; None if there is none."""
        candidates = (self.path / text for text in dict.fromkeys((cell, cell.replace("\\", "/"))))
        return next((path for path in candidates if _is_file(path)), None)

    def problem(self, cell: str) -> str:
        """Return why there is no such file, as the end of a message."""
        path = Path(cell.replace("\\", "/"))
        if os.path.isdir(self.path / path):  # noqa: PTH112 - see `_is_file`
            return "is a folder: list the images in it"
        return f"does not exist{self._hint(cell, path)}"

    def _hint(self, cell: str, path: Path) -> str:
        """Return the likely reason why a file does not exist."""
        if re.match(r"[A-Za-z]:|~|\w+://", cell):
            return ": use a path relative to the table"
        if _is_file(Path(cell)):
            return ": paths are relative to the table, not to the current folder"
        similar = self._listing(self.path / path.parent).get(_folded(path.name))
        return f"; did you mean {path.parent / similar}?" if similar else ""

    def _listing(self, folder: Path) -> dict[str, str]:
        """Return the names in a folder by their `_folded` forms."""
        if folder not in self._names:
            try:
                self._names[folder] = {_folded(path.name): path.name for path in sorted(folder.iterdir())}
            except (OSError, ValueError):
                self._names[folder] = {}
        return self._names[folder]


def _folded(name: str) -> str:
    """Return a file name without case, and with accents as the characters have them on all systems."""
    return unicodedata.normalize("NFC", name).casefold()


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for names that are too long
