"""Published teachers: trained networks that are used as they are, and are named by the hash of their files.

A published teacher is a folder with the record, the recipe, the weights and the deployed network of a finished run.
Some are part of the package; others are added to the user's data root. A recipe names one as `sha256:<hash>`, so that
its own hash, and the row of a leaderboard, belong to exactly this network.
"""

import hashlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

import torch

from benchmark.data import default_data_root
from benchmark.data.digests import hash_file
from benchmark.engine.files import INPUTS_FILE, LAST_CHECKPOINT
from benchmark.errors import UserError
from benchmark.model.weight_file import read
from benchmark.results.record import Record
from benchmark.utils.atomic import atomic_folder, atomic_path
from benchmark.utils.paths import user_path

PREFIX = "sha256:"
"""Beginning of the name of a published teacher in a recipe."""
FILES = ("recipe.yaml", INPUTS_FILE, "record.json", "student.pt", LAST_CHECKPOINT.as_posix())
"""The files of a published teacher, as in the folder of a run. The checkpoint has weights only."""
MAX_BYTES = 2**33
"""Size above which a file of an archive is not unpacked."""
_PACKAGED = Path(str(files("benchmark.datasets") / "teachers"))
_NAME = re.compile(re.escape(PREFIX) + r"[0-9a-f]{64}")


def teacher_path(checkpoint: str) -> Path:
    """Return the folder or file that `teacher.checkpoint` names.

    Args:
        checkpoint: A run folder, a file of weights, or the name of a published teacher.

    Raises:
        UserError: There is no published teacher of this name, or its files have changed.
    """
    if not checkpoint.startswith(PREFIX):
        return user_path(checkpoint)
    if not _NAME.fullmatch(checkpoint):
        raise UserError(f"teacher.checkpoint: {checkpoint}: must be {PREFIX} and 64 hexadecimal digits")
    for folder in _folders():
        if folder.name == checkpoint.removeprefix(PREFIX)[: len(folder.name)]:
            if (found := content_hash(folder)) != checkpoint:
                raise UserError(f"{folder} has changed: its content is {found}; add the teacher again")
            return folder
    raise UserError(
        f"teacher.checkpoint: there is no published teacher {checkpoint}: add it with `benchmark teacher add FILE`, or "
        "train one with --teacher train"
    )


def published_teachers() -> Iterator[tuple[str, Record]]:
    """Yield the name and the record of each published teacher on this machine."""
    for folder in _folders():
        yield content_hash(folder), Record.read(folder / "record.json")


def content_hash(folder: Path) -> str:
    """Return the name of the published teacher in a folder: the hash of its files.

    Raises:
        UserError: A file is missing or cannot be read.
    """
    try:
        return _name({name: hash_file(folder / name) for name in FILES})
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror}: not a complete published teacher") from error


def publish(run: Path, output: Path) -> str:
    """Write the trained network of a finished run to a zip archive, without the state of its training.

    Args:
        run: The folder of the run.
        output: The archive.

    Returns:
        The name of the published teacher.

    Raises:
        UserError: The run is not finished, or a file cannot be read or written.
    """
    contents = {name: _published_file(run, name) for name in FILES}
    with atomic_path(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # with the same time stamp every time
    return _name_of_contents(contents)


def add(archive: Path, expected: str | None = None) -> str:
    """Add a published teacher to the data root of the user.

    Args:
        archive: What `publish` has written.
        expected: Its name, if known.

    Returns:
        Its name.

    Raises:
        UserError: The archive is damaged, is not of a teacher, or has another name than `expected`.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            if missing := [name for name in FILES if name not in opened.namelist()]:
                raise UserError(f"{archive} is not a published teacher: it lacks {', '.join(missing)}")
            if any(opened.getinfo(name).file_size > MAX_BYTES for name in FILES):
                raise UserError(f"{archive} is not a published teacher: its files are too large")
            contents = {name: opened.read(name) for name in FILES}
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(f"{archive} cannot be read: {error}; copy or download it again") from error
    name = _name_of_contents(contents)
    if expected is not None and name != expected:
        raise UserError(f"{archive} is {name}, not {expected}: download it again")
    with atomic_folder(default_data_root() / "teachers" / name.removeprefix(PREFIX)) as folder:
        for file, content in contents.items():
            path = folder / file
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        Record.read(folder / "record.json")
        read(folder / LAST_CHECKPOINT, "weights")
    return name


def _name(digests: Mapping[str, str]) -> str:
    text = "".join(f"{digests[name]}  {name}\n" for name in FILES)
    return PREFIX + hashlib.sha256(text.encode()).hexdigest()


def _name_of_contents(contents: Mapping[str, bytes]) -> str:
    return _name({name: hashlib.sha256(content).hexdigest() for name, content in contents.items()})


def _published_file(run: Path, name: str) -> bytes:
    path = run / name
    if name != LAST_CHECKPOINT.as_posix():
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}: not the folder of a finished run") from error
    buffer = io.BytesIO()
    torch.save(read(path, "checkpoint")["student"], buffer)
    return buffer.getvalue()


def _folders() -> Iterator[Path]:
    for root in (_PACKAGED, default_data_root() / "teachers"):
        if root.is_dir():
            yield from sorted(folder for folder in root.iterdir() if (folder / "record.json").is_file())
