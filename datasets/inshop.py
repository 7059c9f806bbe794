"""In-Shop Clothes Retrieval."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmark.data.card import Card, Split
from benchmark.data.files import first_existing, read_lines, read_rows
from benchmark.data.listed_dataset import ListedDataset
from benchmark.data.samples import SPLITS, Defect, Sample
from benchmark.recipe.baseline import REID_BASELINE
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol
from benchmark.utils.mappings import merge

IMAGES = ("Img/img", "img")
"""Possible places of the image folder."""
LIST = "list_eval_partition.txt"
PARTITION = (f"Eval/{LIST}", LIST)
"""Possible places of the list of images."""
HEADER = 2
"""Lines of the list before its first row: the number of images and the names of the columns."""
ITEM = re.compile(r"id_(\d{8})")


@DATASETS.register_module("inshop")
class InShop(ListedDataset):
    """In-Shop Clothes Retrieval (DeepFashion): several photographs of each clothing item, taken by a shop.

    Query and gallery are separate lists, and there are no cameras. The images are those of 256 x 256 pixels, as the
    description of the benchmark states, not the high-resolution ones.
    """

    card: ClassVar[Card] = Card(
        title="In-Shop Clothes Retrieval (DeepFashion)",
        citation=(
            "Liu, Luo, Qiu, Wang, Tang. DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich "
            "Annotations. CVPR 2016."
        ),
        terms="Non-commercial research and education.",
        obtain=(
            f"Get Img/img.zip and Eval/{LIST} from the DeepFashion page; the authors give the password. Run: "
            f"benchmark data prepare inshop img.zip. Then put {LIST} next to the new folder img."
        ),
        tree=f"""\
inshop/
  img/                         WOMEN/Dresses/id_00000002/02_1_front.jpg ...     or in Img/
  {LIST}      img/WOMEN/Dresses/id_00000002/02_1_front.jpg id_00000002 train ...     or in Eval/""",
        splits={
            "train": Split(25_882, 3_997, 1),
            "query": Split(14_218, 3_985, 1),
            "gallery": Split(12_612, 3_985, 1),
            "all": Split(52_712, 7_982, 1),
        },
        defects="The bounding boxes in Anno are for one resolution only; they are not used here.",
    )
    protocol = Protocol(camera_rule=False, recall_at=(1, 10, 20, 30, 40, 50))
    archive_folders = ("In-shop Clothes Retrieval Benchmark",)
    required_paths = (IMAGES, PARTITION)
    recipe: ClassVar[Mapping[str, Any]] = merge(
        REID_BASELINE,
        {"image_size": [256, 256], "train": {"augment": {"pad": 8}}},  # AIR_Distiller
    )

    def image_folders(self) -> tuple[Path, ...]:
        return (first_existing(self.folder, *IMAGES),)

    def entries(self) -> Iterator[tuple[str, Sample] | Defect]:
        images, partition = (first_existing(self.folder, *paths) for paths in (IMAGES, PARTITION))
        stated = next(iter(read_lines(partition)), "")
        rows = 0
        for row in read_rows(partition, columns=3, header=HEADER):
            rows += 1
            if isinstance(row, Defect):
                yield row
                continue
            number, (name, item, status) = row
            match = ITEM.fullmatch(item)
            if not match or status not in SPLITS:
                yield Defect(f"{partition}, line {number}: expected id_<8 digits> and a split, not {item!r} {status!r}")
                continue
            yield status, Sample(images.parent / name, int(match[1]), camera=0)
        if stated != str(rows):
            yield Defect(f"{partition}: the first line states {stated!r} images, but there are {rows} rows")
