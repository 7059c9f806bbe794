"""`benchmark tune`."""

from collections.abc import Mapping
from pathlib import Path

from benchmark.errors import UserError
from benchmark.recipe.settings import Tuned, TunedSettings, Tuning
from benchmark.results.record import Record
from benchmark.suite.executors import Processes
from benchmark.suite.job import Job, RunOptions
from benchmark.suite.scheduler import run_all
from benchmark.suite.tuning import Arguments, Study, TuningGrid
from benchmark.utils.console import Console
from benchmark.utils.locks import locked
from benchmark.utils.machine import cores
from benchmark.utils.writable import require_output


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
    earlier = TunedSettings.read(output) if output.exists() else None
    console = Console(highlight=False, soft_wrap=True)
    studies = {method: Study(method) for method in grid.methods}
    tuning: Tuning | None = None
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
            if tuning is None and (first := next(iter(records.values()), None)) is not None:
                tuning = grid.describe(first.data.fingerprint or "", first.recipe.get("budget"))
                _require_same(tuning, earlier, output)
    tuned = {method: study.result() for method, study in studies.items() if study.best is not None}
    if tuning is not None:
        methods = dict(sorted(((earlier.methods if earlier else {}) | tuned).items()))
        output.parent.mkdir(parents=True, exist_ok=True)
        TunedSettings(tuning=tuning, methods=methods).write(output)
    for method in studies:
        console.print(f"{method}: {_summary(tuned.get(method))}")
    if tuned:
        console.print(f"settings {output}")
    return len(tuned) == len(studies)


def _run(
    grid: TuningGrid, proposed: Mapping[str, Arguments], options: RunOptions, jobs: int, console: Console
) -> dict[str, Record]:
    """Run one trial of each method that is not finished, and return the records of those that succeeded."""
    trials: dict[str, Job] = {}
    for method, arguments in proposed.items():
        changes = grid.changes(arguments)
        recipe = grid.recipe(method, changes)
        if recipe.runtime.threads is None and jobs > 1:
            changes.append(f"runtime.threads={max(1, cores() // jobs)}")
        trials[method] = Job.of(recipe, options, config=grid.config, settings=changes)
    pending = [job for job in trials.values() if not job.record.exists()]
    if pending:
        run_all(pending, Processes(jobs), console)
    return {method: Record.read(job.record) for method, job in trials.items() if job.record.exists()}


def _require_same(tuning: Tuning, earlier: TunedSettings | None, output: Path) -> None:
    if earlier is None:
        return
    for name in Tuning.model_fields:
        before, now = getattr(earlier.tuning, name), getattr(tuning, name)
        if before != now:
            raise UserError(f"--output {output}: has arguments of another tuning, with {name} {before}, not {now}")


def _summary(result: Tuned | None) -> str:
    if result is None:
        return "all trials failed"
    arguments = ", ".join(f"{name} {value}" for name, value in result.arguments.items())
    default = "failed" if result.default_mAP is None else f"{100 * result.default_mAP:.1f} %"
    return f"validation mAP {100 * result.validation_mAP:.1f} % with {arguments}; with the defaults {default}"
