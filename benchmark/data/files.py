"""Finding image files, and reading the text files that come with datasets."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from benchmark.data.samples import Defect, Skipped
from benchmark.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})
"""Of files that are taken for images."""


def images_in(folder: Path) -> Iterator[Path | Skipped | Defect]:
    """The image files directly in `folder`, in no order; everything else in it is skipped.

    Raises:
        UserError: The folder cannot be listed.
    """
    for entry in _entries(folder):
        yield Skipped("not an image") if _is_folder(entry) else _image(entry)


def images_below(folder: Path) -> Iterator[Path | Skipped | Defect]:
    """The image files in `folder` and in all folders below it, those behind links included, in no order.

    A link to a folder that it is in is a defect.

    Raises:
        UserError: A folder cannot be listed.
    """
    yield from _walk(folder, ())


def named(
    folder: Path, pattern: re.Pattern[str], example: str
) -> Iterator[tuple[Path, re.Match[str]] | Skipped | Defect]:
    """The images in `folder` with the match of their names; an image with another name is a defect, as is no image.

    Raises:
        UserError: The folder cannot be listed.
    """
    images = 0
    for finding in images_in(folder):
        if not isinstance(finding, Path):
            yield finding
            continue
        images += 1
        match = pattern.fullmatch(finding.name)
        yield (finding, match) if match else Defect(f"{finding} is not named like {example}")
    if not images:
        yield Defect(f"{folder} holds no images")


def lines(path: Path) -> list[str]:
    """The lines of a text file, be their ends those of Unix or of Windows, without blank ones at its end.

    Raises:
        UserError: It is missing, unreadable or not UTF-8.
    """
    try:
        content = path.read_text(encoding="utf-8-sig").rstrip()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return content.split("\n") if content else []


def rows(
    path: Path, fields: int, integers: tuple[int, ...] = (), header: int = 0
) -> Iterator[tuple[int, list[str]] | Defect]:
    """The rows of a text table whose fields are separated by white space, each with its line number, counted from 1.

    A row with another number of fields is a defect, and so is one with a text where there should be an integer.

    Args:
        path: The file.
        fields: How many there are in a row.
        integers: Positions of those that are integers.
        header: Lines at the beginning that are no rows.

    Raises:
        UserError: The file is missing, unreadable or not UTF-8.
    """
    for number, line in enumerate(lines(path)[header:], start=header + 1):
        found = line.split()
        if len(found) != fields:
            yield Defect(f"{path}, line {number}: expected {fields} fields, not {line[:80]!r}")
        elif not all(re.fullmatch(r"\d{1,9}", found[position]) for position in integers):
            yield Defect(f"{path}, line {number}: expected a number where there is none in {line[:80]!r}")
        else:
            yield number, found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(f"{folder} cannot be listed: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links that lead to each other
        return False


def _image(entry: os.DirEntry[str]) -> Path | Skipped | Defect:
    path = Path(entry.path)
    if entry.name.startswith("."):
        return Skipped("hidden")
    if path.suffix.lower() not in SUFFIXES:
        return Skipped("not an image")
    try:
        if entry.is_symlink():
            path.stat()
    except OSError as error:
        return Defect(f"the link {path} cannot be followed: {error.strerror}")
    return path


def _walk(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path | Skipped | Defect]:
    entries = _entries(folder)
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        yield Defect(f"{folder} is a link to a folder that it is in")
        return
    for entry in entries:
        if _is_folder(entry) and not entry.name.startswith("."):
            yield from _walk(Path(entry.path), (*above, here))
        else:
            yield _image(entry)
