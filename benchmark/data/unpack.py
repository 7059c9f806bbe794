"""Downloading and unpacking the archives of datasets."""

import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.request import Request, urlopen

from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from benchmark.data.archive import Archive, Member, TarArchive, ZipArchive, is_damage
from benchmark.data.card import Card, Download, Package
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.errors import UserError
from benchmark.utils.atomic import atomic_path, temporary_folder
from benchmark.utils.console import Console, notify
from benchmark.utils.locks import locked
from benchmark.utils.writable import require_writable

_BLOCK = 2**20
"""Bytes to write at a time."""
_TIMEOUT = 60.0
"""Seconds without any data after which a download fails."""
MAX_FILES = 2_000_000
"""Largest number of files in an archive."""
MAX_EXPANSION = 100
"""Largest size of the unpacked files, relative to the archive, because images hardly compress."""
_ARCHIVES = frozenset({".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".rar", ".7z", ".zst"})
"""Endings of archives."""
_ALLOWANCE = 10**8
"""Bytes of unpacked files that any archive may have."""


def fetch(dataset: RetrievalDataset, root: Path) -> Path:
    """Return the dataset's archive in `root/downloads`, downloaded if it is missing and verified by its SHA-256.

    Raises:
        UserError: The dataset may not be downloaded by a tool, the disk is too small, the server cannot be reached, or
            the file is not the archive. A failed download leaves no file.
    """
    download = dataset.card.download
    if download is None:
        raise UserError(f"{dataset.card.title} cannot be downloaded automatically. {dataset.card.obtain}")
    target = root / "downloads" / download.name
    if target.is_file():
        with target.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != download.sha256:
                raise UserError(f"{target} is not the published archive: delete it to download it again")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if download.size > free:
        raise UserError(f"{download.name} has {decimal(download.size)}, but {target.parent} has {decimal(free)} left")
    try:
        _download(download, target)
    except Exception as error:  # of network, server or disk, of many types
        raise UserError(
            f"{download.url} could not be downloaded ({str(error) or repr(error)}). Download it by other means and "
            f"pass the file: benchmark data prepare {dataset.name} FILE"
        ) from error
    return target


def _download(download: Download, target: Path) -> None:
    """Download a file with a progress bar, and verify it before it appears as `target`.

    Raises:
        OSError: The server cannot be reached or does not answer, or the disk is full.
        ValueError: The file is not the published one.
    """
    digest, size = hashlib.sha256(), 0
    columns = (TextColumn("downloading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with (
        urlopen(Request(download.url, headers={"User-Agent": "benchmark"}), timeout=_TIMEOUT) as response,
        atomic_path(target) as temporary,
        temporary.open("wb") as file,
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):
        task = progress.add_task("", total=download.size)
        while block := response.read(_BLOCK):
            size += len(block)
            if size > download.size:
                break
            digest.update(block)
            file.write(block)
            progress.advance(task, len(block))
        if digest.hexdigest() != download.sha256:
            raise ValueError("the file is not the published archive")


def find_package(card: Card, path: Path) -> Package:
    """Return which package of a dataset an archive is, by its SHA-256.

    Raises:
        UserError: The archive is missing, or none of the packages.
    """
    if not path.is_file():
        raise UserError(f"archive {path} {'is not a regular file' if path.exists() else 'does not exist'}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    for package in card.packages:
        if package.sha256 == digest:
            return package
    names = ", ".join(package.name for package in card.packages)
    raise UserError(f"{path} is none of {names}, or it is damaged or of another version. {card.obtain}")


def unpack(path: Path, target: Path, expected: Sequence[str | tuple[str, ...]] = ()) -> None:
    """Unpack a zip or tar archive into a folder, completely or not at all.

    All files appear at once at the end, and existing files are never overwritten. After an error or an interrupt,
    nothing has changed. What a killed process left behind is removed by the next call.

    Args:
        path: The archive.
        target: The folder, which is created if it is missing.
        expected: The dataset's `required_paths`. An archive that contains none of them is rejected as the archive of
            another dataset.

    Raises:
        UserError: The archive is missing, damaged, unsafe, another dataset's or too large for the disk, or one of its
            top-level files or folders exists already.
    """
    archive = None
    try:
        archive = _open(path)
        _unpack(archive, target, expected)
    except UserError:
        raise
    except KeyboardInterrupt as error:
        error.add_note("nothing has changed")
        raise
    except Exception as error:
        if not is_damage(error):
            raise
        encrypted = archive is not None and archive.encrypted
        state = "is damaged, or the password is wrong" if encrypted else "is damaged or incomplete"
        raise UserError(f"{path} {state} ({str(error) or repr(error)}): download it again") from error


def _open(path: Path) -> Archive:
    if path.is_dir():
        raise UserError(
            f"{path} is a folder, not an archive: move or link it into the data root, then run `benchmark data check`"
        )
    if not path.is_file():
        raise UserError(f"archive {path} {'is not a regular file' if path.exists() else 'does not exist'}")
    if zipfile.is_zipfile(path):
        return ZipArchive(path)
    if TarArchive.recognizes(path):
        return TarArchive(path)
    raise UserError(
        f"{path} is not a zip or tar file, or is damaged: download it again, or unpack it yourself into the data root"
    )


def _unpack(archive: Archive, target: Path, expected: Sequence[str | tuple[str, ...]]) -> None:
    path = archive.path
    members = list(_members(archive))
    _require_distinct(path, members)
    _require_any(path, members, expected)
    size = sum(member.size for member in members)
    console = Console(stderr=True)
    notify(f"{path.name}: {len(members):,} files, {decimal(size)}, to {target}")
    require_writable(target.parent, "--data-root")
    if os.path.lexists(target) and not target.is_dir():
        raise UserError(f"{target} is not a folder: move it away to unpack {path.name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise UserError(f"{path} takes {decimal(size)} unpacked, but {target.parent} has {decimal(free)} left")
    lock = target.parent / f".{target.name}.lock"
    with locked(lock, f"unpacks into {target}"), temporary_folder(target) as temporary:
        tops = sorted({member.path.parts[0] for member in members})
        existing = [target / top for top in tops if os.path.lexists(target / top)]
        if existing:
            raise UserError(
                f"{existing[0]} exists already, and nothing is overwritten: move it away to unpack {path.name} again"
            )
        folder = temporary / "content"
        folder.mkdir()
        _extract(archive, folder, size, console)
        os.sync()  # otherwise, a power loss after the renaming may leave empty files
        target.mkdir(exist_ok=True)
        _move(folder, target, tops)
        os.sync()


def _members(archive: Archive) -> Iterator[Member]:
    """Yield the files to unpack. Metadata of macOS are left out, and counted in a message.

    Raises:
        UserError: There are too many files, or they are too large for an archive of images.
    """
    limit = MAX_EXPANSION * archive.path.stat().st_size + _ALLOWANCE
    size = files = metadata = 0
    for member in archive.members():
        files, size = files + 1, size + member.size
        if files > MAX_FILES:
            raise UserError(f"{archive.path} is not unpacked: it contains more than {MAX_FILES:,} files")
        if size > limit:
            raise UserError(
                f"{archive.path} is not unpacked: it would become more than {MAX_EXPANSION} times as large as it is, "
                f"which images do not. If you trust it, unpack it yourself into the data root"
            )
        if _is_macos_metadata(member.path):
            metadata += 1
        else:
            yield member
    if metadata:
        notify(f"{archive.path.name}: {metadata:,} files with metadata of macOS are left out")


def _is_macos_metadata(path: PurePosixPath) -> bool:
    return path.parts[0] == "__MACOSX" or path.name.startswith("._") or path.name == ".DS_Store"


def _require_distinct(archive: Path, members: Sequence[Member]) -> None:
    """Reject an archive without files, or one in which a file would overwrite another or replace a folder."""
    if not members:
        raise UserError(f"{archive} contains no files")
    files: set[PurePosixPath] = set()
    for member in members:
        if member.path in files:
            raise UserError(f"{archive} is not unpacked: it contains {str(member.path)!r} twice")
        files.add(member.path)
    folders = {folder for file in files for folder in file.parents}
    for path in folders & files:
        raise UserError(f"{archive} is not unpacked: it contains {str(path)!r} both as a file and as a folder")


def _require_any(archive: Path, members: Sequence[Member], expected: Sequence[str | tuple[str, ...]]) -> None:
    """Reject an archive that contains none of the expected paths."""
    names = [name for paths in expected for name in ([paths] if isinstance(paths, str) else paths)]
    if names and not any(f"/{name}/" in f"/{member.path}/" for member in members for name in names):
        tops = sorted({member.path.parts[0] for member in members})
        inner = next((member.path for member in members if member.path.suffix.lower() in _ARCHIVES), None)
        if inner is not None:
            raise UserError(
                f"{archive} is not unpacked: it contains none of {', '.join(names)}, but an archive, {inner}: unpack "
                f"that one from it, and give it instead"
            )
        raise UserError(
            f"{archive} is not unpacked: it seems to be of another dataset, since it contains {', '.join(tops[:3])}"
            f"{', ...' if len(tops) > 3 else ''}, and none of {', '.join(names)}"
        )


def _extract(archive: Archive, folder: Path, size: int, console: Console) -> None:
    columns = (TextColumn("unpacking"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=size)
        for member, content in archive.contents():
            if _is_macos_metadata(member.path):
                continue
            path = folder / member.path
            path.parent.mkdir(parents=True, exist_ok=True)
            remaining = member.size
            with path.open("xb") as file:  # "x": fails instead of writing through an existing file or link
                while block := content.read(min(_BLOCK, remaining)):
                    file.write(block)
                    remaining -= len(block)
                    progress.advance(task, len(block))
            if remaining:
                raise EOFError(f"{member.path} ends {remaining:,} bytes early")


def _move(folder: Path, target: Path, names: Sequence[str]) -> None:
    """Move entries of `folder` into `target`; if one cannot be moved, move the others back."""
    moved: list[str] = []
    try:
        for name in names:
            (folder / name).rename(target / name)
            moved.append(name)
    except BaseException:
        for name in moved:
            (target / name).rename(folder / name)
        raise
