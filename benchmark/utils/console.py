"""Output on the terminal: results on stdout, messages and progress bars on stderr.

Text from outside cannot control the terminal: see `benchmark.utils.escape.terminal`.
"""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.progress import track
from rich.segment import Segment

from benchmark.utils.escape import terminal_lines

Item = TypeVar("Item")


class Console(rich.console.Console):
    """A rich console that makes control characters in texts visible. Styles and progress bars work as in rich."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render an object to segments, with the text of every segment escaped."""
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
    yield from track(items, description, total=total, console=console, transient=True, disable=not console.is_terminal)
