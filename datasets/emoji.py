"""Emoji by three vendors."""

import re
import zlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from benchmark.data.card import Card, Package, Split
from benchmark.data.files import match_images
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import Defect, Finding, Sample, Skipped
from benchmark.recipe.baseline import REID_BASELINE
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol
from benchmark.utils.mappings import merge

VENDORS = ("noto", "twemoji", "fluent")
"""The cameras, in the order of their numbers."""
QUERY = VENDORS.index("twemoji")
FOLDERS = {
    "noto": "noto/package/img/google/64",
    "twemoji": "twemoji/package/img/twitter/64",
    "fluent": "fluent/package/assets",
}
FILE_NAME = re.compile(r"(?P<points>[0-9a-f]{2,5}([-_][0-9a-f]{2,5})*)\.(png|webp)")
VARIATION = "fe0f"
"""The code point that requests a picture instead of text. Vendors' file names differ in it."""
AMBIGUOUS = re.compile(r".*-200d-1f46[67].*|1f3c2-1f3f[b-f]|1f63a|1f471-1f3fc-200d-2640")
"""Symbols of which one vendor has the same picture as of another symbol, such as families with children."""
TONE = re.compile(r"-1f3f[b-f]")
"""A skin tone after the symbol to which it applies."""


@DATASETS.register_module("emoji")
class Emoji(RetrievalDataset):
    """Emoji by three vendors: retrieve the same symbol as other vendors draw it.

    The identity is the symbol (a sequence of code points) and the camera is the vendor: Noto, Twemoji or Fluent. Only
    symbols that all three draw are used. A hash of the symbol without skin tones decides whether it is for training or
    test, so that all skin tones of a symbol are on one side. Queries are by Twemoji and the gallery is by the two
    others. Symbols with a skin tone are no queries, but they are in the gallery, together with those of other tones.
    """

    card: ClassVar[Card] = Card(
        title="Emoji",
        citation=(
            "Noto Emoji, Google. Twemoji, Twitter and contributors. Fluent Emoji, Microsoft. Packed as images by "
            "emoji-datasource (Cal Henderson) and LobeHub."
        ),
        terms=(
            "Noto Emoji: Apache License 2.0. Twemoji: CC-BY 4.0. Fluent Emoji: MIT License. Free to share, with credit "
            "to the vendors."
        ),
        obtain=(
            "Get the three packages by npm, which is part of Node.js: npm pack emoji-datasource-google@16.0.0 "
            "emoji-datasource-twitter@16.0.0 @lobehub/fluent-emoji-3d@1.1.0. Then run: benchmark data prepare emoji "
            "emoji-datasource-google-16.0.0.tgz emoji-datasource-twitter-16.0.0.tgz lobehub-fluent-emoji-3d-1.1.0.tgz"
        ),
        tree="""\
emoji/
  noto/package/img/google/64/       1f600.png ...
  twemoji/package/img/twitter/64/   1f600.png ...
  fluent/package/assets/            1f600.webp ...""",
        packages=(
            Package(
                "noto",
                "emoji-datasource-google-16.0.0.tgz",
                "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
            ),
            Package(
                "twemoji",
                "emoji-datasource-twitter-16.0.0.tgz",
                "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
            ),
            Package(
                "fluent",
                "lobehub-fluent-emoji-3d-1.1.0.tgz",
                "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
            ),
        ),
        splits={"train": Split(4_830, 1_610, 3), "query": Split(963, 963, 1), "gallery": Split(3_464, 1_732, 2)},
        defects=(
            "Twemoji draws all families with children alike, and each vendor has the same picture for some other "
            "symbols; these are left out. Fluent has two pictures of a few symbols, of which the first is used."
        ),
    )
    protocol = Protocol(camera_rule=False, recall_at=(1, 5, 10))
    required_paths = tuple(FOLDERS.values())
    recipe: ClassVar[Mapping[str, Any]] = merge(REID_BASELINE, {"image_size": [48, 48]})

    def scan(self, split: str) -> Iterator[Finding]:
        pictures, others = self._content
        if split == "train":  # reported once, not for every split
            yield from others
        for symbol, paths in pictures.items():
            for camera, path in enumerate(paths):
                if _split(symbol, camera) == split:
                    yield Sample(path, _identity(symbol), camera)

    def identity_name(self, identity: int) -> str:
        return self._names.get(identity, str(identity))

    def camera_name(self, camera: int) -> str:
        return VENDORS[camera]

    @cached_property
    def _names(self) -> dict[int, str]:
        return {_identity(symbol): symbol for symbol in self._content[0]}

    @cached_property
    def _content(self) -> tuple[dict[str, list[Path]], list[Skipped | Defect]]:
        """The pictures of every symbol that all vendors draw, in the order of the vendors; and all other findings."""
        others: list[Skipped | Defect] = []
        vendors: list[dict[str, Path]] = []
        for vendor in VENDORS:
            pictures: dict[str, Path] = {}
            found = match_images(self.folder / FOLDERS[vendor], FILE_NAME, "1f600.png")
            for finding in sorted(found, key=str):  # by path
                if isinstance(finding, Skipped | Defect):
                    others.append(finding)
                    continue
                path, match = finding
                symbol = "-".join(point for point in match["points"].split("-") if point != VARIATION)
                if symbol in pictures:
                    others.append(Skipped("another picture of the symbol"))
                pictures.setdefault(symbol, path)
            vendors.append(pictures)
        common = {symbol for symbol in set.intersection(*map(set, vendors)) if not AMBIGUOUS.fullmatch(symbol)}
        others += [Skipped("symbol that not all vendors draw, or alike")] * sum(
            len(pictures.keys() - common) for pictures in vendors
        )
        return {symbol: [pictures[symbol] for pictures in vendors] for symbol in sorted(common)}, others


def _identity(symbol: str) -> int:
    return zlib.crc32(symbol.encode())


def _split(symbol: str, camera: int) -> str:
    """Return the split of a picture; "" for a test picture that is not used."""
    base = TONE.sub("", symbol)
    if sha256(base.encode()).digest()[0] % 2:
        return "train"
    if camera != QUERY:
        return "gallery"
    return "query" if symbol == base else ""
