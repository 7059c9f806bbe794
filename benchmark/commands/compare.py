"""`benchmark compare`."""

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

from benchmark.comparison import SUFFIXES, QueryGains, draw, figures_table, open_runs, recipe_table, why_unpaired
from benchmark.errors import UserError


def compare(folders: Sequence[Path], output: Path) -> None:
    """Print the figures of finished runs side by side and what differs between their recipes, and draw a picture.

    Raises:
        UserError: They are fewer than two different runs, one is not finished, or the picture cannot be written there.
    """
    if output.suffix.lower() not in SUFFIXES:
        raise UserError(f"--output {output}: the picture's name ends in {' or '.join(SUFFIXES)}")
    runs = open_runs(folders)
    first, *others = runs
    found = {name: QueryGains.of(runs[name], runs[first]) for name in others}
    gains = {name: each for name, each in found.items() if each is not None}
    draw(runs, gains, output)
    console = Console(highlight=False)
    console.print(figures_table(runs, gains))
    for name in others:
        if name not in gains:
            typer.echo(f"{name} is not compared with {first} query by query: {why_unpaired(name, runs)}")
    recipes = recipe_table(runs)
    console.print(recipes if recipes.row_count else "the recipes are the same")
    typer.echo(output)
