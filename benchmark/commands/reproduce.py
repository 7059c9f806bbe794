"""`benchmark reproduce`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.experiment.environment import choose_device, environment, use_threads
from benchmark.experiment.experiment import Experiment
from benchmark.experiment.inputs import data_changes, describe_data
from benchmark.recipe import Recipe, replay
from benchmark.recipe.compose import parse_setting
from benchmark.results.console import reproduction_table
from benchmark.results.record import Record
from benchmark.results.reproduction import Reproduction, Verdict
from benchmark.results.rows import group_records
from benchmark.results.store import load_records, record_name
from benchmark.utils.console import Console
from benchmark.utils.mappings import merge
from benchmark.utils.precision import autocast_dtype


def reproduce(
    path: Path, settings: Sequence[str], *, work_dir: Path, data_root: Path, device: str, resume: bool
) -> bool:
    """Run the recipe of a record again, and print both results and the verdict.

    Args:
        path: The record.
        settings: Changes of the recipe that cannot change the result, each `key=value`, such as `dataset.path`.
        work_dir: Folder for the new runs.
        data_root: Folder of the datasets.
        device: See `choose_device`.
        resume: Whether to continue an unfinished run.

    Returns:
        Whether the results are bit-identical, or differ by no more than the spread of the seeds.

    Raises:
        UserError: The file is not a record, its recipe cannot be run here, or `work_dir` has the run of the record.
    """
    try:
        record = Record.read(path)
    except UserError as error:
        raise UserError(
            f"{error}\nGive a record that `benchmark run` wrote, such as a file in leaderboards/records"
        ) from error
    recipe = _recipe(record, path, settings)
    other_seeds = _other_seeds(record, path)
    experiment = Experiment(recipe, work_dir=work_dir, data_root=data_root, device=choose_device(device), resume=resume)
    experiment.dataset.prepare()
    log = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    for difference in _differences(record, experiment):
        log.print(f"warning: {difference}")
    threads = record.environment.threads
    log.print(f"using {threads} thread{'' if threads == 1 else 's'}, as in the record, for a bit-identical result")
    rerun = experiment.run_teacher() if record.role == "teacher" else experiment.run()
    if rerun.created == record.created:
        raise UserError(f"{work_dir} holds the run that made {path}; give another --work-dir to run it again")
    reproduction = Reproduction(record, rerun, other_seeds)
    console = Console(highlight=False, soft_wrap=True)
    console.print(reproduction_table(reproduction))
    console.print(f"{reproduction.verdict}\n{reproduction.explain()}", markup=False)
    return reproduction.verdict is not Verdict.DIFFERS


def _recipe(record: Record, path: Path, settings: Sequence[str]) -> Recipe:
    """Return the recipe of the record, with the number of threads of its run, and the settings of this machine.

    For the record of a teacher, the section `teacher` of the returned recipe trains that teacher.

    Raises:
        UserError: This release cannot run the recipe.
    """
    version = "the release that made it" if record.commit is None else f"commit {record.commit}, which made it"
    remedy = f"Use {version}, and give the --plugin it was made with, if any"
    try:
        recipe = replay(record.recipe, f"the recipe of {path}")
    except UserError as error:
        raise UserError(f"{path}: this release cannot run the recipe: {error}\n{remedy}") from error
    if recipe.hash != record.recipe_hash:
        raise UserError(
            f"{path}: the recipe does not match its recipe_hash: the file was edited, or its method or dataset has "
            f"gained options since\n{remedy}"
        )
    content: dict[str, Any] = dict(record.recipe)
    for setting in settings:
        content = merge(content, parse_setting(setting))
        if (recipe := replay(content, "the recipe with --set")).hash != record.recipe_hash:
            raise UserError(
                f"--set {setting}: changes the result, and so does not reproduce {path}; only settings such as "
                "dataset.path and runtime.workers are possible"
            )
    portable = {"cache": None, "tensorboard": False}  # this machine may lack the cache folder or the package
    runtime = recipe.runtime.model_copy(update={"threads": record.environment.threads, **portable})
    teacher = recipe.teacher
    if record.role == "teacher":
        teacher = teacher.model_copy(update={"train": recipe.train, "seed": recipe.seed})
    return recipe.model_copy(update={"runtime": runtime, "teacher": teacher})


def _other_seeds(record: Record, path: Path) -> tuple[Record, ...]:
    """Return the records next to `path` that differ only in the seed; none unless it is in a leaderboard's folder."""
    if path.name != record_name(record):
        return ()
    row = next(row for row in group_records(load_records(path.parent)) if record in row.records)
    return tuple(other for other in row.records if other.seed != record.seed)


def _differences(record: Record, experiment: Experiment) -> Iterator[str]:
    """Yield each difference in machine, software and data between the record and this process."""
    use_threads(experiment.recipe.runtime.threads)  # `environment` reads the current number
    current = environment(experiment.device, autocast_dtype(experiment.recipe.runtime.amp, experiment.device))
    for name, before in record.environment:
        if before != (now := getattr(current, name)):
            yield f"{name}: {before} in the record, {now} here"
    if record.commit != experiment.commit:
        yield f"commit of the suite: {record.commit} in the record, {experiment.commit} here"
    versions, installed = record.data.versions, experiment.dataset.versions()
    for name in sorted(versions.keys() | installed.keys()):
        if versions.get(name) != installed.get(name):
            yield f"{name}, which renders the images: {versions.get(name)} in the record, {installed.get(name)} here"
    for change in data_changes(record.data, describe_data(experiment.test), experiment.dataset):
        yield f"data: {change}"
