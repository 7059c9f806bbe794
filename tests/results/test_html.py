"""The leaderboards as a web page: its markup, and its behavior in a browser."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from benchmark.results.board import Board
from benchmark.results.html import inline_spans, leaderboard_html, without_plots
from benchmark.results.reported import Reported
from benchmark.results.rows import group_records

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MAP = {"none": 0.6, "kd": 0.095, "rkd": 0.62, "pkt": 0.58}
"""Sorted as text, the order would differ: 9.5 after 62.0."""
PLOT = '<svg xmlns="http://www.w3.org/2000/svg" width="72" height="44"><title>plot of {name}</title></svg>'


def page_of(*records, reported=None):
    rows = group_records(records)
    boards = [Board([row for row in rows if row.board == name], None) for name in sorted({row.board for row in rows})]
    return leaderboard_html(boards, {board.name: PLOT.format(name=board.name) for board in boards}, reported or {})


@pytest.fixture(scope="module")
def page(record):
    """Four methods on glyphs, one of them without an asymmetric score, and one on veri776."""
    records = [record("kd", dataset="veri776", macs=1.8e9)]
    for method, mAP in MAP.items():
        # pkt is the largest, with 1.00 M parameters, but sorted as text it would be the smallest
        macs = {"none": 18e6, "pkt": 20e6}.get(method, 19e6)
        records.append(record(method, mAP=mAP, macs=macs, asymmetric=None if method == "rkd" else mAP / 2))
    return page_of(*records)


class Elements(HTMLParser):
    """The elements of a page; checks that tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.found = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def sections_of(page):
    return dict(re.findall(r'<section id="([^"]*)"(.*?)</section>', page, flags=re.DOTALL))


def values_of(section, method):
    (row,) = re.findall(rf'<tr data-method="{method}">(.*?)</tr>', section, flags=re.DOTALL)
    return re.findall(r'data-value="(.*?)"', row)


def test_needs_no_other_file(page):
    elements = Elements(page)
    assert not re.search(r"https?:|//[\w.]|@import|url\(|<link|<iframe", without_plots(page))
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in elements.all("img"))
    assert not any("src" in script for script in elements.all("script"))
    targets = {link["href"] for link in elements.all("a")}
    assert {target for target in targets if not target.startswith("records/")} == {
        *("README.md", "glyphs.md", "veri776.md"),
        *("#all-datasets", "#glyphs", "#glyphs-at-equal-cost", "#veri776"),
    }


def test_contains_the_plots(page):
    images = Elements(page).all("img")
    assert [image["alt"].rpartition(" ")[2] for image in images] == ["glyphs", "veri776"]
    for image, board in zip(images, ("glyphs", "veri776"), strict=True):
        assert base64.b64decode(image["src"].partition("base64,")[2]).decode() == PLOT.format(name=board)


def test_columns_and_their_sort_keys(page):
    section = sections_of(page)["glyphs"]
    headers = re.findall(r'<th scope="col"( class="number")?><button type="button">(.*?)</button>', section)
    assert [name for number, name in headers if not number] == ["method", "teacher", "student", "seeds"]
    assert values_of(section, "kd")[:2] == ["0.095", "0.195"] and values_of(section, "rkd")[4] == ""


def test_sections_over_datasets_and_of_equal_cost(record, with_queries):
    page = page_of(
        *(with_queries(record("none", mAP=0.6)), with_queries(record("kd", mAP=0.62))),
        record("kd", dataset="veri776", mAP=0.5),
    )
    sections = sections_of(page)
    assert list(sections) == ["all-datasets", "glyphs", "glyphs-at-equal-cost", "veri776"]
    assert re.findall(r'href="#([^"]*)"', page) == list(sections)
    assert values_of(sections["all-datasets"], "kd") == ["0.62", "0.5", "1"]
    assert values_of(sections["glyphs-at-equal-cost"], "none") == ["0.6", "-0.02", "2", "22000000", "1100000"]
    assert ">mAP against <code>none</code></button>" in sections["glyphs"]


def test_published_results_are_apart_from_measured_ones(record):
    result = {
        "method": "theirs",
        "teacher": None,
        "student": "a",
        "figures": {"mAP": 61},
        "protocol": "b",
        "source": "c",
    }
    page = page_of(record(), reported={"cub200": Reported.model_validate({"dataset": "cub200", "results": [result]})})
    measured, published = page.split('<section id="cub200-reported"')
    assert "theirs" not in measured
    assert "These values were not measured here" in published and '<tr data-method="theirs">' in published


def test_text_from_records_is_escaped(record, edit):
    name = "<script>alert(1)</script> & [x](javascript:alert)"
    changes = {
        "network.name": name,
        "teacher.network": name,
        "network.cost.device": "<script>alert(2)</script>",
        "scores.asymmetric_reason": "<img src=x onerror=alert(3)>",
    }
    method = '<script>"&'  # the schema rejects such a method, but the page does not rely on it
    elements = Elements(page_of(edit(record("kd"), changes).model_copy(update={"method": method})))
    assert len(elements.all("script")) == 1 and len(elements.all("img")) == 1
    assert not any("javascript" in link["href"] for link in elements.all("a"))
    assert [row["data-method"] for row in elements.all("tr") if row] == [method, "teacher", "none", method]
    assert elements.text.count(name) == 3
    assert method in elements.text and "<script>alert(2)</script>" in elements.text


def test_inline_markdown():
    spans = inline_spans("a `b|**c**` **d**\n[0](records/e.json) [f](g) <sup>")
    assert [tuple(span) for span in spans if span.text] == [
        *(("text", "a ", ""), ("code", "b|**c**", ""), ("text", " ", ""), ("strong", "d", ""), ("break", "\n", "")),
        *(("link", "0", "records/e.json"), ("text", " [f](g) <sup>", "")),
    ]


DRIVER = """
addEventListener("load", () => {  // when images have a size
const seen = {};
const section = document.querySelector("#glyphs");
const button = (name) => [...section.querySelectorAll("thead button")].find((each) => each.textContent === name);
const visible = (where) => [...where.querySelectorAll("tbody tr")].filter((row) => row.offsetHeight > 0);
const methods = () => visible(section).map((row) => row.cells[0].textContent.split(" ")[0]);
const sorts = () => [...section.querySelectorAll("[aria-sort]")].map((each) => [each.textContent, each.ariaSort]);
function observe(name) { seen[name] = { methods: methods(), sorts: sorts() }; }
observe("untouched");
for (const [name, times] of [["mAP", 2], ["method", 2], ["parameters", 1], ["asymmetric mAP", 2]]) {
  for (let time = 1; time <= times; time++) {
    button(name).click();
    observe(`${name} ${time}`);
  }
}
const filter = section.querySelector("input");
function type(text) {
  filter.value = text;
  filter.dispatchEvent(new Event("input", { bubbles: true }));
}
type(" KD");
observe("filtered");
seen.count = section.querySelector("output").value;
seen.others = visible(document.querySelector("#veri776")).length;
button("mAP").click();
observe("filtered and sorted");
type("nothing");
observe("nothing");
type("");
observe("emptied");
const [macs, bytes, milliseconds] = section.querySelectorAll("input[type=number]");
function limit(field, value) {
  field.value = value;
  field.dispatchEvent(new Event("input", { bubbles: true }));
}
limit(macs, "19");
observe("at most 19 M MACs");
seen.best = [section.querySelector("output").value, section.querySelectorAll(".best").length];
limit(bytes, "100");
observe("and 100 bytes");
limit(macs, "");
limit(bytes, "512");
limit(milliseconds, "1.85");
observe("at most 1.85 ms");
limit(bytes, "");
limit(milliseconds, "");
const wanted = button("MACs");
wanted.focus();
seen.focus = document.activeElement === wanted && wanted.tabIndex === 0;
seen.plot = section.querySelector("img").naturalWidth > 0;
seen.width = [document.documentElement.scrollWidth, window.innerWidth];
const box = section.querySelector("table").parentElement;
seen.box = [box.scrollWidth, box.clientWidth];
seen.background = getComputedStyle(document.body).backgroundColor;
parent.postMessage(JSON.stringify(seen), "*");
});
"""
"""Operates the page like a reader, and reports what is visible."""


FRAME = """<!DOCTYPE html>
<iframe src="driven.html" style="width: {width}px; height: 900px; border: 0"></iframe>
<script>
addEventListener("message", (message) => {{
  const result = document.createElement("pre");
  result.id = "seen";
  result.textContent = message.data;
  document.body.append(result);
}});
</script>
"""
"""A frame stands for the window, because Chromium has no window below 500 px."""


@cache
def browse(page: str, width: int, *, dark: bool) -> dict:
    """Return what the driver reports in a copy of the page whose policy also admits the driver."""
    digest = base64.b64encode(hashlib.sha256(DRIVER.encode()).digest()).decode()
    assert "script-src 'sha256-" in page
    copy = page.replace("script-src ", f"script-src 'sha256-{digest}' ")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=20000"]
    options.append(f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    with TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "driven.html").write_text(copy.replace("</body>", f"<script>{DRIVER}</script></body>"))
        (folder / "frame.html").write_text(FRAME.format(width=width))
        command = [*options, f"--user-data-dir={folder / 'profile'}", "--dump-dom", (folder / "frame.html").as_uri()]
        done = subprocess.run([str(CHROMIUM), *command], capture_output=True, text=True, timeout=120)
    seen = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert seen, done.stderr[-2000:]
    return json.loads(html.unescape(seen[1]))


@pytest.fixture
def seen(page):
    """The page on a wide, light screen."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    return browse(page, 1280, dark=False)


@pytest.fixture
def seen_on_a_phone(page):
    """The page on a narrow, dark screen."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    return browse(page, 400, dark=True)


def order(seen, name):
    return seen[name]["methods"]


def test_columns_sort_in_both_directions(seen):
    assert order(seen, "untouched") == ["teacher", "none", "rkd", "pkt", "kd"]
    assert order(seen, "mAP 1") == ["kd", "pkt", "none", "rkd", "teacher"]
    assert order(seen, "mAP 2") == ["teacher", "rkd", "none", "pkt", "kd"]
    assert order(seen, "method 1") == ["kd", "none", "pkt", "rkd", "teacher"]
    assert order(seen, "method 2") == ["teacher", "rkd", "pkt", "none", "kd"]


def test_numbers_sort_by_value_and_ties_keep_their_order(seen, page):
    section = sections_of(page)["glyphs"]
    texts = {
        method: re.search(r">(\d[\d.]* [kM])</td>", section.partition(f'data-method="{method}"')[2])[1]
        for method in MAP
    }
    assert texts == {"none": "900 k", "rkd": "950 k", "kd": "950 k", "pkt": "1.00 M"}
    assert order(seen, "parameters 1") == ["none", "rkd", "kd", "pkt", "teacher"]


def test_missing_values_come_last_in_both_directions(seen):
    assert order(seen, "asymmetric mAP 1") == ["kd", "pkt", "none", "teacher", "rkd"]
    assert order(seen, "asymmetric mAP 2") == ["none", "pkt", "kd", "teacher", "rkd"]


def test_sorted_column_is_announced(seen):
    assert seen["untouched"]["sorts"] == []
    assert seen["mAP 1"]["sorts"] == [["mAP", "ascending"]]
    assert seen["mAP 2"]["sorts"] == [["mAP", "descending"]]
    assert seen["method 1"]["sorts"] == [["method", "ascending"]]
    assert seen["focus"]


def test_filter_hides_rows(seen):
    assert sorted(order(seen, "filtered")) == ["kd", "rkd"]
    assert seen["count"] == "2 of 5 rows"
    assert seen["others"] == 3, "the filter applies to one table"
    assert order(seen, "filtered and sorted") == ["kd", "rkd"]
    assert order(seen, "nothing") == []
    assert order(seen, "emptied") == ["kd", "pkt", "none", "rkd", "teacher"]


def test_budgets_hide_rows_and_mark_the_best(seen):
    assert sorted(order(seen, "at most 19 M MACs")) == ["kd", "none", "rkd"]
    assert seen["best"] == ["3 of 5 rows, best: rkd", 1]
    assert order(seen, "and 100 bytes") == []
    assert order(seen, "at most 1.85 ms") == ["none"]


def test_plot_is_drawn(seen):
    assert seen["plot"]


def test_wide_tables_scroll_within_the_page(seen_on_a_phone):
    assert seen_on_a_phone["width"] == [400, 400]
    inside, box = seen_on_a_phone["box"]
    assert inside > box and box <= 400


def test_follows_the_color_scheme(seen, seen_on_a_phone):
    assert seen["background"] == "rgb(255, 255, 255)"
    assert seen_on_a_phone["background"] == "rgb(13, 17, 23)"
