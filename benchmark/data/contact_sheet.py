"""A picture of a dataset."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmark.data.decode import BrokenImage, decode
from benchmark.data.retrieval_dataset import SPLITS, RetrievalDataset
from benchmark.data.samples import Sample
from benchmark.errors import UserError
from benchmark.utils.atomic import atomic_path

CELL, GAP, HEADER, MARGIN, LABEL = 72, 6, 72, 16, 76
COLUMNS = 8
"""Images of an identity, in a set without cameras."""
LETTERS = 10
"""Of a name, that fit beside or above an image."""
PAPER, BLANK, INK, PALE = "#ffffff", "#f1f1ef", "#1f1f1f", "#77756f"


def contact_sheet(dataset: RetrievalDataset, split: str, rows: int, target: Path) -> None:
    """Write a PNG with one row for each of `rows` identities and one column for each camera.

    The identities are spread evenly over all of the split's; where a camera has several images of one, the first is
    shown. In a set with a single camera the columns are the first images of an identity. Images keep their shape; in
    place of a broken one it says so.

    Raises:
        UserError: `split` is unknown, `rows` is not positive, or the set is not there.
    """
    if split not in SPLITS or rows < 1:
        raise UserError(f"a contact sheet has at least one row of {', '.join(SPLITS)}; not {rows} of {split!r}")
    samples: Sequence[Sample] = getattr(dataset, split)
    everyone = sorted({sample.identity for sample in samples})
    rows = min(rows, len(everyone))
    identities = [everyone[row * len(everyone) // rows] for row in range(rows)]
    cameras = sorted({sample.camera for sample in samples})
    table = {identity: _row([s for s in samples if s.identity == identity], cameras) for identity in identities}
    columns = [dataset.camera_name(camera) for camera in cameras] if len(cameras) > 1 else [""] * COLUMNS

    step = CELL + GAP
    width = 2 * MARGIN + LABEL + len(columns) * step - GAP
    sheet = Image.new("RGB", (max(width, 480), MARGIN + HEADER + rows * step - GAP + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), f"{dataset.card.title}: {split}", INK, ImageFont.load_default(20), anchor="lt")
    small = ImageFont.load_default(13)
    seen_by = f"cameras: {len(cameras)}, " if len(cameras) > 1 else ""
    counts = f"{rows} of {len(everyone):,} identities, {seen_by}images: {len(samples):,}"
    draw.text((MARGIN, MARGIN + 26), counts, PALE, small, anchor="lt")
    top, left = MARGIN + HEADER, MARGIN + LABEL
    for column, name in enumerate(columns):
        draw.text((left + column * step + CELL / 2, top - 6), _short(name), PALE, small, anchor="mb")
    for row, (identity, paths) in enumerate(table.items()):
        name = _short(dataset.identity_name(identity))
        draw.text((left - 12, top + row * step + CELL / 2), name, INK, small, anchor="rm")
        for column, path in enumerate(paths):
            corner = (left + column * step, top + row * step)
            draw.rectangle((*corner, corner[0] + CELL - 1, corner[1] + CELL - 1), BLANK)
            if path is not None:
                _paste(sheet, path, corner)
    with atomic_path(target) as temporary:
        sheet.save(temporary)


def _row(samples: Sequence[Sample], cameras: Sequence[int]) -> list[Path | None]:
    """What is shown of one identity: its first image from every camera, or of a single camera its first images."""
    if len(cameras) == 1:
        return [sample.path for sample in samples[:COLUMNS]]
    first = {sample.camera: sample.path for sample in reversed(samples)}
    return [first.get(camera) for camera in cameras]


def _short(name: str) -> str:
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"


def _paste(sheet: Image.Image, path: Path, corner: tuple[int, int]) -> None:
    try:
        image = Image.fromarray(decode(path).permute(1, 2, 0).numpy())
    except BrokenImage:
        middle = (corner[0] + CELL / 2, corner[1] + CELL / 2)
        ImageDraw.Draw(sheet).text(middle, "broken", PALE, ImageFont.load_default(13), anchor="mm")
        return
    ratio = CELL / max(image.size)
    width, height = (max(1, round(side * ratio)) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.LANCZOS)
    sheet.paste(resized, (corner[0] + (CELL - width) // 2, corner[1] + (CELL - height) // 2))
