"""VehicleID."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from benchmark.data.card import Card, Split
from benchmark.data.files import rows
from benchmark.data.listed_dataset import ListedDataset
from benchmark.data.samples import Defect, Sample
from benchmark.recipe.baseline import REID_BASELINE
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol
from benchmark.utils.mappings import merge

TRAIN = "train_test_split/train_list.txt"
TEST = "train_test_split/test_list_{}.txt"
IMAGES = {800: 6_493, 1600: 13_377, 2400: 19_777}
"""Vehicles of each published test list -> images."""


@DATASETS.register_module("vehicleid")
class VehicleID(ListedDataset):
    """VehicleID: vehicles from the front or the back, without cameras.

    The gallery holds one image of every vehicle, drawn at random by the run's seed; all other test images are queries.
    Papers average over ten draws: runs that differ in `seed` alone share their training, and a leaderboard averages
    over the seeds that it has records of.

    Args:
        root: The data root.
        test_size: Vehicles of the published test list: 800, 1600 or 2400.
        seed: Draws the gallery; empty for the run's seed.
    """

    card: ClassVar[Card] = Card(
        title="VehicleID",
        citation="Liu, Tian, Yang, Pang, Huang. Deep Relative Distance Learning: Tell the Difference Between Similar "
        "Vehicles. CVPR 2016.",
        terms="As its authors say on pkuml.org.",
        obtain="Ask for it on pkuml.org/resources/pku-vehicleid.html, then: benchmark data prepare vehicleid FILE",
        tree=f"""\
vehicleid/VehicleID_V1.0/
  image/                                 0000001.jpg ...
  {TRAIN}      0000001 9 ...           image, vehicle
  {TEST.format(800)} ...""",
        splits={
            "train": Split(113_346, 13_164, 1),
            "query": Split(IMAGES[800] - 800, 800, 1),
            "gallery": Split(800, 800, 1),
        },
    )
    protocol = Protocol(camera_rule=False, recall_at=(1, 5))
    judged_by = ("test_size", "seed")
    unpacked = ("VehicleID_V1.0", "VehicleID")
    recipe: ClassVar[Mapping[str, Any]] = merge(
        REID_BASELINE,
        # As for VeRi-776, by DEAP: no recipe for this set is at hand.
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
        self.parts = ("image", TRAIN, TEST.format(test_size))

    def expected(self) -> Mapping[str, Split]:
        test = {
            "query": Split(IMAGES[self.test_size] - self.test_size, None, 1),
            "gallery": Split(self.test_size, self.test_size, 1),
        }
        return {**self.card.splits, **test}

    def image_folders(self) -> tuple[Path, ...]:
        return (self.folder / "image",)

    def entries(self) -> Iterator[tuple[str, Sample] | Defect]:
        yield from (found if isinstance(found, Defect) else ("train", found) for found in self._listed(TRAIN))
        test = []
        for found in self._listed(TEST.format(self.test_size)):
            if isinstance(found, Defect):
                yield found
            else:
                test.append(found)
        test.sort()
        order = np.random.default_rng(self.seed or 0).permutation(len(test)).tolist()
        gallery = {test[position].identity: position for position in reversed(order)}
        for position, sample in enumerate(test):
            yield "gallery" if gallery[sample.identity] == position else "query", sample
        for size in IMAGES:
            name = TEST.format(size)
            if size != self.test_size and (self.folder / name).exists():
                yield from (("unused", found) for found in self._listed(name) if not isinstance(found, Defect))

    def _listed(self, name: str) -> Iterator[Sample | Defect]:
        images = self.folder / "image"
        for row in rows(self.folder / name, fields=2, integers=(0, 1)):
            if isinstance(row, Defect):
                yield row
            else:
                image, vehicle = row[1]
                yield Sample(images / f"{image}.jpg", int(vehicle), camera=0)
