"""Cars196."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from benchmark.data.card import Card, Split
from benchmark.data.files import first_existing
from benchmark.data.listed_dataset import ListedDataset
from benchmark.data.samples import Defect, Sample
from benchmark.errors import UserError
from benchmark.recipe.baseline import REID_BASELINE
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol
from benchmark.utils.mappings import merge

TRAIN_MODELS = 98
"""Models 1 to 98 are for training in the zero-shot split."""
ANNOTATIONS = "cars_annos.mat"
"""Annotations of all images, in the form of the archive with a single image folder."""
HALVES = {
    "cars_train": ("devkit/cars_train_annos.mat", "cars_train_annos.mat"),
    "cars_test": ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat"),
}
"""Image folder -> possible places of its annotations, in the form of the archive with two image folders."""


@DATASETS.register_module("cars196")
class Cars196(ListedDataset):
    """Cars196: photographs of cars of 196 models, without cropping to the car.

    By default, the first 98 models are for training and all images of the other 98 are queries, each of which searches
    all others (the zero-shot split of deep metric learning). The option `split=closed` uses the archive's own split,
    which has the same 196 models in training and test and gives much higher scores.

    Args:
        root: The data root.
        split: "zero_shot", or "closed" for the archive's own split.
    """

    card: ClassVar[Card] = Card(
        title="Cars196",
        citation="Krause, Stark, Deng, Fei-Fei. 3D Object Representations for Fine-Grained Categorization. ICCVW 2013.",
        terms="No terms are known to this suite; ask the authors before any use other than research.",
        obtain=(
            f"Get car_ims.tgz and {ANNOTATIONS}, or cars_train.tgz, cars_test.tgz, car_devkit.tgz and "
            "cars_test_annos_withlabels.mat. Unpack each archive with: benchmark data prepare cars196 FILE"
        ),
        tree=f"""\
cars196/
  car_ims/        000001.jpg ...
  {ANNOTATIONS}
or
cars196/
  cars_train/     00001.jpg ...
  cars_test/      00001.jpg ...
  devkit/cars_train_annos.mat
  cars_test_annos_withlabels.mat     or in devkit/""",
        splits={
            "train": Split(None, 98, 1),
            "query": Split(None, 98, 1),
            "gallery": Split(None, 98, 1),
            "all": Split(16_185, 196, 1),
        },
    )
    protocol = Protocol(camera_rule=False, query_in_gallery=True, recall_at=(1, 2, 4, 8))
    archive_folders = ("stanford_cars", "Stanford_Cars")
    required_paths = (("car_ims", "cars_train"), (ANNOTATIONS, *HALVES["cars_train"]))
    recipe: ClassVar[Mapping[str, Any]] = merge(
        REID_BASELINE,
        # As for CUB-200-2011, which is always used together with it; AIR_Distiller has no recipe for Cars196.
        {"image_size": [256, 256], "train": {"augment": {"erase": 0.0}}},
    )

    def __init__(self, root: Path, split: Literal["zero_shot", "closed"] = "zero_shot") -> None:
        super().__init__(root)
        self.split = split
        self.closed_set = split == "closed"

    def expected_sizes(self) -> Mapping[str, Split]:
        if self.split == "zero_shot":
            return self.card.splits
        test = Split(8_041, 196, 1)
        return {"train": Split(8_144, 196, 1), "query": test, "gallery": test, "all": self.card.splits["all"]}

    def image_folders(self) -> tuple[Path, ...]:
        return (self.folder / "car_ims",) if self._has_one_folder else tuple(self.folder / name for name in HALVES)

    def entries(self) -> Iterator[tuple[str, Sample] | Defect]:
        if self._has_one_folder:
            for image, model, test in _annotations(self.folder / ANNOTATIONS, "relative_im_path", "class", "test"):
                yield self._entry(self.folder / image, model, bool(test))
            return
        for folder, files in HALVES.items():
            for image, model in _annotations(first_existing(self.folder, *files), "fname", "class"):
                yield self._entry(self.folder / folder / image, model, folder == "cars_test")

    @property
    def _has_one_folder(self) -> bool:
        return (self.folder / ANNOTATIONS).exists()

    def _entry(self, path: Path, model: int, test: bool) -> tuple[str, Sample]:
        train = not test if self.closed_set else model <= TRAIN_MODELS
        return "train" if train else "query", Sample(path, model, camera=0)


def _annotations(file: Path, *fields: str) -> Iterator[tuple[Any, ...]]:
    """Yield the given fields of every entry in the array `annotations` of a Matlab file."""
    from scipy.io import loadmat  # slow to import

    problem = f"{file} is damaged, or not a Matlab file with {', '.join(fields)} of every image"
    if not file.is_file():  # such as a pipe, which would be waited for
        raise UserError(problem)
    try:
        annotations = loadmat(file, squeeze_me=True)["annotations"]
        for entry in annotations:
            yield tuple(entry[field] if isinstance(entry[field], str) else int(entry[field]) for field in fields)
    except MemoryError:
        raise
    except Exception as error:  # loadmat raises many types of errors for a damaged file
        reason = getattr(error, "strerror", None)
        raise UserError(f"{file} cannot be read: {reason}" if reason else f"{problem}: restore it") from error
