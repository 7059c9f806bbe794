"""MSMT17."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from benchmark.data.card import Card, Split
from benchmark.data.files import rows
from benchmark.data.findings import Defect
from benchmark.data.listed_dataset import ListedDataset
from benchmark.data.sample import Sample
from benchmark.recipe.baseline import BESIDE_A_TASK_LOSS, REID_BASELINE
from benchmark.recipe.compose import merge
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol

LISTS = {"train": "list_train.txt", "val": "list_val.txt", "query": "list_query.txt", "gallery": "list_gallery.txt"}
FOLDERS = {"v1": ("train", "test"), "v2": ("mask_train_v2", "mask_test_v2")}
"""Version -> the folders of training and test images."""
PATH = re.compile(r"(?:\d+/)?(?P<identity>\d+)_\d+_(?P<camera>\d{2})_[^/]+\.jpg")
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

    name = "msmt17"
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
            "train": Split(32_621, 1_041),  # validation included
            "query": Split(11_659, None),
            "gallery": Split(82_161, None),
            "all": Split(126_441, 4_101, 15),
        },
        defects="Identities of test images start anew at 0; 10,000 is added to them here.",
    )
    protocol = Protocol(camera_rule=True, recall_at=(1, 5, 10))
    unpacked = ("MSMT17_V1", "MSMT17_V2", "MSMT17")
    parts = (("train", "mask_train_v2"), ("test", "mask_test_v2"), *LISTS.values())
    recipe: ClassVar[Mapping[str, Any]] = merge(
        REID_BASELINE,
        {"image_size": [320, 160], "train": {"task": {"triplet": {"margin": 0.35}}}},  # CDD
    )
    method_arguments = BESIDE_A_TASK_LOSS

    def __init__(self, root: Path, version: Literal["auto", "v1", "v2"] = "auto", validation: bool = False) -> None:
        super().__init__(root)
        self.version = version
        self.validation = validation

    def variant(self) -> dict[str, Any]:
        usual = {"version": "v1", "validation": False}
        found = {"version": self._version, "validation": self.validation}
        return {option: value for option, value in found.items() if value != usual[option]}

    def expected(self) -> Mapping[str, Split]:
        if self.validation:
            return self.card.splits
        unknown = {"train": Split(None, None), "all": Split(None, None)}
        return {split: unknown.get(split, size) for split, size in self.card.splits.items()}

    def image_folders(self) -> tuple[Path, ...]:
        return tuple(self.folder / name for name in FOLDERS[self._version])

    def entries(self) -> Iterator[tuple[str, Sample] | Defect]:
        train, test = self.image_folders()
        for split, name in LISTS.items():
            trains = split in ("train", "val")
            for row in rows(self.folder / name, fields=2, integers=(1,)):
                if isinstance(row, Defect):
                    yield row
                    continue
                number, (path, identity) = row
                match = PATH.fullmatch(path)
                if not match or int(match["identity"]) != int(identity):
                    yield Defect(
                        f"{self.folder / name}, line {number}: {path!r} is not an image of identity {identity}"
                    )
                elif trains:
                    if split == "train" or self.validation:
                        yield "train", Sample(train / path, int(identity), int(match["camera"]))
                else:
                    yield split, Sample(test / path, TEST + int(identity), int(match["camera"]))

    @property
    def folder(self) -> Path:
        """As for every set; a wanted version is preferred where both were unpacked."""
        for place in (self.root / self.name, self.root):
            wanted = place / f"MSMT17_{self.version.upper()}"
            if wanted.is_dir():
                return wanted
        return super().folder

    @property
    def _version(self) -> str:
        if self.version != "auto":
            return self.version
        return "v2" if (self.folder / FOLDERS["v2"][0]).is_dir() else "v1"
