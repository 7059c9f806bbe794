"""The leaderboards as a web page: its markup here, and what it does in a browser."""

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
from benchmark.results.html import boards_html, without_pictures
from benchmark.results.leaderboard import differing, generate
from benchmark.results.record import Record
from benchmark.results.rows import summarise
from benchmark.results.store import add_record

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MAP = {"none": 0.6, "kd": 0.095, "rkd": 0.62, "pkt": 0.58}
"""As texts they sort otherwise: 9.5 after 62.0."""


@pytest.fixture
def folder(record, tmp_path):
    """Four methods on glyphs, one of which is not scored against the teacher's gallery, and one on veri776."""
    records = [record("kd", dataset="veri776", macs=1.8e9)]
    for method, mAP in MAP.items():
        # pkt is the largest, with 1.00 M parameters: in the table its text is the least
        macs = {"none": 18e6, "pkt": 20e6}.get(method, 19e6)
        records.append(record(method, mAP=mAP, macs=macs, asymmetric=None if method == "rkd" else mAP / 2))
    for each in records:
        add_record(each, tmp_path / "records")
    generate(tmp_path)
    return tmp_path


@pytest.fixture
def page(folder):
    return (folder / "leaderboard.html").read_text()


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


def test_needs_no_other_file(page):
    elements = Elements(page)
    assert not re.search(r"https?:|//[\w.]|@import|url\(|<link|<iframe", without_pictures(page))
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in elements.all("img"))
    assert not any("src" in script for script in elements.all("script"))
    targets = {link["href"] for link in elements.all("a")}
    assert {target for target in targets if not target.startswith("records/")} == {
        *("README.md", "glyphs.md", "veri776.md"),
        *("#all-datasets", "#glyphs", "#glyphs-at-equal-cost", "#veri776"),
    }


def test_links_lead_to_files(folder, page):
    for link in Elements(page).all("a"):
        assert link["href"].startswith("#") or (folder / link["href"]).is_file()


def test_holds_the_pictures(folder, page):
    images = Elements(page).all("img")
    assert [image["alt"].rpartition(" ")[2] for image in images] == ["glyphs", "veri776"]
    for image, board in zip(images, ("glyphs", "veri776"), strict=True):
        assert base64.b64decode(image["src"].partition("base64,")[2]) == (folder / f"{board}.svg").read_bytes()


def test_what_other_people_named_is_text(record, tmp_path):
    name = "<script>alert(1)</script> & [x](javascript:alert)"
    content = record("kd").model_dump(mode="json")
    content["network"]["name"] = content["teacher"]["network"] = name
    content["network"]["cost"]["device"] = "<script>alert(2)</script>"
    content["scores"]["asymmetric_reason"] = "<img src=x onerror=alert(3)>"
    # The schema refuses such a method; the page does not count on it.
    method = '<script>"&'
    made = Record.model_validate(content).model_copy(update={"method": method})
    elements = Elements(boards_html([Board(summarise([made]), None)], {"glyphs": "<svg/>"}, {}))
    assert len(elements.all("script")) == 1 and len(elements.all("img")) == 1
    assert not elements.all("a")[-1]["href"].startswith("javascript")
    assert [row["data-method"] for row in elements.all("tr") if row] == [method, "teacher", "none", method]
    assert elements.text.count(name) == 3
    assert method in elements.text and "<script>alert(2)</script>" in elements.text


def test_the_picture_is_not_compared_and_all_else_is(folder, page):
    path = folder / "leaderboard.html"
    path.write_text(re.sub(r"base64,[^\"]*", "base64,AAAA", page))
    assert differing(folder) == []
    for there, foreign in [
        ("62.0", "63.0"),
        ('<img src="', '<img onerror="alert(1)" src="'),
        ("base64,", 'base64,"><script>alert(1)</script>'),
        ('alt="mAP against MACs', 'alt="something else'),
    ]:
        assert there in page
        path.write_text(page.replace(there, foreign, 1))
        assert differing(folder) == [path]
    path.unlink()
    assert differing(folder) == [path]


@pytest.mark.parametrize("name", ["leaderboard.csv", "leaderboard.json"])
def test_csv_and_json_are_compared(folder, name):
    path = folder / name
    path.write_text(path.read_text().replace("0.62", "0.63"))
    assert differing(folder) == [path]


DRIVER = """
addEventListener("load", () => {  // pictures have a size then
const seen = {};
const section = document.querySelector("#glyphs");
const button = (name) => [...section.querySelectorAll("thead button")].find((each) => each.textContent === name);
const visible = (where) => [...where.querySelectorAll("tbody tr")].filter((row) => row.offsetHeight > 0);
const methods = () => visible(section).map((row) => row.cells[0].textContent.split(" ")[0]);
const sorts = () => [...section.querySelectorAll("[aria-sort]")].map((each) => [each.textContent, each.ariaSort]);
function look(name) { seen[name] = { methods: methods(), sorts: sorts() }; }
look("untouched");
for (const [name, times] of [["mAP", 2], ["method", 2], ["parameters", 1], ["asymmetric mAP", 2]]) {
  for (let time = 1; time <= times; time++) {
    button(name).click();
    look(`${name} ${time}`);
  }
}
const filter = section.querySelector("input");
function type(text) {
  filter.value = text;
  filter.dispatchEvent(new Event("input", { bubbles: true }));
}
type(" KD");
look("filtered");
seen.count = section.querySelector("output").value;
seen.others = visible(document.querySelector("#veri776")).length;
button("mAP").click();
look("filtered and sorted");
type("nothing");
look("nothing");
type("");
look("emptied");
const wanted = button("MACs");
wanted.focus();
seen.focus = document.activeElement === wanted && wanted.tabIndex === 0;
seen.picture = section.querySelector("img").naturalWidth > 0;
seen.width = [document.documentElement.scrollWidth, window.innerWidth];
const box = section.querySelector("table").parentElement;
seen.box = [box.scrollWidth, box.clientWidth];
seen.ground = getComputedStyle(document.body).backgroundColor;
parent.postMessage(JSON.stringify(seen), "*");
});
"""
"""What a reader does with the page, and sees."""


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
"""A window: Chromium has none below 500 px."""


@cache
def browse(page: str, width: int, *, dark: bool) -> dict:
    """What the driver sees in a copy of the page, whose policy admits it by its hash, beside the page's own script."""
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
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.fixture
def seen(page):
    """By a reader with a wide screen."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium, in which the page would be tried")
    return browse(page, 1280, dark=False)


@pytest.fixture
def seen_on_a_phone(page):
    """By a reader with a phone, in the dark."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium, in which the page would be tried")
    return browse(page, 400, dark=True)


def order(seen, name):
    return seen[name]["methods"]


def test_columns_sort_in_both_directions(seen):
    assert order(seen, "untouched") == ["teacher", "none", "rkd", "pkt", "kd"]
    assert order(seen, "mAP 1") == ["kd", "pkt", "none", "rkd", "teacher"]
    assert order(seen, "mAP 2") == ["teacher", "rkd", "none", "pkt", "kd"]
    assert order(seen, "method 1") == ["kd", "none", "pkt", "rkd", "teacher"]
    assert order(seen, "method 2") == ["teacher", "rkd", "pkt", "none", "kd"]


def test_numbers_sort_as_numbers(seen, folder):
    """And not as what is shown: 1.00 M after 950 k, and what is equal in the order of the board."""
    lines = [line.split("|") for line in (folder / "glyphs.md").read_text().splitlines() if line.startswith("|")]
    shown = {cells[1].strip(" `"): cells[9].strip() for cells in lines[:7]}
    assert shown["pkt"] == "1.00 M" and shown["kd"] == shown["rkd"] == "950 k" and shown["none"] == "900 k"
    assert order(seen, "parameters 1") == ["none", "rkd", "kd", "pkt", "teacher"]


def test_what_is_missing_comes_last_in_both_directions(seen):
    assert order(seen, "asymmetric mAP 1") == ["kd", "pkt", "none", "teacher", "rkd"]
    assert order(seen, "asymmetric mAP 2") == ["none", "pkt", "kd", "teacher", "rkd"]


def test_the_sorted_column_says_so(seen):
    assert seen["untouched"]["sorts"] == []
    assert seen["mAP 1"]["sorts"] == [["mAP", "ascending"]]
    assert seen["mAP 2"]["sorts"] == [["mAP", "descending"]]
    assert seen["method 1"]["sorts"] == [["method", "ascending"]]
    assert seen["focus"]


def test_the_filter_hides_rows(seen):
    assert sorted(order(seen, "filtered")) == ["kd", "rkd"]
    assert seen["count"] == "2 of 5 rows"
    assert seen["others"] == 3, "other boards have filters of their own"
    assert order(seen, "filtered and sorted") == ["kd", "rkd"]
    assert order(seen, "nothing") == []
    assert order(seen, "emptied") == ["kd", "pkt", "none", "rkd", "teacher"]


def test_the_picture_is_drawn(seen):
    assert seen["picture"]


def test_on_a_phone_tables_scroll_in_their_boxes(seen_on_a_phone):
    assert seen_on_a_phone["width"] == [400, 400]
    inside, box = seen_on_a_phone["box"]
    assert inside > box and box <= 400


def test_follows_the_reader_into_the_dark(seen, seen_on_a_phone):
    assert seen["ground"] == "rgb(255, 255, 255)"
    assert seen_on_a_phone["ground"] == "rgb(13, 17, 23)"
