"""`benchmark suite`."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.box import HORIZONTALS
from rich.console import Console
from rich.table import Table

from benchmark.experiment.environment import choose_device
from benchmark.experiment.experiment import Experiment
from benchmark.recipe import Recipe
from benchmark.results.format import MISSING, percent
from benchmark.results.leaderboard import generate
from benchmark.results.record import Record
from benchmark.results.rows import Statistic
from benchmark.results.store import add_record, load_records
from benchmark.suite.executors import Cluster, Processes
from benchmark.suite.grid import Grid
from benchmark.suite.job import Job
from benchmark.suite.latencies import measure_latencies
from benchmark.suite.scheduler import Executor, Outcome, run_all


def suite(
    grid: Grid,
    jobs: int,
    ray: str | None,
    gpus: float,
    device: str,
    data_root: Path,
    work_dir: Path,
    leaderboards: Path,
    plugins: Sequence[Path],
    dry_run: bool,
) -> bool:
    """Do the runs that have no record yet, and print what came of all; whether none failed."""
    console = Console()
    known = {record.id: record for record in load_records(leaderboards / "records")}
    finished: list[Record] = []
    pending: list[Job] = []
    all_jobs: list[Job] = []
    threads = max(1, (os.cpu_count() or 1) // jobs)
    for recipe in grid.recipes():
        more = grid.settings
        if recipe.runtime.threads is None and (jobs > 1 or ray):
            more = [*more, f"runtime.threads={threads}"]
        job = _job(recipe, grid.config, more, device, data_root, work_dir, leaderboards, plugins)
        all_jobs.append(job)
        record = known.get(Record.make_id(recipe.hash, "student"))
        if record is None and job.record.exists():
            paths = (job.teacher_record, job.record)
            left = [Record.read(path) for path in paths if path is not None and path.exists()]
            for each in left:
                if each.id not in known:
                    add_record(each, leaderboards / "records")
                    known[each.id] = each
            record = left[-1]
        if record is None:
            pending.append(job)
        else:
            finished.append(record)
    console.print(f"{len(finished)} of {len(finished) + len(pending)} runs have a record; {len(pending)} to do")
    if dry_run:
        for job in pending:
            console.print(" ".join(["benchmark", *job.command[3:]]), highlight=False, soft_wrap=True, markup=False)
        return True
    start = time.monotonic()
    outcomes: list[Outcome] = []
    beside = work_dir / "suite" / "beside"  # there from when runs go side by side until latencies are measured anew
    if pending:
        if jobs > 1 and ray is None:
            beside.parent.mkdir(parents=True, exist_ok=True)
            beside.touch()
        cpus = max(job.recipe.runtime.threads or threads for job in pending)
        executor: Executor = Processes(jobs) if ray is None else Cluster(ray, cpus, gpus)
        outcomes = run_all(pending, executor, console)
    if beside.exists():
        measure_latencies(all_jobs, choose_device(device), leaderboards / "records", console)
        beside.unlink()
    if finished or outcomes:
        generate(leaderboards)
    console.print(_table(finished, outcomes))
    minutes = (time.monotonic() - start) / 60
    failed = [outcome for outcome in outcomes if outcome.record is None]
    for outcome in failed:
        console.print(
            f"{outcome.job.name}: {outcome.failure}\n  all of it: {outcome.job.log}", style="red", markup=False
        )
    ended = f"{len(outcomes) - len(failed)} runs in {minutes:.0f} minutes"
    console.print(f"{ended}; {len(failed)} failed" if failed else ended, highlight=False)
    console.print(f"pages {leaderboards}", highlight=False, soft_wrap=True)
    return not failed


def _job(
    recipe: Recipe,
    config: Path | None,
    settings: Sequence[str],
    device: str,
    data_root: Path,
    work_dir: Path,
    leaderboards: Path,
    plugins: Sequence[Path],
) -> Job:
    experiment = Experiment(recipe, work_dir, data_root, torch.device("cpu"), resume=True)
    method, dataset = recipe.method.name, recipe.dataset.name
    options = [] if config is None else [("--config", str(config))]
    options += [("--set", setting) for setting in settings] + [("--plugin", str(path)) for path in plugins]
    arguments = [
        *("--method", method, "--dataset", dataset, "--seed", str(recipe.seed), "--device", device),
        *("--data-root", str(data_root), "--work-dir", str(work_dir), "--leaderboards", str(leaderboards)),
        *(part for option in options for part in option),
    ]
    given = recipe.teacher.checkpoint is not None
    return Job(
        recipe=recipe,
        folder=experiment.folder,
        record=experiment.record,
        teacher_record=None if given else experiment.teacher_record,
        teacher_epochs=0 if given else recipe.teacher.train.schedule.epochs,
        arguments=tuple(arguments),
        log=work_dir / "suite" / f"{dataset}-{method}-seed{recipe.seed}.log",
    )


def _table(finished: Sequence[Record], outcomes: Sequence[Outcome]) -> Table:
    """A row for every method on every dataset: how many seeds, their scores, and how long they took."""
    table = Table(title="suite", box=HORIZONTALS, padding=(0, 1, 0, 0))
    for header in ("dataset", "method"):
        table.add_column(header)
    for header in ("mAP", "R@1", "seeds", "failed", "minutes"):
        table.add_column(header, justify="right", no_wrap=True)
    records = [*finished, *(outcome.record for outcome in outcomes if outcome.record is not None)]
    failures = [
        (outcome.job.recipe.dataset.name, outcome.job.recipe.method.name)
        for outcome in outcomes
        if outcome.record is None
    ]
    rows = dict.fromkeys([*((record.dataset, record.method) for record in records), *failures])
    for dataset, method in sorted(rows):
        own = [record for record in records if (record.dataset, record.method) == (dataset, method)]
        figures = [MISSING] * 2
        if own:
            scores = [record.scores.symmetric for record in own]
            figures = [
                percent(Statistic.of([score.mAP for score in scores])),
                percent(Statistic.if_complete(score.recall.get("1") for score in scores)),
            ]
        seconds = sum(record.timing.train_seconds + record.timing.evaluate_seconds for record in own)
        failed = failures.count((dataset, method))
        table.add_row(dataset, method, *figures, str(len(own)), str(failed or ""), f"{seconds / 60:.0f}")
    return table
