"""Glyphs: the embedded dataset, rendered on first use from the typefaces that matplotlib ships."""

import hashlib
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.progress import track

from benchmark.data.card import Card, Split
from benchmark.data.contents import open_image
from benchmark.data.digests import UNREADABLE, shown
from benchmark.data.files import match_images
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import SPLITS, VALIDATION, Defect, Sample, Skipped
from benchmark.errors import UserError
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol
from benchmark.utils.atomic import atomic_folder
from benchmark.utils.console import Console
from benchmark.utils.writable import require_writable

if TYPE_CHECKING:
    from fontTools.ttLib import TTFont

FACES = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
)
"""The typefaces. The position of a typeface is its camera number."""
FILE_NAME = re.compile(r"\d+_c\d{2}\.png")
MINIMUM_FACES = 12
"""Characters in fewer typefaces are left out."""
BOX_DRAWING = range(0x2500, 0x25A0)
"""Box-drawing and block elements. They are left out, because they differ by a pixel of position or width, which is less
than the random shifts and scales of the rendering."""

_ARGS = {"channels": [16, 32, 64, 128], "stem_type": "deep", "stem_width": 16}
_NETWORK = {
    "backbone": "resnet26",
    "stem": "no_pool",
    "last_stride": 2,
    "dim": 192,
    "head": "cosine",
    "scale": 16.0,
    "weights": "random",
}


@DATASETS.register_module("glyphs")
class Glyphs(RetrievalDataset):
    """Characters across typefaces: retrieve the same character in other typefaces.

    The identity is the character (its code point) and the camera is the typeface: four styles each of DejaVu Sans, Sans
    Mono, Serif and STIX General. Characters with the same outline in any typeface, such as Latin A and Cyrillic A, are
    one identity. Every image shows dark ink on a light background, 32 x 32 pixels, with tint, noise, rotation, shift
    and scale that depend only on the character and the typeface. Queries are in the typefaces `query_faces`, gallery
    images are in the others.

    Args:
        root: The data root.
        train_identities: Number of training identities.
        test_identities: Number of test identities, which do not depend on `train_identities`.
    """

    card: ClassVar[Card] = Card(
        title="Glyphs",
        citation="Rendered by this suite from the DejaVu and STIX typefaces.",
        terms="DejaVu: Bitstream Vera license and public domain. STIX: SIL Open Font License 1.1. Free to share.",
        obtain="Rendered on first use, in seconds and without a download: `benchmark data check glyphs`.",
        tree="glyphs-<hash>/{train,query,gallery}/<identity>_c<camera>.png\nglyphs-<hash>/manifest.json",
        splits={"train": Split(13579, 1000, 16), "query": Split(1647, 500, 4), "gallery": Split(5091, 500, 12)},
    )
    protocol = Protocol(camera_rule=True)
    recipe: ClassVar[Mapping[str, Any]] = {
        "image_size": (32, 32),
        "budget": 0.42,
        # A ResNet-26 with bottlenecks of twice the standard width; the static student has the standard width.
        "teacher": {
            "network": _NETWORK | {"args": _ARGS | {"base_width": 128}},
            "train": {"schedule": {"epochs": 12}},
        },
        "student": _NETWORK | {"args": _ARGS},
        "train": {
            "task": {
                "label_smoothing": 0.1,
                # From random weights, the triplet loss collapses on unnormalized features or if used from the start.
                "triplet": {"weight": 1.0, "margin": 0.3, "feature": "embedding", "normalize": True, "from_epoch": 3},
            },
            "optimizer": {"type": "sgd", "lr": 0.2, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
            "schedule": {
                "epochs": 10,
                "warmup_epochs": 1,
                "warmup_factor": 0.1,
                "constant_until": 1,
                "final_factor": 1e-3,
            },
            "sampler": {"identities": 24, "images": 4},
            # No horizontal flip: b and d are different characters.
            "augment": {"pad": 2, "pad_mode": "edge", "flip": 0.0, "erase": 0.0},
        },
    }
    students: ClassVar[Mapping[float, Mapping[str, Any]]] = {0.42: {}}

    # Parameters of the rendering: lengths in pixels of the final image, colors and noise relative to white. Their names
    # and values are part of the hash in the folder's name.
    version: ClassVar[int] = 1
    seed: ClassVar[int] = 2023
    size: ClassVar[int] = 32
    oversampling: ClassVar[int] = 3
    em: ClassVar[float] = 23.0
    baseline: ClassVar[float] = 23.8
    rotation: ClassVar[float] = 10.0
    """Maximum rotation in degrees, in either direction."""
    scale: ClassVar[tuple[float, float]] = (0.8, 1.0)
    shift: ClassVar[float] = 2.0
    noise: ClassVar[float] = 12 / 255
    """Standard deviation of the noise."""
    ground: ClassVar[tuple[float, float]] = (0.80, 0.98)
    ink: ClassVar[tuple[float, float]] = (0.05, 0.35)
    tint: ClassVar[float] = 0.06
    """Maximum deviation of a color channel from gray."""
    query_faces: ClassVar[tuple[int, ...]] = (2, 5, 8, 15)
    """DejaVu Sans Oblique, Sans Mono Bold, Serif, STIX General Bold Italic."""

    def __init__(self, root: Path, train_identities: int = 1000, test_identities: int = 500) -> None:
        super().__init__(root)
        if train_identities < 1 or test_identities < 1:
            raise UserError("glyphs: train_identities and test_identities must be at least 1")
        self.train_identities = train_identities
        self.test_identities = test_identities

    @staticmethod
    @cache  # reading the versions takes milliseconds
    def versions() -> dict[str, str]:
        """Return the versions of matplotlib (typefaces), fontTools, Pillow and NumPy (random numbers)."""
        return {name: metadata.version(name) for name in ("matplotlib", "fonttools", "pillow", "numpy")}

    def parameters(self) -> dict[str, Any]:
        """Return everything that determines the images."""
        names = "version seed size oversampling em baseline rotation scale shift noise ground ink tint query_faces"
        names += " train_identities test_identities"
        return {name: getattr(self, name) for name in names.split()} | self.versions()

    @cached_property
    def folder(self) -> Path:
        digest = hashlib.sha256(json.dumps(self.parameters(), sort_keys=True).encode()).hexdigest()
        return self.root / f"{self.name}-{digest[:8]}"

    def prepare(self) -> None:
        """Render the images if they are missing.

        Raises:
            UserError: The options request more identities than there are characters, or the folder is not writable.
        """
        if self.folder.is_dir():
            return
        jobs = self._jobs()
        require_writable(self.folder.parent, "--data-root")
        hashes = {}
        with atomic_folder(self.folder) as folder:
            for split in SPLITS:
                (folder / split).mkdir()
            progress = track(jobs.items(), "Rendering glyphs", console=Console(stderr=True))
            for name, (identity, face, character) in progress:
                pixels = self._render(face, identity, character)
                Image.fromarray(pixels).save(folder / name, compress_level=1)
                hashes[name] = _pixel_hash(pixels)
            manifest = {"fingerprint": _fingerprint(hashes), "parameters": self.parameters(), "files": hashes}
            (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")

    def scan(self, split: str) -> Iterator[Sample | Skipped | Defect]:
        for finding in match_images(self.folder / split, FILE_NAME, "00065_c00.png"):
            yield finding if isinstance(finding, Skipped | Defect) else _sample(finding[0])

    def fingerprint(self) -> str:
        """Return the SHA-256 of all names and pixels.

        Raises:
            UserError: The images are missing, or differ from those that were rendered.
        """
        self.require()
        rendered = self._manifest["files"]
        found = {
            f"{'train' if entry.split == VALIDATION else entry.split}/{Path(entry.path).name}": entry.content
            for entry in self.identity.entries
        }
        if differing := sorted(name for name in rendered.keys() | found if rendered.get(name) != found.get(name)):
            images = "1 image differs" if len(differing) == 1 else f"{len(differing):,} images differ"
            raise UserError(
                f"{self.folder}: {images} from those that were rendered: {shown(differing)}. Delete the folder to "
                "render it again"
            )
        return _fingerprint(found)

    def image_digest(self, path: Path) -> str:
        """Return the hash of an image's pixels, which do not depend on how Pillow compresses them."""
        try:
            with open_image(path) as image:
                return _pixel_hash(np.asarray(image.convert("RGB")))
        except Exception as error:  # Pillow raises many types of errors for damaged files
            raise OSError(str(error)) from error

    def expected_sizes(self) -> Mapping[str, Split]:
        """Return the sizes as rendered, which are those of the card for the default options."""
        return self._rendered_sizes

    @cached_property
    def _rendered_sizes(self) -> Mapping[str, Split]:
        names = self._manifest["files"]
        return {split: Split.of(_sample(Path(name)) for name in names if name.startswith(split)) for split in SPLITS}

    def damaged_files(self) -> Iterator[str]:
        """Yield each file that is missing, unreadable or changed since it was rendered."""
        files = self._manifest["files"]
        digests = self.contents(self.folder / name for name in files)
        for name, digest in zip(files, digests, strict=True):
            if digest == UNREADABLE:
                yield f"{name} cannot be read: it is missing or damaged"
            elif digest != files[name]:
                yield f"{name} has changed"

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder} is damaged ({error}): delete the folder to render it again") from error

    def _jobs(self) -> dict[str, tuple[int, int, str]]:
        """Return file name -> (identity, typeface, character) of every image."""
        identities = characters()
        order = np.random.default_rng(self.seed).permutation(sorted(identities)).tolist()
        wanted = self.train_identities + self.test_identities
        if wanted > len(order):
            raise UserError(f"glyphs: {wanted} identities are requested, but the typefaces have {len(order)}")
        test = set(order[-self.test_identities :])
        jobs = {}
        for identity in sorted([*order[: self.train_identities], *test]):
            for face, character in sorted(identities[identity].items()):
                split = "train" if identity not in test else "query" if face in self.query_faces else "gallery"
                jobs[f"{split}/{identity:05d}_c{face:02d}.png"] = (identity, face, character)
        return jobs

    def _render(self, face: int, identity: int, character: str) -> np.ndarray:
        """Return the image of a character as (size, size, 3) uint8."""
        rng = np.random.default_rng([self.seed, identity, face])
        font = _font(face, round(self.em * self.oversampling))
        side = self.size * self.oversampling
        left, _, right, _ = font.getbbox(character, anchor="ls")
        canvas = Image.new("L", (2 * side, 2 * side))
        origin = (side - (left + right) / 2, side / 2 + self.baseline * self.oversampling)
        ImageDraw.Draw(canvas).text(origin, character, fill=255, font=font, anchor="ls")
        jitter = self._jitter(rng, fit=min(1.0, 0.94 * side / (right - left)))
        canvas = canvas.transform((side, side), Image.Transform.AFFINE, jitter, Image.Resampling.BILINEAR)
        ink = np.asarray(canvas.reduce(self.oversampling), np.float32)[..., None] / 255
        ground, dark = (
            rng.uniform(*level) + rng.uniform(-self.tint, self.tint, 3) for level in (self.ground, self.ink)
        )
        image = ground + ink * (dark - ground) + rng.normal(0, self.noise, (self.size, self.size, 3))
        return (image.clip(0, 1) * 255).round().astype(np.uint8)

    def _jitter(self, rng: np.random.Generator, fit: float) -> tuple[float, ...]:
        """Return the coefficients of a random affine map from points of the image to points of the larger canvas.

        Args:
            rng: Source of the rotation, scale and shift.
            fit: Factor that shrinks a wide character to the width of the image.
        """
        angle = np.deg2rad(rng.uniform(-self.rotation, self.rotation))
        shrink = rng.uniform(*self.scale) * fit
        shift = rng.uniform(-self.shift, self.shift, 2) * self.oversampling
        cos, sin = np.cos(angle) / shrink, np.sin(angle) / shrink
        side = self.size * self.oversampling
        inverse = np.array([[cos, sin], [-sin, cos]])
        offset = side - inverse @ (side / 2 + shift)
        return tuple(float(value) for value in (*inverse[0], offset[0], *inverse[1], offset[1]))


@cache
def characters() -> dict[int, dict[int, str]]:
    """Return identity -> typeface -> the character to draw, from the outlines in the typefaces.

    The number of an identity is its lowest code point. Each typeface draws the lowest of the identity's characters that
    it has. The result is cached, because reading the outlines takes seconds: do not change it in place.
    """
    from fontTools.ttLib import TTFont  # slow to import

    fonts = [TTFont(_font_file(face), lazy=True) for face in range(len(FACES))]
    counts = Counter(code for font in fonts for code in font.getBestCmap() if _is_candidate(code))
    common = [code for code in sorted(counts) if counts[code] >= MINIMUM_FACES]
    parent = {code: code for code in common}  # union-find; the root of a group is its lowest code point
    faces: dict[int, list[int]] = defaultdict(list)  # code point -> typefaces that have it
    for face, font in enumerate(fonts):
        first: dict[str, int] = {}  # outline -> its lowest code point
        for code, outline in _outlines(font, common):
            faces[code].append(face)
            group, other = sorted((_root(parent, code), _root(parent, first.setdefault(outline, code))))
            parent[other] = group
    identities: dict[int, dict[int, str]] = defaultdict(dict)
    for code in sorted(faces):
        if len(faces[code]) >= MINIMUM_FACES:
            for face in faces[code]:
                identities[_root(parent, code)].setdefault(face, chr(code))
    return dict(identities)


def _is_candidate(code: int) -> bool:
    # "C" has controls and unassigned code points, "M" combining marks, "Z" spaces.
    return unicodedata.category(chr(code))[0] not in "CMZ" and code not in BOX_DRAWING


def _outlines(font: "TTFont", codes: Iterable[int]) -> Iterator[tuple[int, str]]:
    """Yield the code points that a typeface draws, each with its outline."""
    from fontTools.pens.recordingPen import DecomposingRecordingPen

    glyphs, names = font.getGlyphSet(), font.getBestCmap()
    for code in codes:
        if code in names:
            pen = DecomposingRecordingPen(glyphs)
            glyphs[names[code]].draw(pen)
            if pen.value:  # not empty
                yield code, repr(pen.value)


def _root(parent: Mapping[int, int], code: int) -> int:
    while parent[code] != code:
        code = parent[code]
    return code


def _font_file(face: int) -> Path:
    import matplotlib  # slow to import

    return Path(matplotlib.get_data_path(), "fonts", "ttf", f"{FACES[face]}.ttf")


@cache
def _font(face: int, size: int) -> ImageFont.FreeTypeFont:
    # The basic layout, because the other one is available only in some builds of Pillow.
    return ImageFont.truetype(_font_file(face), size, layout_engine=ImageFont.Layout.BASIC)


def _sample(path: Path) -> Sample:
    identity, camera = path.stem.split("_c")
    return Sample(path, int(identity), int(camera))


def _pixel_hash(pixels: np.ndarray) -> str:
    """Return the SHA-256 of the shape and content of (H, W, 3) uint8 pixels."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def _fingerprint(hashes: Mapping[str, str]) -> str:
    """Return one SHA-256 of file names and their hashes, in sorted order."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
