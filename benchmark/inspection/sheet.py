"""The inspection as a contact sheet."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont, ImageOps

from benchmark.data.contact_sheet import BLANK, INK, PALE, PAPER
from benchmark.inspection.html import MARKS, LabelNames, Mark, thumbnail
from benchmark.inspection.inspect import InspectedQuery, Inspection, RankedList
from benchmark.utils.atomic import atomic_path

# Sizes are in pixels.
CELL = 72
"""Side of an image with its frame."""
FRAME = 4
BADGE = 18
"""Side of the mark in the corner of a gallery image."""
GAP = 6
STEP = CELL + GAP
"""Distance between neighboring images of a row, and between the rows of student and teacher."""
MARGIN = 16
LABEL = 150
"""Width of the column of names."""
HEADER, SECTION = 64, 40
"""Heights of the title with its legend, and of a section's heading."""
SPACING = 14
"""Space between queries, and between a query and its ranked list."""
MINIMUM_WIDTH = 560

MAX_ENTRIES = 10
"""Maximum number of gallery images shown per ranked list. Each takes about 8 kB of the PNG."""
MAX_LETTERS = 18
"""Maximum length of an identity's name; longer ones are cut."""


def inspection_sheet(inspection: Inspection, target: Path, *, title: str, names: LabelNames) -> None:
    """Write a PNG with one row per query: name and AP, the query image, and the top of the student's ranked list.

    The teacher's ranked list, if there is one, is in a second row. The worst queries come first, then the largest drops
    from teacher to student. Images keep their aspect ratio; a broken one is replaced by the word "broken".

    Args:
        inspection: The selected queries.
        target: Path of the PNG, which is written atomically.
        title: Title of the sheet, such as "kd on glyphs".
        names: Display names of identities.
    """
    sections = {"Worst queries": inspection.worst, "Largest AP drops from teacher to student": inspection.drops}
    sections = {heading: queries for heading, queries in sections.items() if queries}
    block = STEP * (1 if inspection.teacher is None else 2) - GAP + SPACING
    longest = max(len(query.student.entries[:MAX_ENTRIES]) for query in inspection.worst)
    width = 2 * MARGIN + LABEL + STEP + SPACING + longest * STEP
    height = 2 * MARGIN + HEADER + sum(SECTION + len(queries) * block for queries in sections.values())
    painter = _Painter(Image.new("RGB", (max(width, MINIMUM_WIDTH), height), PAPER), names)
    painter.header(title)
    top = MARGIN + HEADER
    for heading, queries in sections.items():
        painter.heading(heading, top)
        top += SECTION
        for query in queries:
            painter.query(query, top)
            top += block
    with atomic_path(target) as temporary:
        painter.sheet.save(temporary)


class _Painter:
    """Paints onto a sheet. Every image is decoded once."""

    def __init__(self, sheet: Image.Image, names: LabelNames) -> None:
        self.sheet = sheet
        self.draw = ImageDraw.Draw(sheet)
        self.names = names
        self.thumbnail: Callable[[Path], Image.Image | None] = cache(
            lambda path: thumbnail(path, names.background_color)
        )

    def header(self, title: str) -> None:
        self.draw.text((MARGIN, MARGIN), title, INK, _font(19), anchor="lt")
        top = MARGIN + 30
        left: float = MARGIN
        for mark in MARKS.values():
            self._badge(left, top, mark)
            left += BADGE + 6
            self.draw.text((left, top + BADGE / 2), mark.meaning, PALE, _font(12), anchor="lm")
            left += _font(12).getlength(mark.meaning) + 20

    def heading(self, text: str, top: int) -> None:
        self.draw.text((MARGIN, top + SECTION / 2), text, INK, _font(15), anchor="lm")

    def query(self, query: InspectedQuery, top: int) -> None:
        name = self.names.identity_name(query.sample.identity)
        name = name if len(name) <= MAX_LETTERS else f"{name[: MAX_LETTERS - 1]}…"
        self._label(name, INK, top + CELL / 2 - 9)
        self._image(query.sample.path, MARGIN + LABEL, top, PAPER)
        if query.teacher is None:
            self._ranked_list("", query.student, top)
        else:
            self._ranked_list("student ", query.student, top)
            self._ranked_list("teacher ", query.teacher, top + STEP)

    def _ranked_list(self, network: str, ranked: RankedList, top: int) -> None:
        self._label(f"{network}AP {ranked.average_precision:.1%}", PALE, top + CELL / 2 + 9)
        for column, entry in enumerate(ranked.entries[:MAX_ENTRIES]):
            left = MARGIN + LABEL + STEP + SPACING + column * STEP
            mark = MARKS[entry.relevance]
            self._image(entry.sample.path, left, top, mark.color)
            self._badge(left, top, mark)

    def _label(self, text: str, color: str, middle: float) -> None:
        self.draw.text((MARGIN + LABEL - 12, middle), text, color, _font(12), anchor="rm")

    def _image(self, path: Path, left: int, top: int, frame: str) -> None:
        self.draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), BLANK, frame, FRAME)
        image = self.thumbnail(path)
        if image is None:
            center = (left + CELL / 2, top + CELL / 2)
            self.draw.text(center, "broken", PALE, _font(12), anchor="mm")
            return
        inner = CELL - 2 * FRAME
        image = ImageOps.contain(image, (inner, inner), Image.Resampling.LANCZOS)
        self.sheet.paste(image, (left + (CELL - image.width) // 2, top + (CELL - image.height) // 2))

    def _badge(self, left: float, top: float, mark: Mark) -> None:
        self.draw.rectangle((left, top, left + BADGE - 1, top + BADGE - 1), mark.color)
        self.draw.text((left + BADGE / 2, top + BADGE / 2), mark.sign, PAPER, _font(14), anchor="mm")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans from matplotlib: names are in many alphabets, and Pillow's built-in font has only ASCII."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
