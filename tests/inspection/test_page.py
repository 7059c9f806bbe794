"""The web page: complete, escaped, and each image in it once."""

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from benchmark.inspection import inspect, inspection_page

VOID = {"meta"}


class Page(HTMLParser):
    """Checks that tags are closed in order; collects the elements, the text and the style sheet."""

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.elements = []
        self.text = ""
        self.style = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"an attribute of {tag} is there twice"
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text += data

    def find(self, tag, css_class=None):
        return [
            found
            for name, found in self.elements
            if name == tag and (css_class is None or css_class in (found.get("class") or "").split())
        ]


@pytest.fixture
def text(compared, names):
    return inspection_page(compared, 'kd & "co" on <glyphs>', {"Protocol": "<camera> & rule"}, names)


@pytest.fixture
def page(text):
    return Page(text)


def pictures(page):
    return [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r"url\(data:image/jpeg;base64,([^)]*)\)", page.style)
    ]


def test_needs_no_other_file(text, page):
    assert not re.search(r"https?:|//|@import|<link|<script|<img|<iframe", re.sub(r"base64,[^)]*", "", text))
    assert page.style.count("url(") == page.style.count("url(data:") == len(pictures(page))
    assert {found["href"] for found in page.find("a")} == {"#worst", "#lost"}
    assert {found["id"] for found in page.find("section")} == {"worst", "lost"}


def test_each_image_is_there_once(page):
    # Queries 0, 1 and 3; gallery images 0, 1 and 2, while 3 is broken and 4 and 5 answer only the skipped query.
    assert len(pictures(page)) == 6
    data = re.findall(r"base64,([^)]*)", page.style)
    assert len(set(data)) == len(data)
    assert sorted(max(picture.size) for picture in pictures(page)) == [40, 40, 40, 48, 96, 96]
    shown = [name for found in page.find("span", "thumb") for name in found["class"].split() if name != "thumb"]
    assert set(shown) == {"broken", *(f"i{index}" for index in range(6))}
    assert len(shown) == 4 * (1 + 2 * 3)  # three worst queries and a lost one, with two lists of three


def test_broken_image(page):
    broken = page.find("span", "broken")
    assert len(broken) == 4
    assert all(found["aria-label"].endswith(", broken image") for found in broken)


def test_names_are_escaped(text, page):
    assert '<b id="' not in text
    assert "onload" not in {name for _, attributes in page.elements for name in attributes}
    assert '<b id="0">Zoë & Bob\'s</b>' in page.text
    assert 'kd & "co" on <glyphs>' in page.text
    assert "<camera> & rule" in page.text


def test_entries_are_marked_by_more_than_colour(page):
    kinds = {kind: page.find("li", kind) for kind in ("correct", "wrong", "ignored")}
    assert [len(found) - 1 for found in kinds.values()] == [6, 12, 6]  # one of each is in the legend
    assert "\u2713" in page.text and "\u2717" in page.text and "\u2013" in page.text
    first = page.find("li", "correct")[1]["title"]
    assert first.startswith("rank 2, correct: <b id=")
    assert re.search(r"similarity 0\.\d{3}, \d<&>\.png$", first)
    assert page.find("li", "ignored")[1]["title"].startswith("ignored by the protocol: ")


def test_images_have_a_text_and_lists_take_the_keyboard(page):
    assert all(found["role"] == "img" and found["aria-label"] for found in page.find("span", "thumb"))
    assert all(found["tabindex"] == "0" and found["aria-label"] for found in page.find("div", "lists"))
    assert len(page.find("div", "lists")) == 4


def test_figures(page):
    assert "Queries: 3; skipped, for lack of a correct answer: 1." in page.text
    assert "higher than the teacher's: 1; the same: 1; lower: 1." in page.text
    assert ": AP 50.0%, teacher 75.0% (-25.0 points)" in page.text
    assert "Student: AP 10.0%, first correct answer at rank 4" in page.text
    assert "Lost against the teacher (1 of 1)" in page.text
    assert "student, AP 0.5 \u2013 0.6: 2" in page.text
    assert len(page.find("rect", "bar0")) == len(page.find("rect", "bar1")) == 10


def test_follows_the_reader_into_the_dark(page):
    assert "prefers-color-scheme:dark" in page.style


def test_without_a_teacher(alone, names):
    page = Page(inspection_page(alone, "none on glyphs", {}, names))
    assert "eacher" not in page.text and "tudent" not in page.text
    assert [found["id"] for found in page.find("section")] == ["worst"]
    assert not page.find("rect", "bar1")
    assert len(page.find("ol")) == 3


def test_nothing_lost(samples, student, names):
    page = Page(inspection_page(inspect(*samples, student, student, 5), "kd", {}, names))
    assert "On no query is the student's AP lower." in page.text
