"""`benchmark compare`."""

from collections.abc import Sequence
from pathlib import Path

from benchmark.comparison import (
    SUFFIXES,
    QueryGains,
    open_runs,
    plot_comparison,
    recipe_table,
    results_table,
    unpaired_reason,
)
from benchmark.errors import UserError
from benchmark.utils.console import Console, echo
from benchmark.utils.writable import require_output


def compare(folders: Sequence[Path], output: Path) -> None:
    """Print the results of finished runs and the differences between their recipes, and write a plot.

    Args:
        folders: Folders of two or more finished runs. The first is the reference.
        output: Path of the plot, an .svg or .png.

    Raises:
        UserError: There are fewer than two different runs, one is not finished, or `output` has another suffix.
    """
    if output.suffix.lower() not in SUFFIXES:
        raise UserError(f"--output {output}: the name of the plot must end in {' or '.join(SUFFIXES)}")
    require_output(output)
    runs = open_runs(folders)
    reference, *others = runs
    gains: dict[str, QueryGains] = {}
    for name in others:
        if (gain := QueryGains.between(runs[name], runs[reference])) is not None:
            gains[name] = gain
    plot_comparison(runs, gains, output)
    console = Console(highlight=False, soft_wrap=True)
    console.print(results_table(runs, gains))
    for name in others:
        if name not in gains:
            echo(f"no per-query comparison of {name} with {reference}: {unpaired_reason(name, runs)}")
    recipes = recipe_table(runs)
    console.print(recipes if recipes.row_count else "the recipes are identical")
    echo(output)
