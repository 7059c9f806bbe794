"""Stanford Online Products."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmark.data.card import Card, Download, Split
from benchmark.data.files import read_rows
from benchmark.data.listed_dataset import ListedDataset
from benchmark.data.samples import Defect, Sample
from benchmark.recipe.baseline import REID_BASELINE
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol
from benchmark.utils.mappings import merge

LISTS = {"train": "Ebay_train.txt", "query": "Ebay_test.txt"}


@DATASETS.register_module("sop")
class StanfordOnlineProducts(ListedDataset):
    """Stanford Online Products: photographs of products for sale, a few of each.

    All test images are queries, and the gallery of each query is all other test images.
    """

    card: ClassVar[Card] = Card(
        title="Stanford Online Products",
        citation=(
            "Oh Song, Xiang, Jegelka, Savarese. Deep Metric Learning via Lifted Structured Feature Embedding. CVPR "
            "2016."
        ),
        terms="No terms are known to this suite; ask the authors before any use other than research.",
        obtain=(
            "Run: benchmark data prepare sop --download. Or get Stanford_Online_Products.zip from the authors' page "
            "and pass the file instead of --download."
        ),
        tree="""\
sop/Stanford_Online_Products/
  bicycle_final/ cabinet_final/ ...   111085122871_0.JPG ...
  Ebay_train.txt                      image_id class_id super_class_id path
  Ebay_test.txt                       59552 11319 1 bicycle_final/111053868001_0.JPG ...""",
        splits={
            "train": Split(59_551, 11_318, 1),
            "query": Split(60_502, 11_316, 1),
            "gallery": Split(60_502, 11_316, 1),
        },
        download=Download(
            url="ftp://cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
            sha256="b04fa78210e69fab050ce73939550e1cd0f96890bdd98ec9fee732c3b756ef48",  # tensorflow-datasets 4.9.10
            size=3_083_860_082,
        ),
    )
    protocol = Protocol(camera_rule=False, query_in_gallery=True, recall_at=(1, 10, 100, 1000))
    archive_folders = ("Stanford_Online_Products",)
    required_paths = tuple(LISTS.values())
    recipe: ClassVar[Mapping[str, Any]] = merge(
        REID_BASELINE,
        {"image_size": [256, 256], "train": {"augment": {"pad": 8}}},  # AIR_Distiller
    )

    def image_folders(self) -> tuple[Path, ...]:
        return tuple(sorted(path for path in self.folder.iterdir() if path.is_dir()))

    def entries(self) -> Iterator[tuple[str, Sample] | Defect]:
        folder = self.folder
        for split, name in LISTS.items():
            for row in read_rows(folder / name, columns=4, integers=(0, 1, 2), header=1):
                if isinstance(row, Defect):
                    yield row
                else:
                    _, (_, product, _, path) = row
                    yield split, Sample(folder / path, int(product), camera=0)
