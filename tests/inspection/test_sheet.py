"""The contact sheet: frames, marks and images at their places."""

from dataclasses import replace

import pytest
from PIL import Image, ImageColor

from benchmark.inspection import inspect, inspection_sheet
from benchmark.inspection.html import MARKS
from benchmark.inspection.sheet import CELL, GAP, HEADER, LABEL, MARGIN, MAX_ENTRIES, SECTION, SPACING, STEP
from benchmark.retrieval import Neighbors

LEFT = MARGIN + LABEL + STEP + SPACING
"""Left edge of the first entry of a ranked list."""
TOP = MARGIN + HEADER + SECTION
"""Top edge of the first query."""


def frame_color(sheet, column, top):
    return sheet.getpixel((LEFT + column * STEP + CELL - 2, top + CELL - 2))  # in the corner without a mark


def mark_color(relevance):
    return ImageColor.getrgb(MARKS[relevance].color)


@pytest.fixture
def draw(tmp_path, names):
    def draw(inspection):
        inspection_sheet(inspection, tmp_path / "new" / "sheet.png", title="kd on glyphs", names=names)
        return Image.open(tmp_path / "new" / "sheet.png")

    return draw


def test_frames(inspection, draw):
    sheet = draw(inspection)
    block = 2 * STEP - GAP + SPACING
    tops = [TOP + row * block for row in range(3)]
    tops.append(tops[-1] + block + SECTION)  # the drop
    for top, query in zip(tops, [*inspection.worst, *inspection.drops], strict=True):
        for row, ranked in enumerate((query.student, query.teacher)):
            for column, entry in enumerate(ranked.entries):
                assert frame_color(sheet, column, top + row * STEP) == mark_color(entry.relevance)
    assert sheet.height == tops[-1] + block + MARGIN


def test_marks_and_images(inspection, draw):
    sheet = draw(inspection)
    badge = sheet.crop((LEFT, TOP, LEFT + 18, TOP + 18))
    assert badge.getpixel((17, 0)) == mark_color(0)
    assert any(min(pixel) > 200 for _, pixel in badge.getcolors())  # the cross
    assert sheet.getpixel((MARGIN + LABEL + CELL // 2, TOP + CELL // 2)) == (25, 25, 25)  # query 1
    second = LEFT + STEP + CELL // 2
    assert sheet.getpixel((second, TOP + CELL // 2)) == (150, 150, 150)  # gallery image 2, which is image 6


def test_without_teacher(without_teacher, draw):
    sheet = draw(without_teacher)
    assert sheet.height == TOP + 3 * (CELL + SPACING) + MARGIN
    for row, query in enumerate(without_teacher.worst):
        for column, entry in enumerate(query.student.entries):
            assert frame_color(sheet, column, TOP + row * (CELL + SPACING)) == mark_color(entry.relevance)


def test_cuts_long_lists(samples, student, draw):
    top = student.neighbors
    gallery_index, similarity, relevance = (
        values[:, :1].repeat(1, 30) for values in (top.gallery_index, top.similarity, top.relevance)
    )
    wide = replace(student, neighbors=Neighbors(gallery_index, similarity, relevance))
    sheet = draw(inspect(*samples, student=wide, count=1))
    assert sheet.width == LEFT + MAX_ENTRIES * STEP + MARGIN
