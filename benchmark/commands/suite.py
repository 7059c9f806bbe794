"""`benchmark suite`."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from rich.box import HORIZONTALS
from rich.table import Table

from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.errors import UserError
from benchmark.evaluation import TestSet
from benchmark.experiment.environment import choose_device
from benchmark.experiment.inputs import describe_data, require_same_data
from benchmark.experiment.run import write_pages
from benchmark.recipe import Recipe, remarks, student_only
from benchmark.results.format import MISSING, percent
from benchmark.results.parts import Data
from benchmark.results.record import Record
from benchmark.results.rows import Statistic
from benchmark.results.store import add_record, load_records, record_name
from benchmark.suite.executors import Cluster, Executor, Processes, visible_gpus
from benchmark.suite.grid import Grid
from benchmark.suite.job import Job, RunOptions
from benchmark.suite.scheduler import Outcome, run_all
from benchmark.utils.console import Console, notify
from benchmark.utils.lifetime import REQUEUE
from benchmark.utils.locks import locked
from benchmark.utils.machine import cores


def suite(grid: Grid, options: RunOptions, *, jobs: int, ray: str | None, gpus: float, dry_run: bool) -> int:
    """Execute the unfinished runs of a grid, update the leaderboards, and print the results of all runs.

    Args:
        grid: Methods, datasets and seeds.
        options: Options shared by all runs.
        jobs: Maximum number of local runs at the same time.
        ray: Address of the Ray cluster to run on; None to run on this machine.
        gpus: Number of GPUs per process of a run on the cluster.
        dry_run: Whether to print the commands of the pending runs instead of executing them.

    Returns:
        The exit code: 0 if all runs succeeded, 1 if one failed, `REQUEUE` if the others have stopped early.

    Raises:
        UserError: Runs on the cluster need a GPU, and none is requested; or there is not a GPU for each process of a
            run.
    """
    _require_gpus(options, ray is None, gpus)
    if ray is not None and not gpus and options.device.partition(":")[0] == "cuda":
        raise UserError(
            f"--device {options.device}: Ray hides all GPUs from runs that request none; add --gpus 1, or use "
            "--device cpu"
        )
    recipes = grid.recipes()
    for sentence in (*student_only(grid.config, grid.settings), *remarks(recipes[0].pair)):
        notify(f"note: {sentence}")
    folder = options.work_dir / "suite"
    if not dry_run:
        folder.mkdir(parents=True, exist_ok=True)
    # A second suite would write to the same logs, and slow down the runs whose latencies this one measures.
    with nullcontext() if dry_run else locked(folder / ".lock", f"executes a suite in {options.work_dir}"):
        return _suite(recipes, grid, options, jobs=jobs, ray=ray, gpus=gpus, dry_run=dry_run)


def _require_gpus(options: RunOptions, local: bool, gpus: float) -> None:
    """Raise a UserError if several processes share each run and there is not a GPU for each of them."""
    each = options.processes
    if each == 1:
        return
    if not local and 0 < gpus < 1:
        raise UserError(f"--gpus {gpus:g}: the {each} processes of a run need a GPU each; use --gpus 1")
    count = len(visible_gpus(options.device)) if local else 0
    if 0 < count < each:
        raise UserError(
            f"--processes-per-run {each}: this machine has {count} GPU{'' if count == 1 else 's'}, and each process "
            "needs one; start fewer processes, or use --device cpu"
        )


def _suite(
    recipes: Sequence[Recipe],
    grid: Grid,
    options: RunOptions,
    *,
    jobs: int,
    ray: str | None,
    gpus: float,
    dry_run: bool,
) -> int:
    console = Console()
    records = options.leaderboards / "records"
    threads = max(1, cores() // (jobs * options.processes))
    shared = threads if jobs > 1 or ray is not None else None
    all_jobs = [
        Job.of(
            recipe,
            options,
            preset=grid.preset,
            pair=grid.pair,
            config=grid.config,
            settings=grid.settings,
            threads=shared,
        )
        for recipe in recipes
    ]
    known = {record.id: record for record in load_records(records)}
    finished = finished_jobs(all_jobs, known, options)
    pending = [job for job in all_jobs if job not in finished]
    console.print(f"{len(finished)} of {len(all_jobs)} runs are finished, {len(pending)} to run")
    if dry_run:
        for job in pending:
            console.print(job.command_line, highlight=False, soft_wrap=True, markup=False)
        return 0
    _restore(finished, known, records)
    start = time.monotonic()
    outcomes: list[Outcome] = []
    # Exists from the start of concurrent runs until their latencies are measured. If the suite is interrupted, the next
    # start measures them.
    latencies_pending = options.work_dir / "suite" / "latencies-pending"
    if pending:
        if jobs > 1 and ray is None:
            latencies_pending.touch()
        cpus = max(job.recipe.runtime.threads or threads for job in pending)
        each = options.processes
        executor: Executor
        if ray is None:
            executor = Processes(jobs, visible_gpus(options.device), each)
        else:
            executor = Cluster(ray, cpus * each, gpus * each)
        outcomes = run_all(pending, executor, console)
    if latencies_pending.exists():
        from benchmark.suite.latencies import measure_latencies  # imports timm, which a dry run does not need

        measure_latencies(all_jobs, choose_device(options.device), records, console)
        latencies_pending.unlink()
    console.print(_table(list(finished.values()), outcomes), soft_wrap=True)
    failed = [outcome for outcome in outcomes if outcome.record is None and not outcome.stopped]
    stopped = [outcome for outcome in outcomes if outcome.stopped]
    for outcome in (outcome for outcome in outcomes if outcome.failure):
        console.print(f"{outcome.job.name}: {outcome.failure}\n  log: {outcome.job.log}", style="red", markup=False)
    minutes = (time.monotonic() - start) / 60
    ended = len(outcomes) - len(failed) - len(stopped)
    early = f", {len(stopped)} stopped early; repeat the command to continue" if stopped else ""
    line = f"{ended} runs finished in {minutes:.0f} minutes, {len(failed)} failed{early}"
    console.print(line, highlight=False, soft_wrap=True)
    if finished or outcomes:
        write_pages(options.leaderboards)
    console.print(f"leaderboards {options.leaderboards}", highlight=False, soft_wrap=True)
    return 1 if failed else REQUEUE if stopped else 0


def finished_jobs(jobs: Sequence[Job], known: Mapping[str, Record], options: RunOptions) -> dict[Job, Record]:
    """Return the records of the finished runs, from the leaderboards or else from the run folders.

    Raises:
        UserError: A record is of other images than the present ones.
    """
    finished = {}
    present: dict[str, tuple[Data, RetrievalDataset]] = {}
    earlier: dict[str, dict[Path, Record]] = defaultdict(dict)
    for job in jobs:
        if job.id in known:
            record, place = known[job.id], options.leaderboards / "records" / record_name(known[job.id])
        elif job.record.exists():
            record, place = Record.read(job.record), job.record.parent
        else:
            continue
        key = job.recipe.dataset.model_dump_json()
        if key not in present:
            test = TestSet.from_recipe(job.recipe, options.data_root, torch.device("cpu"))
            test.dataset.prepare()
            present[key] = describe_data(test), test.dataset
        earlier[key][place] = record
        finished[job] = record
    for key, records in earlier.items():
        require_same_data(records, *present[key])
    return finished


def _restore(finished: Mapping[Job, Record], known: Mapping[str, Record], records: Path) -> None:
    """Add to the leaderboards the records that exist only in run folders, and the records of their teachers."""
    restored: dict[str, Record] = {}
    for job, record in finished.items():
        if job.id not in known:
            restored[job.id] = record
            for path in job.teacher_records:
                if path.exists():
                    teacher = Record.read(path)
                    restored[teacher.id] = teacher
    for record_id, record in restored.items():
        if record_id not in known:
            add_record(record, records)


def _table(finished: Sequence[Record], outcomes: Sequence[Outcome]) -> Table:
    """Return the table of results, with a row for each dataset and method."""
    table = Table(title="suite", box=HORIZONTALS, padding=(0, 1, 0, 0))
    for header in ("dataset", "method"):
        table.add_column(header)
    for header in ("mAP", "R@1", "seeds", "failed", "minutes"):
        table.add_column(header, justify="right", no_wrap=True)
    records = [*finished, *(outcome.record for outcome in outcomes if outcome.record is not None)]
    without = [
        (outcome.job.recipe.dataset.name, outcome.job.recipe.method.name, outcome.stopped)
        for outcome in outcomes
        if outcome.record is None
    ]
    named = [(record.dataset, record.method) for record in records]
    named += [(dataset, method) for dataset, method, _ in without]
    for dataset, method in sorted(set(named)):
        seeds = [record for record in records if (record.dataset, record.method) == (dataset, method)]
        mAP = recall = MISSING
        if seeds:
            scores = [record.scores.symmetric for record in seeds]
            mAP = percent(Statistic.of([score.mAP for score in scores]))
            recall = percent(Statistic.if_complete(score.recall.get("1") for score in scores))
        seconds = sum(record.timing.train_seconds + record.timing.evaluate_seconds for record in seeds)
        failed = without.count((dataset, method, False))
        table.add_row(dataset, method, mAP, recall, str(len(seeds)), str(failed or ""), f"{seconds / 60:.0f}")
    return table
