"""Output on the terminal: results on stdout, messages and progress bars on stderr.

Text from outside cannot control the terminal: see `benchmark.utils.escape.terminal`.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.progress import track
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from benchmark.utils.escape import terminal_lines

Item = TypeVar("Item")
_WIDEST = 10_000
"""Upper bound on the width of a table."""


_silent = False
"""Whether this process prints errors only; see `only_errors`."""


@contextmanager
def only_errors(enabled: bool) -> Iterator[None]:
    """Let consoles print nothing if `enabled`: of several processes that share a command, one prints."""
    global _silent
    before, _silent = _silent, enabled
    try:
        yield
    finally:
        _silent = before


class Console(rich.console.Console):
    """A rich console that shows texts literally: control characters are visible, and there is no markup in strings.

    Tables have the width that they need. A narrow terminal wraps their lines, because shortened numbers are wrong.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "quiet": _silent, **options})
        if self.width < 1:  # COLUMNS=0, for which nothing would be printed
            self.width = 80

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string, which is escaped first, so that it has its final width."""
        return super().render_str(terminal_lines(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render an object to segments, with the text of every segment escaped: some objects hold texts of rich."""
        if isinstance(renderable, Table) and not renderable.expand:  # progress bars expand to the terminal
            options = (options or self.options).update(max_width=_WIDEST)
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=terminal_lines(segment.text))


def echo(text: object) -> None:
    """Print a result to stdout."""
    print(terminal_lines(str(text)))


def complain(text: object) -> None:
    """Print the message of an error to stderr."""
    print(f"benchmark: {terminal_lines(str(text))}", file=sys.stderr)


def notify(text: str) -> None:
    """Print a line to stderr, without markup and without wrapping it."""
    Console(stderr=True).print(text, highlight=False, soft_wrap=True, markup=False)


def progress(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield `items` and show a progress bar on stderr if it is a terminal.

    Args:
        items: The items.
        description: Text next to the bar.
        total: Number of items; needed if `items` has no length.
    """
    console = Console(stderr=True)
    yield from track(
        items, description, total=total, console=console, transient=True, disable=_silent or not console.is_terminal
    )
