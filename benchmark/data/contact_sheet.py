"""Contact sheets: one image with many samples of a dataset."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmark.data.decode import BrokenImage, Color, decode
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import SPLITS, Sample
from benchmark.errors import UserError
from benchmark.utils.atomic import atomic_path

CELL, GAP, HEADER, MARGIN, LABEL = 72, 6, 72, 16, 76
"""Lengths in pixels: side of an image, gap between images, height of the header, margin, width of the row labels."""
COLUMNS = 8
"""Number of images per identity in a dataset without cameras."""
MAX_LETTERS = 10
"""Maximum length of the names of identities and cameras; longer ones are cut."""
PAPER, BLANK, INK, PALE = "#ffffff", "#f1f1ef", "#1f1f1f", "#77756f"
"""Colors of the background, of cells without an image, of titles and of other text."""


def contact_sheet(dataset: RetrievalDataset, split: str, rows: int, target: Path) -> None:
    """Write an image with one row per identity and one column per camera.

    The identities are spaced evenly among those of the split. A cell shows the first image of the identity from the
    camera; in a dataset with a single camera, the columns are the first images of the identity. Images keep their
    aspect ratio. The cell of a broken image contains the word "broken".

    Args:
        dataset: The dataset.
        split: "train", "query" or "gallery".
        rows: Number of identities; all of them if the split has fewer.
        target: Image file to write.

    Raises:
        UserError: `split` is unknown, `rows` is not positive, or the dataset is missing or has a defect.
    """
    if split not in SPLITS or rows < 1:
        raise UserError(f"contact sheet of {rows} rows of {split!r}: needs at least 1 row of {', '.join(SPLITS)}")
    samples: Sequence[Sample] = getattr(dataset, split)
    all_identities = sorted({sample.identity for sample in samples})
    rows = min(rows, len(all_identities))
    identities = [all_identities[row * len(all_identities) // rows] for row in range(rows)]
    cameras = sorted({sample.camera for sample in samples})
    cells = {identity: _row([s for s in samples if s.identity == identity], cameras) for identity in identities}
    columns = [dataset.camera_name(camera) for camera in cameras] if len(cameras) > 1 else [""] * COLUMNS

    step = CELL + GAP
    width = 2 * MARGIN + LABEL + len(columns) * step - GAP
    sheet = Image.new("RGB", (max(width, 480), MARGIN + HEADER + rows * step - GAP + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), f"{dataset.card.title}: {split}", INK, ImageFont.load_default(20), anchor="lt")
    small = ImageFont.load_default(13)
    camera_count = f"cameras: {len(cameras)}, " if len(cameras) > 1 else ""
    counts = f"{rows} of {len(all_identities):,} identities, {camera_count}images: {len(samples):,}"
    draw.text((MARGIN, MARGIN + 26), counts, PALE, small, anchor="lt")
    top, left = MARGIN + HEADER, MARGIN + LABEL
    for column, name in enumerate(columns):
        draw.text((left + column * step + CELL / 2, top - 6), _shortened(name), PALE, small, anchor="mb")
    for row, (identity, paths) in enumerate(cells.items()):
        name = _shortened(dataset.identity_name(identity))
        draw.text((left - 12, top + row * step + CELL / 2), name, INK, small, anchor="rm")
        for column, path in enumerate(paths):
            corner = (left + column * step, top + row * step)
            draw.rectangle((*corner, corner[0] + CELL - 1, corner[1] + CELL - 1), BLANK)
            if path is not None:
                _paste(sheet, path, corner, dataset.background_color)
    with atomic_path(target) as temporary:
        sheet.save(temporary)


def _row(samples: Sequence[Sample], cameras: Sequence[int]) -> list[Path | None]:
    """Return the cells of one identity: its first image from each camera, or its first images from a single one."""
    if len(cameras) == 1:
        return [sample.path for sample in samples[:COLUMNS]]
    first = {sample.camera: sample.path for sample in reversed(samples)}
    return [first.get(camera) for camera in cameras]


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_LETTERS else f"{name[: MAX_LETTERS - 1]}…"


def _paste(sheet: Image.Image, path: Path, corner: tuple[int, int], background: Color) -> None:
    try:
        image = Image.fromarray(decode(path, (2 * CELL, 2 * CELL), background).permute(1, 2, 0).numpy())
    except BrokenImage:
        middle = (corner[0] + CELL / 2, corner[1] + CELL / 2)
        ImageDraw.Draw(sheet).text(middle, "broken", PALE, ImageFont.load_default(13), anchor="mm")
        return
    ratio = CELL / max(image.size)
    width, height = (max(1, round(side * ratio)) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.LANCZOS)
    sheet.paste(resized, (corner[0] + (CELL - width) // 2, corner[1] + (CELL - height) // 2))
