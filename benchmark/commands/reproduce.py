"""`benchmark reproduce`."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from benchmark.engine.train import uses_bfloat16
from benchmark.errors import UserError
from benchmark.experiment.environment import environment, use_threads
from benchmark.experiment.experiment import Experiment
from benchmark.experiment.preflight import checked_experiment
from benchmark.recipe import Recipe, replay
from benchmark.results.console import reproduction_table
from benchmark.results.record import Record
from benchmark.results.reproduction import Reproduction, Verdict
from benchmark.results.rows import summarise
from benchmark.results.store import load_records, record_name


def reproduce(path: Path, work_dir: Path, data_root: Path, device: str, resume: bool) -> bool:
    """Run the recipe of a record again, and print both results; whether they agree as well as can be expected.

    Raises:
        UserError: The file is no record, its recipe cannot be run here, or the work folder holds its very run.
    """
    try:
        record = Record.read(path)
    except UserError as error:
        raise UserError(
            f"{error}\nGive a record as `benchmark run` wrote it, such as a file of leaderboards/records"
        ) from error
    recipe = _recipe(record, path)
    others = _other_seeds(record, path)
    experiment = checked_experiment(recipe, work_dir, data_root, device, resume)
    experiment.dataset.prepare()
    told = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    for difference in _differences(record, experiment):
        told.print(f"warning: {difference}")
    threads = record.environment.threads
    told.print(f"runs with {threads} thread{'' if threads == 1 else 's'}, as the record did: the bits depend on it")
    found = experiment.run_teacher() if record.role == "teacher" else experiment.run()
    if found.created == record.created:
        raise UserError(f"{work_dir} holds the very run that {path} is of: give another --work-dir to do it again")
    reproduction = Reproduction(record, found, others)
    console = Console(highlight=False, soft_wrap=True)
    console.print(reproduction_table(reproduction))
    console.print(f"{reproduction.verdict}\n{reproduction.explain()}", markup=False)
    return reproduction.verdict is not Verdict.DIFFERS


def _recipe(record: Record, path: Path) -> Recipe:
    """The recipe of the record, with as many threads as it was run with.

    That of a teacher becomes the recipe of a student of this teacher.

    Raises:
        UserError: What is installed here cannot run it.
    """
    made = "the release that made it" if record.commit is None else f"commit {record.commit}, which made it"
    remedy = f"Use {made}, and give the --plugin it was made with, if any"
    try:
        recipe = replay(record.recipe, f"the recipe of {path}")
    except UserError as error:
        raise UserError(f"{path}: this release cannot run its recipe: {error}\n{remedy}") from error
    if recipe.hash != record.recipe_hash:
        raise UserError(
            f"{path}: its recipe is not that of its recipe_hash: the file was edited, or its method or dataset has "
            f"options that it had not then\n{remedy}"
        )
    elsewhere = {"cache": None, "tensorboard": False}  # a folder, and a package, of another machine
    runtime = recipe.runtime.model_copy(update={"threads": record.environment.threads, **elsewhere})
    teacher = recipe.teacher
    if record.role == "teacher":
        teacher = teacher.model_copy(update={"train": recipe.train, "seed": recipe.seed})
    return recipe.model_copy(update={"runtime": runtime, "teacher": teacher})


def _other_seeds(record: Record, path: Path) -> tuple[Record, ...]:
    """The records beside this one that differ from it in nothing but the seed; none outside a leaderboard's folder."""
    if path.name != record_name(record):
        return ()
    row = next(row for row in summarise(load_records(path.parent)) if record in row.records)
    return tuple(other for other in row.records if other.seed != record.seed)


def _differences(record: Record, experiment: Experiment) -> Iterator[str]:
    """By what the machine, the software and the data here differ from those of the record."""
    use_threads(experiment.recipe.runtime.threads)
    here = environment(experiment.device, uses_bfloat16(experiment.recipe, experiment.device))
    for name, then in record.environment:
        if then != (now := getattr(here, name)):
            yield f"{name}: {then} then, {now} now"
    if record.commit != experiment.commit:
        yield f"commit of the suite: {record.commit} then, {experiment.commit} now"
    before, after = record.data.versions, experiment.dataset.versions()
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield f"{name}, by which images are made: {before.get(name)} then, {after.get(name)} now"
    for change in experiment.changes(record.data):
        yield f"data: {change}"
