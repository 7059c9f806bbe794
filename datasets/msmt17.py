"""MSMT17."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from benchmark.data.card import Card, Split
from benchmark.data.files import candidate_folders, read_rows
from benchmark.data.listed_dataset import ListedDataset
from benchmark.data.samples import Defect, Sample
from benchmark.recipe.baseline import REID_BASELINE
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol
from benchmark.utils.mappings import merge

LISTS = {"train": "list_train.txt", "val": "list_val.txt", "query": "list_query.txt", "gallery": "list_gallery.txt"}
FOLDERS = {"v1": ("train", "test"), "v2": ("mask_train_v2", "mask_test_v2")}
"""Version -> folders of training and test images."""
FILE_NAME = re.compile(r"(?:\d+/)?(?P<identity>\d+)_\d+_(?P<camera>\d{2})_[^/]+\.jpg")
TRAIN_AND_VALIDATION = Split(32_621, 1_041)
"""Size of the training split including the validation list."""
TEST_OFFSET = 10_000
"""Added to the identities of test images, whose numbers start at 0 again."""


@DATASETS.register_module("msmt17")
class MSMT17(ListedDataset):
    """MSMT17: people in and around a campus, seen by fifteen cameras over several days.

    Gallery images that share both identity and camera with the query are ignored. Version 2 has masked faces.
    Leaderboards rank the two versions separately. By default, the published validation list is not used for training,
    as in fast-reid and torchreid; TransReID and CLIP-ReID also train on it (`validation=true`).

    Args:
        root: The data root.
        version: "v1", "v2", or "auto" for the version on disk (v1 if both are on disk).
        validation: Whether to train on the validation list too.
    """

    card: ClassVar[Card] = Card(
        title="MSMT17",
        citation=(
            "Wei, Zhang, Gao, Tian. Person Transfer GAN to Bridge Domain Gap for Person Re-Identification. CVPR 2018."
        ),
        terms=(
            "As stated by the authors. The images show people who were not asked for consent: consider their privacy."
        ),
        obtain="Ask the authors (pkuvmc.com), then run: benchmark data prepare msmt17 FILE",
        tree="""\
msmt17/MSMT17_V1/
  train/             0000/0000_000_01_0303morning_0015_0.jpg ...       (mask_train_v2/ in MSMT17_V2)
  test/              0000/0000_000_01_0303morning_0008_0.jpg ...       (mask_test_v2/ in MSMT17_V2)
  list_train.txt     0000/0000_000_01_0303morning_0015_0.jpg 0 ...
  list_val.txt list_query.txt list_gallery.txt""",
        splits={
            "train": Split(None, None),  # no source gives the size without validation
            "query": Split(11_659, None),
            "gallery": Split(82_161, None),
            "all": Split(126_441, 4_101, 15),
        },
        defects="Identities of test images start at 0 again; 10,000 is added to them here.",
    )
    protocol = Protocol(camera_rule=True, recall_at=(1, 5, 10))
    archive_folders = ("MSMT17_V1", "MSMT17_V2", "MSMT17")
    recipe: ClassVar[Mapping[str, Any]] = merge(
        REID_BASELINE,
        {"image_size": [320, 160], "train": {"task": {"triplet": {"margin": 0.35}}}},  # CDD
    )

    def __init__(self, root: Path, version: Literal["auto", "v1", "v2"] = "auto", validation: bool = False) -> None:
        super().__init__(root)
        candidates = candidate_folders(self.root, self.name, self.archive_folders)
        on_disk = (name for name, (train, _) in FOLDERS.items() if any((path / train).is_dir() for path in candidates))
        self.version = next(on_disk, "v1") if version == "auto" else version
        self.validation = validation
        self.required_paths = (*FOLDERS[self.version], *LISTS.values())

    def non_default_options(self) -> dict[str, Any]:
        # "auto" has been resolved to a version, of which v1 is the default benchmark.
        options = super().non_default_options()
        return {name: value for name, value in options.items() if (name, value) != ("version", "v1")}

    def expected_sizes(self) -> Mapping[str, Split]:
        return {**self.card.splits, "train": TRAIN_AND_VALIDATION} if self.validation else self.card.splits

    def all_samples(self) -> Iterator[Sample]:
        """Return all listed samples: the published total includes the validation list even if it is not used."""
        return (sample for _, sample in self.listed_samples())

    def image_folders(self) -> tuple[Path, ...]:
        return tuple(self.folder / name for name in FOLDERS[self.version])

    def entries(self) -> Iterator[tuple[str, Sample] | Defect]:
        train, test = self.image_folders()
        for name in ("train", "query", "gallery", "val"):
            split = "train" if name == "val" and self.validation else name
            folder, offset = (train, 0) if name in ("train", "val") else (test, TEST_OFFSET)
            path = self.folder / LISTS[name]
            for row in read_rows(path, columns=2, integers=(1,)):
                if isinstance(row, Defect):
                    yield row
                    continue
                number, (image, identity) = row
                match = FILE_NAME.fullmatch(image)
                if match and int(match["identity"]) == int(identity):
                    yield split, Sample(folder / image, offset + int(identity), int(match["camera"]))
                else:
                    yield Defect(f"{path}, line {number}: {image!r} is not an image of identity {identity}")
