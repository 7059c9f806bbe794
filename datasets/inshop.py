"""In-Shop Clothes Retrieval."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmark.data.card import Card, Split
from benchmark.data.files import lines, rows
from benchmark.data.listed_dataset import ListedDataset
from benchmark.data.retrieval_dataset import SPLITS
from benchmark.data.samples import Defect, Sample
from benchmark.recipe.baseline import REID_BASELINE
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol
from benchmark.utils.mappings import merge

IMAGES = ("Img/img", "img")
LIST = "list_eval_partition.txt"
PARTITION = (f"Eval/{LIST}", LIST)
HEADER = 2
ITEM = re.compile(r"id_(\d{8})")


@DATASETS.register_module("inshop")
class InShop(ListedDataset):
    """In-Shop Clothes Retrieval (DeepFashion): the same clothes, photographed by a shop in several ways.

    Queries search a gallery of their own; there are no cameras. The images are those of 256 x 256, not of the
    high-resolution archive, as the benchmark's description says.
    """

    card: ClassVar[Card] = Card(
        title="In-Shop Clothes Retrieval (DeepFashion)",
        citation=(
            "Liu, Luo, Qiu, Wang, Tang. DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich "
            "Annotations. CVPR 2016."
        ),
        terms="Non-commercial research and education.",
        obtain=(
            f"Get Img/img.zip, whose password the authors give, and Eval/{LIST} from the DeepFashion page. Then: "
            f"benchmark data prepare inshop img.zip, and put {LIST} beside the folder img that it makes"
        ),
        tree=f"""\
inshop/
  img/                         WOMEN/Dresses/id_00000002/02_1_front.jpg ...     also below Img/
  {LIST}      img/WOMEN/Dresses/id_00000002/02_1_front.jpg id_00000002 train ...     also below Eval/""",
        splits={
            "train": Split(25_882, 3_997, 1),
            "query": Split(14_218, 3_985, 1),
            "gallery": Split(12_612, 3_985, 1),
            "all": Split(52_712, 7_982, 1),
        },
        defects="Boxes of clothes in Anno belong to one resolution only; they are not used here.",
    )
    protocol = Protocol(camera_rule=False, recall_at=(1, 10, 20, 30, 40, 50))
    unpacked = ("In-shop Clothes Retrieval Benchmark",)
    parts = (IMAGES, PARTITION)
    recipe: ClassVar[Mapping[str, Any]] = merge(
        REID_BASELINE,
        {"image_size": [256, 256], "train": {"augment": {"pad": 8}}},  # AIR_Distiller
    )

    def image_folders(self) -> tuple[Path, ...]:
        return (self.find(*IMAGES),)

    def entries(self) -> Iterator[tuple[str, Sample] | Defect]:
        images, partition = self.find(*IMAGES), self.find(*PARTITION)
        stated = " ".join(lines(partition)[:1])
        found = 0
        for row in rows(partition, fields=3, header=HEADER):
            found += 1
            if isinstance(row, Defect):
                yield row
                continue
            number, (name, item, status) = row
            match = ITEM.fullmatch(item)
            if not match or status not in SPLITS:
                yield Defect(f"{partition}, line {number}: {item!r} {status!r} is no item with train, query or gallery")
                continue
            yield status, Sample(images.parent / name, int(match[1]), camera=0)
        if stated != str(found):
            yield Defect(f"{partition} says that it lists {stated} images, but has {found} rows")
