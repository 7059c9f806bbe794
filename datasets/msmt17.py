"""MSMT17."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from benchmark.data.card import Card, Split
from benchmark.data.files import rows
from benchmark.data.listed_dataset import ListedDataset
from benchmark.data.samples import Defect, Sample
from benchmark.recipe.baseline import REID_BASELINE
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol
from benchmark.utils.mappings import merge

LISTS = {"train": "list_train.txt", "val": "list_val.txt", "query": "list_query.txt", "gallery": "list_gallery.txt"}
FOLDERS = {"v1": ("train", "test"), "v2": ("mask_train_v2", "mask_test_v2")}
"""Version -> the folders of training and test images."""
NAME = re.compile(r"(?:\d+/)?(?P<identity>\d+)_\d+_(?P<camera>\d{2})_[^/]+\.jpg")
WITH_VALIDATION = Split(32_621, 1_041)
"""Training images and identities, those for validation included."""
TEST = 10_000
"""Is added to the identities of test images, whose numbers start anew at 0."""


@DATASETS.register_module("msmt17")
class MSMT17(ListedDataset):
    """MSMT17: people in and around a campus, seen by fifteen cameras over several days.

    Images of a query's identity from the query's own camera are ignored. Of the two versions, the second has masked
    faces; whichever is there is used, and leaderboards keep them apart. The published validation list is left out of
    training by default, as fast-reid and torchreid do; TransReID and CLIP-ReID train on it too (`validation=true`).

    Args:
        root: The data root.
        version: "v1", "v2", or "auto" for the one that is there.
        validation: Train on the validation list too.
    """

    card: ClassVar[Card] = Card(
        title="MSMT17",
        citation=(
            "Wei, Zhang, Gao, Tian. Person Transfer GAN to Bridge Domain Gap for Person Re-Identification. CVPR 2018."
        ),
        terms="As its authors say. The pictures show people who were not asked: consider their privacy.",
        obtain="Ask its authors for it (pkuvmc.com), then: benchmark data prepare msmt17 FILE",
        tree="""\
msmt17/MSMT17_V1/
  train/             0000/0000_000_01_0303morning_0015_0.jpg ...       (mask_train_v2/ in MSMT17_V2)
  test/              0000/0000_000_01_0303morning_0008_0.jpg ...       (mask_test_v2/ in MSMT17_V2)
  list_train.txt     0000/0000_000_01_0303morning_0015_0.jpg 0 ...
  list_val.txt list_query.txt list_gallery.txt""",
        splits={
            "train": Split(None, None),  # whose size without validation no source gives
            "query": Split(11_659, None),
            "gallery": Split(82_161, None),
            "all": Split(126_441, 4_101, 15),
        },
        defects="Identities of test images start anew at 0; 10,000 is added to them here.",
    )
    protocol = Protocol(camera_rule=True, recall_at=(1, 5, 10))
    unpacked = ("MSMT17_V1", "MSMT17_V2", "MSMT17")
    recipe: ClassVar[Mapping[str, Any]] = merge(
        REID_BASELINE,
        {"image_size": [320, 160], "train": {"task": {"triplet": {"margin": 0.35}}}},  # CDD
    )

    def __init__(self, root: Path, version: Literal["auto", "v1", "v2"] = "auto", validation: bool = False) -> None:
        super().__init__(root)
        there = [
            name for name, (train, _) in FOLDERS.items() if any((place / train).is_dir() for place in self.places())
        ]
        self.version = version if version != "auto" else (*there, "v1")[0]
        self.validation = validation
        self.parts = (*FOLDERS[self.version], *LISTS.values())

    def variant(self) -> dict[str, Any]:
        usual = {"version": "v1", "validation": False}
        return {name: getattr(self, name) for name in usual if getattr(self, name) != usual[name]}

    def expected(self) -> Mapping[str, Split]:
        return {**self.card.splits, "train": WITH_VALIDATION} if self.validation else self.card.splits

    def counts(self) -> dict[str, Split]:
        """As for every set, but that "all" includes validation even where that is left out."""
        return super().counts() | {"all": Split.of(sample for _, sample in self.listed())}

    def image_folders(self) -> tuple[Path, ...]:
        return tuple(self.folder / name for name in FOLDERS[self.version])

    def entries(self) -> Iterator[tuple[str, Sample] | Defect]:
        train, test = self.image_folders()
        for list_ in ("train", "query", "gallery", "val"):
            split = "train" if list_ == "val" and self.validation else list_
            folder, first = (train, 0) if list_ in ("train", "val") else (test, TEST)
            path = self.folder / LISTS[list_]
            for row in rows(path, fields=2, integers=(1,)):
                if isinstance(row, Defect):
                    yield row
                    continue
                number, (name, identity) = row
                match = NAME.fullmatch(name)
                if match and int(match["identity"]) == int(identity):
                    yield split, Sample(folder / name, first + int(identity), int(match["camera"]))
                else:
                    yield Defect(f"{path}, line {number}: {name!r} is not an image of identity {identity}")
