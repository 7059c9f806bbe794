"""Write the table of a study into its page.

    python tools/study.py leaderboards/studies/glyphs2

A study is a folder with `suites/*.yaml`, each of which changes something, `records/` of their runs, and `README.md`.
The table has a row for every suite and budget: what the first line of the suite's file says, the costs, and mean ±
sample standard deviation over the seeds. It replaces what is between the lines `<!-- table -->` and `<!-- end -->`.
"""

import argparse
import re
from pathlib import Path

from tabulate import tabulate

from benchmark.recipe import Recipe
from benchmark.results.format import percent, quantity
from benchmark.results.record import Record
from benchmark.results.rows import group_records
from benchmark.results.store import load_records
from benchmark.suite.grid import Grid

HEADERS = ["run", "epochs", "MACs", "mAP", "mAP of each seed", "minutes of training"]


def table(folder: Path) -> str:
    """Return the table of a study, from its suites and records."""
    records = {record.recipe_hash: record for record in load_records(folder / "records")}
    lines = []
    for path in sorted((folder / "suites").glob("*.yaml")):
        title = path.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ").removesuffix(".")
        recipes: dict[object, list[Recipe]] = {}
        for recipe in Grid.from_file(path).recipes():
            recipes.setdefault(recipe.budget, []).append(recipe)
        for of_budget in recipes.values():
            found = [records[recipe.hash] for recipe in of_budget if recipe.hash in records]
            lines.append(_line(title, found, of_budget[0]))
    return tabulate(lines, HEADERS, tablefmt="github", disable_numparse=True)


def _line(title: str, records: list[Record], recipe: Recipe) -> list[str]:
    """Return the cells of one row: a suite at one budget."""
    budget = "" if recipe.budget is None else f", {100 * recipe.budget:g} % of the MACs"
    name = f"{title}{budget}"
    epochs = str(recipe.train.schedule.epochs)
    if not records:
        return [name, epochs, *("-" for _ in HEADERS[2:])]
    (row,) = group_records(records)
    seeds = ", ".join(f"{100 * record.scores.symmetric.mAP:.1f}" for record in row.records)
    minutes = sum(record.timing.train_seconds for record in records) / len(records) / 60
    return [name, epochs, quantity(row.macs), percent(row.mAP), seeds, f"{minutes:.1f}"]


def update(folder: Path) -> str:
    """Return the page of a study with the present table."""
    page = (folder / "README.md").read_text(encoding="utf-8")
    return re.sub(
        r"(?<=<!-- table -->\n).*?(?=<!-- end -->)", lambda _: f"\n{table(folder)}\n\n", page, flags=re.DOTALL
    )


def main() -> None:
    """Parse the command line, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the study")
    folder = parser.parse_args().folder
    (folder / "README.md").write_text(update(folder), encoding="utf-8")


if __name__ == "__main__":
    main()
