"""Glyphs 2: the embedded dataset, whose images are the same bytes everywhere."""

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from benchmark.data.card import Card, Split
from benchmark.data.files import match_images
from benchmark.data.retrieval_dataset import Fraction, RetrievalDataset
from benchmark.data.samples import SPLITS, Defect, Sample, Skipped
from benchmark.datasets.glyphs import Glyphs
from benchmark.errors import UserError
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol
from benchmark.utils.atomic import atomic_folder
from benchmark.utils.console import Console
from benchmark.utils.mappings import merge

MASKS = Path(__file__).with_name("glyphs2.npz")
"""Coverage of every pixel by ink in 16 steps, with the labels. `tools/glyphs2_masks.py` has drawn them."""
FILE_NAME = re.compile(r"(\d+)_c(\d{2})\.ppm")
SIDE = 16
"""Height and width of an image in pixels."""
HEADER = b"P6\n%d %d\n255\n" % (SIDE, SIDE)

# Colors and noise are integers from 0 to 255, so that every computer computes the same.
PAPER = 204, 46
"""Lowest brightness of the background, and the size of the range."""
INK = 13, 77
TINT = 31
"""Range of the deviation of a color channel from gray."""
NOISE = 12
"""Standard deviation of the noise."""
_UNIFORM_SUM = 510, 147.8
"""Mean and standard deviation of the sum of four random bytes, which is almost normally distributed."""

TEACHER = "sha256:421a44fa920d3b30fbd00a082cae36e6c0d88dec99700d51db74b5b8ba4a57ca"
"""The teacher in the package. It was trained by the recipe below."""
_ARGS = {
    "layers": [1, 1, 1, 1],
    "channels": [12, 24, 48, 96],
    "stem_type": "deep",
    "stem_width": 4,
    "zero_init_last": False,  # otherwise some of the few channels of a block never leave zero, which ones by chance
    "act_layer": "silu",  # a higher mAP than ReLU
}
_NETWORK = {
    "backbone": "resnet18",
    "stem": "no_pool",
    "last_stride": 2,
    "dim": 128,
    "head": "cosine",
    "scale": 8.0,
    "weights": "random",
    "args": _ARGS,
}


@DATASETS.register_module("glyphs2")
class Glyphs2(RetrievalDataset):
    """Characters across typefaces: retrieve the same character in other typefaces.

    The identity is the character (its code point) and the camera is the typeface, as in `glyphs`. The characters are
    the most distinct ones. Every image shows dark ink on a light background, 16 x 16 pixels, with rotation,
    shift, scale, tint and noise. The shapes are part of the package and the noise comes from a counter-based generator,
    so that the images do not depend on the versions of any library.

    Args:
        root: The data root.
        train_identities: Number of training identities, including those for validation.
        test_identities: Number of test identities.
        validation_fraction: Fraction of the training identities whose images are for validation and not for training.
    """

    card: ClassVar[Card] = Card(
        title="Glyphs 2",
        citation="Rendered for this suite from the DejaVu and STIX typefaces.",
        terms="DejaVu: Bitstream Vera license and public domain. STIX: SIL Open Font License 1.1. Free to share.",
        obtain="Part of the package; written to the data root on first use: `benchmark data check glyphs2`.",
        tree="glyphs2/{train,query,gallery}/<identity>_c<camera>.ppm",
        splits={"train": Split(10339, 770, 16), "query": Split(1461, 450, 4), "gallery": Split(4542, 450, 12)},
    )
    protocol = Protocol(camera_rule=True)
    recipe: ClassVar[Mapping[str, Any]] = {
        "image_size": (SIDE, SIDE),
        "budget": 0.42,
        # A ResNet with one basic block per stage; the students have fewer channels.
        "teacher": {"network": _NETWORK, "checkpoint": TEACHER},
        "student": _NETWORK,
        "train": merge(
            Glyphs.recipe["train"],
            {
                "optimizer": {"weight_decay": 2e-3},
                "schedule": {"epochs": 90},
                "sampler": {"identities": 48, "images": 2},
                "augment": {"pad": 1},
            },
        ),
        # bfloat16, which some processors have, lowers the mAP of such small networks on the validation images, and a
        # second thread makes their training slower.
        "runtime": {"amp": "off", "threads": 1},
    }
    # Pruning keeps the channels between blocks, so that it cannot go below 15.1 % of this teacher's MACs.
    students: ClassVar[Mapping[float, Mapping[str, Any]]] = {
        0.42: {"args": {"channels": [7, 14, 28, 58]}},
        0.3: {"args": {"channels": [5, 12, 23, 46]}},
        0.2: {"args": {"channels": [4, 8, 17, 34]}},
    }
    content: ClassVar[str] = "d2c4953371c1bf8f8d281ead40b4d7767db62f54e4d7aa1fc8eb0f43cdcbc17e"
    """Fingerprint of the images with the default options."""

    def __init__(
        self,
        root: Path,
        train_identities: int = 770,
        test_identities: int = 450,
        validation_fraction: Fraction = 0.3,
    ) -> None:
        super().__init__(root, validation_fraction=validation_fraction)
        self.train_identities = train_identities
        self.test_identities = test_identities

    @cached_property
    def folder(self) -> Path:
        sizes = (self.train_identities, self.test_identities)
        return self.root / (self.name if sizes == (770, 450) else f"{self.name}-{sizes[0]}-{sizes[1]}")

    def prepare(self) -> None:
        """Write the images if they are missing.

        Raises:
            UserError: The options request more identities than there are.
        """
        if self.folder.is_dir():
            return
        selected = self._selected
        with atomic_folder(self.folder) as folder:
            for split in SPLITS:
                (folder / split).mkdir()
            for index in track(selected, f"Writing {self.name}", console=Console(stderr=True)):
                (folder / self._name(index)).write_bytes(_ppm(self._masks["masks"][index], int(index)))

    def scan(self, split: str) -> Iterator[Sample | Skipped | Defect]:
        for finding in match_images(self.folder / split, FILE_NAME, "00065_c00.ppm"):
            if isinstance(finding, Skipped | Defect):
                yield finding
            else:
                path, match = finding
                yield Sample(path, int(match[1]), int(match[2]))

    def fingerprint(self) -> str:
        """Return the hash of the images and labels.

        Raises:
            UserError: The images are missing, or are not those of the package.
        """
        content = super().fingerprint()
        if not self.changed_options() and content != self.content:
            raise UserError(
                f"{self.folder} does not have the images of the package: delete the folder to write them again"
            )
        return content

    def expected_sizes(self) -> Mapping[str, Split]:
        """Return the sizes for the options."""
        return self._sizes

    def damaged_files(self) -> Iterator[str]:
        """Yield each file that is missing, unreadable or changed."""
        if not self.changed_options() and self.identity.content == self.content:
            return
        for index in track(self._selected, "comparing", console=Console(stderr=True)):
            name = self._name(index)
            try:
                content = (self.folder / name).read_bytes()
            except OSError as error:
                yield f"{name} cannot be read: {error.strerror}"
            else:
                if content != _ppm(self._masks["masks"][index], int(index)):
                    yield f"{name} has changed"

    @cached_property
    def _sizes(self) -> Mapping[str, Split]:
        split, identity, camera = (self._masks[name][self._selected] for name in ("split", "identity", "camera"))
        images = {name: split == number for number, name in enumerate(SPLITS)}
        return {
            name: Split(int(chosen.sum()), len(np.unique(identity[chosen])), len(np.unique(camera[chosen])))
            for name, chosen in images.items()
        }

    @cached_property
    def _masks(self) -> dict[str, NDArray[Any]]:
        with np.load(MASKS) as arrays:
            return dict(arrays)

    @cached_property
    def _selected(self) -> NDArray[np.int64]:
        """Positions of the images in the file of masks, which has the identities of both parts in random order."""
        train = self._masks["split"] == 0
        parts = []
        for name, part in (("train_identities", train), ("test_identities", ~train)):
            identities, first = np.unique(self._masks["identity"][part], return_index=True)
            wanted = getattr(self, name)
            if not 1 <= wanted <= len(identities):
                raise UserError(f"glyphs2: {name} must be from 1 to {len(identities):,}, not {wanted:,}")
            chosen = identities[np.argsort(first)[:wanted]]
            parts.append(np.flatnonzero(part & np.isin(self._masks["identity"], chosen)))
        return np.concatenate(parts)

    def _labels(self, index: int) -> tuple[int, int]:
        return int(self._masks["identity"][index]), int(self._masks["camera"][index])

    def _name(self, index: int) -> str:
        identity, camera = self._labels(index)
        return f"{SPLITS[self._masks['split'][index]]}/{identity:05d}_c{camera:02d}.ppm"


def _ppm(packed: NDArray[np.uint8], index: int) -> bytes:
    """Return an image as a PPM file.

    Args:
        packed: (16, 8) masks of two pixels each.
        index: Position in the file of masks, which determines colors and noise.
    """
    mask = np.stack([packed >> 4, packed & 15], -1).reshape(SIDE, SIDE).astype(np.int32)
    draws = (
        np.random.Philox(key=index).random_raw(2 + SIDE * SIDE * 3 // 2).astype("<u8").view(np.uint8).astype(np.int32)
    )
    colors, noise = draws[:16], draws[16:].reshape(SIDE, SIDE, 3, 4).sum(-1)
    levels = np.array([PAPER[0] + (colors[0] * PAPER[1] >> 8), INK[0] + (colors[1] * INK[1] >> 8)])
    tints = (colors[2:8].reshape(2, 3) * TINT >> 8) - TINT // 2
    paper, ink = levels[:, None] + tints
    noise = (noise - _UNIFORM_SUM[0]) * round(NOISE / _UNIFORM_SUM[1] * 2**16) >> 16
    pixels = paper + mask[..., None] * (ink - paper) // 15 + noise
    return HEADER + pixels.clip(0, 255).astype(np.uint8).tobytes()
