"""`benchmark run`."""

import json
from pathlib import Path

from rich.console import Console

from benchmark.atomic import write_text
from benchmark.environment import choose_device
from benchmark.experiment import Experiment
from benchmark.recipe import Recipe
from benchmark.results.compression import compression_svg
from benchmark.results.leaderboard import generate
from benchmark.results.record import Record
from benchmark.results.store import add_record
from benchmark.results.table import result_table


def execute(recipe: Recipe, work_dir: Path, data_root: Path, device: str, leaderboards: Path, resume: bool) -> None:
    """Do the run, add its record (and its teacher's) to the leaderboards, and print the result."""
    experiment = Experiment(recipe, work_dir, data_root, choose_device(device), resume)
    record = experiment.run()
    folder = experiment.folder(recipe, recipe.method.name)
    trace = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    if "channels" in trace[0]:
        write_text(folder / "compression.svg", compression_svg(trace))
    add_record(record, leaderboards / "records")
    teacher = experiment.teacher_folder() / "record.json"
    if teacher.exists():
        add_record(Record.read(teacher), leaderboards / "records")
    pages = generate(leaderboards)
    console = Console()
    console.print(result_table(record))
    console.print(f"run {folder}\npage {pages[-1].parent / f'{record.dataset}.md'}", highlight=False, soft_wrap=True)


def preview(recipe: Recipe, work_dir: Path, data_root: Path, device: str) -> None:
    """Print the recipe, the models' cost and the dataset's counts."""
    experiment = Experiment(recipe, work_dir, data_root, choose_device(device), resume=False)
    console = Console(highlight=False, soft_wrap=True)
    console.print(recipe.yaml(), markup=False)
    for line in experiment.preview():
        console.print(line, markup=False)
