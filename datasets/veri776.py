"""VeRi-776."""

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from benchmark.data.card import Card, Split
from benchmark.data.files import lines, named
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import Defect, Sample, Skipped
from benchmark.errors import UserError
from benchmark.recipe.baseline import REID_BASELINE
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol
from benchmark.utils.mappings import merge

FOLDERS = {"train": "image_train", "query": "image_query", "gallery": "image_test"}
NAMES = {"train": "name_train.txt", "query": "name_query.txt", "gallery": "name_test.txt"}
TRACKS = "test_track.txt"
NAME = re.compile(r"(?P<identity>\d{4})_c(?P<camera>0(?:0[1-9]|1\d|20))_\d+_\d+\.jpg")


@DATASETS.register_module("veri776")
class VeRi776(RetrievalDataset):
    """VeRi-776: vehicles in a city, seen by twenty cameras.

    Images of a query's vehicle from the query's own camera are ignored. By default images are ranked, as nearly
    everyone does; papers of 2016 to 2018 ranked tracks (`ranked=tracks`), of which the most similar image counts.

    Args:
        root: The data root.
        ranked: What the gallery is made of: "images", or the "tracks" of test_track.txt.
    """

    card: ClassVar[Card] = Card(
        title="VeRi-776",
        citation=(
            "Liu, Liu, Mei, Ma. A Deep Learning-Based Approach to Progressive Vehicle Re-identification for Urban "
            "Surveillance. ECCV 2016."
        ),
        terms="Non-commercial research; no redistribution.",
        obtain="Ask its authors by e-mail (github.com/JDAI-CV/VeRidataset), then: benchmark data prepare veri776 FILE",
        tree="""\
veri776/VeRi/
  image_train/   0001_c001_00016450_0.jpg ...
  image_query/   0002_c002_00030600_0.jpg ...
  image_test/    0002_c002_00030600_0.jpg ...
  test_track.txt                             only for ranked=tracks
  name_train.txt name_query.txt name_test.txt, compared with the folders where they are there""",
        splits={
            "train": Split(37_778, 576),
            "query": Split(1_678, 200),
            "gallery": Split(11_579, 200),
            "all": Split(None, 776, 20),
        },
        disputed={
            ("train", "images"): "published archives and papers differ here",
            ("train", "identities"): "published archives and papers differ here",
            ("all", "identities"): "fast-reid counts 775",
        },
        defects="In older editions of train_label.xml vehicles 3, 7 and 41 have no type; the file is not used here.",
    )
    judged_by = ("ranked",)
    unpacked = ("VeRi", "veri", "VeRi-776")
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
        self.parts = (*FOLDERS.values(), *([TRACKS] if ranked == "tracks" else []))

    def scan(self, split: str) -> Iterator[Sample | Skipped | Defect]:
        folder, found_names = self.folder / FOLDERS[split], set()
        ranked = split == "gallery" and self.ranked == "tracks"
        for found in named(folder, NAME, "0002_c002_00030600_0.jpg"):
            if isinstance(found, Skipped | Defect):
                yield found
                continue
            path, match = found
            found_names.add(path.name)
            if ranked and path.name not in self._tracks:
                yield Defect(f"{path} is in no track of {self.folder / TRACKS}")
                continue
            track = self._tracks[path.name] if ranked else 0
            yield Sample(path, int(match["identity"]), int(match["camera"]), track)
        listed = self.folder / NAMES[split]
        if listed.exists():
            for name in sorted({line.strip() for line in lines(listed)} - found_names - {""}):
                yield Defect(f"{folder / name} is missing; {listed.name} lists it")

    @cached_property
    def _tracks(self) -> dict[str, int]:
        """Image name -> number of its track, which is its line in the file.

        A line names the images of a track, and before them may name the track.
        """
        tracks: dict[str, int] = {}
        file = self.folder / TRACKS
        for number, line in enumerate(lines(file), start=1):
            images = [word for word in line.split() if NAME.fullmatch(word)]
            if not images or len(line.split()) > len(images) + 1:
                raise UserError(f"{file}, line {number}: expected the names of a track's images, not {line[:60]!r}")
            for image in images:
                if tracks.setdefault(image, number) != number:
                    raise UserError(f"{file}, line {number}: {image} is also in the track of line {tracks[image]}")
            of_track = {match.group("identity", "camera") for image in images if (match := NAME.fullmatch(image))}
            if len(of_track) > 1:
                raise UserError(f"{file}, line {number}: the track shows several vehicles or cameras")
        return tracks
