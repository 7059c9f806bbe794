"""Arrays of embeddings and labels in a .npz file."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import UserError, nearest
from benchmark.retrieval import Embeddings, Protocol
from benchmark.utils.console import notify

_NAMES = tuple(f"{split}{label}" for split in ("query", "gallery") for label in ("", "_ids", "_cams", "_tracks"))
"""Names of all arrays that a file can have."""
_TRAINING = ("train", "embeddings")
"""Names of the array of training embeddings; `benchmark embed` writes the second."""
_SAVE = "save all arrays to a .npz file with numpy.savez"


class ArrayFile:
    """A .npz file, of which only the arrays that a protocol needs are read.

    Args:
        path: The file.
        protocol: The evaluation rules, which determine the arrays.
        dataset: Name of the dataset that has the protocol, for messages.
        training: Whether to also read the embeddings of training images, the array `train`, if the file has them.

    Raises:
        UserError: The file cannot be read, is not a .npz file, or lacks an array.
    """

    def __init__(self, path: Path, protocol: Protocol, dataset: str, *, training: bool = False) -> None:
        self.path = path
        self.names: Sequence[str] = ()
        splits = ["query"] if protocol.query_in_gallery else ["query", "gallery"]
        needed = [split + label for split in splits for label in ("", "_ids", *["_cams"] * protocol.camera_rule)]
        needed += ["gallery_tracks"] * (protocol.tracks and "gallery" in splits)

        def choose(names: Sequence[str]) -> list[str]:
            self.names = names
            if protocol.query_in_gallery:
                self._refuse_gallery(dataset)
            wanted = [*needed, *(_TRAINING[:1] if training and _TRAINING[0] in names else ())]
            self._require(wanted)
            return wanted

        self.arrays = _read_arrays(path, "--embeddings", choose)

    def embeddings(self, split: str) -> Embeddings:
        """Return the embeddings of "query" or "gallery".

        Raises:
            UserError: The shapes or types of the arrays do not match.
        """
        cameras, tracks = (self.arrays.get(f"{split}_{label}") for label in ("cams", "tracks"))
        try:
            return Embeddings(self.arrays[split], self.arrays[f"{split}_ids"], cameras, tracks)
        except ValueError as error:
            raise UserError(f"{self.path}: {split}: {error}") from error

    @property
    def training(self) -> Any | None:
        """The embeddings of training images; None if the file has none, or they were not wanted."""
        return self.arrays.get(_TRAINING[0])

    def _refuse_gallery(self, dataset: str) -> None:
        superfluous = sorted(name for name in self.names if name.startswith("gallery"))
        if superfluous:
            raise UserError(
                f"{self.path} has an array {superfluous[0]!r}, but in the protocol of {dataset} the queries are the "
                "gallery: remove the gallery arrays"
            )

    def _require(self, needed: list[str]) -> None:
        """Check that the file has the arrays, and print which other ones are not used."""
        others = [name for name in self.names if name not in needed]
        if missing := [name for name in needed if name not in self.names]:
            listed = ", ".join(self.names[:20]) + (", ..." if len(self.names) > 20 else "")
            similar = [name for name in others if name not in _NAMES and name.casefold().startswith(missing[0][0])]
            guess = nearest(missing[0], similar)
            raise UserError(f"{self.path}: missing array {missing[0]!r}{guess} The file has: {listed or 'none'}.")
        if others:
            notify(f"{self.path}: arrays that the protocol does not use: {', '.join(others[:20])}")


def read_training(path: Path) -> Any:
    """Return the embeddings of training images in a .npz file: its array `train`, or `embeddings`.

    Raises:
        UserError: The file cannot be read, is not a .npz file, or has neither array.
    """

    def choose(names: Sequence[str]) -> list[str]:
        if found := [name for name in _TRAINING if name in names]:
            return found[:1]
        listed = ", ".join(names[:20]) or "none"
        raise UserError(f"--train-embeddings {path}: no array {' or '.join(_TRAINING)}. The file has: {listed}.")

    (array,) = _read_arrays(path, "--train-embeddings", choose).values()
    return array


def _read_arrays(path: Path, option: str, choose: Callable[[Sequence[str]], list[str]]) -> dict[str, Any]:
    """Return arrays of a .npz file by name.

    Args:
        path: The file.
        option: The option that named it, for messages.
        choose: Returns the names of the arrays to read, given those of all arrays.

    Raises:
        UserError: The file cannot be read, is not a .npz file, or has an array twice.
    """
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise UserError(f"{option} {path} is {kind}: {_SAVE}")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            chosen = choose(names)
            if repeated := [name for name in chosen if names.count(name) > 1]:
                raise UserError(f"{path} has the array {repeated[0]!r} twice: {_SAVE}")
            return {name: _read_array(archive, name, path) for name in chosen}
    except OSError as error:
        raise UserError(f"{option} {path} cannot be read: {error.strerror or error}") from error
    except (UserError, MemoryError):
        raise
    except Exception as error:  # zipfile, the decompressors and numpy raise many types for a damaged file
        single = path.suffix == ".npy"
        reason = "has a single array" if single else "is not a readable .npz file"
        raise UserError(f"{option} {path} {reason}: {_SAVE}") from error


def _read_array(archive: zipfile.ZipFile, name: str, path: Path) -> Any:
    """Return an array of numbers. Its size is compared with the file's before memory is allocated."""
    entry = archive.getinfo(f"{name}.npy" if f"{name}.npy" in archive.namelist() else name)
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        size = file.tell() + dtype.itemsize * int(np.prod(shape, dtype=object))
    if dtype.hasobject:
        raise UserError(f"{path}: {name} has Python objects, not numbers: convert it with numpy.asarray")
    if size != entry.file_size:
        raise ValueError("the size of the array is not that of its entry")
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
