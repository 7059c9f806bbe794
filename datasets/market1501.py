"""Market-1501."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from benchmark.data.card import Card, Split
from benchmark.data.files import match_images
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import Defect, Sample, Skipped
from benchmark.recipe.baseline import REID_BASELINE
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol
from benchmark.utils.mappings import merge

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
FILE_NAME = re.compile(r"(?P<identity>-1|\d{4})_c(?P<camera>[1-6])s\d_\d{6}_\d{2}\.jpg")
JUNK = -1


@DATASETS.register_module("market1501")
class Market1501(RetrievalDataset):
    """Market-1501: people on a campus, seen by six cameras, cropped by a person detector.

    Gallery images that share both identity and camera with the query are ignored. Images with identity -1 are junk and
    are left out. Images with identity 0000 are distractors: they stay in the gallery and are never a correct match.
    """

    card: ClassVar[Card] = Card(
        title="Market-1501",
        citation="Zheng, Shen, Tian, Wang, Wang, Tian. Scalable Person Re-identification: A Benchmark. ICCV 2015.",
        terms="Research use. The images show people who were not asked for consent: consider their privacy.",
        obtain="Get Market-1501-v15.09.15.zip from the authors, then run: benchmark data prepare market1501 FILE",
        tree="""\
market1501/Market-1501-v15.09.15/
  bounding_box_train/  0002_c1s1_000451_03.jpg ...
  bounding_box_test/   -1_c1s1_000401_03.jpg ... 0000_c1s1_000151_01.jpg ...
  query/               0001_c1s1_001051_00.jpg ...""",
        splits={
            "train": Split(12_936, 751, 6),
            "query": Split(3_368, 750, 6),
            "gallery": Split(15_913, 751, 6),  # 750 and identity 0 of the distractors
        },
        defects=(
            "bounding_box_test contains 19,732 images, 3,819 of them junk. Of the others, 2,798 are distractors; the "
            "official page states 2,793."
        ),
    )
    protocol = Protocol(camera_rule=True, recall_at=(1, 5, 10), junk=(JUNK,), distractors=(0,))
    archive_folders = ("Market-1501-v15.09.15",)
    required_paths = tuple(FOLDERS.values())
    recipe: ClassVar[Mapping[str, Any]] = merge(
        REID_BASELINE,
        {"image_size": [256, 128]},  # fast-reid's Base-bagtricks (Luo et al., CVPRW 2019)
    )

    def scan(self, split: str) -> Iterator[Sample | Skipped | Defect]:
        for finding in match_images(self.folder / FOLDERS[split], FILE_NAME, "0002_c1s1_000451_03.jpg"):
            if isinstance(finding, Skipped | Defect):
                yield finding
                continue
            path, match = finding
            identity = int(match["identity"])
            yield Skipped("junk, identity -1") if identity == JUNK else Sample(path, identity, int(match["camera"]))
