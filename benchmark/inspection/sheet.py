"""An inspection as a contact sheet."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont, ImageOps

from benchmark.data.contact_sheet import BLANK, INK, PALE, PAPER
from benchmark.inspection.html import MARKS, Mark, Names, thumbnail
from benchmark.inspection.inspect import InspectedQuery, Inspection, RankedList
from benchmark.utils.atomic import atomic_path

CELL, FRAME, BADGE, GAP, MARGIN, LABEL, HEADER, SECTION = 72, 4, 18, 6, 16, 150, 64, 40
STEP = CELL + GAP
ANSWERS = 10
"""At most so many of a list are shown: an image takes some 8 kB of a PNG."""
BETWEEN = 14
"""Room between queries, and between a query and its answers."""
LETTERS = 18
"""Of a name, that fit beside an image."""


def inspection_sheet(inspection: Inspection, title: str, names: Names, target: Path) -> None:
    """Write a PNG with a row for each query: its name and AP, its image, and the student's first answers.

    The teacher's are in a row beneath. The worst queries come first, then those that were lost. Images keep
    their shape; in place of a broken one it says so.

    Args:
        inspection: What to show.
        title: Of the sheet, such as "kd on glyphs".
        names: What identities are called.
        target: The file; it is replaced as a whole.
    """
    sections = {"Worst queries": inspection.worst, "Lost against the teacher": inspection.lost}
    sections = {name: queries for name, queries in sections.items() if queries}
    block = STEP * (1 if inspection.teacher is None else 2) - GAP + BETWEEN
    longest = max(len(query.student.entries[:ANSWERS]) for query in inspection.worst)
    width = 2 * MARGIN + LABEL + STEP + BETWEEN + longest * STEP
    height = 2 * MARGIN + HEADER + sum(SECTION + len(queries) * block for queries in sections.values())
    sheet = Image.new("RGB", (max(width, 560), height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, _font(19), anchor="lt")
    _legend(draw, MARGIN + 30)
    painter = _Painter(sheet, names)
    top = MARGIN + HEADER
    for name, queries in sections.items():
        draw.text((MARGIN, top + SECTION / 2), name, INK, _font(15), anchor="lm")
        top += SECTION
        for query in queries:
            painter.paint(query, top)
            top += block
    with atomic_path(target) as temporary:
        sheet.save(temporary)


class _Painter:
    """Paints queries onto a sheet, each image decoded once."""

    def __init__(self, sheet: Image.Image, names: Names) -> None:
        self.sheet = sheet
        self.draw = ImageDraw.Draw(sheet)
        self.names = names
        self.thumbnail: Callable[[Path], Image.Image | None] = cache(thumbnail)

    def paint(self, query: InspectedQuery, top: int) -> None:
        name = self.names.identity_name(query.sample.identity)
        name = name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"
        self._label(name, INK, top + CELL / 2 - 9)
        self._cell(query.sample.path, MARGIN + LABEL, top, PAPER)
        if query.teacher is None:
            self._answers("", query.student, top)
        else:
            self._answers("student ", query.student, top)
            self._answers("teacher ", query.teacher, top + STEP)

    def _answers(self, whose: str, ranked: RankedList, top: int) -> None:
        self._label(f"{whose}AP {ranked.average_precision:.1%}", PALE, top + CELL / 2 + 9)
        for place, entry in enumerate(ranked.entries[:ANSWERS]):
            left = MARGIN + LABEL + STEP + BETWEEN + place * STEP
            mark = MARKS[entry.relation]
            self._cell(entry.sample.path, left, top, mark.color)
            _badge(self.draw, left, top, mark)

    def _label(self, text: str, color: str, middle: float) -> None:
        self.draw.text((MARGIN + LABEL - 12, middle), text, color, _font(12), anchor="rm")

    def _cell(self, path: Path, left: int, top: int, frame: str) -> None:
        self.draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), BLANK, frame, FRAME)
        image = self.thumbnail(path)
        if image is None:
            middle = (left + CELL / 2, top + CELL / 2)
            self.draw.text(middle, "broken", PALE, _font(12), anchor="mm")
            return
        inner = CELL - 2 * FRAME
        image = ImageOps.contain(image, (inner, inner), Image.Resampling.LANCZOS)
        self.sheet.paste(image, (left + (CELL - image.width) // 2, top + (CELL - image.height) // 2))


def _badge(draw: ImageDraw.ImageDraw, left: float, top: float, mark: Mark) -> None:
    draw.rectangle((left, top, left + BADGE - 1, top + BADGE - 1), mark.color)
    draw.text((left + BADGE / 2, top + BADGE / 2), mark.sign, PAPER, _font(14), anchor="mm")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, since names are in many alphabets and Pillow's own typeface has ASCII alone."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _legend(draw: ImageDraw.ImageDraw, top: float) -> None:
    font = _font(12)
    left: float = MARGIN
    for mark in MARKS.values():
        _badge(draw, left, top, mark)
        draw.text((left + BADGE + 6, top + BADGE / 2), mark.meaning, PALE, font, anchor="lm")
        left += BADGE + 6 + font.getlength(mark.meaning) + 20
