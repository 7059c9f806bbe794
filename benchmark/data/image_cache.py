"""Cache of decoded images on disk, shared by all runs."""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from benchmark.data.decode import WHITE, BrokenImage, Color
from benchmark.data.digests import shown
from benchmark.errors import UserError
from benchmark.utils.atomic import atomic_folder
from benchmark.utils.console import Console
from benchmark.utils.locks import locked
from benchmark.utils.parallel import parallel_imap

FORMAT = 2
"""Version of the folder's content. A new version makes new arrays: since 2, transparent images have a background."""
_BLOCK = 2**26
"""Bytes to hash at a time."""


class PackedImages:
    """Decoded images of a list of files in one array on disk, which any number of processes read at once.

    The first process that needs the array creates it, with a progress bar; others wait. Its folder's name contains a
    hash of the paths and contents of the image files and of the versions of the decoding software, so that any change
    leads to a new array. Each process verifies the content of an array once.

    Args:
        paths: The image files.
        size: (height, width) in pixels.
        decode: Function that decodes a file to (3, height, width) uint8.
        contents: Function that returns the content hash of every file as it is when it is called.
        target: Path prefix of the folder that contains the array; the size and the hash are appended.
        skip_broken: Whether to pack the other images if some are broken.
        background: What `decode` lets show through transparent pixels.

    Raises:
        BrokenImage: A file cannot be decoded and `skip_broken` is false.
        UserError: The array is damaged, or a file changed while it was created.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: tuple[int, int],
        *,
        decode: Callable[[Path], Tensor],
        contents: Callable[[Sequence[Path]], Sequence[str]],
        target: Path,
        skip_broken: bool,
        background: Color = WHITE,
    ) -> None:
        before = contents(paths)
        key = _key(paths, before, size, background)
        self.folder = target.with_name(f"{target.name}-{size[0]}x{size[1]}-{key[:12]}")
        self._array: np.ndarray | None = None
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_name(f".{self.folder.name}.lock"), f"packs images into {self.folder}"):
            if not self.folder.is_dir():
                with atomic_folder(self.folder) as folder:
                    self._pack(folder, paths, size, decode, skip_broken)
                    pairs = zip(paths, before, contents(paths), strict=True)
                    if changed := [str(path) for path, then, now in pairs if then != now]:
                        raise UserError(f"images changed while they were packed: {shown(changed)}. Repeat the command")
        self.broken: dict[str, str] = _verified_errors(self.folder, (len(paths), 3, *size))
        if self.broken and not skip_broken:
            raise BrokenImage(next(iter(self.broken.values())))

    def __getitem__(self, index: int) -> Tensor:
        """Return an image as (3, H, W) uint8, which must not be changed in place."""
        if str(index) in self.broken:
            raise BrokenImage(self.broken[str(index)])
        if self._array is None:  # mapped by each process that reads, because pickling the array would copy it
            self._array = _open(self.folder)
        return torch.from_numpy(self._array[index])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_array": None}

    def _pack(
        self,
        folder: Path,
        paths: Sequence[Path],
        size: tuple[int, int],
        decode: Callable[[Path], Tensor],
        skip_broken: bool,
    ) -> None:
        def decode_or_error(path: Path) -> Tensor | BrokenImage:
            try:
                return decode(path)
            except BrokenImage as error:
                if not skip_broken:
                    raise
                return error

        shape = (len(paths), 3, *size)
        digest = hashlib.sha256()
        broken: dict[str, str] = {}
        images = track(
            parallel_imap(decode_or_error, paths),
            f"packing {self.folder.name}",
            total=len(paths),
            console=Console(stderr=True),
        )
        with (folder / "images.npy").open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for index, image in enumerate(images):
                if isinstance(image, BrokenImage):
                    broken[str(index)] = str(image)
                    image = torch.zeros(shape[1:], dtype=torch.uint8)
                data = image.contiguous().numpy().tobytes()
                digest.update(data)
                file.write(data)
        digest.update(json.dumps(broken).encode())
        manifest = {"sha256": digest.hexdigest(), "broken": broken}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _key(paths: Sequence[Path], contents: Sequence[str], size: tuple[int, int], background: Color) -> str:
    """Return a hash of everything that determines the array: files, size, background, format and software."""
    digest = hashlib.sha256()
    software = [f"{name} {version(name)}" for name in ("pillow", "torch", "torchvision")]
    digest.update(json.dumps([FORMAT, size, background, software]).encode())
    parent = os.path.commonpath([path.absolute().parent for path in paths]) if paths else ""
    for path, content in zip(paths, contents, strict=True):
        digest.update(os.fsencode(os.path.relpath(path.absolute(), parent)) + f"\0{content}\0".encode())
    return digest.hexdigest()


@functools.cache
def _verified_errors(folder: Path, shape: tuple[int, ...]) -> dict[str, str]:
    """Verify the array, once per process, and return the errors of its broken images by index.

    Raises:
        UserError: The array is damaged.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        images = _open(folder)
        if (images.shape, images.dtype) != (shape, np.uint8):
            raise ValueError(f"the images are {images.dtype} of shape {images.shape}")
        flat = images.reshape(-1)
        digest = hashlib.sha256()
        blocks = range(0, len(flat), _BLOCK)
        console = Console(stderr=True)
        for start in track(
            blocks, f"verifying {folder.name}", console=console, transient=True, disable=len(blocks) < 16
        ):
            digest.update(flat[start : start + _BLOCK].data)
        broken = manifest["broken"]
        digest.update(json.dumps(broken).encode())
        if digest.hexdigest() != manifest["sha256"]:
            raise ValueError("the content does not match its hash")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the packed images {folder} are damaged ({error}): delete the folder to create them again"
        ) from error
    return broken


def _open(folder: Path) -> np.ndarray:
    """Map the (N, 3, H, W) uint8 array, copy-on-write, because torch expects a writable array."""
    return np.load(folder / "images.npy", mmap_mode="c")
