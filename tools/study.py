"""Write the table of a study into its page.

    python tools/study.py leaderboards/studies/glyphs2.md

A study is a page and a folder of the same name with `suites/*.yaml`, each of which changes something, and `records/` of
their runs. The table has a row for every title and budget: the first line of a suite's file, which several suites may
share, the costs, and mean ± sample standard deviation over the seeds. It replaces what is between the lines
`<!-- table -->` and `<!-- end -->` of the page.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from benchmark.recipe import Recipe
from benchmark.results.format import percent, quantity
from benchmark.results.record import Record
from benchmark.results.rows import Statistic
from benchmark.results.store import load_records
from benchmark.suite.grid import Grid
from benchmark.utils.atomic import write_text

HEADERS = ["run", "epochs", "MACs", "mAP", "mAP of each seed", "minutes of training"]


def table(folder: Path) -> str:
    """Return the table of a study, from its suites and records."""
    records = {record.recipe_hash: record for record in load_records(folder / "records")}
    suites: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("suites/*")):
        suites.setdefault(path.read_text(encoding="utf-8").split("\n", 1)[0].strip("# ."), []).append(path)
    lines = []
    for title, paths in sorted(suites.items()):
        recipes: dict[object, list[Recipe]] = {}
        for recipe in (recipe for path in paths for recipe in Grid.from_file(path).recipes()):
            recipes.setdefault(recipe.budget, []).append(recipe)
        for of_budget in recipes.values():
            found = [records[recipe.hash] for recipe in of_budget if recipe.hash in records]
            lines.append(_line(title, sorted(found, key=lambda record: record.seed), of_budget[0]))
    return tabulate(lines, HEADERS, tablefmt="github", disable_numparse=True)


def _line(title: str, records: Sequence[Record], recipe: Recipe) -> list[str]:
    """Return the cells of one row: suites of one title at one budget."""
    budget = "" if recipe.budget is None else f", {100 * recipe.budget:g} % of the MACs"
    name = f"{title}{budget}"
    epochs = str(recipe.train.schedule.epochs)
    if not records:
        return [name, epochs, *("-" for _ in HEADERS[2:])]
    scores = [record.scores.symmetric.mAP for record in records]
    macs = Statistic.of([record.network.cost.macs for record in records])
    minutes = sum(record.timing.train_seconds for record in records) / len(records) / 60
    seeds = ", ".join(f"{100 * score:.1f}" for score in scores)
    return [name, epochs, quantity(macs), percent(Statistic.of(scores)), seeds, f"{minutes:.1f}"]


def update(page: Path) -> str:
    """Return the text of a page with the table of its present records."""
    text = page.read_text(encoding="utf-8")
    new = f"\n{table(page.with_suffix(''))}\n\n"
    return re.sub(r"(?<=<!-- table -->\n).*?(?=<!-- end -->)", lambda _: new, text, flags=re.DOTALL)


def main() -> None:
    """Parse the command line, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="page of the study")
    page = parser.parse_args().page
    write_text(page, update(page))


if __name__ == "__main__":
    main()
