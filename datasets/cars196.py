"""Cars196."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from benchmark.data.card import Card, Split
from benchmark.data.listed_dataset import ListedDataset
from benchmark.data.samples import Defect, Sample
from benchmark.errors import UserError
from benchmark.recipe.baseline import REID_BASELINE
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol
from benchmark.utils.mappings import merge

TRAIN_CLASSES = 98
ALL_IN_ONE = "cars_annos.mat"
TWO_HALVES = {
    "cars_train": ("devkit/cars_train_annos.mat", "cars_train_annos.mat"),
    "cars_test": ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat"),
}
"""Folder of images -> where the file is that describes them."""


@DATASETS.register_module("cars196")
class Cars196(ListedDataset):
    """Cars196: photographs of cars of 196 models, whole, not cut to the car.

    By default the first 98 models are for training and all images of the other 98 are queries, each of which searches
    all others (the zero-shot split of deep metric learning). The archive's own split has the same 196 models on both
    sides and gives much higher scores; it is the option `split=closed`.

    Args:
        root: The data root.
        split: "zero_shot", or "closed" for the archive's own.
    """

    card: ClassVar[Card] = Card(
        title="Cars196",
        citation="Krause, Stark, Deng, Fei-Fei. 3D Object Representations for Fine-Grained Categorization. ICCVW 2013.",
        terms="None are known to this suite; ask its authors before anything but research.",
        obtain=(
            f"Get car_ims.tgz and {ALL_IN_ONE}, or cars_train.tgz, cars_test.tgz, car_devkit.tgz and "
            "cars_test_annos_withlabels.mat. Unpack each archive with: benchmark data prepare cars196 FILE"
        ),
        tree=f"""\
cars196/
  car_ims/        000001.jpg ...
  {ALL_IN_ONE}
or
cars196/
  cars_train/     00001.jpg ...
  cars_test/      00001.jpg ...
  devkit/cars_train_annos.mat
  cars_test_annos_withlabels.mat     also in devkit/""",
        splits={
            "train": Split(None, 98, 1),
            "query": Split(None, 98, 1),
            "gallery": Split(None, 98, 1),
            "all": Split(16_185, 196, 1),
        },
    )
    protocol = Protocol(camera_rule=False, query_in_gallery=True, recall_at=(1, 2, 4, 8))
    unpacked = ("stanford_cars", "Stanford_Cars")
    parts = (("car_ims", "cars_train"), (ALL_IN_ONE, *TWO_HALVES["cars_train"]))
    recipe: ClassVar[Mapping[str, Any]] = merge(
        REID_BASELINE,
        # As for CUB-200-2011, which is used beside it everywhere: AIR_Distiller has no recipe for cars.
        {"image_size": [256, 256], "train": {"augment": {"erase": 0.0}}},
    )

    def __init__(self, root: Path, split: Literal["zero_shot", "closed"] = "zero_shot") -> None:
        super().__init__(root)
        self.split = split
        self.closed_set = split == "closed"

    def expected(self) -> Mapping[str, Split]:
        if self.split == "zero_shot":
            return self.card.splits
        test = Split(8_041, 196, 1)
        return {"train": Split(8_144, 196, 1), "query": test, "gallery": test, "all": self.card.splits["all"]}

    def image_folders(self) -> tuple[Path, ...]:
        return (self.folder / "car_ims",) if self._in_one else tuple(self.folder / name for name in TWO_HALVES)

    def entries(self) -> Iterator[tuple[str, Sample] | Defect]:
        if self._in_one:
            for image, model, test in _annotations(self.folder / ALL_IN_ONE, "relative_im_path", "class", "test"):
                yield self._entry(self.folder / image, model, bool(test))
            return
        for folder, files in TWO_HALVES.items():
            for image, model in _annotations(self.find(*files), "fname", "class"):
                yield self._entry(self.folder / folder / image, model, folder == "cars_test")

    @property
    def _in_one(self) -> bool:
        return (self.folder / ALL_IN_ONE).exists()

    def _entry(self, path: Path, model: int, test: bool) -> tuple[str, Sample]:
        train = not test if self.closed_set else model <= TRAIN_CLASSES
        return "train" if train else "query", Sample(path, model, camera=0)


def _annotations(file: Path, *fields: str) -> Iterator[tuple[Any, ...]]:
    """The fields of every entry of a Matlab file's `annotations`."""
    from scipy.io import loadmat  # slow to import

    try:
        annotations = loadmat(file, squeeze_me=True)["annotations"]
        for entry in annotations:
            yield tuple(entry[field] if isinstance(entry[field], str) else int(entry[field]) for field in fields)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # loadmat raises many kinds for a damaged file
        raise UserError(f"{file} is not a Matlab file with {', '.join(fields)} of every image: {error!r}") from error
