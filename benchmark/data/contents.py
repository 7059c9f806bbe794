"""Opening the files of images, and what they show without being decoded: transparency, animation, and copies."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image

from benchmark.data.digests import UNREADABLE
from benchmark.data.files import FORMATS
from benchmark.data.samples import Listing
from benchmark.retrieval.protocol import Protocol
from benchmark.utils.parallel import parallel_imap

_PLAIN = frozenset(suffix for name in ("JPEG", "PPM") for suffix in FORMATS[name])
"""Endings of formats without transparency and animation."""
_BATCH = 100
"""Number of files whose headers a thread reads at a time."""

# Those who decode an image bound its size themselves, after the reduction of a large JPEG.
Image.MAX_IMAGE_PIXELS = None
# About damaged metadata, for every image again.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def open_image(file: Path | IO[bytes]) -> Image.Image:
    """Open an image file in one of `FORMATS` and read its header. Of Pillow's other formats, EPS starts a program.

    Raises:
        Exception: The file is damaged or in another format. Pillow raises many types of errors.
    """
    return Image.open(file, formats=list(FORMATS))


class Header(NamedTuple):
    """What the header of an image file states."""

    transparent: bool = False
    """Whether there is an alpha channel or a transparent color."""
    animated: bool = False
    """Whether there are several frames or pages, of which only the first is decoded."""
    deep: bool = False
    """Whether there are 16 bits per channel, of which the upper 8 are used."""


def headers(paths: Iterable[Path]) -> list[Header]:
    """Return the headers of the files whose endings allow transparency or animation, read in several threads."""
    checked = [path for path in paths if path.suffix.lower() not in _PLAIN]
    # In batches, because handing over a single file takes as long as reading its header.
    batches = (checked[start : start + _BATCH] for start in range(0, len(checked), _BATCH))
    return list(chain.from_iterable(parallel_imap(lambda batch: list(map(_header, batch)), batches)))


def repeated_images(
    listings: Mapping[str, Listing], protocol: Protocol, contents: Callable[[Iterable[Path]], Iterable[str]]
) -> Iterator[str]:
    """Yield a sentence for each way in which images of equal content can change the scores.

    Args:
        listings: The splits.
        protocol: The evaluation rules.
        contents: Function that returns the content hash of every file. It is called for files of equal size.
    """
    places: defaultdict[Path, set[tuple[str, int]]] = defaultdict(set)
    for split, listing in listings.items():
        for sample in listing.samples:
            places[sample.path].add((split, sample.identity))
    leaks, mixed, easy = [], [], []
    same_size = list(chain.from_iterable(_groups(sorted(places), map(_size, sorted(places)))))
    for paths in _groups(same_size, contents(same_size)):
        found = set().union(*(places[path] for path in paths))
        splits, identities = {split for split, _ in found}, {identity for _, identity in found}
        if "train" in splits and len(splits) > 1:
            leaks.append(paths)
        if len(identities) > 1:
            mixed.append(paths)
        tested = [path for path in paths if all(split != "train" for split, _ in places[path])]
        if len(tested) > 1 and {"query", "gallery"} <= splits and not protocol.camera_rule:
            easy.append(tested)
    for groups, place in (
        (leaks, "in both training and test"),
        (mixed, "in several identities"),
        (easy, "twice in the test images" if protocol.query_in_gallery else "in both query and gallery"),
    ):
        if groups:
            images = "1 image is" if len(groups) == 1 else f"{len(groups):,} images are"
            yield f"{images} {place}, under different file names, such as {groups[0][0]} and {groups[0][1]}"


def _header(path: Path) -> Header:
    try:
        with open_image(path) as image:
            animated = getattr(image, "is_animated", False)
            return Header(image.has_transparency_data, animated, image.mode.startswith("I"))
    except Exception:  # a broken image; Pillow raises many types of errors
        return Header()


def _groups(paths: Iterable[Path], keys: Iterable[object]) -> list[list[Path]]:
    """Return the groups of several files with equal keys, without files whose key is `UNREADABLE`."""
    groups: defaultdict[object, list[Path]] = defaultdict(list)
    for path, key in zip(paths, keys, strict=True):
        if key != UNREADABLE:
            groups[key].append(path)
    return [group for group in groups.values() if len(group) > 1]


def _size(path: Path) -> int | str:
    try:
        return path.stat().st_size
    except OSError:
        return UNREADABLE
