"""Embeddings of the images of a folder, kept on disk: incremental, resumable, in bounded memory."""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch.nn import functional as F

from benchmark.data.decode import BrokenImage
from benchmark.deployment.student import Student, image_files, load_student
from benchmark.errors import UserError
from benchmark.model.serialize import weights_hash
from benchmark.results.fields import FrozenModel, Positive, Sha256, explain
from benchmark.utils import strict_json
from benchmark.utils.atomic import atomic_path, sweep, write_text
from benchmark.utils.console import progress
from benchmark.utils.escape import is_plain_line, terminal
from benchmark.utils.locks import locked
from benchmark.utils.parallel import parallel_imap

SHARD = 2048
"""Number of images whose embeddings are written at a time: what an interruption loses at most."""
STORE_FILE = "store.json"
_STUDENT_FOLDER = "student"
_ARRAYS = ("vectors", "names", "sizes", "times")
_DAMAGED = "remove it, and repeat `benchmark embed`, which then embeds these images again"


class Description(FrozenModel):
    """What the embeddings of a store are of: the folder of the images, and the student by its weights."""

    format: Literal[1] = 1
    folder: Annotated[str, Field(min_length=1, max_length=4096)]
    weights: Sha256
    dim: Positive


@dataclass(frozen=True, slots=True)
class Update:
    """Numbers of images in an update of a store."""

    embedded: int
    """New or changed images, whose embeddings were computed."""
    kept: int
    """Images whose embeddings were there."""
    removed: int
    """Embeddings of images that have changed or are no longer there."""
    broken: tuple[Path, ...]
    """Images that cannot be decoded."""


class Shard(NamedTuple):
    """A file of embeddings."""

    path: Path
    start: int
    """Position of its first embedding in the store."""
    images: int

    @property
    def version(self) -> str:
        """A text that changes when the file is written again."""
        status = self.path.stat()
        return f"{self.path.name} {status.st_size} {status.st_mtime_ns}"


class EmbeddingStore:
    """The embeddings of the images in a folder, in files of up to `SHARD` images, and the student that made them.

    Args:
        path: The folder of the store.

    Raises:
        UserError: The folder is not a store, or a file in it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = path / STORE_FILE
        try:
            self.description = Description.model_validate(strict_json.read(file))
        except OSError as error:
            raise UserError(
                f"{path} is not a folder of embeddings: {file.name} cannot be read: {error.strerror}"
            ) from error
        except ValidationError as error:
            raise UserError(f"{file}: {explain(error)}") from error
        except ValueError as error:
            raise UserError(f"{file}: not a description of embeddings: {error}") from error

    @classmethod
    def open(cls, path: Path, folder: Path, student: Student) -> "EmbeddingStore":
        """Return the store at a path, which is created if there is none.

        Args:
            path: The folder of the store.
            folder: The folder of the images.
            student: The student that embeds them.

        Raises:
            UserError: The path has other content, or the embeddings of another folder or student.
        """
        root = str(folder.resolve())
        if not is_plain_line(root):
            raise UserError(f"{folder}: a name with invisible or undecodable characters: rename the folder")
        wanted = Description(folder=root, weights=weights_hash(student.network), dim=student.dim)
        if not (path / STORE_FILE).exists():
            # An interruption may have left the student and temporary files.
            ours = path.is_dir() and all(
                each.name == _STUDENT_FOLDER or each.name.startswith(".") for each in path.iterdir()
            )
            if path.exists() and not ours:
                raise UserError(f"{path} exists and has other content: choose another folder")
            student.save_pretrained(path / _STUDENT_FOLDER)
            write_text(path / STORE_FILE, json.dumps(wanted.model_dump(), indent=2) + "\n")
        store = cls(path)
        for field, what in (("folder", "images of another folder"), ("weights", "another student")):
            if (known := getattr(store.description, field)) != getattr(wanted, field):
                raise UserError(f"{path} has the embeddings of {what}, {known}: choose another folder, or remove it")
        return store

    @property
    def folder(self) -> Path:
        """The folder of the images."""
        return Path(self.description.folder)

    def student(self, device: torch.device) -> Student:
        """Load the student that made the embeddings.

        Raises:
            UserError: It is missing or damaged, or is another one.
        """
        student = load_student(self.path / _STUDENT_FOLDER, device)
        if weights_hash(student.network) != self.description.weights:
            raise UserError(f"{self.path / _STUDENT_FOLDER} is another student than that of the embeddings: restore it")
        return student

    @cached_property
    def shards(self) -> list[Shard]:
        """The files of embeddings, in order."""
        shards: list[Shard] = []
        for path in sorted(self.path.glob("shards/[0-9]*.npz")):
            start = shards[-1].start + shards[-1].images if shards else 0
            shards.append(Shard(path, start, len(self._read(path, "sizes"))))
        return shards

    def _list_again(self) -> None:
        self.__dict__.pop("shards", None)

    def __len__(self) -> int:
        return self.shards[-1].start + self.shards[-1].images if self.shards else 0

    def vectors(self, shard: Shard) -> NDArray[np.float32]:
        """Return the (N, dim) embeddings of a file, of unit length."""
        vectors: NDArray[np.float32] = self._read(shard.path, "vectors")
        if vectors.dtype != np.float32 or vectors.shape != (shard.images, self.description.dim):
            raise UserError(f"{shard.path} has other embeddings than {self.path / STORE_FILE} states: {_DAMAGED}")
        return vectors

    def paths(self, positions: Sequence[int]) -> list[Path]:
        """Return the images at some positions."""
        found: dict[int, Path] = {}
        for shard in self.shards:
            inside = [position for position in positions if shard.start <= position < shard.start + shard.images]
            if inside:
                names = self._read(shard.path, "names")
                found |= {position: self.folder / str(names[position - shard.start]) for position in inside}
        return [found[position] for position in positions]

    def update(self, student: Student, *, batch_size: int = 64, skip_broken: bool = False) -> Update:
        """Embed the images that are new or have changed, and drop the embeddings of those that are gone.

        An image has changed if its size or the time of its last change has. After an interruption, the next update
        continues.

        Args:
            student: The student of the store.
            batch_size: Number of images embedded at a time.
            skip_broken: Whether to leave out images that cannot be decoded.

        Raises:
            BrokenImage: An image cannot be decoded and `skip_broken` is false.
            UserError: The folder has no images.
        """
        with locked(self.path / ".lock", "updates these embeddings"):
            (self.path / "shards").mkdir(exist_ok=True)
            sweep(self.path / "shards")
            self._list_again()
            pending = {str(path.relative_to(self.folder)): _state(path) for path in image_files(self.folder)}
            total = len(pending)
            removed = sum(self._drop_stale(shard, pending) for shard in self.shards)
            kept = total - len(pending)
            broken: list[Path] = []
            rows = self._embed(student, pending, batch_size, broken if skip_broken else None)
            number = 1 + max((int(shard.path.stem) for shard in self.shards), default=-1)
            while part := list(islice(rows, SHARD)):
                self._write(self.path / "shards" / f"{number:08}.npz", part)
                number += 1
            self._list_again()
        return Update(total - kept - len(broken), kept, removed, tuple(broken))

    def _drop_stale(self, shard: Shard, pending: dict[str, tuple[int, int]]) -> int:
        """Keep the embeddings of unchanged images in a file, take these from `pending`, and return how many are not."""
        names, sizes, times = (self._read(shard.path, name) for name in _ARRAYS[1:])
        keep = np.zeros(shard.images, dtype=bool)
        for row, (name, size, time) in enumerate(zip(names.tolist(), sizes.tolist(), times.tolist(), strict=True)):
            if pending.get(name) == (size, time):
                keep[row] = True
                del pending[name]
        if keep.all():
            return 0
        if keep.any():
            arrays = {name: self._read(shard.path, name)[keep] for name in _ARRAYS}
            _save(shard.path, arrays)
        else:
            shard.path.unlink()
        return int((~keep).sum())

    def _embed(
        self, student: Student, pending: Mapping[str, tuple[int, int]], batch_size: int, broken: list[Path] | None
    ) -> Iterator[tuple[NDArray[np.float32], str, tuple[int, int]]]:
        """Yield the embedding, name and state of each image that can be decoded; collect the others in `broken`."""

        def decoded(name: str) -> torch.Tensor | BrokenImage:
            try:
                return student.transform(self.folder / name)
            except BrokenImage as error:
                return error

        def images() -> Iterator[tuple[str, torch.Tensor]]:
            results = progress(parallel_imap(decoded, pending), "embedding", total=len(pending))
            for name, image in zip(pending, results, strict=True):
                if isinstance(image, torch.Tensor):
                    yield name, image
                elif broken is None:
                    raise BrokenImage(f"{image}. {image.remedy}, or leave it out: --skip-broken") from image
                else:
                    broken.append(self.folder / name)

        iterator = images()
        while batch := list(islice(iterator, batch_size)):
            with torch.inference_mode():
                stacked = torch.stack([image for _, image in batch]).to(student.device)
                vectors = F.normalize(student(stacked).float()).cpu().numpy()
            for (name, _), vector in zip(batch, vectors, strict=True):
                yield vector, name, pending[name]

    def _write(self, path: Path, rows: Sequence[tuple[NDArray[np.float32], str, tuple[int, int]]]) -> None:
        vectors, names, states = zip(*rows, strict=True)
        sizes, times = zip(*states, strict=True)
        _save(path, {"vectors": np.stack(vectors), "names": np.array(names), "sizes": sizes, "times": times})

    def _read(self, path: Path, name: str) -> NDArray[Any]:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                array: NDArray[Any] = arrays[name]
                return array
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{terminal(str(path))} is damaged: {_DAMAGED}") from error

    def write_npz(self, path: Path) -> None:
        """Write all embeddings to a .npz file, atomically: `embeddings` (N, dim) float32, and `paths` (N,)."""
        names = [str(path) for shard in self.shards for path in self._read(shard.path, "names").tolist()]
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            with archive.open("embeddings.npy", "w", force_zip64=True) as file:
                header = {"descr": "<f4", "fortran_order": False, "shape": (len(self), self.description.dim)}
                np.lib.format.write_array_header_1_0(file, header)
                for shard in self.shards:
                    file.write(self.vectors(shard).astype("<f4", copy=False).tobytes())
            with archive.open("paths.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.array(names), allow_pickle=False)


def _state(path: Path) -> tuple[int, int]:
    """Return the size of a file and the time of its last change; an image with other values has changed."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{terminal(str(path))} cannot be read: {error.strerror}") from error
    return status.st_size, status.st_mtime_ns


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
