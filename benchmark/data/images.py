"""The images of a list of files at one size, decoded on access, in memory or in a cache on disk."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmark.data.decode import BrokenImage, decode, eval_transform
from benchmark.data.image_cache import PackedImages
from benchmark.utils.parallel import parallel_imap


class Images:
    """Images of a list of files, resized to one size.

    They are decoded at every access; or once, if they fit into memory of `limit` bytes; or once for all runs, if there
    is a `cache`. The pixels are bit-identical in all three cases.

    Args:
        paths: The image files.
        size: (height, width) in pixels.
        limit: Number of bytes up to which all images are kept in memory.
        cache: Folder and file name prefix of the packed images, see `PackedImages`; None for no cache on disk.
        skip_broken: Whether to report broken images one by one, at access, instead of stopping at the first.

    Raises:
        BrokenImage: A file cannot be decoded and `skip_broken` is false. Images that are neither in memory nor in the
            cache raise it at access.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: tuple[int, int],
        *,
        limit: int = 2**30,
        cache: Path | None = None,
        skip_broken: bool = False,
    ) -> None:
        self.paths = list(paths)
        self.shape = (3, *size)
        self.skip_broken = skip_broken
        # In shared memory, so that all loader workers know which images one of them found to be broken.
        self._broken = torch.zeros(len(self.paths), dtype=torch.bool).share_memory_()
        self._resize = eval_transform(size)
        self._decoded: Tensor | PackedImages | None = None
        if cache is not None:
            self._decoded = PackedImages(self.paths, size, decode=self._decode, target=cache, skip_broken=skip_broken)
        elif len(self) * torch.Size(self.shape).numel() <= limit:
            self._decoded = self._decode_all()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def predecoded(self) -> bool:
        """Whether the images are in memory or in a cache, so that access does not decode."""
        return self._decoded is not None

    def __getitem__(self, index: int) -> Tensor:
        """Return an image as (3, H, W) uint8.

        Raises:
            BrokenImage: The file cannot be decoded.
        """
        if self._broken[index]:
            raise BrokenImage(f"image {self.paths[index]} cannot be read")
        try:
            return self._decode(self.paths[index]) if self._decoded is None else self._decoded[index]
        except BrokenImage:
            self._broken[index] = True
            raise

    def broken(self) -> list[Path]:
        """Return the files found to be broken so far, in this process or a loader worker."""
        return [self.paths[index] for index in self._broken.nonzero().flatten().tolist()]

    def _decode(self, path: Path) -> Tensor:
        height, width = self.shape[1:]
        try:
            return self._resize(decode(path, min_size=(height, width)))
        except BrokenImage as error:
            raise BrokenImage(f"{error}. Restore it from the archive, or leave it out: --skip-broken") from error

    def _decode_all(self) -> Tensor:
        decoded = torch.empty(len(self), *self.shape, dtype=torch.uint8)
        console = Console(stderr=True)
        images = track(
            parallel_imap(self._decode_or_none, self.paths),
            "decoding",
            total=len(self),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        for index, image in enumerate(images):
            if image is None:
                self._broken[index] = True
            else:
                decoded[index] = image
        return decoded

    def _decode_or_none(self, path: Path) -> Tensor | None:
        try:
            return self._decode(path)
        except BrokenImage:
            if not self.skip_broken:
                raise
            return None


def broken_images(paths: Sequence[Path]) -> dict[Path, str]:
    """Decode all files in several threads, with a progress bar, and return the errors of those that are broken."""
    errors = track(parallel_imap(_decoding_error, paths), "decoding", total=len(paths), console=Console(stderr=True))
    return {path: error for path, error in zip(paths, errors, strict=True) if error is not None}


def _decoding_error(path: Path) -> str | None:
    try:
        decode(path)
    except BrokenImage as error:
        return str(error)
    return None
