"""Messages and progress bars on stderr. Stdout is for the results of commands."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


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
