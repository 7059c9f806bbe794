"""`benchmark run`."""

from contextlib import suppress
from pathlib import Path

from benchmark.errors import UserError
from benchmark.experiment.experiment import Experiment
from benchmark.experiment.inputs import split_sizes
from benchmark.experiment.run import publish, require_leaderboards
from benchmark.method import Ceilings
from benchmark.recipe import pair_names
from benchmark.results.console import authors_table, conclusion, result_table
from benchmark.results.record import Record
from benchmark.results.rows import group_records
from benchmark.results.store import load_records, record_name
from benchmark.utils.console import Console
from benchmark.utils.distributed import on_main


def run(experiment: Experiment, leaderboards: Path) -> None:
    """Run an experiment, print the result, and add its records to the leaderboards."""
    on_main(lambda: require_leaderboards(experiment, leaderboards))
    record = experiment.run()
    on_main(lambda: _conclude(experiment, record, leaderboards))


def _conclude(experiment: Experiment, record: Record, leaderboards: Path) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(result_table(record))
    with suppress(UserError):  # adding the record to the leaderboards reports it
        others = [other for other in load_records(leaderboards / "records") if other.id != record.id]
        console.print(conclusion(record, group_records([*others, record])))
    # That of the recipe: the run may have been finished before without a pair.
    if (paired := experiment.recipe.pair) is not None and paired.name in pair_names():
        console.print(authors_table(record, paired))
    console.print(f"run {experiment.folder.path}")
    publish(experiment, record, leaderboards)
    console.print(f"page {_page(record, leaderboards)}")


def _page(record: Record, leaderboards: Path) -> Path:
    """Return the page that links to a record: its board's, or one of the same board for other images or teachers."""
    pages = [leaderboards / f"{record.board}.md", *sorted(leaderboards.glob(f"{record.board}-*.md"))]
    readable = (page for page in pages if page.is_file())
    return next((page for page in readable if record_name(record) in page.read_text(encoding="utf-8")), pages[0])


def preview(experiment: Experiment, leaderboards: Path) -> None:
    """Print the recipe, the size of the dataset and the cost of the networks, after the checks that a run makes."""
    require_leaderboards(experiment, leaderboards)
    experiment.rehearse()
    experiment.dataset.prepare()
    recipe, checked = experiment.recipe, experiment.preflight
    lines = [
        f"{split}: {counts.images} images, {counts.identities} identities, {counts.cameras} cameras"
        for split, counts in split_sizes(experiment.dataset).items()
    ]
    teachers = [("teacher", each.network, size) for each, size in zip(recipe.teachers, checked.teachers, strict=True)]
    for name, network, size in (*teachers, ("student", recipe.student, checked.student)):
        lines.append(
            f"{name}: {network.title()}, {size.parameters / 1e6:.2f} M parameters, {size.macs / 1e6:.1f} M MACs = "
            f"{2 * size.macs / 1e6:.1f} M FLOPs"
        )
    if (ceilings := checked.ceilings) is not None:
        lines.append(f"{recipe.method.name}: {_ceilings(ceilings)}")
    Console(highlight=False, soft_wrap=True).print(recipe.yaml(), *lines, sep="\n", markup=False)


def _ceilings(ceilings: Ceilings) -> str:
    """Return what compression can remove from the student at most, in words."""
    parameters, macs = ceilings.saved(ceilings.architecture)
    text = f"can remove at most {parameters:.1%} of the student's parameters and {macs:.1%} of its MACs"
    if ceilings.reset is None:
        return text
    parameters, macs = ceilings.saved(ceilings.reset)
    return f"{text}, of which gradient resetting alone {parameters:.1%} and {macs:.1%}"
