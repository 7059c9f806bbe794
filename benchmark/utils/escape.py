"""Escapes for text from outside: one function per destination.

Names, labels and messages come from records, recipes, file names and the command line. Each destination gives some
characters a meaning: the terminal obeys control characters, Markdown has markup, and spreadsheets compute cells. Web
pages need no function here, because their jinja2 templates escape every value (see `benchmark.plots.web`).
"""

import re

_UNSAFE = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # control characters: escape sequences, line breaks, backspaces
    "\u2028\u2029"  # line and paragraph separators
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # controls of the writing direction, which reorder what is shown
    "\u00ad\u180e\u200b\u2060-\u2064\ufeff\U000e0000-\U000e007f"  # invisible characters
    "\ud800-\udfff"  # surrogates: bytes of file names that are not UTF-8, and halves of characters
    "]"
)
"""Characters that must not be shown as they are, because they do something else than show themselves."""
_MARKUP = re.compile(
    r"[\\`*\[\]<>&~${}]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # inside of a word, an underscore is plain text
    r"|^[#+=-]|(?<=^\d)[.)]|(?<=^\d\d)[.)]"  # headings, lists and rules
    r"|:(?=//)|(?<=\bwww)\."  # GitHub makes links of bare addresses
)
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
_FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")
"""First characters of the cells that spreadsheets compute."""


def is_plain_line(text: str) -> bool:
    """Return whether a text is one line without control, invisible or reordering characters."""
    return text.isprintable() if text.isascii() else _UNSAFE.search(text) is None


def terminal(text: str) -> str:
    """Return one line in which unsafe characters are visible as escapes, such as `\\x1b`, `\\n` or `\\u202e`."""
    return _UNSAFE.sub(lambda match: _visible(match[0]), text)


def terminal_lines(text: str) -> str:
    """Return a message of several lines, each as `terminal` shows it. Line breaks are the message's own."""
    return "\n".join(map(terminal, text.split("\n")))


def markdown(text: str) -> str:
    """Return one line of Markdown that shows a text literally. In the cell of a table, escape `|` in addition."""
    return _MARKUP.sub(r"\\\g<0>", _one_line(text))


def markdown_code(text: str) -> str:
    """Return a code span of Markdown that shows a text literally. In the cell of a table, escape `|` in addition."""
    line = _one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if len(fence) > 1 else f"`{line}`"


def unescape_markdown(text: str) -> str:
    """Return the text that Markdown without other markup shows: `markdown` undone."""
    return _ESCAPED.sub(r"\1", text)


def csv_cell(text: str) -> str:
    """Return a cell of a CSV file that spreadsheets show as text: a quote precedes what they would compute."""
    line = _one_line(text)
    return f"'{line}" if line.startswith(_FORMULA) else line


def _one_line(text: str) -> str:
    """Return a text with its whitespace reduced to single spaces, and other unsafe characters visible."""
    return terminal(" ".join(text.split()))


def _visible(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python represents a byte of a file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
