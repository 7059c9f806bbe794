"""VeRi-776."""

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from benchmark.data.card import Card, Split
from benchmark.data.files import match_images, read_lines
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import Defect, Sample, Skipped
from benchmark.errors import UserError
from benchmark.recipe.baseline import REID_BASELINE
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol
from benchmark.utils.mappings import merge

FOLDERS = {"train": "image_train", "query": "image_query", "gallery": "image_test"}
IMAGE_LISTS = {"train": "name_train.txt", "query": "name_query.txt", "gallery": "name_test.txt"}
TRACK_LIST = "test_track.txt"
FILE_NAME = re.compile(r"(?P<identity>\d{4})_c(?P<camera>0(?:0[1-9]|1\d|20))_\d+_\d+\.jpg")


@DATASETS.register_module("veri776")
class VeRi776(RetrievalDataset):
    """VeRi-776: vehicles in a city, seen by twenty cameras.

    Gallery images that share both identity and camera with the query are ignored. By default, images are ranked, as in
    nearly all papers. Papers of 2016 to 2018 ranked tracks (`ranked=tracks`) by their most similar image.

    Args:
        root: The data root.
        ranked: What is ranked: "images", or the "tracks" of test_track.txt.
    """

    card: ClassVar[Card] = Card(
        title="VeRi-776",
        citation=(
            "Liu, Liu, Mei, Ma. A Deep Learning-Based Approach to Progressive Vehicle Re-identification for Urban "
            "Surveillance. ECCV 2016."
        ),
        terms="Non-commercial research; no redistribution.",
        obtain=(
            "Ask the authors by e-mail (github.com/JDAI-CV/VeRidataset), then run: benchmark data prepare veri776 FILE"
        ),
        tree="""\
veri776/VeRi/
  image_train/   0001_c001_00016450_0.jpg ...
  image_query/   0002_c002_00030600_0.jpg ...
  image_test/    0002_c002_00030600_0.jpg ...
  test_track.txt                             only needed for ranked=tracks
  name_train.txt name_query.txt name_test.txt, optional, compared with the folders""",
        splits={
            "train": Split(37_778, 576),
            "query": Split(1_678, 200),
            "gallery": Split(11_579, 200),
            "all": Split(None, 776, 20),
        },
        disputed={
            ("train", "images"): "published archives and papers disagree",
            ("train", "identities"): "published archives and papers disagree",
            ("all", "identities"): "fast-reid counts 775",
        },
        defects="In older editions of train_label.xml, vehicles 3, 7 and 41 have no type; the file is not used here.",
    )
    evaluation_options = ("ranked",)
    archive_folders = ("VeRi", "veri", "VeRi-776")
    recipe: ClassVar[Mapping[str, Any]] = merge(
        REID_BASELINE,
        {
            "image_size": [256, 256],  # DEAP (Pattern Recognition 2024), by the authors of CDD
            "train": {"schedule": {"epochs": 90}},  # DEAP
        },
    )

    def __init__(self, root: Path, ranked: Literal["images", "tracks"] = "images") -> None:
        super().__init__(root)
        self.ranked = ranked
        self.protocol = Protocol(camera_rule=True, recall_at=(1, 5, 10), tracks=ranked == "tracks")
        self.required_paths = (*FOLDERS.values(), *([TRACK_LIST] if ranked == "tracks" else []))

    def scan(self, split: str) -> Iterator[Sample | Skipped | Defect]:
        folder = self.folder / FOLDERS[split]
        with_tracks = split == "gallery" and self.ranked == "tracks"
        names = set()
        for finding in match_images(folder, FILE_NAME, "0002_c002_00030600_0.jpg"):
            if isinstance(finding, Skipped | Defect):
                yield finding
                continue
            path, match = finding
            names.add(path.name)
            if with_tracks and path.name not in self._tracks:
                yield Defect(f"{path} is in no track of {self.folder / TRACK_LIST}")
                continue
            track = self._tracks[path.name] if with_tracks else 0
            yield Sample(path, int(match["identity"]), int(match["camera"]), track)
        image_list = self.folder / IMAGE_LISTS[split]
        if image_list.exists():
            for name in sorted({line.strip() for line in read_lines(image_list)} - names - {""}):
                yield Defect(f"{folder / name} is missing, but listed in {image_list.name}")

    @cached_property
    def _tracks(self) -> dict[str, int]:
        """Image name -> number of its track, which is the number of its line in the file.

        A line contains the image names of a track, optionally after the name of the track.
        """
        tracks: dict[str, int] = {}
        file = self.folder / TRACK_LIST
        for number, line in enumerate(read_lines(file), start=1):
            matches = [match for word in line.split() if (match := FILE_NAME.fullmatch(word))]
            if not matches or len(line.split()) > len(matches) + 1:
                raise UserError(f"{file}, line {number}: expected the image names of a track, not {line[:60]!r}")
            for image in (match.string for match in matches):
                if tracks.setdefault(image, number) != number:
                    raise UserError(f"{file}, line {number}: {image} is also in the track of line {tracks[image]}")
            if len({match.group("identity", "camera") for match in matches}) > 1:
                raise UserError(f"{file}, line {number}: the track has images of several vehicles or cameras")
        return tracks
