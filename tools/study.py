"""Write the table of a study into its page.

    python tools/study.py leaderboards/studies/glyphs2.md

A study is a page and a folder of the same name with `suites/*.yaml`, each of which changes something, and `records/`
of their runs. The table has a row for every title and budget: the first line of a suite's file, which several suites
may share, the costs, and mean ± sample standard deviation over the seeds. If the sizes of embeddings differ, a column
states them. If there are suites `reference*.yaml`, a column states the differences from the one of the same method, or
else from the first one, with 95 % confidence intervals, and ≈ marks those that are not significant. If a run has stored
outputs of the teacher, columns state the forward passes of the teacher and the MACs of the training. The table replaces
what is between the lines `<!-- table -->` and `<!-- end -->` of the page.
"""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from benchmark.recipe import Recipe
from benchmark.results.comparison import gains
from benchmark.results.format import difference, percent, quantity
from benchmark.results.inference import SeedSpread
from benchmark.results.record import Record
from benchmark.results.rows import BASELINE, Row
from benchmark.results.store import load_records
from benchmark.suite.grid import Grid
from benchmark.utils.atomic import write_text

HEADERS = ["run", "epochs", "MACs", "mAP", "mAP of each seed", "minutes of training"]
REFERENCE = "reference*.yaml"
"""The suites, each of one row, with which the other rows are compared."""
STORED_HEADERS = ["forward passes of the teacher", "training MACs of the first run", "of each further run"]


@dataclass(frozen=True)
class Entry:
    """The runs of all suites of one title at one budget; `row` is None if none has been run."""

    title: str
    recipe: Recipe
    row: Row | None
    is_reference: bool


def entries(folder: Path) -> list[Entry]:
    """Return the rows of a study's table."""
    records = {record.recipe_hash: record for record in load_records(folder / "records")}
    suites: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("suites/*")):
        suites.setdefault(path.read_text(encoding="utf-8").split("\n", 1)[0].strip("# ."), []).append(path)
    found = []
    for title, paths in sorted(suites.items(), key=lambda item: _natural(item[0])):
        recipes: dict[object, list[Recipe]] = {}
        for recipe in (recipe for path in paths for recipe in Grid.from_file(path).recipes()):
            recipes.setdefault(recipe.budget, []).append(recipe)
        for of_budget in recipes.values():
            first = of_budget[0]
            done = sorted((records[recipe.hash] for recipe in of_budget if recipe.hash in records), key=_seed)
            row = Row(folder.name, first.method.name, None, tuple(done)) if done else None
            found.append(Entry(title, first, row, paths[0].match(REFERENCE)))
    return found


def table(folder: Path) -> str:
    """Return the table of a study, from its suites and records."""
    found = entries(folder)
    rows = [entry.row for entry in found if entry.row]
    references = {entry.recipe.method.name: entry.row for entry in found if entry.is_reference}
    first = next(iter(references.values()), None)
    compared_with = ((row, references.get(row.method, first)) for row in rows)
    pairs = [(row, reference) for row, reference in compared_with if reference]  # which may not have been run yet
    compared = gains(pairs, SeedSpread(rows))
    of = dict(pairs)
    headers = [*HEADERS[:4], "against the reference", *HEADERS[4:]] if references else HEADERS
    # Older records do not state the bytes.
    sized = len({row.records[0].bytes_per_image for row in rows} - {None}) > 1
    headers = [*headers, "bytes per image"] if sized else headers
    stored = any(entry.recipe.teacher.cached_views for entry in found)
    headers = [*headers, *STORED_HEADERS] if stored else headers
    lines = []
    for entry in found:
        budget = "" if entry.recipe.budget is None else f", {100 * entry.recipe.budget:g} % of the MACs"
        cells = [f"{entry.title}{budget}", str(entry.recipe.train.schedule.epochs)]
        if (row := entry.row) is None:
            lines.append([*cells, *("-" for _ in headers[2:])])
            continue
        seeds = ", ".join(f"{100 * record.scores.symmetric.mAP:.1f}" for record in row.records)
        minutes = sum(record.timing.train_seconds for record in row.records) / len(row.records) / 60
        against = [difference(compared.get((row, of[row])) if row in of else None)] if references else []
        size = [str(row.records[0].bytes_per_image)] if sized else []
        passes = _passes(entry.recipe, row) if stored else []
        lines.append([*cells, quantity(row.macs), percent(row.mAP), *against, seeds, f"{minutes:.1f}", *size, *passes])
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def _seed(record: Record) -> int:
    return record.seed


def _natural(title: str) -> list[tuple[str, int]]:
    """Return a key for sorting titles, with numbers in numerical order."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D+|^)(\d*)", title)]


def _passes(recipe: Recipe, row: Row) -> list[str]:
    """Return the cells of `STORED_HEADERS`; MACs are fractions of those of a training whose teacher computes."""
    record, sampler = row.records[0], recipe.train.sampler
    images, teacher = record.data.splits["train"].images, record.teacher
    assert teacher is not None, "the record of a student"
    steps = max(1, images // (sampler.identities * sampler.images))
    trained = recipe.train.schedule.epochs * steps * sampler.batch_size
    student = 3 * record.network.cost.macs * trained
    passes = 0 if row.method == BASELINE else trained
    whole = student + teacher.cost.macs * passes
    if (outputs := record.teacher_outputs) is None:
        return [f"{passes:,} in each run", "100 %", "100 %"]
    first = student + teacher.cost.macs * outputs.forward_passes
    text = f"{outputs.forward_passes:,} once, in {outputs.seconds / 60:.1f} minutes"
    return [text, f"{100 * first / whole:.0f} %", f"{100 * student / whole:.0f} %"]


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
