"""CUB-200-2011."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from benchmark.data.card import Card, Download, Split
from benchmark.data.files import read_rows
from benchmark.data.listed_dataset import ListedDataset
from benchmark.data.samples import Defect, Sample
from benchmark.recipe.baseline import REID_BASELINE
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol
from benchmark.utils.mappings import merge

INTEGERS = {"images.txt": (0,), "image_class_labels.txt": (0, 1), "train_test_split.txt": (0, 1)}
"""Text file about the images -> which of its two columns are integers."""
FILES = tuple(INTEGERS)
TRAIN_SPECIES = 100
"""Species 1 to 100 are for training in the zero-shot split."""


@DATASETS.register_module("cub200")
class CUB200(ListedDataset):
    """CUB-200-2011: photographs of birds of 200 species, without cropping to the bird.

    By default, the first 100 species are for training and all images of the other 100 are queries, each of which
    searches all others (the zero-shot split of deep metric learning). The option `split=closed` uses the archive's own
    train_test_split.txt, which has the same 200 species in training and test and gives much higher scores.

    Args:
        root: The data root.
        split: "zero_shot", or "closed" for the archive's own split.
    """

    card: ClassVar[Card] = Card(
        title="CUB-200-2011",
        citation="Wah, Branson, Welinder, Perona, Belongie. The Caltech-UCSD Birds-200-2011 Dataset. CNS-TR-2011-001.",
        terms="As stated on its page, data.caltech.edu/records/65de6-vp158.",
        obtain=(
            "Run: benchmark data prepare cub200 --download. Or get CUB_200_2011.tgz from data.caltech.edu and pass the "
            "file instead of --download."
        ),
        tree="""\
cub200/CUB_200_2011/
  images/                 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg ...
  images.txt              1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg ...
  image_class_labels.txt  1 1 ...
  train_test_split.txt    1 0 ...""",
        splits={
            "train": Split(5_864, 100, 1),
            "query": Split(5_924, 100, 1),
            "gallery": Split(5_924, 100, 1),
            "all": Split(11_788, 200, 1),
        },
        defects=(
            "A few images are grayscale. Some are also in ImageNet, on which backbones are pretrained. CUB-200 of 2010 "
            "is another dataset with almost the same name."
        ),
        download=Download(
            url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            sha256="0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",  # tensorflow-datasets 4.9.10
            size=1_150_585_339,
        ),
    )
    protocol = Protocol(camera_rule=False, query_in_gallery=True, recall_at=(1, 2, 4, 8))
    archive_folders = ("CUB_200_2011",)
    required_paths = ("images", *FILES)
    recipe: ClassVar[Mapping[str, Any]] = merge(
        REID_BASELINE,
        {
            "image_size": [256, 256],  # AIR_Distiller's teachers
            "train": {"augment": {"erase": 0.0}},  # AIR_Distiller, only for CUB-200-2011
        },
    )

    def __init__(self, root: Path, split: Literal["zero_shot", "closed"] = "zero_shot") -> None:
        super().__init__(root)
        self.split = split
        self.closed_set = split == "closed"

    def expected_sizes(self) -> Mapping[str, Split]:
        if self.split == "zero_shot":
            return self.card.splits
        test = Split(5_794, 200, 1)
        return {"train": Split(5_994, 200, 1), "query": test, "gallery": test, "all": self.card.splits["all"]}

    def image_folders(self) -> tuple[Path, ...]:
        return (self.folder / "images",)

    def entries(self) -> Iterator[tuple[str, Sample] | Defect]:
        folder = self.folder
        tables: list[dict[str, str]] = []
        for file in FILES:
            table: dict[str, str] = {}
            for row in read_rows(folder / file, columns=2, integers=INTEGERS[file]):
                if isinstance(row, Defect):
                    yield row
                    continue
                line, (number, value) = row
                if number in table:
                    yield Defect(f"{folder / file}, line {line}: image {number} is listed twice")
                table[number] = value
            tables.append(table)
        names, species, in_train = tables
        for number in sorted(set().union(*tables), key=lambda number: number.zfill(6)):
            missing = [file for file, table in zip(FILES, tables, strict=True) if number not in table]
            if missing:
                yield Defect(f"{folder / missing[0]} has no line for image {number}")
                continue
            name, identity = names[number], int(species[number])
            if not name.startswith(f"{identity:03}."):
                yield Defect(f"{folder / FILES[1]}: image {number} is {name}, but of class {identity}")
                continue
            train = in_train[number] == "1" if self.closed_set else identity <= TRAIN_SPECIES
            yield "train" if train else "query", Sample(folder / "images" / name, identity, camera=0)
