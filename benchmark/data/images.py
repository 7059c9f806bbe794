"""Images of one size: decoded on access, held in memory, or read from a cache on disk."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmark.data.decode import WHITE, BrokenImage, Color, decode, eval_transform
from benchmark.data.digests import hash_files
from benchmark.data.image_cache import PackedImages
from benchmark.utils.console import progress
from benchmark.utils.escape import terminal
from benchmark.utils.parallel import parallel_imap

_CHECK_SIZE = (256, 256)
"""(height, width) in pixels for which images are decoded to find broken ones."""


class Images:
    """Images of a list of files, resized to one size.

    With a `cache`, images are decoded once for all runs. Without it, they are decoded once and held in memory if they
    take at most `limit` bytes, else at every access. The pixels are bit-identical in all three cases.

    Args:
        paths: The image files.
        size: (height, width) in pixels.
        limit: Maximum number of bytes of decoded images in memory.
        cache: Path prefix of the packed images, see `PackedImages`; None for no cache on disk.
        contents: Function that returns the content hash of every file, for the cache.
        skip_broken: Whether broken images raise their errors only at access.
        background: What shows through transparent pixels.

    Raises:
        BrokenImage: A file cannot be decoded and `skip_broken` is false. If images are decoded at every access, the
            access raises the error instead.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: tuple[int, int],
        *,
        limit: int = 2**30,
        cache: Path | None = None,
        contents: Callable[[Sequence[Path]], Sequence[str]] = hash_files,
        skip_broken: bool = False,
        background: Color = WHITE,
    ) -> None:
        self.paths = list(paths)
        self.background = background
        self.shape = (3, *size)
        self.skip_broken = skip_broken
        # In shared memory, so that a broken image found by one process is known to the others.
        self._broken = torch.zeros(len(self.paths), dtype=torch.bool).share_memory_()
        self._resize = eval_transform(size)
        self._decoded: Tensor | PackedImages | None = None
        if cache is not None:
            self._decoded = PackedImages(
                self.paths,
                size,
                decode=self._decode,
                contents=contents,
                target=cache,
                skip_broken=skip_broken,
                background=background,
            )
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
            raise BrokenImage(f"image {terminal(str(self.paths[index]))} cannot be read")
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
            return self._resize(decode(path, min_size=(height, width), background=self.background))
        except BrokenImage as error:
            raise BrokenImage(f"{error}. {error.remedy}, or leave it out: --skip-broken") from error

    def _decode_all(self) -> Tensor:
        decoded = torch.empty(len(self), *self.shape, dtype=torch.uint8)
        images = parallel_imap(self._decode_or_none, self.paths)
        for index, image in enumerate(progress(images, "decoding", total=len(self))):
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
    errors = progress(parallel_imap(_decoding_error, paths), "decoding", total=len(paths))
    return {path: error for path, error in zip(paths, errors, strict=True) if error is not None}


def _decoding_error(path: Path) -> str | None:
    try:
        decode(path, min_size=_CHECK_SIZE)
    except BrokenImage as error:
        return f"{error}. {error.remedy}"
    return None
