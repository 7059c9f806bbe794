"""The web page: well-formed, complete, self-contained and escaped."""

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from benchmark.inspection import inspect, inspection_page

VOID = {"meta"}


class Page(HTMLParser):
    """A parsed page: its elements, text and style sheet. Checks that tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.elements = []
        self.text = ""
        self.style = ""
        self.feed(text)
        self.close()
        self.text = " ".join(self.text.split())
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"duplicate attribute of {tag}"
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
            attributes
            for name, attributes in self.elements
            if name == tag and (css_class is None or css_class in (attributes.get("class") or "").split())
        ]


@pytest.fixture
def text(inspection, names):
    return inspection_page(inspection, title='kd & "co" on <glyphs>', facts={"Run <i>": "<script> & rule"}, names=names)


@pytest.fixture
def page(text):
    return Page(text)


def embedded_images(page):
    return re.findall(r"url\(data:image/jpeg;base64,([^)]*)\)", page.style)


def test_loads_no_other_file(text, page):
    assert not re.search(r"https?:|//|@import|<link|<script|<img|<iframe", re.sub(r"base64,[^)]*", "", text))
    assert page.style.count("url(") == len(embedded_images(page))
    assert {link["href"] for link in page.find("a")} == {"#worst", "#drops"}
    assert {section["id"] for section in page.find("section")} == {"worst", "drops"}


def test_embeds_each_image_once(page):
    # Queries 0, 1 and 3; gallery images 0, 1 and 2. Image 3 is broken; 4 and 5 are only in the lists of query 2,
    # which is skipped.
    images = embedded_images(page)
    assert len(images) == len(set(images)) == 6
    sides = [max(Image.open(io.BytesIO(base64.b64decode(data))).size) for data in images]
    assert sorted(sides) == [40, 40, 40, 48, 96, 96]
    shown = [name for thumb in page.find("span", "thumb") for name in thumb["class"].split() if name != "thumb"]
    assert len(shown) == 4 * (1 + 2 * 3)  # three worst queries and one drop, each with two lists of three
    assert len(set(shown)) == 7 and "broken" in shown
    assert all(f".{name} {{ background-image" in page.style for name in set(shown) - {"broken"})


def test_names_broken_images(page):
    broken = page.find("span", "broken")
    assert len(broken) == 4
    assert all(thumb["aria-label"].endswith(", broken image") for thumb in broken)


def test_escapes_names(text, page):
    assert '<b id="' not in text and "<i>" not in text and "<script>" not in text
    assert "onload" not in {name for _, attributes in page.elements for name in attributes}
    assert '<b id="0">Zoë & Bob\'s</b>' in page.text and '" onload="1' in page.text
    assert 'kd & "co" on <glyphs>' in page.text
    assert "Run <i><script> & rule" in page.text
    assert page.find("span", "thumb")[0]["aria-label"] == 'query: <b id="1">Zoë & Bob\'s</b>, " onload="1'
    region = page.find("div", "lists")[0]["aria-label"]
    assert region == 'Ranked lists of query 1: <b id="1">Zoë & Bob\'s</b>'


def test_marks_entries_by_more_than_color(page):
    kinds = {kind: page.find("li", kind) for kind in ("correct", "wrong", "ignored")}
    assert [len(entries) - 1 for entries in kinds.values()] == [6, 12, 6]  # one of each is in the legend
    assert "\u2713" in page.text and "\u2717" in page.text and "\u2013" in page.text
    title = page.find("li", "correct")[1]["title"]
    assert title.startswith('rank 2, correct match: <b id="')
    assert re.search(r"similarity 0\.\d{3}, \d<&>\.png$", title)
    assert page.find("li", "ignored")[1]["title"].startswith("ignored by the protocol: ")


def test_is_accessible(page):
    assert all(thumb["role"] == "img" and thumb["aria-label"] for thumb in page.find("span", "thumb"))
    assert all(region["tabindex"] == "0" and region["aria-label"] for region in page.find("div", "lists"))
    assert len(page.find("div", "lists")) == 4
    assert "prefers-color-scheme: dark" in page.style


def test_statistics(page):
    assert "Evaluated queries: 3; skipped, because the gallery has no correct match: 1." in page.text
    assert "higher than the teacher's: 1; equal: 1; lower: 1." in page.text
    assert ": AP 50.0%, teacher 75.0% (-25.0 points)" in page.text
    assert "Student: AP 10.0%, first correct match at rank 4" in page.text
    assert "2 correct matches in the gallery" in page.text
    assert "Largest AP drops from teacher to student (1 of 1)" in page.text
    assert "mAP36.7%43.3%" in page.text


def test_histogram(page):
    assert "student, AP 0.5 \u2013 0.6: 2" in page.text and "teacher, AP 0.7 \u2013 0.8: 1" in page.text
    student, teacher = page.find("rect", "bar0"), page.find("rect", "bar1")
    assert [float(bar["width"]) for bar in student] == [0, 127, 0, 0, 0, 254, 0, 0, 0, 0]
    assert [float(bar["width"]) for bar in teacher] == [127, 0, 0, 0, 0, 127, 0, 127, 0, 0]
    assert [float(bar["y"]) for bar in student] == [28 * row + 3 for row in range(10)]


def test_without_teacher(without_teacher, names):
    page = Page(inspection_page(without_teacher, title="none on glyphs", facts={}, names=names))
    assert "eacher" not in page.text and "tudent" not in page.text
    assert [section["id"] for section in page.find("section")] == ["worst"]
    assert not page.find("rect", "bar1")
    assert len(page.find("ol")) == 3


def test_without_drops(samples, student, names):
    equal = inspect(*samples, student=student, teacher=student, count=5)
    page = Page(inspection_page(equal, title="kd", facts={}, names=names))
    assert "The student's AP is lower on no query." in page.text
