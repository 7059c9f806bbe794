"""`benchmark run`."""

from pathlib import Path

from benchmark.data.check import remarks
from benchmark.experiment.experiment import Experiment
from benchmark.experiment.inputs import split_sizes
from benchmark.experiment.run import run_experiment
from benchmark.results.console import result_table
from benchmark.results.record import Record
from benchmark.results.store import record_name
from benchmark.utils.console import Console


def run(experiment: Experiment, leaderboards: Path) -> None:
    """Run an experiment, add its records to the leaderboards, and print the result."""
    record = run_experiment(experiment, leaderboards)
    console = Console()
    console.print(result_table(record))
    page = _page(record, leaderboards)
    console.print(f"run {experiment.folder.path}\npage {page}", highlight=False, soft_wrap=True)


def _page(record: Record, leaderboards: Path) -> Path:
    """Return the page that links to a record: its board's, unless most records there are of other images."""
    pages = [leaderboards / f"{record.board}.md", *sorted(leaderboards.glob(f"{record.board}-data-*.md"))]
    return next((page for page in pages if record_name(record) in page.read_text(encoding="utf-8")), pages[0])


def preview(experiment: Experiment) -> None:
    """Print the recipe, the size of the dataset and the cost of the networks before training."""
    experiment.dataset.prepare()
    recipe, checked = experiment.recipe, experiment.preflight
    lines = [
        f"{split}: {counts.images} images, {counts.identities} identities, {counts.cameras} cameras"
        for split, counts in split_sizes(experiment.dataset).items()
    ]
    lines += remarks(experiment.dataset)
    networks = (("teacher", recipe.teacher.network, checked.teacher), ("student", recipe.student, checked.student))
    for name, network, size in networks:
        lines.append(
            f"{name}: {network.title()}, {size.parameters / 1e6:.2f} M parameters, {size.macs / 1e6:.1f} M MACs = "
            f"{2 * size.macs / 1e6:.1f} M FLOPs"
        )
    Console(highlight=False, soft_wrap=True).print(recipe.yaml(), *lines, sep="\n", markup=False)
