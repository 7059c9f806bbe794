"""Text from outside shows itself, whatever it is written into."""

import csv
import io

import pytest
from markdown_it import MarkdownIt

from benchmark.results.html import inline_spans
from benchmark.utils import escape

HOSTILE = [
    "<script>alert(1)</script>",
    "[x](javascript:alert(1)) ![y](z) [^1]",
    "**bold** *it* _it_ __it__ ~~no~~ `code` ``more``",
    "# heading",
    "- item",
    "1. item",
    "12) item",
    "=HYPERLINK(0)",
    "a|b\\|c\\\\|d",
    "&lt; &amp; &#60;",
    "$x$ {: onclick=x } {{ x }}",
    "https://example.org www.example.org",
    "trailing \\",
    "snake_case _private_ __init__",
    "Intel(R) Xeon(R) Processor, 1 thread",
]
parse = MarkdownIt("gfm-like", {"linkify": False}).parse


def shown(markdown):
    """The text that a page shows; fails if there is any markup in it."""
    blocks = parse(markdown)
    assert {token.type for token in blocks} <= {"paragraph_open", "inline", "paragraph_close"}, markdown
    children = [child for token in blocks for child in token.children or ()]
    assert {child.type for child in children} <= {"text", "text_special"}, markdown
    return "".join(child.content for child in children)


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_the_text(text):
    assert shown(escape.markdown(text)) == text
    assert escape.unescape_markdown(escape.markdown(text)) == text
    assert [(span.kind, span.text) for span in inline_spans(escape.markdown(text))] == [("text", text)]


@pytest.mark.parametrize("text", HOSTILE)
def test_cells_of_tables_show_the_text(text):
    escaped = (escape.markdown(text), escape.markdown_code(text))
    table = "| a | b |\n|---|---|\n| " + " | ".join(each.replace("|", r"\|") for each in escaped) + " |\n"
    cells = [token for token in parse(table) if token.type == "inline"][2:]
    assert ["".join(child.content for child in cell.children) for cell in cells] == [text, text]
    assert [child.type for child in cells[1].children] == ["code_inline"]


@pytest.mark.parametrize("text", ["plain", "`x`", "a``b`", "<b>", "**no**", "\\"])
def test_code_shows_the_text_in_markdown_and_on_web_pages(text):
    ((code,),) = (list(token.children) for token in parse(escape.markdown_code(text)) if token.children)
    assert (code.type, code.content) == ("code_inline", text)
    assert [(span.kind, span.text) for span in inline_spans(escape.markdown_code(text))][1] == ("code", text)


@pytest.mark.parametrize(
    "name", ["kd", "resnet26 16-32-64-128 w128, compressed", "relaxed_contrastive", "a (b), R@1: 3.5"]
)
def test_markdown_leaves_plain_names_alone(name):
    assert escape.markdown(name) == name


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\u202eabc\u2066", r"\u202eabc\u2066"),
        ("\udcff.jpg", r"\xff.jpg"),
        ("\ud800", r"\ud800"),
        ("\x9b31m", r"\x9b31m"),
        ("Jos\u00e9 \u4e2d\u6587 \u0645\u06cc\u200c\u062e", "Jos\u00e9 \u4e2d\u6587 \u0645\u06cc\u200c\u062e"),
    ],
)
def test_terminal_shows_control_characters(text, line):
    assert escape.terminal(text) == line
    assert escape.is_plain_line(text) == (text == line)
    assert escape.is_plain_line(line)


def test_messages_keep_their_line_breaks():
    assert escape.terminal_lines("one\x1b\ntwo") == "one\\x1b\ntwo"


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t=", "\r=", " =", "\uff1d"])
def test_spreadsheets_compute_no_cell(first):
    text = io.StringIO()
    csv.writer(text).writerow([escape.csv_cell(f"{first}1+1"), escape.csv_cell("resnet26 -1")])
    ((cell, plain),) = csv.reader(io.StringIO(text.getvalue()))
    assert cell.startswith("'") and plain == "resnet26 -1"
