"""Arrays of embeddings and labels in a .npz file."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import UserError, nearest
from benchmark.retrieval import Embeddings, Protocol
from benchmark.utils.console import notify

_NAMES = tuple(f"{split}{label}" for split in ("query", "gallery") for label in ("", "_ids", "_cams", "_tracks"))
"""Names of all arrays that a file can have."""
_SAVE = "save all arrays to a .npz file with numpy.savez"


class ArrayFile:
    """A .npz file, of which only the arrays that a protocol needs are read.

    Args:
        path: The file.
        protocol: The evaluation rules, which determine the arrays.
        dataset: Name of the dataset that has the protocol, for messages.

    Raises:
        UserError: The file cannot be read, is not a .npz file, or lacks an array.
    """

    def __init__(self, path: Path, protocol: Protocol, dataset: str) -> None:
        self.path = path
        splits = ["query"] if protocol.query_in_gallery else ["query", "gallery"]
        needed = [split + label for split in splits for label in ("", "_ids", *["_cams"] * protocol.camera_rule)]
        needed += ["gallery_tracks"] * (protocol.tracks and "gallery" in splits)
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise UserError(f"--embeddings {path} is {kind}: {_SAVE}")
        try:
            with zipfile.ZipFile(path) as archive:
                self.names = [name.removesuffix(".npy") for name in archive.namelist()]
                if repeated := [name for name in needed if self.names.count(name) > 1]:
                    raise UserError(f"{path} has the array {repeated[0]!r} twice: {_SAVE}")
                if protocol.query_in_gallery:
                    self._refuse_gallery(dataset)
                self._require(needed)
                self.arrays = {name: self._read(archive, name) for name in needed}
        except OSError as error:
            raise UserError(f"--embeddings {path} cannot be read: {error.strerror or error}") from error
        except (UserError, MemoryError):
            raise
        except Exception as error:  # zipfile, the decompressors and numpy raise many types for a damaged file
            raise self._unreadable() from error

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

    def _read(self, archive: zipfile.ZipFile, name: str) -> Any:
        """Return an array of numbers. Its size is compared with the file's before memory is allocated."""
        entry = archive.getinfo(f"{name}.npy" if f"{name}.npy" in archive.namelist() else name)
        with archive.open(entry) as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(file)
            size = file.tell() + dtype.itemsize * int(np.prod(shape, dtype=object))
        if dtype.hasobject:
            raise UserError(f"{self.path}: {name} has Python objects, not numbers: convert it with numpy.asarray")
        if size != entry.file_size:
            raise self._unreadable()
        with archive.open(entry) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    def _unreadable(self) -> UserError:
        single = self.path.suffix == ".npy"
        reason = "has a single array" if single else "is not a readable .npz file"
        return UserError(f"--embeddings {self.path} {reason}: {_SAVE}")
