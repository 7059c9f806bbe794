"""Mutated records: reading them succeeds or raises a UserError, and no text of theirs becomes markup of a page."""

import copy
import csv
import io
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from benchmark.errors import UserError
from benchmark.results.board import Board
from benchmark.results.consistency import violations
from benchmark.results.console import result_table
from benchmark.results.export import leaderboard_csv
from benchmark.results.html import leaderboard_html
from benchmark.results.markdown import dataset_page, index_page
from benchmark.results.rebuild import rebuilt_violations
from benchmark.results.record import Record
from benchmark.results.rows import group_records
from benchmark.results.store import load_records, record_files, record_name
from benchmark.utils.console import Console
from benchmark.utils.escape import is_plain_line
from benchmark.utils.recipe_hash import recipe_hash

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
COMMITTED = Path(__file__).parents[2] / "leaderboards" / "archive" / "records"
INJECTIONS = [
    "<zqx onload=alert(1)>",
    '"><zqx onmouseover="zqx()">',
    "<!-- zqx --><zqx>",
    "</td></table><zqx>",
    "[zqx](javascript:zqx())",
    "![zqx](https://example.org/zqx.png)",
    "zqx](records/../../x) [zqx",
    "<https://example.org/zqx>",
    "https://example.org/zqx",
    "**zqx** __zqx__ *zqx* _zqx_ ~~zqx~~",
    "`zqx` ``zqx``",
    "` <zqx> `` <zqx> `",
    "```",
    "zqx `",
    "| zqx | zqx |",
    "zqx \\",
    "zqx \\| zqx",
    "\\`zqx\\`",
    "# zqx",
    "&lt;zqx&gt; &#60;zqx&#62;",
    "$zqx$ {{ zqx }} {%zqx%} {: onclick=zqx }",
    "[^zqx]: zqx",
    "=zqx()",
    "+zqx",
    "-zqx",
    "@zqx",
    "\uff1dzqx",
]
CONTROLS = [
    "zqx\n\n# zqx",
    "\x1b[31mzqx",
    "\x1b]0;zqx\x07",
    "zqx\r=zqx",
    "\u202ezqx",
    "\x9bzqx",
    "zqx\u2028zqx",
    "\x00",
    "\ud800",
]
TEXTS = (
    "environment/device",
    "network/cost/device",
    "teacher/cost/device",
    "network/name",
    "teacher/network",
    "scores/asymmetric_reason",
    "data/fingerprint",
    "data/versions/numpy",
    "data/protocol/junk",
    "variant/dataset.split",
    "commit",
)
KEYS = ("data/splits", "data/skipped", "data/protocol", "variant")
NUMBERS = [0, -1, 1, 0.5, 1.5, -0.0, 1e308, 5e-324, 2**31, 2**63, 10**17, 10**400, float("nan"), float("inf")]
OTHERS = [None, True, False, "", "0", [], {}, [[]], {"": {}}, [0] * 1000, "x" * 100_000, {"a": {"b": {"c": [1, {}]}}}]
# "html": raw HTML would be a token of its own, as on GitHub.
MARKDOWN = MarkdownIt("gfm-like", {"linkify": False, "html": True})


@pytest.fixture(scope="module")
def contents():
    """The contents of some committed records."""
    files = sorted(COMMITTED.glob("*.json"))[::9]
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def places(value, path=()):
    """Yield the paths of all values, except those of the scores per query."""
    yield path
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from places(entry, (*path, key))
    elif isinstance(value, list) and len(value) < 100:
        for index, entry in enumerate(value):
            yield from places(entry, (*path, index))


def put(content, path, value):
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


def mutate(content, choose):
    """Change one to three values, keys or types."""
    for _ in range(choose.randint(1, 3)):
        *parents, last = choose.choice([path for path in places(content) if path])
        parent = content
        for key in parents:
            parent = parent[key]
        kind = choose.random()
        if kind < 0.1:
            del parent[last]
        elif kind < 0.2 and isinstance(parent, dict):
            parent[choose.choice(INJECTIONS + CONTROLS)] = parent.pop(last)
        elif kind < 0.3:
            parent[last] = {"key": parent[last]} if choose.random() < 0.5 else [parent[last]]
        else:
            parent[last] = copy.deepcopy(choose.choice(choose.choice([NUMBERS, OTHERS, INJECTIONS, CONTROLS])))
    return content


def rehash(content):
    """Give the content the hash and the id of its recipe, as far as it has one."""
    recipe = content.get("recipe")
    if isinstance(recipe, dict):
        content["recipe_hash"] = recipe_hash(recipe)
        content["id"] = Record.make_id(content["recipe_hash"], str(content.get("role")))
    return content


def refused(error):
    """Check the message of a UserError about one record."""
    assert is_plain_line(str(error)) and len(str(error)) < 1000, error
    return True


def read(path, text):
    """Return the record that a file with this text has, or None if it is refused."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    try:
        return Record.read(path)
    except UserError as error:
        assert refused(error)
        return None


class Page(HTMLParser):
    """Collects what a web page consists of apart from its texts."""

    def __init__(self, text):
        super().__init__()
        self.markup = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        active = [value for name, value in attributes if name in ("href", "src", "style") or name.startswith("on")]
        self.markup += [tag, *(name for name, _ in attributes), *(value for value in active if value)]

    def handle_comment(self, text):
        self.markup.append(text)


def markup_of_markdown(text):
    """Yield the targets and the raw HTML of a page, and the texts that are emphasized, headings or blocks of code."""
    inline = [child for token in MARKDOWN.parse(text) for child in token.children or ()]
    for token in [*MARKDOWN.parse(text), *inline]:
        yield from (str(value) for value in (token.attrs or {}).values())
        if token.type.startswith("html"):
            yield token.content
    depth = 0
    for token in inline:
        styled = token.type.removesuffix("_open").removesuffix("_close") in ("em", "strong", "s")
        depth += token.nesting if styled else 0
        if depth and token.type == "text":
            yield token.content


def check_pages(records):
    """Render the records everywhere, and check that no text of theirs is more than text."""
    rows = group_records(records)
    boards = [
        Board([row for row in rows if row.board == name], None) for name in dict.fromkeys(row.board for row in rows)
    ]
    pages = [index_page([board.rows for board in boards], {}), *(dataset_page(board) for board in boards)]
    web = Page(leaderboard_html(boards, {board.name: "<svg/>" for board in boards}, {})).markup
    for markup in (web, *map(markup_of_markdown, pages)):
        # Names of boards are parts of addresses. Their settings are reduced to letters, digits and _ . + -
        assert not [text for text in markup if "zqx" in text and not re.fullmatch(r"[#%/\w.+-]*", text)]
    for page, board in zip(pages[1:], boards, strict=True):
        cells = rows_of_first_table(page)
        assert len(cells) == len(board.table.rows) + 1 and {len(row) for row in cells} == {len(board.table.headers)}
        assert all(row[-1] in ("seeds", "-") or "](records/" in row[-1] for row in cells)
    lines = list(csv.reader(io.StringIO(leaderboard_csv(boards))))
    assert {len(line) for line in lines} == {len(lines[0])}
    assert not [cell for line in lines for cell in line if cell.startswith(("=", "+", "@", "\t", "\r", "-z"))]
    for record in records:
        console = Console(file=io.StringIO(), width=300)
        console.print(result_table(record))
        assert all(map(is_plain_line, console.file.getvalue().split("\n")))


def rows_of_first_table(page):
    """Return the Markdown of the cells of the first table of a page, by row."""
    tokens = MARKDOWN.parse(page)
    start, end = (
        next(i for i, token in enumerate(tokens) if token.type == name) for name in ("table_open", "table_close")
    )
    rows = []
    for token in tokens[start:end]:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(token.content)
    return rows


def with_text(content, place, text):
    """Return a record with a free text, or a free key of a mapping, replaced by another."""
    content = copy.deepcopy(content)
    parents, last = place.split("/")[:-1], place.split("/")[-1]
    parent = content
    for key in parents:
        parent = parent[key]
    if place in KEYS:
        parent[last][text] = {"images": 1, "identities": 1, "cameras": 1} if last == "splits" else 1
    else:
        parent[last] = [text, text] if last == "junk" else text
    return content


@pytest.mark.parametrize("text", INJECTIONS, ids=ascii)
def test_no_text_becomes_markup(contents, tmp_path, text):
    content = contents[1]
    for place in (*TEXTS, *KEYS):
        content = with_text(content, place, text)
    check_pages([Record.model_validate(contents[0]), read(tmp_path / "record.json", json.dumps(content))])


@pytest.mark.parametrize("text", CONTROLS, ids=ascii)
def test_no_text_has_control_characters(contents, tmp_path, text):
    for place in (*TEXTS, *KEYS):
        assert read(tmp_path / "record.json", json.dumps(with_text(contents[1], place, text))) is None


def test_mutated_values(contents, tmp_path, rounds):
    accepted = 0
    for choose in rounds():
        content = mutate(copy.deepcopy(choose.choice(contents)), choose)
        if choose.random() < 0.7:
            try:
                content = rehash(content)
            except (TypeError, ValueError, AttributeError):  # a recipe with half of a character or too deep a value
                continue
        record = read(tmp_path / "record.json", json.dumps(content))
        if record is not None:
            accepted += 1
            for violation in violations(record):
                assert is_plain_line(str(violation)) and len(str(violation)) < 1500
            check_pages([record, Record.model_validate(contents[0])])
    assert accepted, "every record was refused"


def test_mutated_bytes(contents, tmp_path, rounds):
    for choose in rounds():
        text = bytearray(json.dumps(choose.choice(contents)), "ascii")
        text = text[-choose.randint(1000, 5000) :] if choose.random() < 0.1 else text
        for _ in range(choose.choice([1, 1, 5, 50])):
            start = choose.randrange(len(text))
            stop = start + choose.choice([0, 1, 1, 5, 1000])
            some = choose.choice(
                [bytes([choose.randrange(256)]), b"", b'"', b"{", b"]", b"\\u", b"9" * 30, b"-", b"e9999"]
            )
            text[start:stop] = some * choose.choice([1, 1, 1, 100])
        record = read(tmp_path / "record.json", bytes(text))
        if record is not None:
            check_pages([record])


def test_rebuilt_recipes(contents, rounds):
    """Recipes that are hostile to what builds networks, methods and datasets from them."""
    for choose in rounds():
        content = copy.deepcopy(choose.choice(contents))
        mutate(content["recipe"], choose)
        try:
            record = Record.model_validate(rehash(content))
        except (TypeError, ValueError, AttributeError):
            continue
        for violation in rebuilt_violations(record):
            assert is_plain_line(str(violation)) and len(str(violation)) < 1500


def test_a_store_names_every_mutated_record(contents, tmp_path):
    for number in range(200):
        choose = random.Random(f"store {number}")
        content = mutate(copy.deepcopy(contents[number % len(contents)]), choose)
        (tmp_path / f"{number}.json").write_text(json.dumps(content))
    good = Record.model_validate(contents[0])
    good.write(tmp_path / record_name(good))
    with pytest.raises(UserError) as refusal:
        load_records(tmp_path)
    lines = str(refusal.value).split("\n")
    named = [line.split(": ")[0] for line in lines]
    assert named == [str(path) for path in record_files(tmp_path) if path.name != record_name(good)]
    assert all(map(is_plain_line, lines))
