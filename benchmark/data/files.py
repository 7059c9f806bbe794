"""Locating datasets, listing image files, and reading the text files that come with datasets."""

import codecs
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath

from benchmark.data.samples import Defect, Skipped
from benchmark.errors import UserError

FORMATS: Mapping[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
"""Format that is decoded, by Pillow's name -> lower-case endings of its files."""
IMAGE_SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
"""Lower-case suffixes of files that count as images."""
_OTHER_FORMATS = (
    "heic heif hif avif jxl jp2 j2k jpf jpx jxr psd svg eps pdf tga exr ico icns pcx pfm dng raw cr2 nef arw"
)
OTHER_IMAGE_SUFFIXES = frozenset(f".{ending}" for ending in _OTHER_FORMATS.split())
"""Lower-case suffixes of images in formats that are not decoded."""
NOT_AN_IMAGE = "not an image"
NOT_READ = "image in a format that is not read"
"""Reasons for which files are skipped because of their endings."""
_CLUTTER = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found"})
"""Lower-case names of files and folders that operating systems create."""
_WORKBOOKS = (b"PK\3\4", b"\xd0\xcf\x11\xe0")
"""First bytes of the files of spreadsheet programs, the first of which are zip archives."""
_ENDING = re.compile(r"\.[a-z0-9_-]{1,12}")


def candidate_folders(root: Path, name: str, archive_folders: Sequence[str]) -> list[Path]:
    """Return the folders in which a dataset may lie, whether they exist or not.

    These are the archive's top folder within `root/name`, `root/name` itself, any other folder within it, and the
    archive's top folder within `root`, in order of preference.

    Args:
        root: The data root.
        name: The dataset's registered name.
        archive_folders: Possible names of the archive's top folder.
    """
    own = root / name
    inside = sorted(path for path in own.iterdir() if path.is_dir()) if own.is_dir() else []
    official = [path for path in inside if path.name in archive_folders]
    others = [path for path in inside if path not in official]
    return [*official, own, *others, *(root / folder for folder in archive_folders)]


def missing_paths(folder: Path, required: Sequence[str | tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return those of the required files and folders that `folder` lacks.

    Args:
        folder: The folder that should contain them.
        required: Relative paths; a tuple lists alternatives, of which one suffices.

    Returns:
        The alternatives of each missing path.
    """
    alternatives = [(path,) if isinstance(path, str) else path for path in required]
    return [paths for paths in alternatives if not any((folder / path).exists() for path in paths)]


def first_existing(folder: Path, *paths: str) -> Path:
    """Return the first of these relative paths that exists in `folder`, or the first one if none does."""
    candidates = [folder / path for path in paths]
    return next((path for path in candidates if path.exists()), candidates[0])


def list_images(folder: Path) -> Iterator[Path | Skipped | Defect]:
    """Yield the image files directly in `folder`, in no particular order; anything else is skipped.

    Raises:
        UserError: The folder cannot be listed.
    """
    for entry in _entries(folder):
        yield Skipped(NOT_AN_IMAGE, "folder") if _is_folder(entry) else _image(entry)


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name is hidden or was created by the operating system, such as `Thumbs.db`."""
    return name.startswith(".") or name.lower() in _CLUTTER


def ending(name: str) -> str:
    """Return the lower-case ending of a file's name for reports: ".txt", "no ending", or "other endings"."""
    suffix = PurePath(name).suffix.lower()
    return suffix if _ENDING.fullmatch(suffix) else "other endings" if suffix else "no ending"


def walk_images(folder: Path) -> Iterator[Path | Skipped | Defect]:
    """Yield the image files in `folder` and all folders below it, following links, in no particular order.

    A link to a folder that contains it is a defect.

    Raises:
        UserError: A folder cannot be listed.
    """
    yield from _walk(folder, ())


def match_images(
    folder: Path, pattern: re.Pattern[str], example: str
) -> Iterator[tuple[Path, re.Match[str]] | Skipped | Defect]:
    """Yield the images directly in `folder` with the match of their file names.

    An image whose name does not match is a defect, and so is a folder without images.

    Args:
        folder: The folder to list.
        pattern: The pattern of complete file names.
        example: A valid file name, for messages.

    Raises:
        UserError: The folder cannot be listed.
    """
    images = 0
    for finding in list_images(folder):
        if not isinstance(finding, Path):
            yield finding
            continue
        images += 1
        match = pattern.fullmatch(finding.name)
        yield (finding, match) if match else Defect(f"{finding} is not named like {example}")
    if not images:
        yield Defect(f"{folder} holds no images")


def read_lines(path: Path) -> list[str]:
    r"""Return the lines of a UTF-8 text file that ends lines with \n or \r\n, without blank lines at its end.

    Raises:
        UserError: The file is missing, unreadable or not UTF-8.
    """
    content = read_text(path).rstrip()
    return content.replace("\r\n", "\n").replace("\r", "\n").split("\n") if content else []


def read_text(path: Path) -> str:
    r"""Return the content of a UTF-8 text file with the ends of lines as they are, without a byte order mark.

    Raises:
        UserError: The file is missing, unreadable or not UTF-8.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # reading a pipe would wait for ever
        raise UserError(f"{path} is not a regular file")
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UserError(f"{path} is text in UTF-16: save it as UTF-8") from error
        if content.startswith(_WORKBOOKS):
            raise UserError(f"{path} is a workbook or an archive, not text: export it as text in UTF-8") from error
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} is not text in UTF-8, in line {line}: save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def read_rows(
    path: Path, *, columns: int, integers: tuple[int, ...] = (), header: int = 0
) -> Iterator[tuple[int, list[str]] | Defect]:
    """Yield the line number, counted from 1, and the fields of each row of a table separated by white space.

    A row with another number of fields is a defect, and so is a row without an integer where one is expected.

    Args:
        path: The text file.
        columns: Expected number of fields in a row.
        integers: Positions of fields that must be non-negative integers.
        header: Number of lines to skip at the beginning.

    Raises:
        UserError: The file is missing, unreadable or not UTF-8.
    """
    for number, line in enumerate(read_lines(path)[header:], start=header + 1):
        fields = line.split()
        if len(fields) != columns:
            yield Defect(f"{path}, line {number}: expected {columns} fields, not {line[:80]!r}")
        elif not all(re.fullmatch(r"\d{1,9}", fields[position]) for position in integers):
            places = ", ".join(str(position + 1) for position in integers)
            yield Defect(f"{path}, line {number}: expected integers in columns {places}, not {line[:80]!r}")
        else:
            yield number, fields


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(f"{folder} cannot be listed: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links that point to each other
        return False


def _image(entry: os.DirEntry[str]) -> Path | Skipped | Defect:
    path = Path(entry.path)
    if entry.name.startswith("."):
        return Skipped("hidden")
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        return Skipped(NOT_READ if suffix in OTHER_IMAGE_SUFFIXES else NOT_AN_IMAGE, ending(entry.name))
    try:
        if entry.is_symlink():
            path.stat()
    except OSError as error:
        return Defect(f"the link {path} cannot be followed: {error.strerror}")
    return path if entry.is_file() else Skipped("not a regular file")


def _walk(folder: Path, ancestors: tuple[tuple[int, int], ...]) -> Iterator[Path | Skipped | Defect]:
    entries = _entries(folder)
    status = folder.stat()
    inode = (status.st_dev, status.st_ino)
    if inode in ancestors:
        yield Defect(f"{folder} is a link to a folder that contains it")
        return
    if not entries:
        yield Skipped("empty folder")
    for entry in entries:
        if _is_folder(entry):
            if is_clutter(entry.name):
                yield Skipped("hidden" if entry.name.startswith(".") else "folder of the operating system")
            else:
                yield from _walk(Path(entry.path), (*ancestors, inode))
        else:
            yield _image(entry)
