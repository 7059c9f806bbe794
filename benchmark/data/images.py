"""The images of a list of files, all at one size."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmark.data.decode import BrokenImage, decode, eval_transform
from benchmark.data.image_cache import PackedImages
from benchmark.utils.parallel import parallel_imap


def broken_images(paths: Sequence[Path]) -> dict[Path, str]:
    """Decode all files, several at a time and with a progress bar; those that cannot be, each with the reason."""
    problems = track(parallel_imap(_problem, paths), "decoding", total=len(paths), console=Console(stderr=True))
    return {path: problem for path, problem in zip(paths, problems, strict=True) if problem is not None}


def _problem(path: Path) -> str | None:
    try:
        decode(path)
    except BrokenImage as error:
        return str(error)
    return None


class Images:
    """The images of a split at one size.

    They are decoded and resized at every access; or once, and kept in memory where they fit into `limit`; or once for
    all runs, and kept in the folder `cache`. All three give the same bits.

    Args:
        paths: The files.
        size: (height, width) in pixels.
        limit: Bytes that may be kept in memory.
        cache: A folder, and the start of the name of what is to be kept there; see `PackedImages`.
        skip_broken: Let images that cannot be decoded be found out one by one, at access, and not all at once.

    Raises:
        BrokenImage: A file cannot be decoded and `skip_broken` is false; raised here, or at access for images that are
            not kept.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: tuple[int, int],
        limit: int = 2**30,
        cache: Path | None = None,
        skip_broken: bool = False,
    ) -> None:
        self.paths = list(paths)
        self.shape = (3, *size)
        self.skip_broken = skip_broken
        # In memory that loader workers share: what one of them finds out, all know.
        self._broken = torch.zeros(len(self.paths), dtype=torch.bool).share_memory_()
        self._resize = eval_transform(size)
        self._kept: Tensor | PackedImages | None = None
        if cache is not None:
            self._kept = PackedImages(self.paths, size, self._decoded, cache, skip_broken)
        elif len(self) * torch.Size(self.shape).numel() <= limit:
            self._kept = self._in_memory()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def kept(self) -> bool:
        """Whether an access is only a look-up."""
        return self._kept is not None

    def __getitem__(self, index: int) -> Tensor:
        """The image as (3, H, W) uint8."""
        if self._broken[index]:
            raise BrokenImage(f"image {self.paths[index]} cannot be read")
        try:
            return self._decoded(self.paths[index]) if self._kept is None else self._kept[index]
        except BrokenImage:
            self._broken[index] = True
            raise

    def broken(self) -> list[Path]:
        """The files that were found to be broken so far, here or in a loader's worker."""
        return [self.paths[index] for index in self._broken.nonzero().flatten().tolist()]

    def _decoded(self, path: Path) -> Tensor:
        height, width = self.shape[1:]
        try:
            return self._resize(decode(path, at_least=(height, width)))
        except BrokenImage as error:
            raise BrokenImage(f"{error}. Restore it from the archive, or leave it out: --skip-broken") from error

    def _in_memory(self) -> Tensor:
        kept = torch.empty(len(self), *self.shape, dtype=torch.uint8)
        console = Console(stderr=True)
        images = track(
            parallel_imap(self._decoded_or_none, self.paths),
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
                kept[index] = image
        return kept

    def _decoded_or_none(self, path: Path) -> Tensor | None:
        try:
            return self._decoded(path)
        except BrokenImage:
            if not self.skip_broken:
                raise
            return None
