"""`benchmark run`."""

from pathlib import Path

from rich.console import Console

from benchmark.experiment.preflight import checked_experiment
from benchmark.experiment.run import run_experiment
from benchmark.recipe import Recipe
from benchmark.results.console import result_table


def execute(recipe: Recipe, work_dir: Path, data_root: Path, device: str, leaderboards: Path, resume: bool) -> None:
    """Run the recipe, add its record (and its teacher's) to the leaderboards, and print the result."""
    experiment = checked_experiment(recipe, work_dir, data_root, device, resume)
    record = run_experiment(experiment, leaderboards)
    console = Console()
    console.print(result_table(record))
    page = leaderboards / f"{record.board}.md"
    console.print(f"run {experiment.folder}\npage {page}", highlight=False, soft_wrap=True)


def preview(recipe: Recipe, work_dir: Path, data_root: Path, device: str) -> None:
    """Print the recipe, the cost of the networks and the counts of the dataset."""
    experiment = checked_experiment(recipe, work_dir, data_root, device, resume=False)
    lines = experiment.preview()
    Console(highlight=False, soft_wrap=True).print(recipe.yaml(), *lines, sep="\n", markup=False)
