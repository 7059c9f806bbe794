"""The contact sheet: frames where they belong."""

from dataclasses import replace

import pytest
from PIL import Image, ImageColor

from benchmark.inspection import inspect, inspection_sheet
from benchmark.inspection.html import MARKS
from benchmark.inspection.sheet import ANSWERS, BETWEEN, CELL, GAP, HEADER, LABEL, MARGIN, SECTION, STEP
from benchmark.retrieval import Neighbours

FIRST = MARGIN + LABEL + STEP + BETWEEN
"""Where the first answers begin, from the left."""
TOP = MARGIN + HEADER + SECTION


def frame(sheet, column, top):
    """The colour of a frame, at a corner that no mark covers."""
    return sheet.getpixel((FIRST + column * STEP + CELL - 2, top + CELL - 2))


def color(relation):
    return ImageColor.getrgb(MARKS[relation].color)


@pytest.fixture
def draw(tmp_path, names):
    def draw(inspection):
        inspection_sheet(inspection, "kd on glyphs", names, tmp_path / "new" / "sheet.png")
        return Image.open(tmp_path / "new" / "sheet.png")

    return draw


def test_frames(compared, draw):
    sheet = draw(compared)
    block = 2 * STEP - GAP + BETWEEN
    tops = [TOP + row * block for row in range(3)]
    tops.append(tops[-1] + block + SECTION)  # the lost one
    for top, query in zip(tops, [*compared.worst, *compared.lost], strict=True):
        for row, ranked in enumerate((query.student, query.teacher)):
            for column, entry in enumerate(ranked.entries):
                assert frame(sheet, column, top + row * STEP) == color(entry.relation)
    assert sheet.height == tops[-1] + block + MARGIN


def test_marks_and_images(compared, draw):
    sheet = draw(compared)
    badge = sheet.crop((FIRST, TOP, FIRST + 18, TOP + 18))
    assert badge.getpixel((17, 0)) == color(0)
    assert any(min(pixel) > 200 for _, pixel in badge.getcolors())  # the cross
    assert sheet.getpixel((MARGIN + LABEL + CELL // 2, TOP + CELL // 2)) == (25, 25, 25)  # query 1
    second = FIRST + STEP + CELL // 2
    assert sheet.getpixel((second, TOP + CELL // 2)) == (150, 150, 150)  # gallery image 2, which is image 6


def test_without_a_teacher(alone, draw):
    sheet = draw(alone)
    assert sheet.height == TOP + 3 * (CELL + BETWEEN) + MARGIN
    for row, query in enumerate(alone.worst):
        for column, entry in enumerate(query.student.entries):
            assert frame(sheet, column, TOP + row * (CELL + BETWEEN)) == color(entry.relation)


def test_long_lists_are_cut(samples, student, draw):
    wide = student.neighbours
    wide = Neighbours(*(getattr(wide, name)[:, :1].repeat(1, 30) for name in ("columns", "similarity", "relation")))
    sheet = draw(inspect(*samples, replace(student, neighbours=wide), None, 1))
    assert sheet.width == FIRST + ANSWERS * STEP + MARGIN
