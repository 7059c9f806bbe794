"""`benchmark tune`."""

from collections.abc import Mapping
from pathlib import Path

import torch

from benchmark.commands.suite import finished_jobs
from benchmark.errors import UserError
from benchmark.evaluation import TestSet
from benchmark.recipe.settings import Tuned, TunedSettings, Tuning
from benchmark.results.record import Record
from benchmark.suite.executors import Processes
from benchmark.suite.job import Job, RunOptions
from benchmark.suite.scheduler import run_all
from benchmark.suite.tuning import Arguments, TuningGrid
from benchmark.utils.console import Console
from benchmark.utils.locks import locked
from benchmark.utils.machine import cores
from benchmark.utils.writable import require_output

_REFUSED = "exit status 2: "
"""Beginning of the failure of a run that ended with a UserError."""


def tune(grid: TuningGrid, options: RunOptions, *, jobs: int, output: Path) -> bool:
    """Run the trials of all methods, and write the best arguments of each to a file.

    Every round has one trial of each method. Finished trials are found by their records, so that an interrupted tuning
    continues where it was.

    Args:
        grid: The methods to tune.
        options: Options of all runs.
        jobs: Maximum number of runs at the same time.
        output: The file. Methods of the same tuning that it has already are kept.

    Returns:
        Whether every method has a trial that succeeded.

    Raises:
        UserError: A recipe is invalid, or the file is of another tuning.
    """
    require_output(output)
    console = Console(highlight=False, soft_wrap=True)
    studies = {method: grid.study(method) for method in grid.methods}
    tuning = _prepared(grid, options)
    _earlier(tuning, output)
    folder = options.work_dir / "suite"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", f"executes a suite in {options.work_dir}"):
        for number in range(grid.trials):
            proposed = {method: study.ask() for method, study in studies.items()}
            console.print(f"trial {number + 1} of {grid.trials}")
            records = _run(grid, proposed, options, jobs, console)
            for method, study in studies.items():
                record = records.get(method)
                study.tell(None if record is None else record.scores.symmetric.mAP)
    tuned = {method: study.result() for method, study in studies.items() if study.best is not None}
    if tuned:
        output.parent.mkdir(parents=True, exist_ok=True)
        with locked(output.with_name(f".{output.name}.lock"), f"writes {output}"):
            methods = dict(sorted((_earlier(tuning, output) | tuned).items()))
            TunedSettings(tuning=tuning, methods=methods).write(output)
    for method in studies:
        console.print(f"{method}: {_summary(tuned.get(method))}")
    if tuned:
        console.print(f"settings {output}")
    return len(tuned) == len(studies)


def _prepared(grid: TuningGrid, options: RunOptions) -> Tuning:
    """Prepare the images, and return what all trials have in common.

    Raises:
        UserError: The images are missing, or there are no validation images.
    """
    recipe = grid.recipe(grid.methods[0], grid.changes({}))
    dataset = TestSet.from_recipe(recipe, options.data_root, torch.device("cpu")).dataset
    dataset.prepare()
    if not dataset.held_out:
        raise UserError(
            "tune: there are no validation images: add --set dataset.validation_fraction=0.2 to hold out a fifth of "
            "the training identities"
        )
    return grid.describe(dataset.fingerprint())


def _earlier(tuning: Tuning, output: Path) -> dict[str, Tuned]:
    """Return the methods that the file has already.

    Raises:
        UserError: The file is of another tuning.
    """
    if not output.exists():
        return {}
    earlier = TunedSettings.read(output)
    for name in Tuning.model_fields:
        before, now = getattr(earlier.tuning, name), getattr(tuning, name)
        if before != now:
            raise UserError(
                f"--output {output}: the file is of a tuning with {name} {before}, but this one has {now}; name "
                "another file"
            )
    return dict(earlier.methods)


def _run(
    grid: TuningGrid, proposed: Mapping[str, Arguments], options: RunOptions, jobs: int, console: Console
) -> dict[str, Record]:
    """Run one trial of each method that is not finished, and return the records of those that succeeded.

    A trial fails if its training refuses to go on, such as because its loss is not finite.

    Raises:
        UserError: A trial ended in another way, or has a record of other images.
    """
    threads = max(1, cores() // jobs) if jobs > 1 else None
    trials: dict[Job, str] = {}
    for method, arguments in proposed.items():
        changes = grid.changes(arguments)
        recipe = grid.recipe(method, changes)
        trials[Job.of(recipe, options, config=grid.config, settings=changes, threads=threads)] = method
    finished = finished_jobs(list(trials), {}, options)
    pending = [job for job in trials if job not in finished]
    outcomes = run_all(pending, Processes(jobs), console) if pending else []
    for outcome in outcomes:
        if outcome.record is not None:
            finished[outcome.job] = outcome.record
        elif not (outcome.failure or "").startswith(_REFUSED):
            raise UserError(
                f"tune: {outcome.job.name} ended early: {outcome.failure}. Repeat the command to continue; its log is "
                f"{outcome.job.log}"
            )
    return {trials[job]: record for job, record in finished.items()}


def _summary(result: Tuned | None) -> str:
    if result is None:
        return "all trials failed"
    arguments = ", ".join(f"{name} {value}" for name, value in result.arguments.items())
    default = "failed" if result.default_mAP is None else f"{100 * result.default_mAP:.1f} %"
    return f"validation mAP {100 * result.validation_mAP:.1f} % with {arguments}; with the defaults {default}"
