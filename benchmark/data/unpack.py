"""Downloading and unpacking the archives of datasets."""

import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import torch
from filelock import FileLock
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from benchmark.data.archive import Archive, Member, TarArchive, ZipArchive
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.errors import UserError
from benchmark.utils.atomic import remove_leftovers


def fetch(dataset: RetrievalDataset, root: Path) -> Path:
    """The dataset's archive in `root`/downloads, fetched unless it is there, and compared with its SHA-256.

    Raises:
        UserError: The set may not be fetched, cannot be reached, or what came is not the archive; nothing is kept then.
    """
    download = dataset.card.download
    if download is None:
        raise UserError(f"{dataset.card.title} cannot be fetched by a tool. {dataset.card.obtain}")
    target = root / "downloads" / download.name
    if target.is_file():
        with target.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != download.sha256:
                raise UserError(f"{target} is not the published archive: delete it, it is fetched anew")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if download.size > free:
        raise UserError(f"{download.name} has {decimal(download.size)}, but {target.parent} has {decimal(free)} left")
    try:
        torch.hub.download_url_to_file(download.url, str(target), hash_prefix=download.sha256)
    except (OSError, RuntimeError) as error:  # the network's and the disk's; a wrong hash
        raise UserError(
            f"{download.url} could not be fetched ({error}). Fetch it by other means and give its file: "
            f"benchmark data prepare {dataset.name} FILE"
        ) from error
    return target


_BLOCK = 2**20


def unpack(path: Path, target: Path, parts: Sequence[str | Sequence[str]] = ()) -> None:
    """Unpack a zip or tar file into the folder `target`, which is made where it is missing.

    An archive that holds none of `parts`, the files and folders of the set that it should be, is another set's.

    All of the archive appears at once when it is whole. Where something goes wrong, or somebody interrupts, nothing has
    changed; what a killed process left behind is removed by the next call. Nothing is overwritten.

    Raises:
        UserError: The archive is missing, damaged, unsafe, another set's or too large for the disk, or one of its files
            or folders exists already.
    """
    archive = _open(path)
    try:
        _unpack(archive, target, parts)
    except archive.broken as error:
        what = "is damaged, or its password is another" if archive.encrypted else "is damaged or incomplete"
        raise UserError(f"{path} {what} ({error}): fetch it again") from error
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; nothing has changed")
        raise


def _unpack(archive: Archive, target: Path, parts: Sequence[str | Sequence[str]]) -> None:
    path = archive.path
    members = [member for member in archive.members() if not _by_macos(member.path)]
    _distinct(path, members)
    _expect_any(path, members, parts)
    size = sum(member.size for member in members)
    console = Console(stderr=True)
    shown = f"{path.name}: {len(members):,} files, {decimal(size)}, to {target}"
    console.print(shown, highlight=False, soft_wrap=True, markup=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise UserError(f"{path} takes {decimal(size)} unpacked, but {target.parent} has {decimal(free)} left")
    with FileLock(target.parent / f".{target.name}.lock"), _temporary(target) as folder:
        tops = sorted({member.path.parts[0] for member in members})
        existing = [target / top for top in tops if os.path.lexists(target / top)]
        if existing:
            raise UserError(
                f"{existing[0]} exists already, and nothing is overwritten: move it away to unpack {path.name} again"
            )
        _extract(archive, folder, size, console)
        target.mkdir(exist_ok=True)
        _move(folder, target, tops)


def _open(path: Path) -> Archive:
    if path.is_dir():
        raise UserError(f"{path} is a folder, not an archive: move or link it into the data root, then check it")
    if not path.is_file():
        raise UserError(f"archive {path} does not exist")
    if zipfile.is_zipfile(path):
        return ZipArchive(path)
    if tarfile.is_tarfile(path):
        return TarArchive(path)
    raise UserError(
        f"{path} is no zip or tar file, or is damaged: fetch it again, or unpack it yourself into the data root"
    )


def _by_macos(path: PurePosixPath) -> bool:
    """Whether it is what macOS adds to archives for itself."""
    return path.parts[0] == "__MACOSX" or path.name.startswith("._") or path.name == ".DS_Store"


def _expect_any(archive: Path, members: Sequence[Member], parts: Sequence[str | Sequence[str]]) -> None:
    """Refuse an archive that has nothing of the set."""
    names = [name for part in parts for name in ([part] if isinstance(part, str) else part)]
    if names and not any(f"/{name}/" in f"/{member.path}/" for member in members for name in names):
        tops = sorted({member.path.parts[0] for member in members})
        raise UserError(
            f"{archive} is not unpacked, it seems to be of another set: it holds {', '.join(tops[:3])}"
            f"{', ...' if len(tops) > 3 else ''}, and none of {', '.join(names)}"
        )


def _distinct(archive: Path, members: Sequence[Member]) -> None:
    """Refuse an archive in which one file would overwrite another, or take the place of a folder."""
    if not members:
        raise UserError(f"{archive} holds no files")
    files: set[PurePosixPath] = set()
    for member in members:
        if member.path in files:
            raise UserError(f"{archive} is not unpacked: it holds {str(member.path)!r} twice")
        files.add(member.path)
    folders = {folder for file in files for folder in file.parents}
    for both in folders & files:
        raise UserError(f"{archive} is not unpacked: it holds {str(both)!r} both as a file and as a folder")


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A folder beside `target`, gone afterwards; what another process left of its own is removed. Under the lock."""
    remove_leftovers(target)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _extract(archive: Archive, folder: Path, size: int, console: Console) -> None:
    columns = (TextColumn("unpacking"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=size)
        for member, content in archive.contents():
            if _by_macos(member.path):
                continue
            path = folder / member.path
            path.parent.mkdir(parents=True, exist_ok=True)
            left = member.size
            with path.open("xb") as file:  # never through something that is there
                while block := content.read(min(_BLOCK, left)):
                    file.write(block)
                    left -= len(block)
                    progress.advance(task, len(block))
            if left:
                raise EOFError(f"{member.path} ends {left:,} bytes early")


def _move(folder: Path, target: Path, names: Sequence[str]) -> None:
    """Move what is in `folder` into `target`, back again where one of them cannot be moved."""
    moved: list[str] = []
    try:
        for name in names:
            (folder / name).rename(target / name)
            moved.append(name)
    except BaseException:
        for name in moved:
            (target / name).rename(folder / name)
        raise
