"""VehicleID."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from benchmark.data.card import Card, Split
from benchmark.data.files import read_rows
from benchmark.data.listed_dataset import ListedDataset
from benchmark.data.samples import Defect, Sample
from benchmark.recipe.baseline import REID_BASELINE
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol
from benchmark.utils.mappings import merge

TRAIN_LIST = "train_test_split/train_list.txt"
TEST_LIST = "train_test_split/test_list_{}.txt"
TEST_IMAGES = {800: 6_493, 1600: 13_377, 2400: 19_777}
"""Number of vehicles in each published test list -> number of images."""


@DATASETS.register_module("vehicleid")
class VehicleID(ListedDataset):
    """VehicleID: vehicles from the front or the back, without cameras.

    The gallery contains one random image of every vehicle, and all other test images are queries. Papers average over
    ten random galleries. Here, runs that differ only in the option `seed` share their training, and a leaderboard
    averages over the seeds of which it has records.

    Args:
        root: The data root.
        test_size: Number of vehicles in the published test list: 800, 1600 or 2400.
        seed: Seed of the random gallery; the seed of the run if None.
    """

    card: ClassVar[Card] = Card(
        title="VehicleID",
        citation="Liu, Tian, Yang, Pang, Huang. Deep Relative Distance Learning: Tell the Difference Between Similar "
        "Vehicles. CVPR 2016.",
        terms="As stated by the authors on pkuml.org.",
        obtain="Ask for it on pkuml.org/resources/pku-vehicleid.html, then run: benchmark data prepare vehicleid FILE",
        tree=f"""\
vehicleid/VehicleID_V1.0/
  image/                                 0000001.jpg ...
  {TRAIN_LIST}      0000001 9 ...           image, vehicle
  {TEST_LIST.format(800)} ...""",
        splits={
            "train": Split(113_346, 13_164, 1),
            "query": Split(TEST_IMAGES[800] - 800, 800, 1),
            "gallery": Split(800, 800, 1),
        },
    )
    protocol = Protocol(camera_rule=False, recall_at=(1, 5))
    evaluation_options = ("test_size", "seed")
    archive_folders = ("VehicleID_V1.0", "VehicleID")
    recipe: ClassVar[Mapping[str, Any]] = merge(
        REID_BASELINE,
        # As DEAP trains on VeRi-776; no published recipe for VehicleID was available.
        {"image_size": [256, 256], "train": {"schedule": {"epochs": 90}}},
    )

    def __init__(
        self,
        root: Path,
        test_size: Literal[800, 1600, 2400] = 800,
        seed: Annotated[int, Field(ge=0)] | None = None,
    ) -> None:
        super().__init__(root)
        self.test_size = test_size
        self.seed = seed
        self.required_paths = ("image", TRAIN_LIST, TEST_LIST.format(test_size))

    def expected_sizes(self) -> Mapping[str, Split]:
        test = {
            "query": Split(TEST_IMAGES[self.test_size] - self.test_size, None, 1),
            "gallery": Split(self.test_size, self.test_size, 1),
        }
        return {**self.card.splits, **test}

    def image_folders(self) -> tuple[Path, ...]:
        return (self.folder / "image",)

    def entries(self) -> Iterator[tuple[str, Sample] | Defect]:
        for row in self._read_list(TRAIN_LIST):
            yield row if isinstance(row, Defect) else ("train", row)
        test = []
        for row in self._read_list(TEST_LIST.format(self.test_size)):
            if isinstance(row, Defect):
                yield row
            else:
                test.append(row)
        test.sort()
        order = np.random.default_rng(self.seed or 0).permutation(len(test)).tolist()
        # Vehicle -> position of its first image in random order, which overwrites the later ones.
        gallery = {test[position].identity: position for position in reversed(order)}
        for position, sample in enumerate(test):
            yield "gallery" if gallery[sample.identity] == position else "query", sample
        for size in TEST_IMAGES:
            name = TEST_LIST.format(size)
            if size != self.test_size and (self.folder / name).exists():
                yield from (("unused", row) for row in self._read_list(name) if not isinstance(row, Defect))

    def _read_list(self, name: str) -> Iterator[Sample | Defect]:
        images = self.folder / "image"
        for row in read_rows(self.folder / name, columns=2, integers=(0, 1)):
            if isinstance(row, Defect):
                yield row
            else:
                image, vehicle = row[1]
                yield Sample(images / f"{image}.jpg", int(vehicle), camera=0)
